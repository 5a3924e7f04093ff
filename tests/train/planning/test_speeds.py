"""The split of layers over stages, against every split there is."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError
from tuili.train.planning.speeds import even_split, slowest, split_layers, stage_times

COST = st.floats(0.0, 10.0, allow_subnormal=False)


def best_by_trying(costs, speeds, first, last):
    """Return the least time of the slowest stage over all splits."""
    num_layers, num_stages = len(costs), len(speeds)
    found = []
    for cuts in combinations(range(1, num_layers), num_stages - 1):
        ends = [0, *cuts, num_layers]
        counts = [end - start for start, end in pairwise(ends)]
        found.append(slowest(costs, counts, speeds, first, last))
    return min(found)


@given(
    costs=st.lists(COST, min_size=1, max_size=8),
    speeds=st.lists(st.floats(0.1, 4.0), min_size=1, max_size=4),
    first=COST,
    last=COST,
)
def test_no_split_has_a_faster_slowest_stage(costs, speeds, first, last):
    speeds = speeds[: len(costs)]
    counts = split_layers(costs, speeds, first, last)
    assert sum(counts) == len(costs) and min(counts) >= 1 and len(counts) == len(speeds)
    best = best_by_trying(costs, speeds, first, last)
    assert slowest(costs, counts, speeds, first, last) == pytest.approx(best, rel=1e-6, abs=1e-9)


def test_equal_stages_get_equal_layers():
    assert split_layers([1.0] * 12, [1.0] * 4) == [3, 3, 3, 3]


def test_a_device_of_half_speed_gets_half_the_layers():
    assert split_layers([1.0] * 7, [1.0, 0.5, 1.0, 1.0]) == [2, 1, 2, 2]


def test_the_ends_of_the_model_weigh():
    assert split_layers([1.0] * 8, [1.0, 1.0], last_extra=2.0) == [5, 3]
    assert split_layers([1.0] * 8, [1.0, 1.0], first_extra=2.0) == [3, 5]


def test_unequal_layers_are_weighed():
    assert split_layers([4.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0]) == [1, 4]


def test_a_slow_stage_is_left_a_layer_that_it_can_carry():
    """Taking as many layers as may be would leave the second stage with the one that is too much for it."""
    counts = split_layers([0.0, 0.0, 1.0, 0.0], [1.0, 0.5, 1.0])
    assert slowest([0.0, 0.0, 1.0, 0.0], counts, [1.0, 0.5, 1.0]) == 1.0


def test_layers_without_cost_are_shared_out_all_the_same():
    assert sum(split_layers([0.0] * 5, [1.0, 1.0, 1.0])) == 5


def test_times_and_even_counts():
    assert stage_times([1.0, 2.0, 3.0], [2, 1], [1.0, 0.5], 1.0, 2.0) == [4.0, 10.0]
    assert even_split(10, 4) == [3, 3, 2, 2]


@pytest.mark.parametrize(("costs", "speeds", "message"), [
    ([1.0], [1.0, 1.0], "2 stages"), ([1.0], [], "0 stages"), ([1.0, -1.0], [1.0], "cost is negative"),
    ([1.0], [0.0], "above 0"), ([1.0], [float("nan")], "above 0"), ([float("inf")], [1.0], "not finite"),
    ([1e308, 1e308], [1.0], "not finite"), ([float("nan")], [1.0], "not finite"),
])  # fmt: skip
def test_impossible_splits_are_refused(costs, speeds, message):
    with pytest.raises(InputError, match=message):
        split_layers(costs, speeds)
