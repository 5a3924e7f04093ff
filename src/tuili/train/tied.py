"""Embeddings tied to the head, where the first and the last stage of a pipeline each hold a copy.

Each has a gradient of its own use of the matrix. Both get the sum, so both make the same step and stay equal.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from tuili.train.optim import local
from tuili.train.spec import ParallelSpec
from tuili.train.split import holder_of


class TiedEmbedding:
    """The copies of tied embeddings that this process holds: the first stage's, the last one's, both or none.

    Attributes:
        weights: stage to parameter.
    """

    def __init__(self, parts: dict[int, nn.Module], spec: ParallelSpec, mesh: DeviceMesh) -> None:
        ends = (0, spec.num_stages - 1)
        self.weights: dict[int, nn.Parameter] = {
            stage: part.get_input_embeddings().weight  # type: ignore[operator]
            for stage, part in parts.items()
            if stage in ends
        }
        self._group = mesh.get_group("pp")
        ranks = dist.get_process_group_ranks(self._group)
        self._peers = {stage: ranks[holder_of(spec, ends[1] - stage)] for stage in self.weights}

    @property
    def counted_elsewhere(self) -> set[nn.Parameter]:
        """The copies that a gradient norm must not count, since the first stage's counts."""
        return {weight for stage, weight in self.weights.items() if stage}

    @torch.no_grad()
    def sync(self) -> None:
        """Give both copies the sum of their gradients."""
        grads = {stage: local(_grad(weight)) for stage, weight in self.weights.items()}
        if len(grads) == 2:
            first, last = grads.values()
            last.copy_(first.add_(last))
        elif grads:
            ((stage, grad),) = grads.items()
            grad.add_(self._exchange(grad, self._peers[stage]))

    def _exchange(self, grad: Tensor, peer: int) -> Tensor:
        sent, received = grad.contiguous(), torch.empty_like(grad, memory_format=torch.contiguous_format)
        for work in dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, sent, peer, group=self._group),
                dist.P2POp(dist.irecv, received, peer, group=self._group),
            ]
        ):
            work.wait()
        return received


def _grad(weight: nn.Parameter) -> Tensor:
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
