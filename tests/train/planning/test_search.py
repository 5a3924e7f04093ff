"""Ranked layouts, refusals that say what would do, and reasons."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuili.errors import InputError
from tuili.train.planning.cost import Job, predict, problems
from tuili.train.planning.devices import device as device_of
from tuili.train.planning.devices import one_kind
from tuili.train.planning.models import preset
from tuili.train.planning.search import Choices, candidates, fits, name_of, search
from tuili.train.planning.why import PARTS, explain, parts_of, runner_up


def job(name="llama3-8b", num_devices=8, batch=64, seq=2048, device="a100-80"):
    return Job(model=preset(name), cluster=one_kind(device_of(device), num_devices), batch=batch, seq=seq)


def test_the_best_is_the_fastest_of_all_that_fit():
    plan = search(job())
    tried = [layout for layout in candidates(plan.job, Choices()) if not problems(plan.job, layout)]
    steps = [predict(plan.job, layout) for layout in tried]
    assert plan.ranked[0].total == min(step.total for step in steps if fits(step))
    assert len(plan.ranked) == sum(fits(step) for step in steps)
    assert plan.num_too_large == sum(not fits(step) for step in steps)
    assert [step.total for step in plan.ranked] == sorted(step.total for step in plan.ranked)
    assert all(layout.num_devices == 8 for layout in tried)


def test_misses_are_those_that_nearly_fit():
    plan = search(job())
    assert len(plan.misses) == 3 and not any(fits(step) for step in plan.misses)
    assert plan.misses[0].memory.total <= plan.misses[-1].memory.total


@settings(max_examples=4, deadline=None)
@given(
    name=st.sampled_from(["smollm2-135m", "llama3-8b", "llama2-13b"]),
    num_devices=st.sampled_from([4, 8]),
    seq=st.sampled_from([512, 2048]),
)
def test_twice_the_devices_and_batch_never_have_fewer_fitting_layouts_nor_a_slower_best(name, num_devices, seq):
    """Per-device work is the same; a cluster of more nodes only adds ways."""
    try:
        small = search(job(name, num_devices, 64, seq))
    except InputError:
        return
    large = search(job(name, 2 * num_devices, 128, seq))
    assert len(large.ranked) >= len(small.ranked)
    assert large.ranked[0].tokens_per_s > small.ranked[0].tokens_per_s


def test_what_is_fixed_stays():
    fixed = {"pp": 2, "tp": 2, "micro_batch": 4}
    plan = search(job(), Choices(fixed=fixed, recomputes=("full",), schedules=("gpipe",)))
    for step in plan.ranked:
        assert (step.layout.pp, step.layout.tp, step.layout.micro_batch) == (2, 2, 4)
        assert (step.layout.recompute, step.layout.schedule) == ("full", "gpipe")


@pytest.mark.parametrize(("fixed", "data"), [
    ({"dp_shard": 4}, {(2, 4), (1, 4)}), ({"dp_replicate": 2}, {(2, 1), (2, 2), (2, 4)}),
    ({"dp_replicate": 4, "dp_shard": 2}, {(4, 2)}),
])  # fmt: skip
def test_replicas_and_shards_can_be_fixed(fixed, data):
    found = {(one.dp_replicate, one.dp_shard) for one in candidates(job(), Choices(fixed=fixed))}
    assert data <= found
    for replicate, shard in found:
        assert fixed.get("dp_replicate", replicate) == replicate and fixed.get("dp_shard", shard) == shard


@pytest.mark.parametrize(("fixed", "message"), [
    ({"tp": 3}, "can't be shared out"), ({"pp": 5}, "can't be shared out"), ({"micro_batch": 7}, "no multiple"),
    ({"tp": 8, "micro_batch": 128}, "no multiple"), ({"virtual": 64}, "more than the 32 layers"),
])  # fmt: skip
def test_impossible_wishes_are_refused(fixed, message):
    schedules = ("interleaved",) if "virtual" in fixed else ("1f1b",)
    with pytest.raises(InputError, match=message):
        search(job(), Choices(fixed=fixed | ({"pp": 2} if "virtual" in fixed else {}), schedules=schedules))


def test_heads_that_cannot_be_divided_are_named():
    with pytest.raises(InputError, match="9 heads"):
        search(job("smollm2-135m"), Choices(fixed={"tp": 8}))


def test_where_nothing_fits_the_refusal_says_what_would():
    with pytest.raises(InputError, match=r"nothing fits.*GiB.*16 such devices would hold it") as refused:
        search(job("llama3-70b", 8, 8))
    assert "pp=" in str(refused.value)
    assert search(job("llama3-70b", 16, 16)).ranked


def test_where_nothing_would_ever_fit_the_refusal_says_so():
    with pytest.raises(InputError, match="shorter sequences"):
        search(job("llama3-405b", 1, 1, seq=1 << 24, device="a100-40"), Choices(fixed={}))


def test_tensor_slices_stay_within_a_node():
    assert all(step.layout.tp <= 8 for step in search(job(num_devices=32)).ranked)


def test_a_pipeline_is_taken_where_slow_links_make_sharding_dear():
    slow = replace(device_of("a100-40"), slow_link=0.2e9, fast_link=20e9)
    plan = search(replace(job("llama2-70b", 64, 64), cluster=one_kind(slow, 64)))
    assert plan.ranked[0].layout.pp > 1


def test_shown_are_the_best_of_each_way_first():
    plan = search(job())
    shown = plan.shown(6)
    ways = [(step.layout.pp, step.layout.dp_replicate, step.layout.dp_shard, step.layout.tp) for step in shown]
    assert len(set(ways)) == 6 and shown[0] == plan.ranked[0]
    assert len(plan.shown(10_000)) == len(plan.ranked)


def test_the_reasons_name_what_binds_and_what_the_runner_up_loses():
    plan = search(job("llama3-70b", 64, 256, seq=4096, device="h100-80"))
    best, other = plan.ranked[0], runner_up(plan)
    text = " ".join(explain(plan))
    largest = max(parts_of(best), key=lambda name: parts_of(best)[name])
    assert PARTS[largest] in text and f"{plan.num_too_large} layouts don't fit" in text
    assert other is not None and name_of(other.layout) in text
    assert sum(parts_of(best).values()) == pytest.approx(best.total)


def test_a_single_layout_needs_no_runner_up():
    plan = search(job("smollm2-135m", 1, 1), Choices(recomputes=("none",)))
    assert len(plan.ranked) == 1 and runner_up(plan) is None
    assert explain(plan)


def test_a_fixed_number_of_chunks_holds_for_every_schedule():
    for virtual in (1, 2, 5):
        found = list(candidates(job(num_devices=8), Choices(fixed={"virtual": virtual})))
        assert found and {layout.virtual for layout in found} == {virtual}
        assert any(layout.pp == 1 for layout in found) == (virtual == 1)
