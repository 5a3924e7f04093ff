"""How many layers each stage of a pipeline gets, so that the slowest stage is as fast as can be."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from tuili.errors import InputError

NUM_HALVINGS = 200


def split_layers(
    layer_costs: Sequence[float], speeds: Sequence[float], first_extra: float = 0.0, last_extra: float = 0.0
) -> list[int]:
    """Return how many consecutive layers each stage gets, at least one each; the slowest stage is as fast as can be.

    Args:
        layer_costs: what each layer costs, in any unit.
        speeds: how fast the stages' devices are, relative to each other, in the order of the pipeline.
        first_extra: what the first stage computes besides its layers (the embedding), in the unit of the costs.
        last_extra: what the last stage computes besides (the output layer and the loss).

    A stage's time is the sum of its costs over its speed. A bound on it is met exactly if stages that take as many
    layers as fit come to the end with all layers, so the least bound is found by halving: O((L + S log L) * 200).

    Raises:
        InputError: there are fewer layers than stages, or a cost or a speed is out of its bounds.
    """
    num_layers, num_stages = len(layer_costs), len(speeds)
    if not 1 <= num_stages <= num_layers:
        raise InputError(
            f"{num_layers} layers can't be shared out over {num_stages} stages; give 1 to {num_layers} stages"
        )
    if not all(math.isfinite(cost) and cost >= 0 for cost in (*layer_costs, first_extra, last_extra)):
        raise InputError("a layer's cost is negative or not finite; give numbers of at least 0")
    if not all(math.isfinite(speed) and speed > 0 for speed in speeds):
        raise InputError(f"the speeds are {list(speeds)}; give finite numbers above 0")
    extras = [0.0] * num_stages
    extras[0] += first_extra
    extras[-1] += last_extra
    sums = [0.0, *accumulate(layer_costs)]
    low, high = 0.0, (sums[-1] + first_extra + last_extra) / min(speeds)
    best = _fill(sums, speeds, extras, high * (1 + 1e-12)) or [1] * (num_stages - 1) + [num_layers - num_stages + 1]
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        found = _fill(sums, speeds, extras, middle)
        if found is None:
            low = middle
        else:
            best, high = found, slowest(layer_costs, found, speeds, first_extra, last_extra)
        if high - low <= 1e-9 * high:
            break
    return best


def _fill(sums: list[float], speeds: Sequence[float], extras: list[float], bound: float) -> list[int] | None:
    """Return counts with which every stage keeps within the bound, None if there are none."""
    num_layers, counts, start = len(sums) - 1, [], 0
    for stage, (speed, extra) in enumerate(zip(speeds, extras, strict=True)):
        room = bound * speed - extra + sums[start]
        end = bisect_right(sums, room * (1 + 1e-15)) - 1
        end = min(end, num_layers - (len(speeds) - 1 - stage))
        if end <= start:
            return None
        counts.append(end - start)
        start = end
    return counts if start == num_layers else None


def slowest(
    layer_costs: Sequence[float],
    counts: Sequence[int],
    speeds: Sequence[float],
    first_extra: float = 0.0,
    last_extra: float = 0.0,
) -> float:
    """Return the time of the slowest stage under a split."""
    return max(stage_times(layer_costs, counts, speeds, first_extra, last_extra))


def stage_times(
    layer_costs: Sequence[float],
    counts: Sequence[int],
    speeds: Sequence[float],
    first_extra: float = 0.0,
    last_extra: float = 0.0,
) -> list[float]:
    """Return the time of each stage under a split."""
    sums = [0.0, *accumulate(layer_costs)]
    ends = list(accumulate(counts))
    loads = [sums[end] - sums[end - count] for end, count in zip(ends, counts, strict=True)]
    loads[0] += first_extra
    loads[-1] += last_extra
    return [load / speed for load, speed in zip(loads, speeds, strict=True)]


def even_split(num_layers: int, num_stages: int) -> list[int]:
    """Return the most even counts, the first stages getting what is left over."""
    whole, more = divmod(num_layers, num_stages)
    return [whole + (stage < more) for stage in range(num_stages)]
