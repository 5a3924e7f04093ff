"""The readable twin: gate, selection and attention key by key, dense under a mask. For tests, not for speed.

The rule is stated in `tuili.attention.select`. Memory and time are O(T N); one Python loop over tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tuili.attention.select import Budget, sub_block


def gate_mask(
    gate_q: Tensor,
    gate_k: Tensor,
    budget: Budget,
    *,
    num_keys: int,
    offset: Tensor | None = None,
    bias: Tensor | None = None,
    prior: Tensor | None = None,
    penalty: float = 0.0,
) -> Tensor:
    """Return log M of every block for every token [B, T, G, J], J = ceil(N / block), in float64.

    log M = log sigmoid(z) + log S, z = max over gate keys and gate queries of their dot product less the query's
    offset [B, T, G, Q], plus the bias.
    Blocks that a token may not see have a value too; `kept_keys` leaves them out.
    """
    per_block = budget.block // sub_block(num_keys, gate_k.shape[1], budget.block)
    dots_BTGNQ = torch.einsum("btgqe,bnge->btgnq", gate_q.float(), gate_k.float())
    if offset is not None:
        dots_BTGNQ = dots_BTGNQ - offset.float()[:, :, :, None]
    parts = dots_BTGNQ.amax(-1).split(per_block, dim=3)
    z_BTGJ = torch.stack([part.amax(-1) for part in parts], dim=-1)
    if bias is not None:
        z_BTGJ = z_BTGJ + bias.float()[:, None]
    log_mass_BTGJ = torch.nn.functional.logsigmoid(z_BTGJ.double())
    if prior is None:
        return log_mass_BTGJ
    is_prior_BTGJ = (prior[..., None, :] == torch.arange(z_BTGJ.shape[-1])[:, None]).any(-1)
    return log_mass_BTGJ - penalty * ~is_prior_BTGJ


def kept_keys(log_mass: Tensor, budget: Budget, *, num_keys: int, start: Tensor | None = None) -> Tensor:
    """Return which keys each token and group reads: bool [B, T, G, N].

    Args:
        log_mass: log M of every block [B, T, G, J].
        budget: the budget.
        num_keys: N; the tokens are the last T of them.
        start: [B], first valid key of each row; None: 0.
    """
    batch, num_queries, groups, _ = log_mass.shape
    kept_BTGN = torch.zeros(batch, num_queries, groups, num_keys, dtype=torch.bool)
    for row in range(batch):
        first = 0 if start is None else int(start[row])
        for token in range(num_queries):
            position = num_keys - num_queries + token
            for group in range(groups):
                for block in kept_blocks(log_mass[row, token, group].tolist(), budget, position, first):
                    begin, end = max(first, block * budget.block), min(position + 1, (block + 1) * budget.block)
                    kept_BTGN[row, token, group, begin:end] = True
    return kept_BTGN


def kept_blocks(log_mass: list[float], budget: Budget, position: int, first_key: int = 0) -> list[int]:
    """Return the blocks that the query at key index `position` keeps, ascending."""
    if position < first_key:
        return []
    current, first = position // budget.block, first_key // budget.block
    always = {block for block in range(first, first + budget.sink) if block <= current}
    always |= {block for block in range(current - budget.local + 1, current + 1) if block >= first}
    candidates = range(first + budget.sink, current - budget.local + 1)
    ordered = sorted(candidates, key=lambda block: (log_mass[block], block), reverse=True)
    if budget.coverage is not None and ordered:
        ordered = _until_covered(ordered, log_mass, budget.coverage)
    return sorted(always | set(ordered[: budget.num_free]))


def _until_covered(ordered: list[int], log_mass: list[float], coverage: float) -> list[int]:
    masses = [math.exp(log_mass[block] - log_mass[ordered[0]]) for block in ordered]
    total, reached = sum(masses), 0.0
    for count, mass in enumerate(masses):
        if reached >= coverage * total:
            return ordered[:count]
        reached += mass
    return ordered


def attend(
    q: Tensor, k: Tensor, v: Tensor, kept: Tensor, scale: float | None = None, log_gate: Tensor | None = None
) -> Tensor:
    """Return softmax attention over the kept keys [B, H, T, d]; a token that keeps none gets zeros, never NaN.

    Args:
        q: queries [B, H, T, d].
        k: keys [B, G, N, d].
        v: values [B, G, N, d].
        kept: which keys a token reads [B, T, G, N].
        scale: of the scores; None: d ** -0.5.
        log_gate: added to the scores [B, T, G, N].
    """
    per_group = q.shape[1] // k.shape[1]
    is_read_BGN1 = kept.any(1)[..., None]
    k_BHNd = torch.where(is_read_BGN1, k, 0.0).repeat_interleave(per_group, dim=1)
    v_BHNd = torch.where(is_read_BGN1, v, 0.0).repeat_interleave(per_group, dim=1)
    kept_BHTN = kept.transpose(1, 2).repeat_interleave(per_group, dim=1)
    scores_BHTN = q @ k_BHNd.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if log_gate is not None:
        scores_BHTN = scores_BHTN + log_gate.transpose(1, 2).repeat_interleave(per_group, dim=1)
    scores_BHTN = scores_BHTN.masked_fill(~kept_BHTN, torch.finfo(scores_BHTN.dtype).min)
    weights_BHTN = scores_BHTN.softmax(-1) * kept_BHTN
    return weights_BHTN @ v_BHNd
