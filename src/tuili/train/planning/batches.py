"""For which models a batch fits a device at once, and over how many devices they must be sharded for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuili.errors import InputError
from tuili.train.planning.devices import Device
from tuili.train.planning.layout import RECOMPUTES, Layout, Practice
from tuili.train.planning.memory import HEADROOM, Memory, stage_memory
from tuili.train.planning.models import Model, presets

MAX_SHARDS = 4096


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether so many sequences at once fit a device.

    Attributes:
        alone: what one device would hold.
        num_shards: the fewest devices, a power of two, over which parameters, gradients and optimiser must be sharded
            so that it fits; None if activations alone are too much.
        largest: how many sequences at once fit if they are sharded over as many devices as may be.
    """

    recompute: str
    alone: Memory
    num_shards: int | None
    largest: int


def fits_batch(batch: int, kind: Device, seq: int, practice: Practice) -> Mapping[str, tuple[Fit, ...]]:
    """Return for every named model, and every way to recompute, whether `batch` sequences at once fit a device.

    Raises:
        InputError: the batch or the sequence is empty.
    """
    if batch < 1 or seq < 1:
        raise InputError(f"a batch of {batch} sequences of {seq} tokens; give at least 1 of each")
    return {
        name: tuple(_fit(model, batch, kind, seq, recompute, practice) for recompute in RECOMPUTES)
        for name, model in presets().items()
    }


def _fit(model: Model, batch: int, kind: Device, seq: int, recompute: str, practice: Practice) -> Fit:
    usable = kind.memory_gib * (1 - HEADROOM)

    def total(size: int, num_shards: int) -> float:
        return held(model, size, seq, recompute, num_shards, practice).total

    powers = (1 << power for power in range(MAX_SHARDS.bit_length()))
    num_shards = next((number for number in powers if total(batch, number) <= usable), None)
    states = total(1, MAX_SHARDS) - (each := total(2, MAX_SHARDS) - total(1, MAX_SHARDS))
    largest = max(0, int((usable - states) / each))
    return Fit(recompute, held(model, batch, seq, recompute, 1, practice), num_shards, largest)


def held(model: Model, batch: int, seq: int, recompute: str, num_shards: int, practice: Practice) -> Memory:
    """Return what a device holds that computes `batch` sequences at once, without pipeline or tensor slices."""
    layout = Layout(dp_shard=num_shards, micro_batch=batch, recompute=recompute)
    return stage_memory(model, layout, practice, seq, 1, (model.num_layers,), 0)
