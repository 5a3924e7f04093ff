"""Pooled attention: the first keys and a local window exactly, everything between as means of blocks.

After the first `sink` keys of a row lie blocks of `block` keys. The token at index p reads the sink; the keys from
index L(p) = sink + block * floor(max(0, p - window + 1 - sink) / block) up to its own, which are its last `window` keys
at least and less than a block more; and of every block before L(p) the mean key and the mean value. So each key up to p
counts once. A mean's score gets log(block) added, so that a block of equal keys weighs what they would. Blocks before
L(p) are closed, nothing of the future is read.

A token costs O(window + block + N / block) keys, N tokens O(N (window + block) + N^2 / block): not linear, but with a
constant so small (at the defaults 1/64 of dense attention) that the window outweighs it up to about 65,536 keys.

Sources: Bolya et al. 2023, Token merging, equation 1 (log of the size added to the score); Xiao et al. 2023, Efficient
streaming language models with attention sinks, section 3 (sink and window).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tuili.attention.cache import BlockPool

PIECE_TOKENS = 256


class MeanPool(BlockPool):
    """The mean keys and mean values of the whole blocks of one layer's key-value cache."""

    def means(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means of all whole blocks of cached keys and values [B, G, N, d]: two [B, G, J, d].

        Only keys that were not pooled before are read. No gradient.

        Raises:
            InputError: the cache holds fewer keys than were pooled, or has another batch, groups or width.
        """

        def of_new(keys: slice) -> Sequence[Tensor]:
            num_blocks = (keys.stop - keys.start) // self.block
            return [_means(x[:, :, keys], 0, self.block, num_blocks).transpose(1, 2) for x in (k, v)]

        mean_k, mean_v = self._grow(k, of_new)
        return mean_k.transpose(1, 2), mean_v.transpose(1, 2)


def pooled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    block: int,
    window: int,
    sink: int,
    scale: float,
    means: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the attention of the last T of N tokens [B, H, T, d], in pieces of tokens, so that memory stays bounded.

    Args:
        q: queries [B, H, T, d].
        k: keys [B, G, N, d].
        v: values [B, G, N, d].
        block: keys per mean, at least 1.
        window: last keys read exactly, the token's own included, at least 1.
        sink: first keys read exactly, at least 0.
        scale: factor of the scores.
        means: of the keys and the values after the sink, as `MeanPool.means` returns them; None: made here, with
            gradients.
    """
    num_queries, num_keys = q.shape[2], k.shape[2]
    first = num_keys - num_queries
    if means is None:
        num_closed = (int(_local_start(torch.tensor(num_keys - 1), block, window, sink)) - sink) // block
        means = _means(k, sink, block, num_closed), _means(v, sink, block, num_closed)
    parts = []
    for begin in range(0, num_queries, PIECE_TOKENS):
        q_BHtd = q[:, :, begin : begin + PIECE_TOKENS]
        at_t = torch.arange(first + begin, first + begin + q_BHtd.shape[2], device=q.device)
        start_t = _local_start(at_t, block, window, sink)
        near, end, num_blocks = int(start_t[0]), int(at_t[-1]) + 1, (int(start_t[-1]) - sink) // block
        local = slice(min(near, end), end)
        k_BGnd, v_BGnd = (
            torch.cat([x[:, :, : min(sink, end)], mean[:, :, :num_blocks], x[:, :, local]], dim=2)
            for x, mean in ((k, means[0]), (v, means[1]))
        )
        at_n = torch.arange(local.start, end, device=q.device)
        bias_tn = _bias(at_t, start_t, at_n, num_sink=min(sink, end), num_blocks=num_blocks, block=block, sink=sink)
        bias_tn = bias_tn.to(q.dtype)
        parts.append(
            scaled_dot_product_attention(q_BHtd, k_BGnd, v_BGnd, attn_mask=bias_tn, scale=scale, enable_gqa=True)
        )
    return torch.cat(parts, dim=2) if parts else torch.empty_like(q)


def num_exact(block: int, window: int, sink: int) -> int:
    """Return how many tokens at the beginning of a row read every key exactly."""
    return sink + window + block - 1


def keys_of_first(num_tokens: int, block: int, window: int, sink: int) -> int:
    """Return how many keys and means the first tokens of a row read together."""
    early = sink + window - 1
    late = max(0, num_tokens - early)
    whole, rest = divmod(late, block)
    in_block = whole * _triangle(block - 1) + _triangle(rest - 1)
    num_means = block * _triangle(whole - 1) + whole * rest
    return _triangle(min(num_tokens, early)) + late * (sink + window) + in_block + num_means


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


def _local_start(at: Tensor, block: int, window: int, sink: int) -> Tensor:
    """Return L(p), the first key of the local window."""
    return sink + (at - window + 1 - sink).clamp_min(0) // block * block


def _means(x: Tensor, sink: int, block: int, num_blocks: int) -> Tensor:
    whole_BGJbd = x[:, :, sink : sink + num_blocks * block].unflatten(2, (num_blocks, block))
    return whole_BGJbd.mean(3, dtype=torch.float32).to(x.dtype)


def _bias(
    at_t: Tensor, start_t: Tensor, at_n: Tensor, *, num_sink: int, num_blocks: int, block: int, sink: int
) -> Tensor:
    """Return what is added to the scores of sink, means and local keys [t, n], -inf where a token does not read."""
    device = at_t.device
    sink_tn = torch.arange(num_sink, device=device) <= at_t[:, None]
    means_tj = sink + (torch.arange(num_blocks, device=device) + 1) * block <= start_t[:, None]
    local_tn = (at_n >= start_t[:, None]) & (at_n <= at_t[:, None])
    sizes = torch.ones(num_sink + num_blocks + len(at_n), device=device)
    sizes[num_sink : num_sink + num_blocks] = block
    return sizes.log().where(torch.cat([sink_tn, means_tj, local_tn], dim=1), -math.inf)
