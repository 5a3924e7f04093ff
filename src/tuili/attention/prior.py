"""The prior set S of a token: blocks that were kept before, by the layer below, the step or the chunk before.

All of these belong to the token itself or to earlier ones, so that a selection stays causal. A prior is a tensor of
block indices [B, T or 1, G, P], -1 where unused, as `select` takes it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tuili.errors import UsageError


def from_layer(blocks: Tensor, groups: int, radius: int = 0) -> Tensor:
    """Return the prior [B, T, groups, P] from what another layer kept for the same tokens [B, T, G, K].

    Groups of two layers have nothing to do with each other, so every group gets the blocks of all; O(T G^2 K).

    Args:
        blocks: kept blocks of the other layer.
        groups: of the layer that the prior is for.
        radius: neighbours on each side of a kept block that belong to the set too.

    Raises:
        UsageError: the radius is negative.
    """
    union_BT1P = _dilated(blocks.flatten(2), radius)[:, :, None]
    return union_BT1P.expand(-1, -1, groups, -1)


def from_step(blocks: Tensor, radius: int = 0) -> Tensor:
    """Return the prior [B, 1, G, P] from what this layer kept for the token before, the last of `blocks`.

    The block that was the token's own is among them, so that it stays in the set once it is no longer local.

    Raises:
        UsageError: the radius is negative.
    """
    return _dilated(blocks[:, -1:], radius)


def from_chunk(blocks: Tensor, size: int) -> Tensor:
    """Return the prior [B, 1, G, size]: the blocks that this layer kept most often in the chunk before [B, T, G, K].

    Of equally frequent ones the later blocks are taken. O(T K + N / block) a group.

    Raises:
        UsageError: the size is below 1.
    """
    if size < 1:
        raise UsageError(f"a prior of {size} blocks is too small; it must have at least 1")
    num_blocks = max(1, int(blocks.max()) + 1)
    at_BGP = blocks.transpose(1, 2).flatten(2).long()
    at_BGP = at_BGP.where(at_BGP >= 0, num_blocks)
    counts_BGJ = torch.zeros(*at_BGP.shape[:2], num_blocks + 1, dtype=torch.int64, device=blocks.device)
    counts_BGJ = counts_BGJ.scatter_add_(2, at_BGP, torch.ones_like(at_BGP))[..., :num_blocks]
    ranks_BGJ = counts_BGJ * num_blocks + torch.arange(num_blocks, device=blocks.device)
    best_BGP = ranks_BGJ.topk(min(size, num_blocks), dim=-1).indices
    best_BGP = best_BGP.where(counts_BGJ.gather(-1, best_BGP) > 0, -1).to(torch.int32)
    return torch.nn.functional.pad(best_BGP, (0, size - best_BGP.shape[-1]), value=-1)[:, None]


def union(*priors: Tensor) -> Tensor:
    """Return one prior that holds the blocks of all; those of one token are taken for every token."""
    num_queries = max(prior.shape[1] for prior in priors)
    return torch.cat([prior.expand(-1, num_queries, -1, -1) for prior in priors], dim=-1)


def _dilated(blocks: Tensor, radius: int) -> Tensor:
    if radius < 0:
        raise UsageError(f"a radius must be at least 0, not {radius}")
    steps = torch.arange(-radius, radius + 1, dtype=blocks.dtype, device=blocks.device)
    near = blocks[..., None] + steps
    return near.masked_fill((blocks < 0)[..., None] | (near < 0), -1).flatten(-2)
