"""Dense and windowed attention, causal and linear in memory: PyTorch's SDPA, or the compiled kernel.

Letters in shapes: see `tuili.attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tuili.attention.kernels import is_compiled, window_attention

CHUNK_TOKENS = 1024


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    valid: Tensor | None = None,
    window: int | None = None,
    sink: int = 0,
) -> Tensor:
    """Return the attention of the last T of N tokens over the keys up to each: [B, T, H, d].

    Without padding and window this is one call of SDPA, with a window alone one of the compiled kernel;
    else queries go in chunks, each over the keys it can see, so that memory stays linear, and with a window time too.

    Args:
        q: queries [B, H, T, d].
        k: keys [B, G, N, d].
        v: values [B, G, N, d].
        scale: factor of the scores.
        valid: [B, N], False where a key is padding.
        window: keys a token reads, itself included, besides the first `sink`.
        sink: first keys that every token reads.
    """
    num_queries, num_keys = q.shape[2], k.shape[2]
    if window is not None and sink + window >= num_keys:
        window = None
    if valid is None and window is None and num_queries in (1, num_keys):
        return _sdpa(q, k, v, None, scale)
    if valid is None and window is not None and is_compiled(q, k, v):
        return window_attention(q, k, v, window=window, sink=sink, scale=scale).transpose(1, 2)
    parts = []
    for begin in range(0, num_queries, CHUNK_TOKENS):
        q_BHtd = q[:, :, begin : begin + CHUNK_TOKENS]
        at_t = torch.arange(begin, begin + q_BHtd.shape[2], device=q.device) + num_keys - num_queries
        at_n = _visible(at_t, window, sink)
        mask_Btn = _mask(at_t, at_n, valid, window, sink)
        k_BGnd, v_BGnd = take(k, at_n), take(v, at_n)
        parts.append(_sdpa(q_BHtd, k_BGnd, v_BGnd, mask_Btn[:, None], scale))
    return torch.cat(parts, dim=1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return the attention [B, T, H, d]: causal without a mask, of all keys for a single query.

    On CUDA a mask and groups together would fall to a slow path, so keys are repeated there.
    """
    shared = q.shape[1] != k.shape[1]
    if shared and mask is not None and q.is_cuda:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        shared = False
    is_causal = mask is None and q.shape[2] > 1
    out_BHTd = scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scale, enable_gqa=shared)
    return out_BHTd.transpose(1, 2)


def _visible(at_t: Tensor, window: int | None, sink: int) -> Tensor:
    """Return the indices of the keys that at least one of the tokens `at_t` reads."""
    first, last = int(at_t[0]), int(at_t[-1])
    lowest = 0 if window is None else max(0, first - window + 1)
    span = torch.arange(lowest, last + 1, device=at_t.device)
    return torch.cat([torch.arange(min(sink, lowest), device=at_t.device), span])


def _mask(at_t: Tensor, at_n: Tensor, valid: Tensor | None, window: int | None, sink: int) -> Tensor:
    """Return which keys each token reads: bool [B or 1, t, n]."""
    mask_tn = at_n <= at_t[:, None]
    if window is not None:
        mask_tn &= (at_n > at_t[:, None] - window) | (at_n < sink)
    return mask_tn[None] if valid is None else mask_tn & valid[:, None, at_n]


def take(x: Tensor, at_n: Tensor) -> Tensor:
    """Return the keys or values at the ascending indices `at_n`: a view where they follow each other."""
    first, last = int(at_n[0]), int(at_n[-1])
    return x[:, :, first : last + 1] if last - first + 1 == len(at_n) else x[:, :, at_n]
