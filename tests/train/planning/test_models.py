"""Sizes: parameters against published ones, operations against formulas, readings, bounds."""

import math

import pytest

from tuili.errors import InputError, UsageError
from tuili.train.planning.models import Model, Reading, gpt, preset, presets
from tuili.train.planning.tables import gpt_operations, tables

WITH_PARAMS = [row for table in tables() for row in table.rows if row.params_e9 is not None]


@pytest.mark.parametrize("row", WITH_PARAMS, ids=lambda row: row.name)
def test_parameters_are_the_published_ones(row):
    assert row.job.model.num_params / 1e9 == pytest.approx(row.params_e9, abs=0.1)


def test_the_whole_of_narayanans_table_is_there():
    assert len({row.params_e9 for row in WITH_PARAMS}) >= 10


@pytest.mark.parametrize(("name", "params"), [
    ("llama3-8b", 8_030_261_248), ("llama3-70b", 70_553_706_496), ("llama2-7b", 6_738_415_616),
    ("llama2-13b", 13_015_864_320), ("smollm2-135m", 134_515_008), ("smollm2-1.7b", 1_711_376_384),
])  # fmt: skip
def test_parameters_of_known_models_are_exact(name, params):
    assert preset(name).num_params == params


def test_narayanans_formula_of_parameters_holds():
    model = gpt("a", num_layers=24, hidden=2304, num_heads=24, vocab=51_200, positions=2048)
    layers, hidden = 24, 2304
    formula = 12 * layers * hidden**2 * (1 + 13 / (12 * hidden) + (51_200 + 2048) / (12 * layers * hidden))
    assert model.num_params == pytest.approx(formula + 2 * hidden)  # the last norm is not in the formula


def test_operations_are_those_of_the_published_formula_without_recomputation():
    """Three quarters of it, but for the output layer, which isn't recomputed, and attention, which is causal here."""
    model = gpt("a", num_layers=96, hidden=12288, num_heads=96, vocab=51_200, positions=2048)
    seq = 2048
    own = model.operations_per_token(seq) * 8 * seq
    attention = 12 * 96 * 12288 * (seq - 1) / 2 * 8 * seq
    assert own + attention == pytest.approx(0.75 * gpt_operations(model, 8, seq), rel=0.01)


@pytest.mark.parametrize("reading", [
    Reading(kind="window", keys=5), Reading(kind="sparse", keys=5, block=1, gate_width=4),
    Reading(kind="pooled", keys=5, block=3), Reading(),
])  # fmt: skip
def test_keys_per_token_are_those_counted_one_by_one(reading):
    seq = 40
    exact = [min(place, reading.keys or seq) for place in range(1, seq + 1)]
    if reading.kind == "pooled":
        exact = [keys + max(0, place - reading.keys) / 3 for place, keys in enumerate(exact, start=1)]
    assert reading.keys_per_token(seq) == pytest.approx(sum(exact) / seq, rel=0.02)


def test_sparse_attention_costs_grow_with_the_length_and_dense_ones_with_its_square():
    dense = preset("llama3-8b")
    sparse = dense.with_plan((Reading(kind="sparse", keys=1024, block=16, gate_width=16, beam=16),) * 32)
    growth = {
        model.layer_plan: model.attention_operations(1 << 18) / model.attention_operations(1 << 15)
        for model in (dense, sparse)
    }
    assert growth[()] == pytest.approx(8, rel=0.01)
    assert growth[sparse.layer_plan] < 1.5


def test_a_gate_scores_all_gate_keys_or_those_of_its_beam():
    every = Reading(kind="sparse", keys=8, block=16, gate_width=10)
    beam = Reading(kind="sparse", keys=8, block=16, gate_width=10, beam=2)
    assert every.gate_operations(1 << 16) == pytest.approx(10 * (1 << 16) / 2 / 16, rel=0.001)
    assert beam.gate_operations(1 << 16) == pytest.approx(10 * ((1 << 16) / 2 / 256 + 2 * 256 / 16), rel=0.001)
    assert beam.gate_operations(100) <= every.gate_operations(100) + 10 * 51 / 256


@pytest.mark.parametrize(("options", "message"), [
    ({"kind": "round"}, "dense, window"), ({"kind": "window"}, "keys of a window"),
    ({"kind": "sparse", "keys": 4}, "block of a sparse"), ({"kind": "pooled", "keys": 4}, "block of a pooled"),
])  # fmt: skip
def test_readings_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Reading(**options)


@pytest.mark.parametrize(("changed", "message"), [
    ({"num_layers": 0}, "num_layers"), ({"hidden": -1}, "hidden"), ({"num_kv_heads": 3}, "multiple"),
    ({"layer_plan": (Reading(),)}, "1 layers, tiny has 2"), ({"vocab": True}, "vocab"), ({"mlp": 1.5}, "mlp"),
])  # fmt: skip
def test_models_that_cannot_be_are_refused(changed, message):
    sizes = {"num_layers": 2, "hidden": 8, "num_heads": 4, "num_kv_heads": 2, "head_dim": 2, "mlp": 16, "vocab": 10}
    with pytest.raises(InputError, match=message):
        Model(name="tiny", **(sizes | changed))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="llama3-8b"):
        preset("llama4")


def test_every_preset_can_be_trained_in_theory():
    assert all(math.isfinite(model.operations_per_token(4096)) for model in presets().values())
