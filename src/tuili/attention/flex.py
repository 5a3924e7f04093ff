"""Attention over picked blocks through PyTorch's FlexAttention, for GPUs.

FlexAttention lets a tile of queries choose its blocks of keys; here each token and key-value group chooses its own. So
a tile is one token: the heads that share a group are the tile's rows, filled up to the 16 that a tensor core multiplies
at least, and the picked blocks are the tile's list as they are. No map of queries by keys is made, memory and time are
O(T K b d), and no token reads what only its neighbours picked. The price: 3 heads of a group do the work of 16 rows,
and the queries are copied once, filled up.

Not run on a GPU so far: the constraints of the Triton template (torch 2.13) were read in its source, the semantics are
tested on the CPU, where FlexAttention's C++ template reads the same block lists. There the package's own kernel is the
faster one. FlexAttention without `torch.compile` ignores the lists and makes all scores, so it is never called that
way: what can't be compiled raises.

Source: Dong et al. 2024, "Flex Attention"; one token's heads as a tile: Yuan et al. 2025, "Native Sparse Attention",
section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

MIN_ROWS = 16  # of a tile: what a tensor core multiplies at least
MIN_WIDTH = 16  # of a head, in the Triton template
MIN_QUERIES = 16  # for fewer the twin gathers as fast, and nothing has to be compiled
MAX_COMPILED = 64  # about three for each kind of heads, width, dtype, block and padding, whatever the lengths
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def can_attend(q: Tensor, k: Tensor, v: Tensor, *, block: int) -> bool:
    """Tell whether `attend` is the path for this call: on CUDA, without gradients, for sizes the template takes."""
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    fits = q.device.type == "cuda" and q.dtype in DTYPES and q.shape[3] >= MIN_WIDTH and q.shape[2] >= MIN_QUERIES
    return fits and not needs_grad and block >= MIN_ROWS and _power_of_two(block) == block


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    *,
    block: int,
    scale: float,
    start: Tensor | None = None,
) -> Tensor:
    """Return attention over the picked blocks [B, H, T, d]; a token without a key gets zeros. No gradient.

    Arguments as `twin.attend`, already checked. The first calls compile: for the sizes as they are, then for any number
    of keys, then for any number of tokens too; the number of earlier tokens is no constant in the last two.
    """
    heads, num_queries, groups, num_keys = *q.shape[1:3], *k.shape[1:3]
    if not q.numel() or not blocks.shape[-1]:
        return torch.zeros_like(q)
    per_group = heads // groups
    num_rows = max(MIN_ROWS, _power_of_two(per_group))
    q_BGTRd = q.unflatten(1, (groups, per_group)).transpose(2, 3)
    rows_BGMd = torch.nn.functional.pad(q_BGTRd, (0, 0, 0, num_rows - per_group)).flatten(2, 3)
    if start is not None:
        is_padding_BN = torch.arange(num_keys, device=q.device) < start[:, None]
        k, v = (x.masked_fill(is_padding_BN[:, None, :, None], 0.0) for x in (k, v))
    mask = token_mask(blocks, block=block, num_keys=num_keys, num_rows=num_rows, start=start)
    options = {"BLOCK_M": num_rows, "BLOCK_N": block, "FORCE_USE_FLEX_ATTENTION": True}
    out_BGMd = _compiled()(rows_BGMd, k, v, block_mask=mask, scale=scale, kernel_options=options)
    return out_BGMd.unflatten(2, (num_queries, num_rows))[..., :per_group, :].transpose(2, 3).flatten(1, 2)


def token_mask(
    blocks: Tensor, *, block: int, num_keys: int, num_rows: int = MIN_ROWS, start: Tensor | None = None
) -> BlockMask:
    """Return the block mask of queries [B, G, T * num_rows, d] whose tiles are tokens; linear in the picked blocks.

    Args:
        blocks: picked blocks [B, T, G, K], ascending, unused places -1 at the end.
        block: keys per block.
        num_keys: N; the tokens are the last T of them.
        num_rows: rows of a tile.
        start: [B], first valid key of each row; None: 0.
    """
    num_queries = blocks.shape[1]
    offset = num_keys - num_queries
    lists_BGTK = blocks.transpose(1, 2).to(torch.int32)
    counts_BGT = (lists_BGTK >= 0).sum(-1, dtype=torch.int32)
    lists_BGTK = lists_BGTK.clamp_min(0).contiguous()
    if blocks.device.type == "cpu":  # its template wants a place for every block there is
        lists_BGTK = torch.nn.functional.pad(lists_BGTK, (0, max(0, -(-num_keys // block) - lists_BGTK.shape[-1])))
    first_B = None if start is None else start.to(torch.int32)

    def is_read(b: Tensor, g: Tensor, row: Tensor, key: Tensor) -> Tensor:
        is_past = key <= row // num_rows + offset
        return is_past if first_B is None else is_past & (key >= first_B[b])

    return BlockMask.from_kv_blocks(
        counts_BGT,
        lists_BGTK,
        BLOCK_SIZE=(num_rows, block),
        mask_mod=is_read,
        seq_lengths=(num_queries * num_rows, num_keys),
        compute_q_blocks=False,  # only the way back needs them
    )


@cache
def _compiled() -> Callable[..., Any]:
    limits: dict[str, Any] = {"recompile_limit": MAX_COMPILED, "isolate_recompiles": True}  # torch's types lack them
    return torch.compile(flex_attention, fullgraph=True, **limits)


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()
