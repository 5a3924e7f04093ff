"""Parallelism, applied from outside: a model becomes the stages of a process, one function does what lies in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed._composable import checkpoint
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from tuili.train.mesh import check_layout, data_mesh
from tuili.train.precision import policy
from tuili.train.spec import ParallelSpec, TrainingConfig
from tuili.train.split import cut, decoder_layers, stage_layers, stages_of
from tuili.train.tensor import shard_tensors

Fill = Callable[[nn.Module, str], None]


def lay_out(
    model: nn.Module,
    spec: ParallelSpec,
    training: TrainingConfig,
    mesh: DeviceMesh | None,
    device: torch.device,
    fill: Fill | None = None,
) -> dict[int, nn.Module]:
    """Return the stages of a model that this process holds, by their index.

    With `fill` the model's tensors have no storage; it gives a module, named by its path in the model, those that it
    lacks, on the device. Layers are filled one after the other, each when the one before has been cut and shared.

    Raises:
        UsageError: the layout is impossible for the model.
    """
    config: Any = model.config
    check_layout(spec, training, config)
    stages = {0: model}
    if mesh is not None and spec.pp > 1:
        layers = stage_layers(spec, config.num_hidden_layers)
        stages = {stage: cut(model, layers[stage]) for stage in stages_of(spec, mesh.get_local_rank("pp"))}
    return {
        stage: parallelize(part if fill else part.to(device), spec, training, mesh, fill)
        for stage, part in stages.items()
    }


def parallelize(
    part: nn.Module, spec: ParallelSpec, training: TrainingConfig, mesh: DeviceMesh | None, fill: Fill | None = None
) -> nn.Module:
    """Cut matrices over processes, mark layers to be computed again, share or copy parameters; names stay as they are.

    Gradients are summed over data-parallel processes, not averaged: the loss is divided by the global number of tokens.
    """
    layers = decoder_layers(part)
    names = {module: name for name, module in part.named_modules()}
    over = None if mesh is None else data_mesh(mesh, spec)
    for module in (*layers, part):
        if fill is not None:
            fill(module, names[module])
        if mesh is not None and spec.tp > 1:
            others = () if module is not part else tuple(names[layer] for layer in layers)
            shard_tensors(part, mesh["tp"], below=names[module], but_not=others)
        if training.activation_checkpointing and module is not part:
            checkpoint(module)
        if over is not None and spec.dp_shard > 1:
            fully_shard(module, mesh=over, mp_policy=policy(training), reshard_after_forward=spec.pp == 1)
        elif over is not None:
            replicate(module, mesh=over, mp_policy=policy(training))
    for module in part.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return part


def give_back(part: nn.Module) -> None:
    """Leave a part with its own shards, in float32; without a backward pass gathered and cast parameters stay."""
    for module in part.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
