"""Tensor parallelism: a model's own plan in torch's styles.

A plan maps names of modules to strings, as `base_model_tp_plan` of a Hugging Face configuration does. In a pair of
matrices the first is cut by columns of its output ("colwise"), the second by rows of its input ("rowwise"), so each
process computes with its share of the hidden width and one sum over processes ends the pair. Two strings are for
modules that compute on their own heads alone and take part in no product: "group_shard", whose parameters are cut along
dimension 0 by key-value group, and "replicated_with_grad_allreduce", whose parameters are whole but whose gradients
each process has a share of.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import Placement

from tuili.errors import UsageError
from tuili.train.optim import local

REPLICA_TOLERANCE = 0.01


class Local(ParallelStyle):
    """Parameters are distributed for bookkeeping (norm, checkpoint), the module and those in it compute on their own.

    Reading a parameter as an attribute gives this process's share of it, through which gradients flow back.
    """

    def __init__(self, placement: Placement) -> None:
        super().__init__()
        self.placement = placement

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for owner in list(module.modules()):
            names = [name for name, _ in owner.named_parameters(recurse=False)]
            for name in names:
                whole = owner.get_parameter(name)
                shared = distribute_tensor(whole.detach(), device_mesh, [self.placement], src_data_rank=None)
                owner.register_parameter(name, nn.Parameter(shared, requires_grad=whole.requires_grad))
            if names:
                owner.__class__ = _local_class(type(owner), tuple(names))  # type: ignore[arg-type]
        return module


STYLES: dict[str, type[ParallelStyle] | functools.partial[Any]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "colwise_gather_output": functools.partial(ColwiseParallel, output_layouts=Replicate()),
    "rowwise_split_input": functools.partial(RowwiseParallel, input_layouts=Replicate()),
    "embedding_rowwise": functools.partial(RowwiseParallel, input_layouts=Replicate()),
    "replicated_with_grad_allreduce": functools.partial(Local, Replicate()),
    "group_shard": functools.partial(Local, Shard(0)),
}


def shard_tensors(part: nn.Module, mesh: DeviceMesh, *, below: str = "", but_not: Sequence[str] = ()) -> None:
    """Cut the matrices of a model or a stage over a one-dimensional mesh, by the model's plan.

    Embeddings that are tied to the head stay tied. Of all modules only those are cut whose path is `below` or goes on
    from it, and is none of `but_not` nor goes on from one.

    Raises:
        UsageError: the model has no plan, or one with a style that is not known.
    """
    plan: dict[str, str] = getattr(part, "tp_plan", None) or {}
    if not any(".layers." in name for name in plan):
        raise UsageError(f"{type(part).__name__} has no base_model_tp_plan for its layers; train it with tp=1")
    tied = _tied_names(part)
    for name, module in list(part.named_modules()):
        style = plan.get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name))
        if style is None or next(module.parameters(), None) is None or not _lies(name, below, but_not):
            continue
        if style not in STYLES:
            raise UsageError(f"the plan of {name} is {style!r}; known are {', '.join(STYLES)}. Train it with tp=1")
        parallelize_module(module, mesh, STYLES[style]())
    for first, *others in tied:
        weight = part.get_parameter(first)
        for name in others:
            owner, _, attribute = name.rpartition(".")
            part.get_submodule(owner).register_parameter(attribute, weight)


def _lies(name: str, below: str, but_not: Sequence[str]) -> bool:
    """Tell whether a path is one or goes on from it, and from none of others."""

    def is_in(place: str) -> bool:
        return not place or name == place or name.startswith(f"{place}.")

    return is_in(below) and not any(map(is_in, but_not))


@torch.no_grad()
def check_replicas(part: nn.Module, mesh: DeviceMesh) -> None:
    """Check that processes which hold the same parameter have the same gradient of it; called by all of them.

    They have not where a module computes on a share of the heads and its model's plan does not say so. Norms are
    compared, with room for rounding.

    Raises:
        UsageError: a gradient differs.
    """
    held = {name: each for name, each in part.named_parameters() if not _is_cut(each) and each.requires_grad}
    if not held:
        return
    zero = torch.zeros((), device=mesh.device_type)
    norms = torch.stack([zero if each.grad is None else local(each.grad).norm().float() for each in held.values()])
    least, most = norms.clone(), norms
    dist.all_reduce(least, dist.ReduceOp.MIN, group=mesh.get_group())
    dist.all_reduce(most, dist.ReduceOp.MAX, group=mesh.get_group())
    differs = ((most - least) > REPLICA_TOLERANCE * most).nonzero().flatten().tolist()
    if differs:
        index = differs[0]
        raise UsageError(
            f"the gradient of {list(held)[index]} differs between the {mesh.size()} processes that share matrices "
            f"(norms {least[index]:.4g} to {most[index]:.4g}): its module computes on a share of the heads, which the "
            "model's base_model_tp_plan must say ('replicated_with_grad_allreduce', or 'group_shard' if its parameters "
            "have a row for each key-value group)"
        )


def _is_cut(parameter: nn.Parameter) -> bool:
    """Tell whether the processes of a tensor-parallel group hold different parts of a parameter."""
    if not isinstance(parameter, DTensor) or "tp" not in (parameter.device_mesh.mesh_dim_names or ()):
        return False
    return not parameter.placements[-1].is_replicate()


def _tied_names(part: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that has more than one."""
    names: dict[int, list[str]] = {}
    for name, parameter in part.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [same for same in names.values() if len(same) > 1]


@functools.cache
def _local_class(base: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """Return a subclass in which attributes of these names are this process's shares."""
    shares: dict[str, Any] = {name: property(functools.partial(_share, name)) for name in names}
    return type(f"Local{base.__name__}", (base,), shares)


def _share(name: str, module: nn.Module) -> Tensor | None:
    """Return this process's share of a parameter; the parameter itself where its shards are not gathered."""
    parameter = module._parameters[name]
    if not isinstance(parameter, DTensor) or parameter.device_mesh.ndim != 1:
        return parameter
    grads = Partial() if parameter.placements[0].is_replicate() else parameter.placements[0]
    return parameter.redistribute(placements=parameter.placements).to_local(grad_placements=[grads])
