"""The optimiser of a part, and the norm of all gradients of all parts on all processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from tuili.train.spec import TrainingConfig


def make_optimizer(part: nn.Module, training: TrainingConfig) -> Optimizer:
    """Return AdamW over a part; vectors have no weight decay.

    Parameters that lie on different meshes are in different groups, since torch can't update them in one call.
    """
    groups: dict[tuple[object, ...], list[nn.Parameter]] = defaultdict(list)
    for parameter in part.parameters():
        if parameter.requires_grad:
            mesh = parameter.device_mesh.mesh_dim_names if isinstance(parameter, DTensor) else None
            groups[parameter.ndim > 1, mesh].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": training.weight_decay if is_matrix else 0.0}
            for (is_matrix, _), parameters in groups.items()
        ],
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
    )


def local_square_sum(parameters: Iterable[nn.Parameter], num_holders: int, device: torch.device) -> Tensor:
    """Return this process's share of the squared norm of gradients, float64; summed over all processes it is whole.

    Values that several of a stage's processes hold count once: a gradient cut into n shards among `num_holders`
    processes is held num_holders / n times, and each holder's share is the square sum divided by that.

    Args:
        parameters: of this process.
        num_holders: processes of a stage.
        device: of the result.
    """
    by_shards: dict[int, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            by_shards[_num_shards(parameter.grad)].append(local(parameter.grad))
    total = torch.zeros((), dtype=torch.float64, device=device)
    for num_shards, grads in by_shards.items():
        norms = torch.stack(torch._foreach_norm(grads, 2.0))
        total += norms.double().square().sum() * (num_shards / num_holders)
    return total


def align_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Lay out each gradient as its parameter is.

    Tensor parallelism alone leaves that of embeddings whole on every process, beside a parameter that is cut.
    """
    for each in parameters:
        if isinstance(each, DTensor) and isinstance(each.grad, DTensor) and each.grad.placements != each.placements:
            each.grad = each.grad.redistribute(placements=each.placements)


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply all gradients by a factor."""
    if grads := [local(each.grad) for each in parameters if each.grad is not None]:
        torch._foreach_mul_(grads, factor)


def local(tensor: Tensor) -> Tensor:
    """Return the shard of a tensor that this process holds; a view."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _num_shards(tensor: Tensor) -> int:
    if not isinstance(tensor, DTensor):
        return 1
    num_shards = 1
    for dimension, placement in enumerate(tensor.placements):
        num_shards *= 1 if placement.is_replicate() else tensor.device_mesh.size(dimension)
    return num_shards
