"""Losses of whole texts and short contexts, peers at equal budget, what gates keep; on a tiny random decoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import tuili
from porting import decoding, tradeoff
from porting.answering import answer
from porting.decoding import Way, dense, ported, read, read_short
from porting.peers import SELECTIONS, peer
from porting.perplexity import MARGIN, increases, key_tokens, on_key_tokens, size
from porting.questions import Context, Question
from porting.watching import histogram, lift_rows, recall_row, recalls, watching
from tuili.attention.kernels import select_blocks
from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget

BUDGET = Budget(block=16, keep=6, sink=1, local=2)
CROSSOVER = 112
LENGTH = 320
VOCABULARY = 97


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.4,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def small_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `tuili.port` without arguments take a plan that is sparse at these lengths."""
    plan = LayerPlan(default=Sparse(budget=BUDGET), layers={0: Dense()}, crossover=CROSSOVER)
    whole = tuili.port
    monkeypatch.setattr(tuili, "port", lambda model: whole(model, plan))


WAYS: dict[str, Way] = {"dense": dense, "tuili": ported, **{name: peer(name) for name in SELECTIONS}}


def run(way: str, model: Any, ids: torch.Tensor) -> decoding.Reading:
    with WAYS[way](model) as running:
        return read(running, ids)


def test_losses_and_guesses_are_those_of_the_logits(model: Any, ids: torch.Tensor) -> None:
    found = read(model, ids)
    logits = model(ids).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    assert np.isnan(found.losses[0]) and found.guesses[0] == -1
    assert found.losses[1:] == pytest.approx(wanted.numpy(), abs=1e-4)
    assert found.guesses[1:].tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("way", WAYS)
def test_the_beginning_of_a_text_reads_the_same_whatever_follows(way: str, model: Any, ids: torch.Tensor) -> None:
    whole, half = (run(way, model, ids[:, :end]).losses for end in (LENGTH, 208))
    assert whole[1:208] == pytest.approx(half[1:], abs=1e-4)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "dense"])
def test_every_method_is_dense_before_the_crossover_and_sparse_after_it(
    way: str, model: Any, ids: torch.Tensor
) -> None:
    gaps = np.abs(run(way, model, ids).losses - run("dense", model, ids).losses)
    # the token at the crossover is predicted by the one before it
    assert gaps[1 : CROSSOVER + 1].max() < 1e-4 < gaps[CROSSOVER + 1 :].max()
    assert not hasattr(model.model.layers[0].self_attn, "tuili")


@pytest.mark.parametrize("num_keys", [LENGTH, LENGTH - 5])
@pytest.mark.parametrize("name", SELECTIONS)
def test_peers_keep_as_many_keys_as_the_plan(name: str, num_keys: int) -> None:
    torch.manual_seed(2)
    q, k = torch.randn(1, 6, num_keys, 16), torch.randn(1, 2, num_keys, 16)
    first = 40
    at = torch.arange(first, num_keys)
    kept = SELECTIONS[name](q[:, :, first:], k, at, BUDGET, 0.25)
    ours = select_blocks(
        q[:, :, first:].unflatten(1, (2, 3)).permute(0, 3, 1, 2, 4).contiguous(),
        k.transpose(1, 2).contiguous(),
        BUDGET,
        num_keys=num_keys,
    )
    assert kept.shape == ours.shape
    assert torch.equal((kept >= 0).sum(-1), (ours >= 0).sum(-1))
    current = at // BUDGET.block
    for must in (torch.zeros_like(current), current, (current - 1).clamp_min(0)):
        assert (kept[0] == must[:, None, None]).any(-1).all()
    assert (kept[0] <= current[:, None, None]).all()


def test_the_oracle_keeps_more_attention_than_others_and_pooled_keys_score_mean_keys() -> None:
    torch.manual_seed(3)
    q, k = 2 * torch.randn(1, 6, LENGTH, 16), torch.randn(1, 2, LENGTH, 16)
    at = torch.arange(200, LENGTH)
    q = q[:, :, 200:]
    best = recalls(q, k, SELECTIONS["oracle"](q, k, at, BUDGET, 0.25), 200, BUDGET, 0.25)
    assert best[0] == pytest.approx(1, abs=1e-5) and best[1] < 0.99
    gate_q = q.unflatten(1, (2, 3)).permute(0, 3, 1, 2, 4).contiguous()
    mean_k = k.unflatten(2, (-1, BUDGET.block)).mean(3).transpose(1, 2).contiguous()
    ours = select_blocks(gate_q, mean_k, BUDGET, num_keys=LENGTH)
    assert torch.equal(ours, SELECTIONS["pooled keys"](q, k, at, BUDGET, 0.25))


def test_scaled_budgets_are_shared_out_as_they_were(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {1: Sparse(budget=BUDGET), 2: Sparse(budget=replace(BUDGET, keep=18))}
    whole = tuili.porting.hf.port
    monkeypatch.setattr(tuili, "port", lambda model: whole(model, LayerPlan(default=Dense(), layers=layers)))
    assert tradeoff.shipped_keys(model) == 12 * BUDGET.block
    for method in tradeoff.METHODS.values():
        for keys, wanted in ((96, [3, 9]), (384, [12, 36]), (16, [3, 3])):
            with tradeoff.scaled(method, keys)(model) as running:
                readers = [layer.self_attn.tuili for layer in running.model.layers[1:]]
                assert [reader.entry.budget.keep for reader in readers] == wanted
        assert not hasattr(model.model.layers[1].self_attn, "tuili")


class Numbers:
    """A tokenizer of texts that are numbers."""

    def __call__(self, text: str, return_tensors: str | None = None, verbose: bool = True) -> Any:
        ids = [int(word) for word in text.split()]
        return SimpleNamespace(input_ids=torch.tensor([ids]) if return_tensors else ids)


@pytest.mark.parametrize("way", WAYS)
def test_answers_from_a_cache_are_those_of_the_whole_prompt(way: str, model: Any, ids: torch.Tensor) -> None:
    text = " ".join(map(str, ids[0].tolist()))
    questions = tuple(Question(asked, ("7", "8", "9")) for asked in ("5 6 7", "1", "2 3"))
    with WAYS[way](model) as running:
        found = answer(running, Numbers(), Context(text, questions), "a stage")
        for question, options in zip(questions, found, strict=True):
            prompt = Numbers()(f"{text} {question.text}", return_tensors="pt").input_ids
            logits = running(prompt, use_cache=False).logits[0, -1].log_softmax(-1)
            assert options == pytest.approx(logits[7:10].numpy(), abs=1e-4)


# -- short contexts and key tokens ---------------------------------------------------------------


def test_a_short_context_is_a_window(model: Any, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SHORT", 64)
    monkeypatch.setattr(decoding, "STRIDE", 32)
    found = read_short(model, ids[:, :150])
    assert np.isnan(found[0]) and not np.isnan(found[1:]).any()
    assert found[1:64] == pytest.approx(read(model, ids[:, :64]).losses[1:], abs=1e-4)
    # the window that begins at 32 gives the tokens from 64 on, the last one ends with the text
    assert found[64:96] == pytest.approx(read(model, ids[:, 32:96]).losses[32:], abs=1e-4)
    assert found[128:150] == pytest.approx(read(model, ids[:, 86:150]).losses[42:], abs=1e-4)


def test_key_tokens_are_those_of_the_second_half_that_profit_from_the_whole_context() -> None:
    dense, short = np.full(10, 1.0), np.full(10, 1.0)
    short[[2, 6, 9]] += MARGIN
    short[7] += MARGIN / 2
    assert key_tokens(dense, short).tolist() == [6, 9]
    sparse = dense + np.arange(10)
    (row, other) = on_key_tokens("a.2k", dense, sparse, short, {"pooled keys": dense})
    assert row.name == "quality.a.2k.key_tokens.loss_increase" and (row.value, row.n) == (7.5, 2)
    assert row.baseline == {"name": "pooled keys", "value": 0.0}
    assert other.name == "peer.pooled_keys.a.2k.key_tokens.loss_increase" and other.value == 0


def test_increases_by_part_and_beside_peers() -> None:
    dense = np.full(1024, 2.0)
    dense[0] = np.nan
    sparse = dense.copy()
    sparse[768:] += 0.2
    peers = {"sink+window": dense + 0.3, "pooled keys": dense + 0.4, "oracle": dense + 0.05}
    found = {row.name: row for row in increases("a.1k", dense, sparse, peers)}
    ours = found["quality.a.1k.ppl_increase"]
    assert ours.value == pytest.approx(np.expm1(0.1)) and ours.n == 512
    assert ours.baseline == {"name": "sink+window", "value": pytest.approx(np.expm1(0.3))}
    assert found["quality.a.1k.share_of_peers_loss"].value == pytest.approx(np.expm1(0.1) / np.expm1(0.4))
    assert found["quality.a.1k.ppl_increase.q3"].value == 0
    assert found["quality.a.1k.ppl_increase.q4"].value == pytest.approx(np.expm1(0.2))
    assert found["peer.oracle.a.1k.ppl_increase"].value == pytest.approx(np.expm1(0.05))


def test_sizes_are_named_in_k() -> None:
    assert [size(length) for length in (2048, 8192, 2304)] == ["2k", "8k", "2304"]


# -- what gates keep -----------------------------------------------------------------------------


def test_what_gates_keep_is_noted_and_nothing_is_left_behind(model: Any, ids: torch.Tensor) -> None:
    plain = run("tuili", model, ids)
    with ported(model) as sparse, watching(sparse) as watch:
        watched = read(sparse, ids)
        layers = [layer.self_attn.tuili for layer in model.model.layers]
        assert [layer.on_blocks is None for layer in layers] == [True, False, False]
    assert all(layer.on_blocks is None and not layer._forward_pre_hooks for layer in layers)
    assert watched.losses[1:] == pytest.approx(plain.losses[1:], abs=1e-4)
    assert sorted(watch.layers) == [1, 2]
    for layer in watch.layers.values():
        assert (layer.kept <= layer.offered).all() and 0 < layer.recall <= 1 + 1e-6
        assert layer.kept.sum() == (LENGTH - CROSSOVER) * BUDGET.num_free * 2
    (row,) = recall_row([watch])
    assert row.name == "gate.recall" and row.n == 2 and row.baseline and row.baseline["value"] < row.value


def test_only_blocks_by_choice_are_counted() -> None:
    blocks = torch.tensor([[[[0, 2, 3, 5, 6, -1]], [[0, 1, 4, 6, 7, -1]]]])  # tokens 111 and 112: blocks 6 and 7
    kept, offered = histogram(blocks, 111, 128, BUDGET)
    assert kept.tolist() == [0, 1, 1, 1, 1, 0, 0, 0]
    assert offered.tolist() == [0, 2, 2, 2, 2, 1, 0, 0]


def test_lifts_of_classes(model: Any, ids: torch.Tensor) -> None:
    with ported(model) as sparse, watching(sparse) as watch:
        read(sparse, ids)
    same = {row.name: row.value for row in lift_rows(watch, np.tile([0, 1, 2, 3, 4, 0, 0, 0], LENGTH // 8))}
    assert same == {f"kept.{name}.lift": pytest.approx(1) for name in ("definitions", "calls", "comments", "blanks")}
