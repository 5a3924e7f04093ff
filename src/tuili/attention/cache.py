"""Pooled gate keys beside a key-value cache: a step pools only the keys it added.

The pool holds no keys of its own. The sub-block that is still open is pooled anew from the cache each time, so that
growing token by token, in chunks or at once gives the same gate keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tuili.attention.pooling import new_gate_keys
from tuili.errors import InputError, UsageError


class GatePool:
    """The gate keys of one layer's key cache.

    Memory is taken in doublings, so that n steps cost O(n) in all.
    """

    def __init__(self, sub: int) -> None:
        """Make an empty pool with one gate key for `sub` keys.

        Raises:
            UsageError: `sub` is below 1.
        """
        if sub < 1:
            raise UsageError(f"a sub-block of {sub} keys is too small; it must have at least 1")
        self.sub = sub
        self.num_keys = 0
        self._buffer: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Memory taken, in bytes."""
        return 0 if self._buffer is None else self._buffer.untyped_storage().nbytes()

    def grow(self, k: Tensor, w_k: Tensor | None = None) -> Tensor:
        """Return the gate keys [B, ceil(N / sub), G, e] of all cached keys `k` [B, G, N, d].

        Only the keys that were not pooled before are read, and those of the sub-block that was open. The result is a
        view that later calls overwrite. No gradient.

        Raises:
            InputError: the cache holds fewer keys than were pooled, or has another batch, groups, width or dtype.
        """
        begin = self.num_keys // self.sub
        with torch.no_grad():
            new_BNGe = new_gate_keys(k, self.num_keys, w_k, self.sub)
            end = begin + new_BNGe.shape[1]
            buffer = self._room(new_BNGe, end)
            buffer[:, begin:end] = new_BNGe
        self.num_keys = k.shape[2]
        return buffer[:, :end]

    def crop(self, num_keys: int) -> None:
        """Forget all but the first `num_keys` keys.

        Raises:
            InputError: the pool covers fewer.
        """
        if not 0 <= num_keys <= self.num_keys:
            raise InputError(f"can't crop a pool of {self.num_keys} keys to {num_keys}")
        self.num_keys = num_keys

    def reorder(self, rows: Tensor) -> None:
        """Make row i of the batch what row `rows[i]` was: for beam search, and to drop or to repeat rows.

        Raises:
            InputError: `rows` is no list of row indices.
        """
        if self._buffer is None:
            return
        batch = self._buffer.shape[0]
        if rows.ndim != 1 or rows.dtype not in (torch.int32, torch.int64) or not ((rows >= 0) & (rows < batch)).all():
            raise InputError(f"rows must be a list of indices in 0 .. {batch - 1}, not {rows.tolist()}")
        self._buffer = self._buffer.index_select(0, rows)

    def reset(self) -> None:
        """Forget everything and free the memory."""
        self.num_keys, self._buffer = 0, None

    def _room(self, new_BNGe: Tensor, end: int) -> Tensor:
        """Return the buffer, made longer if `end` gate keys do not fit into it."""
        old = self._buffer if self.num_keys else None
        if old is not None and (old.shape[0], old.shape[2:], old.dtype) != (
            new_BNGe.shape[0],
            new_BNGe.shape[2:],
            new_BNGe.dtype,
        ):
            raise InputError(
                f"gate keys {new_BNGe.dtype} {list(new_BNGe.shape)} can't extend a pool {old.dtype} "
                f"{list(old.shape)}: batch, groups, width and dtype must stay; reset or reorder the pool first"
            )
        if old is None or old.shape[1] < end:
            size = end if old is None else max(end, 2 * old.shape[1])
            self._buffer = new_BNGe.new_empty(new_BNGe.shape[0], size, *new_BNGe.shape[2:])
            if old is not None:
                self._buffer[:, : old.shape[1]] = old
            return self._buffer
        return old
