"""The engine: optimiser steps over a global batch, in any layout of processes.

A step's loss is the mean over all labelled tokens of the global batch, and so is its gradient, however rows are cut
into processes and micro-batches and however many tokens of each are padding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from tuili.errors import InputError, UsageError
from tuili.train.mesh import build_mesh, dp_rank
from tuili.train.optim import align_gradients, local_square_sum, make_optimizer, scale_gradients
from tuili.train.parallelize import Fill, give_back, lay_out
from tuili.train.precision import LossScale, check_no_autocast, computing, set_tf32
from tuili.train.schedule import IGNORED, Batch, Passes, Pipeline
from tuili.train.spec import ParallelSpec, TrainingConfig
from tuili.train.split import is_tied
from tuili.train.tensor import check_replicas
from tuili.train.tied import TiedEmbedding


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step did; the same on every process.

    Attributes:
        loss: mean cross-entropy over the labelled tokens of the global batch, in nats.
        grad_norm: of all gradients together, before clipping.
        num_tokens: labelled tokens of the global batch.
        skipped: the loss or a gradient was not finite, so nothing was changed.
    """

    loss: float
    grad_norm: float
    num_tokens: int
    skipped: bool


class Engine:
    """A model under training; `build_engine` makes one.

    Attributes:
        parts: what this process holds of the model, with the names of the whole one.
        optimizers: one for each part.
        spec: the layout.
        training: how it trains.
        mesh: of the processes; None on one.
        device: of this process.
        dp_rank: which share of a global batch this process computes.
        dp_size: of how many.
    """

    def __init__(
        self,
        stages: dict[int, nn.Module],
        spec: ParallelSpec,
        training: TrainingConfig,
        mesh: DeviceMesh | None,
        device: torch.device,
        *,
        tied: bool,
    ) -> None:
        self.parts = list(stages.values())
        self.optimizers: list[Optimizer] = [make_optimizer(part, training) for part in self.parts]
        self.spec, self.training, self.mesh, self.device = spec, training, mesh, device
        self.dp_rank, self.dp_size = dp_rank(mesh) if mesh is not None else 0, spec.dp_size
        self._scale = LossScale(training)
        self._is_checked = False
        self._tied = TiedEmbedding(stages, spec, mesh) if tied and mesh is not None else None
        context = functools.partial(computing, training, device, is_managed=spec.dp_size > 1)
        self._passes: Passes | Pipeline = (
            Passes(self.parts[0], spec, context)
            if mesh is None or spec.pp == 1
            else Pipeline(stages, spec, mesh.get_group("pp"), device, context)
        )

    def step(self, batch: Batch) -> StepReport:
        """Make one optimiser step over this process's rows of a global batch.

        Every process calls it, those with the same dp_rank with the same rows; all with equally many.

        Raises:
            InputError: the rows don't divide into micro-batches, differ where they must not, or no token has a label.
            UsageError: called under autocast, or (at the first step) the model's tensor-parallel plan is incomplete.
        """
        check_no_autocast(self.device)
        num_tokens = self._agree(batch)
        for part, optimizer in zip(self.parts, self.optimizers, strict=True):
            part.train()
            optimizer.zero_grad()
        local_loss = self._passes.train(self._to_device(batch), self._scale.factor / num_tokens)
        self._check_first_gradients()
        for part in self.parts:
            align_gradients(part.parameters())
        if self._tied is not None:
            self._tied.sync()
        loss_sum, square_sum = self._sum(self._share(local_loss), self._square_sum())
        grad_norm = math.sqrt(square_sum) / self._scale.factor
        is_finite = math.isfinite(grad_norm) and math.isfinite(loss_sum)
        if is_finite:
            self._update(grad_norm)
        self._scale.update(overflowed=not math.isfinite(grad_norm))
        return StepReport(loss=loss_sum / num_tokens, grad_norm=grad_norm, num_tokens=num_tokens, skipped=not is_finite)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> tuple[float, int]:
        """Return the summed loss of a global batch in nats and its labelled tokens; called as `step` is.

        Raises:
            As `step`.
        """
        check_no_autocast(self.device)
        num_tokens = self._agree(batch)
        for part in self.parts:
            part.eval()
        (loss_sum,) = self._sum(self._share(self._passes.evaluate(self._to_device(batch))))
        for part in self.parts:
            give_back(part)
        return loss_sum, num_tokens

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside parts and optimisers; the same on every process."""
        return {"loss_scale": self._scale.factor, "good_steps": self._scale.good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._scale.factor, self._scale.good_steps = float(state["loss_scale"]), int(state["good_steps"])

    def _check_first_gradients(self) -> None:
        if self._is_checked or self.mesh is None or self.spec.tp == 1:
            return
        for part in self.parts:
            check_replicas(part, self.mesh["tp"])
        self._is_checked = True

    def _to_device(self, batch: Batch) -> Batch:
        return Batch(ids_BT=batch.ids_BT.to(self.device), labels_BT=batch.labels_BT.to(self.device))

    def _update(self, grad_norm: float) -> None:
        """Clip the gradients and let the optimisers step."""
        factor = 1.0 / self._scale.factor
        if self.training.clip_norm is not None and grad_norm > self.training.clip_norm:
            factor *= self.training.clip_norm / grad_norm
        for part, optimizer in zip(self.parts, self.optimizers, strict=True):
            if factor != 1.0:
                scale_gradients(part.parameters(), factor)
            optimizer.step()

    def _square_sum(self) -> Tensor:
        elsewhere = self._tied.counted_elsewhere if self._tied is not None else set()
        parameters = [each for part in self.parts for each in part.parameters() if each not in elsewhere]
        return local_square_sum(parameters, self.dp_size * self.spec.tp, self.device)

    def _share(self, loss_sum: Tensor) -> Tensor:
        """Return this process's share of the loss: every process of a tensor-parallel group has it."""
        return loss_sum / self.spec.tp

    def _sum(self, *values: Tensor) -> list[float]:
        """Return sums over all processes."""
        stacked = torch.stack([value.to(self.device, torch.float64) for value in values])
        if self.mesh is not None:
            dist.all_reduce(stacked)
        return stacked.tolist()

    def _agree(self, batch: Batch) -> int:
        """Check that the processes' rows fit together; return the labelled tokens of the global batch."""
        num_rows, length = batch.ids_BT.shape
        num_tokens = int((batch.labels_BT != IGNORED).sum())
        checksum = int(batch.ids_BT.sum()) + 31 * int(batch.labels_BT.sum())
        facts = self._gather([self.dp_rank, num_rows, length, num_tokens, checksum])
        if len(shapes := {tuple(fact[1:3]) for fact in facts}) > 1:
            raise InputError(f"the processes have rows of different shapes, {sorted(shapes)}; give each the same")
        shares = {tuple(fact) for fact in facts}
        if len(shares) > self.dp_size:
            raise InputError(
                "processes with the same dp_rank have different rows; give the rows by Engine.dp_rank, not by the rank"
            )
        if num_rows == 0 or num_rows % self.spec.row_unit:
            raise InputError(
                f"{num_rows} rows a process don't divide into passes of {self.spec.row_unit} (micro_batch="
                f"{self.spec.micro_batch} x {self.spec.passes}); give a multiple, or change micro_batch"
            )
        if not (total := sum(share[3] for share in shares)):
            raise InputError("no token of the global batch has a label, so there is no loss; give other rows")
        return total

    def _gather(self, numbers: list[int]) -> list[list[int]]:
        """Return the numbers of every process."""
        if self.mesh is None:
            return [numbers]
        own = torch.tensor(numbers, device=self.device)
        every = torch.empty(dist.get_world_size() * len(numbers), dtype=own.dtype, device=self.device)
        dist.all_gather_single(every, own)
        return every.view(-1, len(numbers)).tolist()


def build_engine(
    make_model: Callable[[], nn.Module],
    spec: ParallelSpec,
    training: TrainingConfig,
    *,
    device: torch.device | None = None,
    fill: Fill | None = None,
) -> Engine:
    """Return an engine for a model; called by every process of the layout.

    Args:
        make_model: returns a Hugging Face decoder, with the same weights on every process.
        spec: the layout.
        training: how to train.
        device: of this process; None: the CPU.
        fill: where `make_model` returns a model without storage: gives a module, named by its path, its tensors on
            the device. Layers are filled one at a time (`tuili.train.initial`).

    Raises:
        UsageError: the layout is impossible for the model or the number of processes, or the model is parallel already.
    """
    device = device or torch.device("cpu")
    set_tf32(training, device)
    mesh = build_mesh(spec, device.type)
    model = make_model()
    _check_plain(model)
    tied = spec.pp > 1 and is_tied(model)
    stages = lay_out(model, spec, training, mesh, device, fill)
    del model
    return Engine(stages, spec, training, mesh, device, tied=tied)


def _check_plain(model: nn.Module) -> None:
    """Check that nothing has parallelised a model yet."""
    if isinstance(model, DistributedDataParallel | FSDPModule) or any(
        isinstance(parameter, DTensor) for parameter in model.parameters()
    ):
        raise UsageError(
            f"the model is a {type(model).__name__} that is parallel already, which the layout can't be applied to (a "
            "DistributedDataParallel can't hold matrices that are cut at all); return the plain model"
        )
