"""Attention over picked blocks in PyTorch: the twin of the compiled kernel, for every device, dtype and gradient.

It works on a few query tokens at a time, so memory stays bounded; where a gradient is wanted, each piece is computed
again on the way back instead of being kept. Tokens that pick a fair share of the keys before them are computed
densely under a mask, which a matrix product does faster than the gathering that keeps the others linear.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PIECE_ELEMENTS = 1 << 23  # scores, or numbers gathered, at a time
DENSE_FACTOR = 16  # dense while there are at most so many times the picked keys


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

    Computes in float32 where the input is narrower. Arguments as `kernels.sparse_attention`, already checked;
    `log_gate` [B, T, G, K] is added to the scores of a picked block's keys.
    """
    (batch, heads, num_queries, dim), (groups, num_keys) = q.shape, k.shape[1:3]
    first_B = torch.zeros(batch, dtype=torch.int64, device=q.device) if start is None else start.long()
    keys, values = (_whole_blocks(x, block, first_B) for x in (k, v))
    limits_BT2 = torch.stack(
        torch.broadcast_tensors(first_B[:, None], torch.arange(num_keys - num_queries, num_keys, device=q.device)), -1
    )
    q_BTGRd = q.unflatten(1, (groups, -1)).permute(0, 3, 1, 2, 4)
    num_picked = blocks.shape[-1] * block
    is_dense = num_keys <= DENSE_FACTOR * num_picked
    step = max(1, PIECE_ELEMENTS // max(1, batch * (heads * num_keys if is_dense else groups * num_picked * dim)))
    outs = []
    for begin in range(0, num_queries, step):
        piece = slice(begin, begin + step)
        near = slice(0, -(-(num_keys - num_queries + min(begin + step, num_queries)) // block) * block)
        bias = None if log_gate is None else log_gate[:, piece]
        inputs = (q_BTGRd[:, piece], keys[:, :, near], values[:, :, near], blocks[:, piece], limits_BT2[:, piece], bias)
        needs_grad = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
        work = _dense if is_dense else _gathered
        if needs_grad:
            outs.append(checkpoint(work, *inputs, block=block, scale=scale, use_reentrant=False))
        else:
            outs.append(work(*inputs, block=block, scale=scale))
    out_BTGRd = torch.cat(outs, dim=1) if outs else torch.zeros_like(q_BTGRd)
    return out_BTGRd.permute(0, 2, 3, 1, 4).flatten(1, 2).to(q.dtype)


def _whole_blocks(x_BGNd: Tensor, block: int, first_B: Tensor) -> Tensor:
    """Return keys or values filled up to whole blocks, what lies before the first key as 0."""
    num_keys = x_BGNd.shape[2]
    is_padding_BN = torch.arange(num_keys, device=x_BGNd.device) < first_B[:, None]
    clean = x_BGNd.masked_fill(is_padding_BN[:, None, :, None], 0.0)
    return torch.nn.functional.pad(clean, (0, 0, 0, -num_keys % block))


def _dense(
    q_BtGRd: Tensor,
    keys_BGnd: Tensor,
    values_BGnd: Tensor,
    blocks_BtGK: Tensor,
    limits_Bt2: Tensor,
    log_gate_BtGK: Tensor | None,
    *,
    block: int,
    scale: float,
) -> Tensor:
    """Attend by matrix products with all keys, under a mask."""
    num_keys = keys_BGnd.shape[2]
    num_blocks = num_keys // block
    at_BtGK = blocks_BtGK.long()
    at_BtGK = at_BtGK.where((at_BtGK >= 0) & (at_BtGK < num_blocks), num_blocks)  # one place more for what is unused
    no_BtGJ = torch.zeros(*at_BtGK.shape[:3], num_blocks + 1, device=q_BtGRd.device)
    is_picked_BtGn = _by_key(no_BtGJ.bool().scatter(3, at_BtGK, True), block)
    at_n = torch.arange(num_keys, device=q_BtGRd.device)
    is_inside_Btn = (at_n >= limits_Bt2[..., :1]) & (at_n <= limits_Bt2[..., 1:])
    bias_BtGn = None
    if log_gate_BtGK is not None:
        bias_BtGn = _by_key(no_BtGJ.to(log_gate_BtGK.dtype).scatter(3, at_BtGK, log_gate_BtGK), block)
    is_read_BtGn = is_picked_BtGn & is_inside_Btn[:, :, None]
    wide = torch.promote_types(q_BtGRd.dtype, torch.float32)
    q_BGtRd = q_BtGRd.to(wide).transpose(1, 2)
    scores_BGtRn = (q_BGtRd.flatten(2, 3) @ keys_BGnd.to(wide).transpose(-1, -2)).unflatten(2, q_BGtRd.shape[2:4])
    weights_BGtRn = _weights(scores_BGtRn.transpose(1, 2) * scale, is_read_BtGn, bias_BtGn).transpose(1, 2)
    out_BGtRd = (weights_BGtRn.flatten(2, 3) @ values_BGnd.to(wide)).unflatten(2, q_BGtRd.shape[2:4])
    return out_BGtRd.transpose(1, 2)


def _gathered(
    q_BtGRd: Tensor,
    keys_BGnd: Tensor,
    values_BGnd: Tensor,
    blocks_BtGK: Tensor,
    limits_Bt2: Tensor,
    log_gate_BtGK: Tensor | None,
    *,
    block: int,
    scale: float,
) -> Tensor:
    """Attend to the picked keys alone."""
    batch, _, groups, _, dim = q_BtGRd.shape
    num_blocks = keys_BGnd.shape[2] // block
    wide = torch.promote_types(q_BtGRd.dtype, torch.float32)
    is_used_BtGK = (blocks_BtGK >= 0) & (blocks_BtGK < num_blocks)
    heads_BG = torch.arange(batch * groups, device=q_BtGRd.device).view(batch, 1, groups, 1)
    rows = (heads_BG * num_blocks + blocks_BtGK.where(is_used_BtGK, 0)).flatten()
    k_BtGpd, v_BtGpd = (
        x.unflatten(2, (num_blocks, block)).flatten(3).flatten(0, 2).index_select(0, rows).to(wide)
        .view(*blocks_BtGK.shape[:3], -1, dim)
        for x in (keys_BGnd, values_BGnd)
    )  # fmt: skip
    at_BtGp = (blocks_BtGK.long()[..., None] * block + torch.arange(block, device=q_BtGRd.device)).flatten(3)
    first, last = (limits_Bt2[..., None, i : i + 1] for i in (0, 1))
    is_read_BtGp = is_used_BtGK.repeat_interleave(block, dim=3) & (at_BtGp >= first) & (at_BtGp <= last)
    bias_BtGp = None if log_gate_BtGK is None else log_gate_BtGK.repeat_interleave(block, dim=3)
    scores_BtGRp = q_BtGRd.to(wide) @ k_BtGpd.transpose(-1, -2) * scale
    return _weights(scores_BtGRp, is_read_BtGp, bias_BtGp) @ v_BtGpd


def _by_key(x_BtGJ: Tensor, block: int) -> Tensor:
    """Return what holds for each block for each of its keys; the last place, of unused picks, is dropped."""
    return x_BtGJ[..., :-1].repeat_interleave(block, dim=3)


def _weights(scores_BtGRn: Tensor, is_read_BtGn: Tensor, bias_BtGn: Tensor | None) -> Tensor:
    if bias_BtGn is not None:
        scores_BtGRn = scores_BtGRn + bias_BtGn.to(scores_BtGRn.dtype)[..., None, :]
    is_hidden = ~is_read_BtGn[..., None, :]
    hidden = scores_BtGRn.masked_fill(is_hidden, torch.finfo(scores_BtGRn.dtype).min)
    return hidden.softmax(-1).masked_fill(is_hidden, 0.0)
