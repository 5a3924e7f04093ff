"""A split of a model's layers over pipeline stages whose devices differ in speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuili.train.planning.models import Model
from tuili.train.planning.speeds import even_split, slowest, split_layers, stage_times


@dataclass(frozen=True, slots=True)
class Proposal:
    """Layers of each stage as proposed, beside an even split.

    `times`, `even_times`: of each stage for one micro-batch, relative to the slowest stage of the even split.
    """

    speeds: tuple[float, ...]
    counts: tuple[int, ...]
    even: tuple[int, ...]
    times: tuple[float, ...]
    even_times: tuple[float, ...]

    @property
    def gain(self) -> float:
        """How many times as fast the pipeline is in steady state as with an even split."""
        return max(self.even_times) / max(self.times)


def propose(model: Model, speeds: Sequence[float], seq: int) -> Proposal:
    """Return a split by floating-point operations; the last stage computes the output layer besides.

    The embedding is looked up, so the first stage has nothing more to multiply.

    Raises:
        InputError: there are more stages than layers, or a speed is not positive.
    """
    costs, head = operations(model, seq)
    counts = split_layers(costs, speeds, last_extra=head)
    even = even_split(model.num_layers, len(speeds))
    longest = slowest(costs, even, speeds, last_extra=head)
    return Proposal(
        tuple(speeds),
        tuple(counts),
        tuple(even),
        tuple(time / longest for time in stage_times(costs, counts, speeds, last_extra=head)),
        tuple(time / longest for time in stage_times(costs, even, speeds, last_extra=head)),
    )


def operations(model: Model, seq: int) -> tuple[list[float], float]:
    """Return the floating-point operations a token of each layer's forward pass, and of the output layer."""
    costs = [
        2.0 * model.matrix_params
        + 4 * model.attention_width * reading.keys_per_token(seq)
        + 2 * model.num_kv_heads * reading.gate_operations(seq)
        for reading in model.readings
    ]
    return costs, 2.0 * model.vocab * model.hidden
