"""How many layers each stage of a pipeline gets, so that the slowest stage is as fast as can be."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from tuili.errors import InputError

TOLERANCE = 1e-9
"""Share of the slowest stage's time within which a split over equal stages is the best."""


def split_layers(
    layer_costs: Sequence[float], speeds: Sequence[float], first_extra: float = 0.0, last_extra: float = 0.0
) -> list[int]:
    """Return how many consecutive layers each stage gets, at least one each; the slowest stage is as fast as can be.

    A stage's time is the sum of its costs over its speed. Equal stages: O(L + S log L) for each halving of a bound;
    stages that differ: O(S L^2) at most.

    Args:
        layer_costs: what each layer costs, in any unit.
        speeds: how fast the stages' devices are, relative to each other, in the order of the pipeline.
        first_extra: what the first stage computes besides its layers (the embedding), in the unit of the costs.
        last_extra: what the last stage computes besides (the output layer and the loss).

    Raises:
        InputError: there are fewer layers than stages, or a cost or a speed is out of its bounds.
    """
    num_layers, num_stages = len(layer_costs), len(speeds)
    if not 1 <= num_stages <= num_layers:
        raise InputError(
            f"{num_layers} layers can't be shared out over {num_stages} stages; give 1 to {num_layers} stages"
        )
    costs = (*layer_costs, first_extra, last_extra)
    if not math.isfinite(sum(costs)) or min(costs) < 0:
        raise InputError("a layer's cost is negative, or their sum is not finite; give smaller numbers of at least 0")
    if not all(math.isfinite(speed) and speed > 0 for speed in speeds):
        raise InputError(f"the speeds are {list(speeds)}; give finite numbers above 0")
    extras = [0.0] * num_stages
    extras[0] += first_extra
    extras[-1] += last_extra
    sums = [0.0, *accumulate(layer_costs)]
    return _by_halving(sums, extras) if len(set(speeds)) == 1 else _by_table(sums, speeds, extras)


def _by_halving(sums: list[float], extras: list[float]) -> list[int]:
    """Return the split over equal stages: the least bound that is kept if each stage takes as much as it may.

    A bound is kept by some split if and only if it is by this one: any one layer fits any stage but for the extras.
    """
    num_stages, num_layers = len(extras), len(sums) - 1
    best = [1] * (num_stages - 1) + [num_layers - num_stages + 1]
    whole = sums[-1] + sum(extras)
    low, high = whole / num_stages * (1 - TOLERANCE), whole
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        found = _fill(sums, extras, middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best


def _fill(sums: list[float], extras: list[float], bound: float) -> list[int] | None:
    """Return the split in which each stage takes as much as keeps the bound, None if layers are left over."""
    num_layers, counts, start = len(sums) - 1, [], 0
    for stage, extra in enumerate(extras):
        end = bisect_right(sums, bound - extra + sums[start]) - 1
        end = min(end, num_layers - (len(extras) - 1 - stage))
        if end <= start:
            return None
        counts.append(end - start)
        start = end
    return counts if start == num_layers else None


def _by_table(sums: list[float], speeds: Sequence[float], extras: list[float]) -> list[int]:
    """Return the split over stages that differ: for each number of layers, the best way to share them out so far.

    Here a stage that takes as much as it may can leave a slow one with a layer that is too much for it.
    """
    num_stages, num_layers = len(speeds), len(sums) - 1
    best = [0.0] + [math.inf] * num_layers
    starts: list[list[int]] = []
    for stage, (speed, extra) in enumerate(zip(speeds, extras, strict=True)):
        nearest, start_of = [math.inf] * (num_layers + 1), [0] * (num_layers + 1)
        for end in range(stage + 1, num_layers - (num_stages - 1 - stage) + 1):
            for start in range(end - 1, stage - 1, -1):
                own = (sums[end] - sums[start] + extra) / speed
                if own >= nearest[end]:
                    break
                if (time := max(best[start], own)) < nearest[end]:
                    nearest[end], start_of[end] = time, start
        best = nearest
        starts.append(start_of)
    ends = [num_layers]
    for start_of in reversed(starts):
        ends.append(start_of[ends[-1]])
    return [end - start for start, end in pairwise(reversed(ends))]


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
