"""Pooled keys: one gate key for each sub-block of keys, and their form in int8.

Sub-blocks lie on the absolute grid of key indices, so that a pool can grow with a key-value cache. Products in int8
are exact; what is lost is the rounding of keys and queries, 127 steps to the largest component of a block or query.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tuili.errors import InputError, UsageError

LARGEST = 127


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
    whole_BGNd = k[:, :, : num_whole * sub].to(torch.float32).unflatten(2, (num_whole, sub)).mean(3)
    rest_BGNd = k[:, :, num_whole * sub :]
    parts = [whole_BGNd, rest_BGNd.mean(2, keepdim=True, dtype=torch.float32)] if rest_BGNd.shape[2] else [whole_BGNd]
    means_BGNd = torch.cat(parts, dim=2)
    pooled_BGNe = means_BGNd if w_k is None else means_BGNd @ w_k.to(torch.float32)
    return pooled_BGNe.transpose(1, 2).to(k.dtype)


@dataclass(frozen=True, slots=True)
class GateKeys:
    """The gate keys of whole blocks in int8, each block with its own factor, so that later keys change none.

    Attributes:
        values: int8 [B, J * block / sub, G, e].
        scale: what a value of 1 stands for, float32 [B, J, G]; 0 for a block that holds a value that is not finite.
        means: int8 [B, J, G, e], the mean of each block's gate keys.
        mean_scale: what a value of 1 stands for there, float32 [B, J, G].
        sub: keys per gate key.
    """

    values: Tensor
    scale: Tensor
    means: Tensor
    mean_scale: Tensor
    sub: int

    def floats(self) -> Tensor:
        """Return what the values stand for, float32 [B, J * block / sub, G, e]."""
        per_block = self.values.shape[1] // max(1, self.scale.shape[1])
        return self.values.float() * self.scale.repeat_interleave(per_block, dim=1)[..., None]

    def mean_floats(self) -> Tensor:
        """Return what the means stand for, float32 [B, J, G, e]."""
        return self.means.float() * self.mean_scale[..., None]


def quantize(gate_k: Tensor, per_block: int, sub: int) -> GateKeys:
    """Return gate keys [B, n, G, e] in int8, `per_block` of them to a block, without those of a last, partial block.

    All must be those of whole sub-blocks: a mean over fewer keys can't be told from one, and counts as such.
    The largest component of a block becomes 127; a block that holds a value that is not finite becomes 0.
    """
    num_blocks = gate_k.shape[1] // per_block
    blocks_BJsGe = gate_k[:, : num_blocks * per_block].float().unflatten(1, (num_blocks, per_block))
    values_BJsGe, scale_BJG = _rounded(blocks_BJsGe.transpose(2, 3), (3, 4))
    means_BJGe, mean_scale_BJG = _rounded(blocks_BJsGe.mean(2), (3,))
    return GateKeys(values_BJsGe.transpose(2, 3).flatten(1, 2), scale_BJG, means_BJGe, mean_scale_BJG, sub)


def _rounded(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return int8 values whose largest over the last `dims` is 127, and the factors [without `dims`]."""
    largest = x.abs().amax(dims, keepdim=True)
    largest = largest.where(largest.isfinite(), 0.0)
    values = (x * _steps(largest)).nan_to_num(0.0, 0.0, 0.0).round().to(torch.int8)
    return values, largest.flatten(-len(dims)).squeeze(-1) / LARGEST


def rounded(gate_q: Tensor) -> Tensor:
    """Return gate queries [..., e] as the int8 products see them, in float32: 127 steps to the largest component.

    A query that holds a value that is not finite becomes 0.
    """
    largest = gate_q.float().abs().amax(-1, keepdim=True)
    largest = largest.where(largest.isfinite(), 0.0)
    steps = (gate_q.float() * _steps(largest)).nan_to_num(0.0, 0.0, 0.0).round()
    return steps * (largest / LARGEST)


def _steps(largest: Tensor) -> Tensor:
    """Return 127 / largest, 0 where that is 0."""
    return (LARGEST / largest.where(largest > 0, 1.0)).where(largest > 0, 0.0)


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
