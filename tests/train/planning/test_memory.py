"""Memory against published cases and hand counts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.train.planning.devices import GIB
from tuili.train.planning.layout import Layout, Practice
from tuili.train.planning.memory import activation_bytes, in_flight, stage_memory
from tuili.train.planning.models import gpt, preset

STORED = Practice(flash=False)
# Korthikanti et al. 2022, figure 1: layers, width, heads, pipeline, virtual stages, micro-batch; GiB without
# recomputation, and sequence-parallel with attention recomputed; GiB of parameters and optimiser.
KORTHIKANTI = [
    (48, 6144, 64, 1, 1, 4, 59.25, 9.5625, 45.5625),
    (96, 12288, 96, 8, 3, 1, 66.84375, 12.3515625, 45.5625),
    (105, 20480, 128, 35, 3, 1, 114.0234375, 23.076171875, 31.640625),
    (128, 25600, 160, 64, 1, 1, 131.25, 26.5625, 32.958984375),
]


@pytest.mark.parametrize("case", KORTHIKANTI, ids=["22B", "175B", "530B", "1T"])
def test_activations_are_korthikantis(case):
    layers, hidden, heads, pp, virtual, micro_batch, stored, selective, states = case
    model = gpt("a", num_layers=layers, hidden=hidden, num_heads=heads, vocab=51_200, positions=2048)
    layout = Layout(
        pp=pp,
        tp=8,
        micro_batch=micro_batch,
        virtual=virtual,
        schedule="interleaved" if virtual > 1 else "1f1b",
        sequence_parallel=False,
    )
    parallel = replace(layout, recompute="selective", sequence_parallel=True)
    for one, published in ((layout, stored), (parallel, selective)):
        kept = activation_bytes(model, one, STORED, 2048) * micro_batch * 2048 * in_flight(one, 10_000) * layers / pp
        assert kept / GIB == pytest.approx(published, rel=1e-4)
    assert 18 * model.matrix_params * layers / pp / 8 / GIB == pytest.approx(states, rel=0.001)


def test_replicated_states_take_18_bytes_a_parameter():
    model = preset("llama3-8b")
    memory = stage_memory(model, Layout(), Practice(), 1, 1, (32,), 0)
    states = memory.parameters + memory.gradients + memory.optimiser
    assert states * GIB == pytest.approx(18 * model.num_params)


def test_llama_7b_sharded_over_8_and_sliced_in_8():
    """0.392 GiB of fp32 shards a device, as a dry run with fully_shard shows; two gathered layers come on top."""
    model = preset("llama2-7b")
    layout = Layout(dp_shard=8, tp=8)
    memory = stage_memory(model, layout, Practice(), 2048, 1, (32,), 0)
    gathered = 2 * 2 * model.layer_params / 8 / GIB
    assert memory.parameters - gathered == pytest.approx(0.392, abs=0.0005)


@pytest.mark.parametrize(("layout", "micro", "expected"), [
    (Layout(pp=4), 100, [4, 3, 2, 1]), (Layout(pp=4), 2, [2, 2, 2, 1]), (Layout(pp=4, schedule="gpipe"), 6, [6] * 4),
    (Layout(), 100, [1]), (Layout(pp=2, schedule="interleaved", virtual=2), 100, [2.5, 1.5]),
])  # fmt: skip
def test_micro_batches_in_flight(layout, micro, expected):
    assert [in_flight(layout, micro, rank) for rank in range(layout.pp)] == expected


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    shard=st.sampled_from([1, 2, 8, 64]),
    micro_batch=st.integers(1, 8),
    recompute=st.sampled_from(["none", "selective", "full"]),
)
def test_more_of_anything_never_costs_memory(tp, shard, micro_batch, recompute):
    def total(**changes):
        given = {"tp": tp, "dp_shard": shard, "micro_batch": micro_batch, "recompute": recompute} | changes
        return stage_memory(preset("llama3-8b"), Layout(**given), Practice(), 4096, 1, (32,), 0).total

    assert total() <= total(micro_batch=micro_batch + 1)
    assert total(recompute="full") <= total(recompute="none")
    assert total(tp=8) <= total() + 1e-9
    if shard > 1:
        assert total(dp_shard=2 * shard) <= total()


def test_a_chunked_loss_needs_no_logits():
    model = preset("smollm2-135m")
    given = (model, Layout(micro_batch=4), Practice(chunked_loss=True), 2048, 1, (30,), 0)
    whole = stage_memory(model, Layout(micro_batch=4), Practice(), *given[3:])
    gap = whole.activations - stage_memory(*given).activations
    assert gap * GIB == pytest.approx(16 * 4 * 2048 * model.vocab)


def test_tied_embeddings_are_held_at_both_ends_of_a_pipeline():
    model = preset("smollm2-135m")
    first, last = (stage_memory(model, Layout(pp=2), Practice(), 1, 1, (15, 15), rank) for rank in (0, 1))
    assert last.parameters == pytest.approx(first.parameters, rel=0.01)
