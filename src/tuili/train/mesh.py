"""The mesh of processes, and which layouts a model allows.

The mesh has the dimensions pp, dp_replicate, dp_shard and tp, the last one running fastest: processes that share a
matrix get neighbouring ranks, so they lie in one host when its number of devices is a multiple of tp.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tuili.errors import UsageError
from tuili.train.spec import ParallelSpec, TrainingConfig

DIMENSIONS = ("pp", "dp_replicate", "dp_shard", "tp")
SHARED_SIZES = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
"""What tensor parallelism cuts into tp equal parts."""


def build_mesh(spec: ParallelSpec, device_type: str) -> DeviceMesh | None:
    """Return the mesh of a layout, or None for one process.

    Raises:
        UsageError: there are more or fewer processes than the layout needs.
    """
    found = dist.get_world_size() if dist.is_initialized() else 1
    if found != spec.world_size:
        raise UsageError(
            f"pp={spec.pp} x dp_replicate={spec.dp_replicate} x dp_shard={spec.dp_shard} x tp={spec.tp} needs "
            f"{spec.world_size} processes, there are {found}; start as many (torchrun --nproc-per-node "
            f"{spec.world_size}) or change the layout"
        )
    if spec.world_size == 1:
        return None
    sizes = tuple(getattr(spec, name) for name in DIMENSIONS)
    return init_device_mesh(device_type, sizes, mesh_dim_names=DIMENSIONS)


def data_mesh(mesh: DeviceMesh, spec: ParallelSpec) -> DeviceMesh | None:
    """Return the part of the mesh over which a stage's parameters are copied, sharded or both; None for none."""
    names = tuple(name for name in ("dp_replicate", "dp_shard") if getattr(spec, name) > 1)
    return mesh[names] if names else None


def dp_rank(mesh: DeviceMesh) -> int:
    """Return which share of a global batch this process computes."""
    return mesh.get_local_rank("dp_replicate") * mesh.size(2) + mesh.get_local_rank("dp_shard")


def check_layout(spec: ParallelSpec, training: TrainingConfig, config: Any) -> None:
    """Check that a model can be laid out and trained so.

    Args:
        spec: the layout.
        training: how to train.
        config: the model's, with Hugging Face's names.

    Raises:
        UsageError: a size does not divide, stages have no layers, or a schedule can't do what is asked for.
    """
    if training.activation_checkpointing and spec.schedule.endswith("ZeroBubble"):
        raise UsageError(
            f"{spec.schedule} goes back through a layer in two parts, between which torch can't keep what "
            "activation_checkpointing computes again; leave it out, or take 1F1B or Interleaved1F1B"
        )
    if spec.tp > 1:
        for name in SHARED_SIZES:
            if (size := getattr(config, name, 0)) % spec.tp:  # 0: the family has no such size to cut
                raise UsageError(f"tp={spec.tp} does not divide the model's {name}={size}; choose a tp that does")
    num_layers = config.num_hidden_layers
    if num_layers < spec.num_stages:
        raise UsageError(
            f"{spec.num_stages} stages (pp={spec.pp} x virtual={spec.virtual}) can't share {num_layers} layers; lower "
            "pp or virtual"
        )
    if spec.layers_per_stage is not None and sum(spec.layers_per_stage) != num_layers:
        raise UsageError(
            f"layers_per_stage {list(spec.layers_per_stage)} has {sum(spec.layers_per_stage)} layers in all, the model "
            f"{num_layers}"
        )
