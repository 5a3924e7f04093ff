"""What an attention layer with a plan computes between its projections, and how much it read.

Rows of a padded batch run one by one without their padding, so that each reads the same keys as it does alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tuili.attention import pooled
from tuili.attention.cache import BlockPool, GatePool
from tuili.attention.dense import dense_attention, take
from tuili.attention.gate import Gate
from tuili.attention.kernels import gated_attention
from tuili.attention.plan import KINDS, Dense, Entry, Pooled, Sparse
from tuili.attention.pooled import MeanPool
from tuili.attention.prior import from_layer, union
from tuili.attention.recall import recall, take_note
from tuili.attention.select import Budget
from tuili.attention.teach import teaching_attention
from tuili.errors import UsageError

CHUNK_TOKENS = 2048
"""Tokens whose gate queries are made at once."""
OnBlocks = Callable[[Tensor, int, int], None]
"""Called with the kept blocks [B, T, G, K] of a sparse layer's late tokens, the first's key index, and N."""


@dataclass(slots=True)
class Tally:
    """What a layer did since it was made, padding left out.

    Attributes:
        num_tokens: query tokens.
        num_dense_tokens: those of them that read every key up to theirs by the dense path.
        num_keys: keys read, summed over the tokens; groups that differ are averaged.
    """

    num_tokens: int = 0
    num_dense_tokens: int = 0
    num_keys: float = 0.0


class Reader(nn.Module):
    """An attention layer's way to read its context; hangs in the attention module, so that it moves along with it.

    Args:
        entry: the plan of this layer.
        crossover: tokens of a sparse layer before this one read every key.
        own_window: the window that the model itself gives to this layer; then the entry has no say.
        gate: the gate of a sparse layer; None: the attention's own score of the mean keys, training-free.

    Attributes:
        teaches: whether, with gradients, the gate gets one too.
        below: the sparse layer below, if this one's prior is what that one keeps.
        kept: what was kept for the late tokens of each row of a call, if the layer above is to know; it takes them.
    """

    def __init__(self, entry: Entry, crossover: int, own_window: int | None = None, gate: Gate | None = None) -> None:
        super().__init__()
        self.entry = entry
        self.crossover = crossover
        self.own_window = own_window
        self.gate = gate
        self.teaches = False
        self.below: tuple[Reader, ...] = ()
        self.kept: list[Tensor] | None = None
        self.tally = Tally()
        self.on_blocks: OnBlocks | None = None

    @property
    def kind(self) -> str:
        """What the layer is: "sliding" (the model's own window), "sparse", "pooled" or "dense"."""
        if self.own_window is not None:
            return "sliding"
        return next(kind for kind, each in KINDS.items() if isinstance(self.entry, each))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, scale: float) -> Tensor:
        """Return the attention of the last T of N tokens: [B, T, H, d].

        Args:
            q: queries [B, H, T, d].
            k: keys [B, G, N, d].
            v: values [B, G, N, d].
            valid: [B, N], False where a key is padding; None: no padding. Rows of padding queries are arbitrary.
            scale: factor of the scores.

        Under autocast queries, keys and values count as its dtype, as they do for SDPA; nothing inside is cast again.
        """
        kind = q.device.type
        if not torch.is_autocast_enabled(kind):
            return self._forward(q, k, v, valid, scale)
        narrow = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False):
            return self._forward(q.to(narrow), k.to(narrow), v.to(narrow), valid, scale)

    def _forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, scale: float) -> Tensor:
        note = take_note()
        if self.own_window is not None or self._is_dense_up_to(k.shape[2]):
            self._count_batch(q.shape[2], k, valid)
            return dense_attention(q, k, v, scale=scale, valid=valid, window=self.own_window)
        pools = recall(note, self, k, valid, self._new_pool)
        if self.kept:
            self.kept.clear()
        if valid is None:
            return self._read(q, k, v, scale, pools[0])
        out_BTHd = q.new_zeros(q.shape[0], q.shape[2], q.shape[1], v.shape[3])
        for row, valid_N in enumerate(valid):
            at_n = valid_N.nonzero().flatten()
            at_t = at_n[at_n >= k.shape[2] - q.shape[2]] - (k.shape[2] - q.shape[2])
            if len(at_t):
                one = slice(row, row + 1)
                inputs = take(q[one], at_t), take(k[one], at_n), take(v[one], at_n)
                out_BTHd[row, at_t] = self._read(*inputs, scale, pools[row])[0]
        return out_BTHd

    def keys_of_first(self, num_tokens: int) -> int:
        """Return how many keys the first tokens of a row read together; with a coverage, at most."""
        entry, n = self.entry, num_tokens
        if self.own_window is not None:
            return _capped(n, self.own_window)
        if isinstance(entry, Dense):
            if entry.window is None or n <= entry.past:
                return _triangle(n)
            cap = entry.window + entry.sink
            return _triangle(entry.past) + _capped(n, cap) - _capped(entry.past, cap)
        if isinstance(entry, Pooled):
            return pooled.keys_of_first(n, entry.block, entry.window, entry.sink)
        if n <= self.crossover:
            return _triangle(n)
        return _triangle(self.crossover) + _selected(n, entry) - _selected(self.crossover, entry)

    def _is_dense_up_to(self, num_keys: int) -> bool:
        if isinstance(self.entry, Dense) and self.entry.window is None:
            return True
        return num_keys <= self._num_near()

    def _new_pool(self) -> BlockPool:
        if isinstance(self.entry, Pooled):
            return MeanPool(self.entry.block)
        return GatePool(self.entry.budget.block, self.entry.sub) if isinstance(self.entry, Sparse) else BlockPool(1)

    def _read(self, q: Tensor, k: Tensor, v: Tensor, scale: float, pool: BlockPool) -> Tensor:
        """Return the attention of rows without padding: the first tokens dense, the others by the plan."""
        num_keys = k.shape[2]
        first = num_keys - q.shape[2]
        near = min(max(self._num_near() - first, 0), q.shape[2])
        self._count(first, num_keys, near, len(k))
        teaches = self.teaches and torch.is_grad_enabled()
        if near < q.shape[2] and self._keeps_all_near() and not teaches:
            return self._read_far(q, k, v, scale, pool, near)
        parts = []
        if near:
            end = first + near
            parts.append(dense_attention(q[:, :, :near], k[:, :, :end], v[:, :, :end], scale=scale))
        if near < q.shape[2]:
            read = self._teach if teaches else self._read_far
            parts.append(read(q[:, :, near:], k, v, scale, pool))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _read_far(self, q: Tensor, k: Tensor, v: Tensor, scale: float, pool: BlockPool, near: int = 0) -> Tensor:
        """Return the attention by the plan; the first `near` queries are tokens that keep every block."""
        entry = self.entry
        if isinstance(entry, Pooled):
            return self._read_pooled(q, k, v, scale, pool, entry)
        if isinstance(entry, Dense):
            return dense_attention(q, k, v, scale=scale, window=entry.window, sink=entry.sink)
        budget, gate = entry.budget, self.gate
        pool = pool if isinstance(pool, GatePool) else GatePool(budget.block, entry.sub)
        gate_k = pool.grow(k, None if gate is None else gate.k_proj)
        rule: dict[str, Any] = {"normalize": True, "bias": None if gate is None else gate.bias, "scale": scale}
        gate_q = self._gate_queries(q, k.shape[1], scale)
        if budget.coverage is None and self.on_blocks is None and self.kept is None and not entry.penalty:
            return gated_attention(q, k, v, gate_q, gate_k, budget, **rule).transpose(1, 2)
        if entry.penalty and (prior := self._prior(entry, pool, k.shape[1], q.shape[2], near)) is not None:
            rule |= {"prior": prior, "penalty": entry.penalty}
        out_BHTd, blocks_BTGK = gated_attention(q, k, v, gate_q, gate_k, budget, **rule, return_blocks=True)
        blocks_BTGK = blocks_BTGK[:, near:]
        if self.kept is not None:
            self.kept.append(blocks_BTGK)
        if entry.takes_prior("before"):
            pool.remember(blocks_BTGK)
        if budget.coverage is not None:
            self.tally.num_keys -= _spared(blocks_BTGK, k.shape[2], budget)
        if self.on_blocks is not None:
            self.on_blocks(blocks_BTGK, k.shape[2] - q.shape[2] + near, k.shape[2])
        return out_BHTd.transpose(1, 2)

    def _gate_queries(self, q: Tensor, groups: int, scale: float) -> Tensor:
        """Return the gate queries [B, T, G, Q, e], made for a chunk of tokens at a time, which needs less memory."""
        parts = [
            _training_free(q_BHtd, groups, scale) if self.gate is None else self.gate.queries(q_BHtd)
            for q_BHtd in q.split(CHUNK_TOKENS, dim=2)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _prior(self, entry: Sparse, pool: GatePool, groups: int, num_queries: int, near: int) -> Tensor | None:
        """Return the prior set of the next row's queries, -1 for the first `near`; None where nothing is known."""
        priors = []
        if self.below:
            if not (kept := self.below[0].kept):
                raise UsageError(
                    f"the layer below left no prior for this one (penalty {entry.penalty}): activation checkpointing "
                    "computes layers again one by one; turn it off, or give penalty=0"
                )
            blocks_BTGP = from_layer(kept.pop(0), groups)
            priors.append(nn.functional.pad(blocks_BTGP, (0, 0, 0, 0, near, 0), value=-1))
        if entry.takes_prior("before") and (before := pool.before(num_queries)) is not None:
            priors.append(before)
        return union(*priors) if priors else None

    def _read_pooled(self, q: Tensor, k: Tensor, v: Tensor, scale: float, pool: BlockPool, entry: Pooled) -> Tensor:
        """Return the attention to means and window; means are kept between steps unless a gradient needs them."""
        needs_grad = torch.is_grad_enabled() and (k.requires_grad or v.requires_grad)
        rest = slice(entry.sink, None)
        means = pool.means(k[:, :, rest], v[:, :, rest]) if isinstance(pool, MeanPool) and not needs_grad else None
        sizes = {"block": entry.block, "window": entry.window, "sink": entry.sink}
        return pooled.pooled_attention(q, k, v, **sizes, scale=scale, means=means).transpose(1, 2)

    def _teach(self, q: Tensor, k: Tensor, v: Tensor, scale: float, pool: BlockPool) -> Tensor:
        """Return what `_read_far` does, with a gradient for the gate."""
        if self.gate is None or not isinstance(self.entry, Sparse):
            return self._read_far(q, k, v, scale, pool)
        if self.entry.penalty:
            raise UsageError(
                f"a gate does not learn under a prior (penalty {self.entry.penalty}); train with penalty=0"
            )
        return teaching_attention(q, k, v, self.gate, self.entry.budget, scale=scale).transpose(1, 2)

    def _keeps_all_near(self) -> bool:
        """Return whether the budget alone has the tokens before the crossover read every key."""
        entry = self.entry
        if not isinstance(entry, Sparse) or entry.budget.coverage is not None:
            return False
        return self.crossover <= entry.budget.keep * entry.budget.block

    def _num_near(self) -> int:
        """Return how many tokens at the beginning of a row read every key."""
        if isinstance(self.entry, Pooled):
            return self.entry.num_exact
        return self.crossover if isinstance(self.entry, Sparse) else self.entry.past

    def _count_batch(self, num_queries: int, k: Tensor, valid: Tensor | None) -> None:
        num_keys = k.shape[2]
        is_dense = self.own_window is None
        if valid is None:
            self._count(num_keys - num_queries, num_keys, num_queries * is_dense, len(k))
            return
        before_B = valid[:, : num_keys - num_queries].sum(1).tolist()
        for before, after in zip(before_B, valid.sum(1).tolist(), strict=True):
            self._count(before, after, (after - before) * is_dense)

    def _count(self, first: int, end: int, num_dense: int, num_rows: int = 1) -> None:
        self.tally.num_tokens += num_rows * (end - first)
        self.tally.num_dense_tokens += num_rows * num_dense
        self.tally.num_keys += num_rows * (self.keys_of_first(end) - self.keys_of_first(first))


def chain(readers: Sequence[Reader]) -> None:
    """Have sparse layers tell what they keep to the next sparse layer, where its prior is to hold that."""
    for below, reader in pairwise(each for each in readers if each.kind == "sparse"):
        if isinstance(reader.entry, Sparse) and reader.entry.takes_prior("layer"):
            reader.below, below.kept = (below,), []


def _training_free(q: Tensor, groups: int, scale: float) -> Tensor:
    """Return the queries themselves as gate queries [B, T, G, R, d], what `Gate.training_free` projects to."""
    return (q * scale).unflatten(1, (groups, -1)).permute(0, 3, 1, 2, 4)


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


def _capped(n: int, cap: int) -> int:
    """Return how many keys n tokens read if each reads those up to its own, at most the last `cap`."""
    return _triangle(min(n, cap)) + cap * max(0, n - cap)


def _selected(n: int, entry: Sparse) -> int:
    """Return how many keys n tokens read if each reads at most `keep` blocks, the last one up to its own key."""
    block, whole = entry.budget.block, entry.budget.keep * entry.budget.block
    late = max(0, n - whole)
    return (
        _triangle(min(n, whole)) + late * (whole - block) + late // block * _triangle(block) + _triangle(late % block)
    )


def _spared(blocks_BTGK: Tensor, num_keys: int, budget: Budget) -> float:
    """Return how many keys fewer than the budget allows were read; groups are averaged."""
    batch, num_queries, groups, _ = blocks_BTGK.shape
    first, end = num_keys - num_queries, num_keys
    allowed = sum(min(budget.keep, at // budget.block + 1) for at in range(first, end)) * batch
    return (allowed - int((blocks_BTGK >= 0).sum()) / groups) * budget.block
