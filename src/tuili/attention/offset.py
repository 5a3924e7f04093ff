"""What a head spends on the keys that every token reads, which its scores of other keys are compared with.

A head that gives nearly all its attention to the sink or to its neighbourhood has nothing to gain from a block, however
large its scores are. With c = log of the sum of exp(score) over the keys always kept, sigmoid(score - c) is the share
that a key takes from them: heads become comparable, and the gate mass means attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tuili.attention.select import Budget, always_kept
from tuili.errors import InputError

PIECE_ELEMENTS = 1 << 23


@torch.no_grad()
def kept_log_mass(
    q: Tensor,
    k: Tensor,
    positions: Tensor,
    budget: Budget,
    *,
    scale: float,
    num_gate_queries: int,
    start: Tensor | None = None,
) -> Tensor:
    """Return the offset of each gate query [B, T, G, Q] in float32, the mean over the heads that share it.

    O(T (sink + local) block d) a head; 0 for a token that reads no key. No gradient.

    Args:
        q: queries [B, H, T, d] at the key indices `positions` [T].
        k: keys [B, G, N, d].
        positions: ascending.
        budget: says which blocks are always kept.
        scale: of the scores.
        num_gate_queries: Q, at most H / G; head r of a group belongs to gate query r * Q // (H / G).
        start: [B], first valid key of each row; None: 0.

    Raises:
        InputError: there are more gate queries than heads in a group.
    """
    batch, groups, _, dim = k.shape
    per_group = q.shape[1] // groups
    check_heads(num_gate_queries, per_group)
    start_B = torch.zeros(batch, dtype=torch.int64, device=q.device) if start is None else start.long()
    step = max(1, PIECE_ELEMENTS // max(1, batch * groups * (budget.sink + budget.local) * budget.block * dim))
    pieces = [q.new_zeros(batch, 0, groups, per_group, dtype=torch.float32)]
    for at_t, q_BHtd in zip(positions.split(step), q.split(step, dim=2), strict=True):
        blocks_BtF = always_kept(at_t, start_B, budget)
        at_Btf = (blocks_BtF[..., None] * budget.block + torch.arange(budget.block, device=q.device)).flatten(2)
        is_read_Btf = blocks_BtF.repeat_interleave(budget.block, dim=2) >= 0
        is_read_Btf &= (at_Btf <= at_t[:, None]) & (at_Btf >= start_B[:, None, None])
        at_Btf = at_Btf.where(is_read_Btf, 0)
        rows_B = torch.arange(batch, device=q.device)[:, None, None]
        k_BtfGd = k.transpose(1, 2)[rows_B, at_Btf].float().masked_fill(~is_read_Btf[..., None, None], 0.0)
        q_BtGRd = q_BHtd.float().unflatten(1, (groups, per_group)).permute(0, 3, 1, 2, 4)
        scores_BtGRf = q_BtGRd @ k_BtfGd.permute(0, 1, 3, 4, 2) * scale
        total_BtGR = scores_BtGRf.masked_fill(~is_read_Btf[:, :, None, None], -torch.inf).logsumexp(-1)
        pieces.append(total_BtGR.where(is_read_Btf.any(2)[:, :, None, None], 0.0))
    of_heads_BTGR = torch.cat(pieces, dim=1)
    query_of_R = torch.arange(per_group, device=q.device) * num_gate_queries // per_group
    share_RQ = torch.nn.functional.one_hot(query_of_R, num_gate_queries).float()
    return of_heads_BTGR @ (share_RQ / share_RQ.sum(0))


def check_heads(num_gate_queries: int, per_group: int) -> None:
    """Check that each gate query has a head to take the offset from.

    Raises:
        InputError: there are more gate queries than the `per_group` heads of a group.
    """
    if num_gate_queries > per_group:
        raise InputError(
            f"{num_gate_queries} gate queries for {per_group} heads a group: some would have no head whose attention "
            "their scores could be compared with; give at most one a head, or leave normalize out"
        )
