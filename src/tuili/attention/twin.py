"""Attention over picked blocks in PyTorch: the twin of the compiled kernel, for every device, dtype and gradient.

It gathers the picked keys and values for a few query tokens at a time, so memory stays bounded; where a gradient is
wanted, each piece is computed again on the way back instead of being kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

GATHERED_ELEMENTS = 1 << 23  # keys gathered at a time


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    *,
    block: int,
    scale: float,
    start: Tensor | None = None,
    log_gate: Tensor | None = None,
) -> Tensor:
    """Return attention over the picked blocks [B, H, T, d]; a token without a key gets zeros.

    Computes in float32 where the input is narrower. Arguments as `kernels.sparse_attention`, already checked.
    """
    batch, _, num_queries, dim = q.shape
    groups, num_keys = k.shape[1:3]
    first_B = torch.zeros(batch, dtype=torch.int64, device=q.device) if start is None else start.long()
    keys, values = (_rows(x, block, first_B) for x in (k, v))
    q_BTGRd = q.unflatten(1, (groups, -1)).permute(0, 3, 1, 2, 4)
    step = max(1, GATHERED_ELEMENTS // max(1, batch * groups * blocks.shape[-1] * block * dim))
    outs = []
    for begin in range(0, num_queries, step):
        piece = slice(begin, begin + step)
        positions_t = torch.arange(num_keys - num_queries, num_keys, device=q.device)[piece]
        bias = None if log_gate is None else log_gate[:, piece]
        arguments = (q_BTGRd[:, piece], keys, values, blocks[:, piece], positions_t, first_B, scale, bias)
        needs_grad = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in arguments)
        outs.append(checkpoint(_piece, *arguments, use_reentrant=False) if needs_grad else _piece(*arguments))
    out_BTGRd = torch.cat(outs, dim=1) if outs else torch.zeros_like(q_BTGRd)
    return out_BTGRd.permute(0, 2, 3, 1, 4).flatten(1, 2).to(q.dtype)


def _rows(x_BGNd: Tensor, block: int, first_B: Tensor) -> Tensor:
    """Return the blocks of all batch rows and groups [B G J, block * d], what lies before the first key as 0."""
    num_keys = x_BGNd.shape[2]
    is_padding_BN = torch.arange(num_keys, device=x_BGNd.device) < first_B[:, None]
    whole = torch.nn.functional.pad(
        x_BGNd.masked_fill(is_padding_BN[:, None, :, None], 0.0), (0, 0, 0, -num_keys % block)
    )
    return whole.unflatten(2, (-1, block)).flatten(3).flatten(0, 2)


def _piece(
    q_BtGRd: Tensor,
    keys: Tensor,
    values: Tensor,
    blocks_BtGK: Tensor,
    positions_t: Tensor,
    first_B: Tensor,
    scale: float,
    log_gate_BtGK: Tensor | None,
) -> Tensor:
    batch, _, groups, _, dim = q_BtGRd.shape
    block = keys.shape[1] // dim
    wide = torch.promote_types(q_BtGRd.dtype, torch.float32)
    heads_BG = torch.arange(batch * groups, device=keys.device).view(batch, 1, groups, 1)
    rows = (heads_BG * (keys.shape[0] // (batch * groups)) + blocks_BtGK.clamp_min(0)).flatten()
    k_BtGnd, v_BtGnd = (x.index_select(0, rows).to(wide).view(*blocks_BtGK.shape[:3], -1, dim) for x in (keys, values))
    inside_b = torch.arange(block, device=keys.device)
    at_BtGn = (blocks_BtGK.long()[..., None] * block + inside_b).flatten(3)
    is_read_BtGn = (at_BtGn >= first_B[:, None, None, None]) & (at_BtGn <= positions_t[:, None, None])
    is_read_BtG1n = (is_read_BtGn & (blocks_BtGK >= 0).repeat_interleave(block, dim=3))[..., None, :]
    scores_BtGRn = q_BtGRd.to(wide) @ k_BtGnd.transpose(-1, -2) * scale
    if log_gate_BtGK is not None:
        scores_BtGRn = scores_BtGRn + log_gate_BtGK.to(wide).repeat_interleave(block, dim=3)[..., None, :]
    scores_BtGRn = scores_BtGRn.masked_fill(~is_read_BtG1n, torch.finfo(wide).min)
    return scores_BtGRn.softmax(-1).masked_fill(~is_read_BtG1n, 0.0) @ v_BtGnd
