"""The peer that is compiled: FlexAttention, the same for attention alone and whole prefill."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from runner import say

TILE = 128


@functools.cache
def flex_attention() -> Callable[..., Any] | None:
    """Return FlexAttention, causal and compiled for this processor, or None where it can't be, which is said.

    It is called with q [B, H, N, d], k and v [B, G, N, d], all of one length, scales by d ** -0.5 as SDPA does, and
    makes its block mask in every call.
    """
    import torch
    from torch.nn.attention.flex_attention import flex_attention as uncompiled

    compiled = torch.compile(uncompiled, dynamic=True)

    def attend(q: Any, k: Any, v: Any) -> Any:
        return compiled(q, k, v, block_mask=causal(k.shape[2]), enable_gqa=True)

    try:
        small = torch.zeros(1, 3, 2 * TILE, 64), *(torch.zeros(1, 1, 2 * TILE, 64) for _ in range(2))
        with torch.no_grad():
            attend(*small)
    except RuntimeError as error:
        say(f"  FlexAttention does not compile here and is left out: {str(error).splitlines()[0]}")
        return None
    return attend


def causal(num_keys: int) -> Any:
    """Return the causal block mask, made from indices: only the tiles on the diagonal ask the mask function."""
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    num_tiles = -(-num_keys // TILE)
    at = torch.arange(num_tiles, dtype=torch.int32)
    diagonal = torch.nn.functional.pad(at[:, None], (0, num_tiles - 1))[None, None]
    return BlockMask.from_kv_blocks(
        torch.ones_like(at)[None, None],
        diagonal,
        at[None, None],
        at.expand(1, 1, num_tiles, num_tiles).contiguous(),
        BLOCK_SIZE=TILE,
        mask_mod=lambda b, h, q, k: q >= k,
        seq_lengths=(num_keys, num_keys),
        compute_q_blocks=False,
    )
