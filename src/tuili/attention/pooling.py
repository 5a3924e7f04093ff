"""Pooled keys: one gate key for each sub-block of keys.

Sub-blocks lie on the absolute grid of key indices, so that a pool can grow with a key-value cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tuili.errors import InputError, UsageError


def gate_keys(k: Tensor, w_k: Tensor | None, sub: int) -> Tensor:
    """Return the mean key of each sub-block, projected: [B, ceil(N / sub), G, e], in the dtype of `k`.

    The last sub-block may be partial; its mean is over the keys it has. O(N).

    Args:
        k: keys [B, G, N, d], position already applied.
        w_k: projection [G, d, e]; None keeps the mean keys, so that e = d.
        sub: keys per gate key, at least 1.

    Raises:
        UsageError: `sub` is below 1.
        InputError: the shapes of `k` and `w_k` do not fit.
    """
    _check(k, w_k, sub)
    num_whole = k.shape[2] // sub
    whole_BGNd = k[:, :, : num_whole * sub].unflatten(2, (num_whole, sub)).mean(3, dtype=torch.float32)
    rest_BGNd = k[:, :, num_whole * sub :]
    parts = [whole_BGNd, rest_BGNd.mean(2, keepdim=True, dtype=torch.float32)] if rest_BGNd.shape[2] else [whole_BGNd]
    means_BGNd = torch.cat(parts, dim=2)
    pooled_BGNe = means_BGNd if w_k is None else means_BGNd @ w_k.to(torch.float32)
    return pooled_BGNe.transpose(1, 2).to(k.dtype)


def new_gate_keys(k: Tensor, num_pooled: int, w_k: Tensor | None, sub: int) -> Tensor:
    """Return the gate keys from index `num_pooled // sub` on, now that `k` holds more keys than were pooled.

    Only keys of the sub-block that was open and of later ones are read: O(new keys + sub).

    Raises:
        UsageError, InputError: as `gate_keys`, or fewer keys than were pooled.
    """
    _check(k, w_k, sub)
    if not 0 <= num_pooled <= k.shape[2]:
        raise InputError(f"the pool covers {num_pooled} keys, the key cache {k.shape[2]}; crop the pool as well")
    return gate_keys(k[:, :, num_pooled // sub * sub :], w_k, sub)


def _check(k: Tensor, w_k: Tensor | None, sub: int) -> None:
    if sub < 1:
        raise UsageError(f"a sub-block of {sub} keys is too small; it must have at least 1")
    if k.ndim != 4:
        raise InputError(f"keys must have the shape [batch, groups, keys, head dim], not {list(k.shape)}")
    if w_k is not None and (w_k.ndim != 3 or w_k.shape[:2] != (k.shape[1], k.shape[3])):
        raise InputError(
            f"a key projection of shape {list(w_k.shape)} does not fit keys of shape {list(k.shape)}; "
            f"it must be [{k.shape[1]}, {k.shape[3]}, width]"
        )
