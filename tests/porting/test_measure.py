import dataclasses
import math

import numpy as np
import pytest
import torch

from tuili import InputError, UsageError, port, unport
from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget
from tuili.porting.hf import ported_layers
from tuili.porting.measure import measure
from tuili.porting.report import to_json, to_text

BUDGET = Budget(block=4, keep=6, sink=1, local=2)
PLAN = LayerPlan(default=Sparse(budget=BUDGET), layers={0: Dense(window=40, past=60, sink=4)}, crossover=50)


def loss(model, ids):
    logits = model(ids[None]).logits[0]
    half = len(ids) // 2
    return float(torch.nn.functional.cross_entropy(logits[half - 1 : -1], ids[half:]))


@pytest.fixture
def ids(tokens):
    return tokens(1, 203)[0]


@pytest.fixture
def measured(make_decoder, ids):
    return measure(make_decoder("llama"), ids, layers=PLAN)


def test_losses_and_drift_are_those_of_whole_forwards(make_decoder, ids, measured):
    model = make_decoder("llama")
    assert measured.dense.ppl == pytest.approx(math.exp(loss(model, ids)), rel=1e-5)
    half = len(ids) // 2
    log_p = model(ids[None]).logits[0, half - 1 : -1].log_softmax(-1)
    port(model, PLAN)
    assert measured.sparse.ppl == pytest.approx(math.exp(loss(model, ids)), rel=1e-5)
    log_q = model(ids[None]).logits[0, half - 1 : -1].log_softmax(-1)
    assert measured.kl == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), rel=1e-4)
    assert measured.agreement == pytest.approx(float((log_p.argmax(-1) == log_q.argmax(-1)).float().mean()))
    assert measured.kl > 0 and measured.agreement < 1 and measured.num_counted == len(log_p)


def test_the_shares_count_the_choices_of_later_tokens(make_decoder, ids, measured):
    """Counted again token by token, from the blocks that the layer hands out."""
    model, seen = make_decoder("llama"), {}
    port(model, PLAN)
    for index, layer in enumerate(ported_layers(model)):
        layer.on_blocks = lambda blocks, first, num_keys, index=index: seen.update({index: (blocks[0], first)})
    model(ids[None])
    assert sorted(measured.kept) == sorted(seen) == [1, 2]
    for index, (blocks_TGK, first) in seen.items():
        num_blocks = -(-len(ids) // BUDGET.block)
        chosen, could = np.zeros(num_blocks), np.zeros(num_blocks)
        for t, blocks_GK in enumerate(blocks_TGK.tolist()):
            last = (first + t) // BUDGET.block
            for block in range(last - BUDGET.local + 1):
                could[block] += 1
                chosen[block] += sum(block in kept for kept in blocks_GK) / len(blocks_GK)
        expected = np.where(could > 0, chosen / np.maximum(could, 1), np.nan)
        np.testing.assert_allclose(measured.kept[index].share, expected, rtol=1e-5)
        assert measured.kept[index].share[0] == 1 and np.isnan(measured.kept[index].share[-2:]).all()


def test_the_recall_of_a_whole_budget_is_one(make_decoder, tokens, measured):
    assert all(0 < each.recall.kept <= each.recall.oracle + 1e-6 for each in measured.kept.values())
    budget = dataclasses.replace(BUDGET, keep=40)
    found = measure(
        make_decoder("llama"), tokens(1, 170)[0], layers=LayerPlan(default=Sparse(budget=budget), crossover=20)
    )
    assert all(each.recall.kept == pytest.approx(1, abs=0.05) for each in found.kept.values())


def test_layers_tell_what_they_read(measured):
    wide, sparse = measured.layers[0], measured.layers[1]
    assert [layer.kind for layer in measured.layers] == ["dense", "sparse", "sparse"]
    assert (wide.num_tokens, wide.num_dense_tokens, sparse.num_dense_tokens) == (203, 60, 50)
    assert sparse.keys_per_token < wide.keys_per_token < 102
    assert measured.plan == PLAN and measured.dense.prefill_s > 0 and measured.sparse.prefill_s > 0
    assert measured.dense.cache_mib == pytest.approx(3 * 2 * 2 * 203 * 16 * 4 / 2**20)
    assert measured.sparse.cache_mib > measured.dense.cache_mib


def test_the_model_is_as_it_was(make_decoder, ids):
    model = make_decoder("llama")
    before = model(ids[None]).logits
    measure(model, ids, layers=PLAN)
    assert torch.equal(model(ids[None]).logits, before)
    with pytest.raises(UsageError):
        unport(model)
    with pytest.raises(UsageError):
        measure(model, ids, layers=LayerPlan(layers={9: Dense()}))
    assert torch.equal(model(ids[None]).logits, before)


@pytest.mark.parametrize("family", ["qwen2", "gemma", "gemma3"])
def test_other_families_and_sliding_layers(make_decoder, ids, family):
    model = make_decoder(family)
    plan = LayerPlan(default=Sparse(budget=BUDGET), crossover=50)
    found = measure(model, ids, layers=plan)
    assert found.dense.ppl == pytest.approx(math.exp(loss(model, ids)), rel=1e-4)
    assert set(found.kept) == {layer.index for layer in found.layers if layer.kind == "sparse"}


def test_a_text_that_ends_before_the_crossover_loses_nothing_and_says_so(make_decoder, tokens):
    found = measure(make_decoder("llama"), tokens(1, 40)[0], layers=PLAN)
    assert found.agreement == 1 and found.ppl_increase == pytest.approx(0, abs=1e-5)
    assert all(each.recall is None and np.isnan(each.share).all() for each in found.kept.values())
    assert "every key is read" in to_text(to_json(found), "a text")


def test_a_text_shorter_than_a_block_is_refused(make_decoder, tokens):
    with pytest.raises(InputError, match="15 tokens, at least 16"):
        measure(make_decoder("llama"), tokens(1, 15)[0])


def test_the_report_has_a_line_for_each_layer(measured):
    report = to_json(measured)
    text = to_text(report, "tiny reads a text")
    assert text.startswith("tiny reads a text\n") and len(text.splitlines()) == 6 + 2 + 3
    assert [layer["budget"] for layer in report["layers"]] == [44, 24, 24]
    assert report["layers"][0]["recall"] is None and f"{report['layers'][1]['recall']:.3f}" in text
    assert report["perplexity"]["increase"] == measured.sparse.ppl / measured.dense.ppl - 1


def test_progress_names_each_pass(make_decoder, ids):
    stages = []
    measure(make_decoder("llama"), ids, lambda stage, done, total: stages.append((stage, done, total)), layers=PLAN)
    assert stages[:3] == [("reading densely", layer, 3) for layer in (1, 2, 3)]
    assert list(dict.fromkeys(stage for stage, _, _ in stages)) == [
        "reading densely",
        "reading sparsely",
        "looking at blocks",
        "comparing",
    ]
