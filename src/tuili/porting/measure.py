"""What porting does to a model on one text: what its layers read and keep, what is lost, and what is saved.

Three passes: dense and sparse, each timed, and a sparse one that is looked at. Complexity: that of these passes, and
O(N) for each sampled query.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tuili.attention.plan import LayerPlan, Sparse
from tuili.attention.recall import num_bytes as pooled_bytes
from tuili.attention.select import Budget
from tuili.attention.target import Recall, attention_target, recall
from tuili.errors import InputError
from tuili.porting.hf import LayerReport, plan_of, port, ported_layers, report, unport
from tuili.porting.passes import logits, watched
from tuili.porting.ported import PortedLayer

NUM_SAMPLES = 64
"""Queries a layer whose attention is computed for the recall."""
MIB = 2**20
MIN_TOKENS = 16

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Which blocks of the text one layer kept.

    Attributes:
        block: keys in a block.
        share: float32 [J], of the tokens that could choose a block, those that kept it, groups averaged; NaN where no
            token had the choice: it read the block densely, as one of its last, or not at all.
        recall: of the gate on sampled queries; None: no token had to choose.
    """

    block: int
    share: np.ndarray
    recall: Recall | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass over the text.

    Attributes:
        prefill_s: its time in seconds, the language model head left out.
        ppl: perplexity of the second half.
        cache_mib: keys and values in the cache, and the gate's keys beside them.
    """

    prefill_s: float
    ppl: float
    cache_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured on a text of `num_tokens`; losses and drift are those of its second half.

    Attributes:
        num_tokens: of the text.
        num_counted: tokens that perplexity and drift count.
        dense: the model as it was.
        sparse: the ported one.
        kl: mean divergence of the sparse next-token distribution from the dense one, in nats.
        agreement: share of tokens after which both find the same next token likeliest.
        plan: of the ported model.
        layers: what each layer reads.
        kept: which blocks the sparse layers kept, by layer.
        crossover: tokens before this one read every key.
        kernel: which one ran.
    """

    num_tokens: int
    num_counted: int
    dense: Pass
    sparse: Pass
    kl: float
    agreement: float
    plan: LayerPlan
    layers: tuple[LayerReport, ...]
    kept: dict[int, Kept]
    crossover: int
    kernel: str

    @property
    def ppl_increase(self) -> float:
        """By which fraction the perplexity grew."""
        return self.sparse.ppl / self.dense.ppl - 1

    @property
    def speedup(self) -> float:
        """Dense over sparse prefill time."""
        return self.dense.prefill_s / self.sparse.prefill_s


@torch.no_grad()
def measure(model: PreTrainedModel, ids: Tensor, on_progress: OnProgress | None = None, **how: Any) -> Measured:
    """Compare a model with itself ported, on one text; it ends as it was.

    Args:
        model: a decoder with a language model head, not ported.
        ids: token ids [N], at most the model's window.
        on_progress: called with stage, layers done, layers in all.
        how: what `port` is given: layers, gates or adapter.

    Raises:
        InputError: the text has fewer than `MIN_TOKENS` tokens.
        UsageError, ModelFileError: as `port`.
    """
    if len(ids) < MIN_TOKENS:
        raise InputError(f"the text has {len(ids)} tokens, at least {MIN_TOKENS} are needed; give a longer one")
    on_progress = on_progress or (lambda stage, done, total: None)
    dense_TD, dense_s, dense_bytes = _prefill(model, ids, "reading densely", on_progress)
    port(model, **how)
    try:
        sparse_TD, sparse_s, sparse_bytes = _prefill(model, ids, "reading sparsely", on_progress)
        found, plan = report(model), plan_of(model)
        kept = _look(model, ids, on_progress)
        # The distributions are compared under the ported head, which is the dense one.
        drift = _compare(model, dense_TD, sparse_TD, ids, on_progress)
    finally:
        unport(model)
    return Measured(
        num_tokens=len(ids),
        num_counted=len(dense_TD) - 1,
        dense=Pass(prefill_s=dense_s, ppl=math.exp(drift.dense), cache_mib=dense_bytes / MIB),
        sparse=Pass(prefill_s=sparse_s, ppl=math.exp(drift.sparse), cache_mib=sparse_bytes / MIB),
        kl=drift.kl,
        agreement=drift.agreement,
        plan=plan,
        layers=found.layers,
        kept=kept,
        crossover=found.crossover,
        kernel=found.kernel,
    )


def _prefill(model: PreTrainedModel, ids: Tensor, stage: str, on_progress: OnProgress) -> tuple[Tensor, float, int]:
    """Return the hidden states of the second half and the token before it, the seconds, and the bytes cached."""
    ids_1N = ids[None].to(model.device)
    with watched(model, lambda done, total: on_progress(stage, done, total)):
        begin = time.perf_counter()
        output = model.base_model(ids_1N, use_cache=True)
        seconds = time.perf_counter() - begin
    cache = output.past_key_values
    num_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) + pooled_bytes(cache)
    return output.last_hidden_state[0, len(ids) // 2 - 1 :].clone(), seconds, num_bytes


# -- drift ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Drift:
    """Means over tokens, in nats."""

    dense: float = 0.0
    sparse: float = 0.0
    kl: float = 0.0
    agreement: float = 0.0


def _compare(model: PreTrainedModel, dense: Tensor, sparse: Tensor, ids: Tensor, on_progress: OnProgress) -> _Drift:
    """Return losses and drift of the tokens after the first of the hidden states [T, D]."""
    drift, done, total = _Drift(), 0, len(dense) - 1
    wanted_T = ids[len(ids) - total :].to(dense.device)
    for dense_tV, sparse_tV in zip(logits(model, dense[:-1]), logits(model, sparse[:-1]), strict=True):
        wanted_t = wanted_T[done : done + len(dense_tV), None]
        log_p, log_q = dense_tV.log_softmax(-1), sparse_tV.log_softmax(-1)
        drift.dense -= float(log_p.gather(1, wanted_t).double().sum()) / total
        drift.sparse -= float(log_q.gather(1, wanted_t).double().sum()) / total
        drift.kl += float((log_p.exp() * (log_p - log_q)).double().sum()) / total
        drift.agreement += float((log_p.argmax(-1) == log_q.argmax(-1)).sum()) / total
        done += len(dense_tV)
        on_progress("comparing", done, total)
    return drift


# -- what is kept --------------------------------------------------------------------------------


def _look(model: PreTrainedModel, ids: Tensor, on_progress: OnProgress) -> dict[int, Kept]:
    """Read the text once more and return which blocks each sparse layer kept."""
    watchers = {
        index: _Watcher(layer, layer.entry.budget, len(ids))
        for index, layer in enumerate(ported_layers(model))
        if layer.kind == "sparse" and isinstance(layer.entry, Sparse)
    }
    with _watching(watchers), watched(model, lambda done, total: on_progress("looking at blocks", done, total)):
        model.base_model(ids[None].to(model.device), use_cache=False)
    return {index: watcher.kept() for index, watcher in watchers.items()}


@contextmanager
def _watching(watchers: dict[int, _Watcher]) -> Iterator[None]:
    hooks = []
    for watcher in watchers.values():
        hooks.append(watcher.layer.register_forward_pre_hook(watcher.note))
        watcher.layer.on_blocks = watcher.on_blocks
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for watcher in watchers.values():
            watcher.layer.on_blocks = None


@dataclass(slots=True, eq=False)
class _Watcher:
    """Counts the blocks that one layer keeps in a text of N tokens, and takes the recall on sampled queries.

    `counts` [J] are the tokens that chose a block, groups averaged, `chances` [J] those that could.
    """

    layer: PortedLayer
    budget: Budget
    num_tokens: int
    counts: Tensor = field(init=False)
    chances: Tensor = field(init=False)
    recalls: list[Recall] = field(init=False, default_factory=list)
    inputs: tuple[Any, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        num_blocks = -(-self.num_tokens // self.budget.block)
        self.counts = torch.zeros(num_blocks, dtype=torch.float64)
        self.chances = torch.zeros(num_blocks, dtype=torch.int64)

    def note(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Keep what the layer is called with: module, queries, keys, values, padding, scale."""
        self.inputs = args

    def on_blocks(self, blocks_BTGK: Tensor, first: int, num_keys: int) -> None:
        """Count the kept blocks of one row that is read from its first key on."""
        blocks_TGK = blocks_BTGK[0].cpu()
        end_T = torch.arange(first, first + len(blocks_TGK)) // self.budget.block - self.budget.local + 1
        is_chosen = (blocks_TGK >= 0) & (blocks_TGK < end_T[:, None, None])
        chosen = torch.bincount(blocks_TGK[is_chosen].long(), minlength=len(self.counts))
        self.counts += chosen / blocks_TGK.shape[1]
        self.chances += (torch.arange(len(self.counts))[:, None] < end_T).sum(1)
        self._take_recall(blocks_BTGK, first, num_keys)

    def _take_recall(self, blocks_BTGK: Tensor, first: int, num_keys: int) -> None:
        """Sample queries that have more candidates than the budget keeps."""
        q, k, _, _, scale = self.inputs
        least = max(first, self.budget.keep * self.budget.block)
        end = first + blocks_BTGK.shape[1]
        if least >= end:
            return
        at_P = torch.linspace(least, end - 1, min(NUM_SAMPLES, end - least)).long().unique()
        at_P = at_P.to(q.device)
        q_BHPd = q[:, :, at_P - (num_keys - q.shape[2])]
        target = attention_target(q_BHPd, k, at_P, self.budget, scale=scale)
        self.recalls.append(recall(blocks_BTGK[:, at_P - first], target, self.budget))

    def kept(self) -> Kept:
        """Return what was counted."""
        share_J = torch.where(self.chances > 0, self.counts / self.chances.clamp_min(1), math.nan)
        number = len(self.recalls)
        mean = (
            Recall(
                kept=sum(each.kept for each in self.recalls) / number,
                oracle=sum(each.oracle for each in self.recalls) / number,
            )
            if number
            else None
        )
        return Kept(block=self.budget.block, share=share_J.float().numpy(), recall=mean)
