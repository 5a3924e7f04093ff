"""Gate keys beside a key-value cache, in int8: a step pools only the blocks it closed.

The pool holds no keys of its own, and only whole blocks, since no others are ever scored; so growing token by token,
in chunks or at once gives the same gate keys. With a gate key of the head's width for each key it takes a byte where
the cache has eight (float32) or four (bfloat16).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tuili.attention.pooling import GateKeys, gate_keys, quantize
from tuili.attention.prior import from_chunk, from_step
from tuili.errors import InputError, UsageError

CHUNK_KEYS = 4096
"""New keys that are pooled at once, so that what that takes is bounded."""


class BlockPool:
    """What is kept of each whole block of one layer's key-value cache, in one or more tensors [B, J, ...].

    Memory is taken in doublings, so that n steps cost O(n) in all.
    """

    def __init__(self, block: int) -> None:
        """Make an empty pool for blocks of `block` keys.

        Raises:
            UsageError: `block` is below 1.
        """
        if block < 1:
            raise UsageError(f"a block of {block} keys is too small; it must have at least 1")
        self.block = block
        self.num_blocks = 0
        self._parts: list[Tensor] = []

    @property
    def num_bytes(self) -> int:
        """Memory taken, in bytes."""
        return sum(part.untyped_storage().nbytes() for part in self._parts)

    def crop(self, num_keys: int) -> None:
        """Forget all but the whole blocks of the first `num_keys` keys.

        Raises:
            InputError: the number is negative.
        """
        if num_keys < 0:
            raise InputError(f"can't crop a pool to {num_keys} keys")
        self.num_blocks = min(self.num_blocks, num_keys // self.block)

    def reorder(self, rows: Tensor) -> None:
        """Make row i of the batch what row `rows[i]` was: for beam search, and to drop or to repeat rows.

        Raises:
            InputError: `rows` is no list of row indices.
        """
        if not self._parts:
            return
        batch = self._parts[0].shape[0]
        if rows.ndim != 1 or rows.dtype not in (torch.int32, torch.int64) or not ((rows >= 0) & (rows < batch)).all():
            raise InputError(f"rows must be a list of indices in 0 .. {batch - 1}, not {rows.tolist()}")
        self._parts = [part.index_select(0, rows) for part in self._parts]

    def reset(self) -> None:
        """Forget everything and free the memory."""
        self.num_blocks, self._parts = 0, []

    def _grow(self, k: Tensor, of_new: Callable[[slice], Sequence[Tensor]]) -> list[Tensor]:
        """Return what is kept of the whole blocks of keys [B, G, N, d]; `of_new` makes it for a slice of new keys.

        Views that later calls overwrite. No gradient.

        Raises:
            InputError: there are fewer keys than were pooled, or what is new has another shape.
        """
        begin, end = self.num_blocks, k.shape[2] // self.block
        if end < begin:
            raise InputError(
                f"the pool covers {begin * self.block} keys, the key cache {k.shape[2]}; crop the pool as well"
            )
        if 0 < begin == end and self._fits(k):
            return [part[:, :end] for part in self._parts]
        with torch.no_grad():
            fresh = of_new(slice(begin * self.block, end * self.block))
            olds = self._parts if begin else [None] * len(fresh)
            self._parts = [self._room(old, part, end) for old, part in zip(olds, fresh, strict=True)]
            for buffer, part in zip(self._parts, fresh, strict=True):
                buffer[:, begin:end] = part
        self.num_blocks = end
        return [part[:, :end] for part in self._parts]

    def _fits(self, k: Tensor) -> bool:
        batch, _, groups = self._parts[-1].shape[:3]
        return (batch, groups, self._parts[-1].device) == (*k.shape[:2], k.device)

    def _room(self, old: Tensor | None, new: Tensor, end: int) -> Tensor:
        """Return the buffer of one part, made longer if `end` blocks do not fit into it."""
        if old is None:
            return _empty(new, end)
        if not _like(old, new):
            raise InputError(
                f"gate keys {list(new.shape)} can't extend a pool {list(old.shape)}: batch, groups and width must "
                "stay; reset or reorder the pool first"
            )
        if old.shape[1] >= end:
            return old
        buffer = _empty(new, max(end, 2 * old.shape[1]))
        buffer[:, : old.shape[1]] = old
        return buffer


class GatePool(BlockPool):
    """The gate keys of one layer's key cache, and what was kept for its last tokens."""

    def __init__(self, block: int, sub: int) -> None:
        """Make an empty pool for blocks of `block` keys, with one gate key for `sub` keys.

        Raises:
            UsageError: `sub` is below 1 or does not divide the block.
        """
        super().__init__(block)
        if sub < 1 or block % sub:
            raise UsageError(f"a sub-block of {sub} keys must have at least 1 and divide the block of {block}")
        self.sub = sub
        self._last: Tensor | None = None
        self._common: Tensor | None = None

    def remember(self, blocks: Tensor) -> None:
        """Note the blocks [B, T, G, K] kept for the tokens just read, for `before`."""
        self._last, self._common = from_step(blocks), from_chunk(blocks, blocks.shape[3])

    def before(self, num_queries: int) -> Tensor | None:
        """Return the prior [B, 1, G, K] for the next tokens; None where nothing is remembered.

        One token gets what the token before it kept, a chunk what was kept most often in the call before.
        """
        return self._last if num_queries == 1 else self._common

    def crop(self, num_keys: int) -> None:
        """Forget all but the whole blocks of the first `num_keys` keys, and what was kept for later ones."""
        super().crop(num_keys)
        self._last = self._common = None

    def reorder(self, rows: Tensor) -> None:
        """Reorder the batch, as `BlockPool.reorder`."""
        super().reorder(rows)
        if self._last is not None and self._common is not None:
            self._last, self._common = self._last.index_select(0, rows), self._common.index_select(0, rows)

    def reset(self) -> None:
        """Forget everything and free the memory."""
        super().reset()
        self._last = self._common = None

    def grow(self, k: Tensor, w_k: Tensor | None = None) -> GateKeys:
        """Return the gate keys of the whole blocks of all cached keys `k` [B, G, N, d].

        Only keys of blocks that were not pooled before are read. The result holds views that later calls overwrite.
        No gradient.

        Args:
            k: keys, position already applied.
            w_k: projection [G, d, e]; None: the mean keys themselves.

        Raises:
            InputError: the cache holds fewer keys than were pooled, or has another batch, groups or width.
        """
        per_block = self.block // self.sub

        def of_some(begin: int, end: int) -> Sequence[Tensor]:
            new = quantize(gate_keys(k[:, :, begin:end], w_k, self.sub), per_block, self.sub)
            return new.values.unflatten(1, (-1, per_block)), new.scale, new.means, new.mean_scale

        def of_new(keys: slice) -> Sequence[Tensor]:
            step = self.block * max(1, CHUNK_KEYS // self.block)
            ends = [*range(keys.start + step, keys.stop, step), keys.stop]
            pieces = [of_some(begin, end) for begin, end in pairwise([keys.start, *ends])]
            return [torch.cat(parts, 1) if len(parts) > 1 else parts[0] for parts in zip(*pieces, strict=True)]

        values, scale, means, mean_scale = self._grow(k, of_new)
        return GateKeys(values.flatten(1, 2), scale, means, mean_scale, self.sub)


def _like(old: Tensor, new: Tensor) -> bool:
    return (old.shape[0], old.shape[2:], old.device) == (new.shape[0], new.shape[2:], new.device)


def _empty(new: Tensor, size: int) -> Tensor:
    return new.new_empty(new.shape[0], size, *new.shape[2:])
