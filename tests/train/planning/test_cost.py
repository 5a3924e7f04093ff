"""Whole steps: bubbles and communication by hand, refusals, mixed clusters."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError, UsageError
from tuili.train.planning.cost import EXPOSED, Job, predict, problems, recomputed_operations
from tuili.train.planning.devices import Cluster, Group, Node, device, one_kind
from tuili.train.planning.layout import Layout, Practice
from tuili.train.planning.models import gpt, preset

A100, H100 = device("a100-80"), device("h100-80")
MODEL = gpt("even", num_layers=16, hidden=1024, num_heads=16, vocab=2, positions=1)


def job(num_devices, batch=64, model=MODEL, **practice):
    return Job(model=model, cluster=one_kind(A100, num_devices), batch=batch, seq=1024, practice=Practice(**practice))


@pytest.mark.parametrize(("schedule", "virtual", "share"), [
    ("1f1b", 1, 3 / 16), ("gpipe", 1, 3 / 16), ("interleaved", 2, 3 / 32), ("interleaved", 4, 3 / 64),
])  # fmt: skip
def test_the_bubble_is_that_of_the_schedule(schedule, virtual, share):
    """(p - 1) / (m v) of the time without it; the tiny vocabulary makes stages equal."""
    step = predict(job(4, batch=16), Layout(pp=4, schedule=schedule, virtual=virtual))
    assert step.num_micro == 16
    assert step.bubble / (step.compute + step.tensor) == pytest.approx(share, rel=0.01)


def test_zero_bubble_waits_for_about_a_third():
    plain, zero = (predict(job(4, batch=16), Layout(pp=4, schedule=name)) for name in ("1f1b", "zero-bubble"))
    weights = plain.matmul / 3 / 16
    assert zero.bubble == pytest.approx(plain.bubble - 3 * 2 * weights, rel=0.02)


def test_gradients_of_replicas_are_reduced_once_and_hide():
    layout = Layout(dp_replicate=4, micro_batch=16)
    node = one_kind(A100, 4).groups[0].node
    step = predict(job(4, overlap_reduce=False), layout)
    assert step.data == pytest.approx(2 * node.gather_time(4 * MODEL.num_params, 1, 4))
    assert predict(job(4), layout).data == pytest.approx(EXPOSED * step.data)


def test_shards_are_gathered_for_each_micro_batch_but_once_with_a_pipeline():
    given = {"overlap_gather": False, "overlap_reduce": False}
    once, four = (predict(job(8, **given), Layout(dp_shard=8, micro_batch=size)) for size in (8, 2))
    assert four.data == pytest.approx(4 * once.data)
    stages = [predict(job(16, **given), Layout(pp=2, dp_shard=8, micro_batch=size)) for size in (4, 1)]
    assert stages[0].data == stages[1].data > 0


def test_stages_send_activations_there_and_back():
    step = predict(job(16, batch=16), Layout(pp=2, tp=8))
    sent = 2 * 1024 * 1024 / 8
    hop = sent / (A100.slow_link * A100.slow) + A100.slow_latency_s
    assert step.pipeline == pytest.approx(16 * 2 * hop)


def test_mfu_counts_the_models_operations_and_hfu_what_is_computed():
    plain, full = (predict(job(8), Layout(dp_shard=8, recompute=way)) for way in ("none", "full"))
    assert plain.mfu == plain.hfu == pytest.approx(plain.operations / plain.total / (8 * 312e12))
    assert full.hfu > full.mfu and full.recomputed > 0
    assert full.tokens_per_s == pytest.approx(64 * 1024 / full.total)
    assert recomputed_operations(MODEL, Layout(recompute="none"), Practice(), 1024) == 0


@given(
    pp=st.sampled_from([1, 2, 4, 8]), tp=st.sampled_from([1, 2, 4]), shard=st.sampled_from([1, 2, 4]),
    recompute=st.sampled_from(["none", "selective", "full"]), micro_batch=st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_parts_are_never_negative_and_make_the_whole(pp, tp, shard, recompute, micro_batch):
    layout = Layout(pp=pp, tp=tp, dp_shard=shard, recompute=recompute, micro_batch=micro_batch)
    step = predict(job(pp * tp * shard), layout)
    names = ("matmul", "attention", "elementwise", "tensor", "bubble", "pipeline", "data", "optimiser")
    parts = [getattr(step, name) for name in names]
    assert min(parts) >= 0 and sum(parts) == pytest.approx(step.total)
    assert 0 < step.mfu <= step.hfu < A100.matmul
    assert sum(step.counts) == 16
    assert (step.bubble == 0) == (pp == 1)


def test_a_faster_link_or_device_never_makes_a_step_slower():
    layout = Layout(pp=2, dp_replicate=2, tp=4)
    slow = predict(job(16), layout)
    better = replace(A100, slow_link=4 * A100.slow_link, fast_link=2 * A100.fast_link, peak=2 * A100.peak)
    assert predict(replace(job(16), cluster=one_kind(better, 16)), layout).total < slow.total


def test_a_mixed_pipeline_gives_the_faster_kind_more_layers_and_beats_the_slow_kind_alone():
    mixed = Cluster((Group(Node(A100, 8), 8), Group(Node(H100, 8), 8)))
    both = predict(replace(job(16), cluster=mixed), Layout(pp=2, dp_shard=8))
    alone = predict(job(16), Layout(pp=2, dp_shard=8))
    assert both.counts[0] < both.counts[1]
    assert both.total < alone.total
    assert both.peak == 8 * A100.peak + 8 * H100.peak


@pytest.mark.parametrize(("layout", "message"), [
    (Layout(pp=3), "takes pp x dp x tp = 3 devices"), (Layout(tp=16), "fast links"),
    (Layout(pp=16, virtual=2, schedule="interleaved"), "more than the 16 layers"),
    (Layout(dp_shard=16, micro_batch=3), "no multiple of 16 replicas x 3"),
    (Layout(pp=16, micro_batch=8, virtual=1, schedule="interleaved"), None),
    (Layout(pp=8, dp_shard=2, micro_batch=8, schedule="interleaved", virtual=2), "no multiple of pp=8"),
])  # fmt: skip
def test_impossible_layouts_are_refused_with_the_numbers(layout, message):
    if message is None:
        assert not problems(job(16), layout)
        return
    with pytest.raises(InputError, match=message):
        predict(job(16), layout)


@pytest.mark.parametrize("name", ["llama3-8b", "smollm2-135m"])
def test_heads_that_tensor_slices_do_not_divide_are_refused(name):
    tp = 16 if name == "llama3-8b" else 2
    with pytest.raises(InputError, match=f"tp={tp} doesn't divide the"):
        predict(job(16, model=preset(name)), Layout(tp=tp, dp_replicate=16 // tp))


def test_a_stage_of_two_kinds_is_refused():
    mixed = Cluster((Group(Node(A100, 8), 8), Group(Node(H100, 8), 8)))
    with pytest.raises(InputError, match="two kinds"):
        predict(replace(job(16), cluster=mixed), Layout(dp_shard=16))


def test_jobs_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        job(8, batch=0)
    with pytest.raises(InputError, match="8 bits"):
        job(8, fp8=True)


@pytest.mark.parametrize("given", [
    {"pp": 0}, {"schedule": "best"}, {"recompute": "some"}, {"virtual": 2}, {"micro_batch": -1},
])  # fmt: skip
def test_layouts_that_make_no_sense_are_refused(given):
    with pytest.raises(UsageError, match=r"give|use"):
        Layout(**given)


def test_an_unknown_overlap_is_refused():
    with pytest.raises(UsageError, match="backward"):
        Practice(overlap_tensor="some")


def test_tensor_slices_that_would_lie_on_two_nodes_are_refused():
    model = replace(MODEL, num_heads=24, num_kv_heads=24, mlp=3072)
    six = Job(model=model, cluster=one_kind(A100, 24), batch=64, seq=1024, practice=Practice())
    with pytest.raises(InputError, match="tp=6 doesn't divide the 8 devices behind fast links"):
        predict(six, Layout(tp=6, dp_replicate=4))
    alone = replace(six, cluster=one_kind(A100, 6))
    assert predict(replace(alone, batch=60), Layout(tp=6)).total > 0
