"""What a gate is taught by: the model's own attention, on sampled queries, and how much of it a selection keeps.

Every function works on rows of P sampled queries, so that a row costs O(N) and no map of queries by keys is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tuili.attention.select import Budget, check_positions, check_start
from tuili.errors import InputError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The attention of sampled queries over their candidate blocks.

    Attributes:
        mass: [B, P, G, J], renormalised over the candidates; pooled over the group's heads and the block's keys.
        is_candidate: bool [B, P, 1, J].
        share: [B, P, G], the part of all attention that went to candidates.
    """

    mass: Tensor
    is_candidate: Tensor
    share: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """How much of the candidates' attention a selection keeps.

    Attributes:
        kept: share that the selection keeps, mean over tokens and groups that have to choose.
        oracle: share that the best selection of the same size keeps.
    """

    kept: float
    oracle: float

    @property
    def of_oracle(self) -> float:
        """The part of the oracle's share that the selection reaches."""
        return self.kept / self.oracle


def sample_positions(num_keys: int, count: int, budget: Budget, generator: torch.Generator | None = None) -> Tensor:
    """Return up to `count` key indices, ascending, drawn from the queries that have more candidates than budget.

    Raises:
        InputError: no query has.
    """
    first = budget.keep * budget.block
    if first >= num_keys:
        raise InputError(f"{num_keys} keys are too few to learn from: a budget of {budget.keep} blocks keeps {first}")
    drawn = torch.randperm(num_keys - first, generator=generator)[:count]
    return drawn.sort().values + first


def attention_target(
    q: Tensor,
    k: Tensor,
    positions: Tensor,
    budget: Budget,
    *,
    scale: float | None = None,
    start: Tensor | None = None,
    pool: str = "sum",
) -> Target:
    """Return the target of sampled queries by one pool; arguments and errors as for `attention_targets`."""
    return attention_targets(q, k, positions, budget, scale=scale, start=start, pools=(pool,))[0]


@torch.no_grad()
def attention_targets(
    q: Tensor,
    k: Tensor,
    positions: Tensor,
    budget: Budget,
    *,
    scale: float | None = None,
    start: Tensor | None = None,
    pools: Sequence[str] = ("sum",),
) -> tuple[Target, ...]:
    """Return the target of sampled queries by each pool; their attention is computed once.

    "sum" is what a selection is measured by: all attention that a block gets. "max" is what a gate is better taught
    by: the strongest attention of any head to any of the block's keys (Gao et al. 2024, SeerAttention), for the few
    keys that a token looks up matter more than the same attention spread over many.

    Args:
        q: the sampled queries [B, H, P, d], those at the key indices `positions`.
        k: keys [B, G, N, d].
        positions: [P], ascending.
        budget: says which blocks are candidates.
        scale: of the attention; None: d ** -0.5.
        start: [B], first valid key of each row; None: 0.
        pools: each "sum" or "max".

    Raises:
        InputError: shapes do not fit.
        UsageError: there is no such pool.
    """
    if unknown := sorted(set(pools) - {"sum", "max"}):
        raise UsageError(f"there is no pool {unknown[0]!r}; choose sum or max")
    if q.ndim != 4 or k.ndim != 4 or q.shape[1] % k.shape[1] or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise InputError(f"queries {list(q.shape)} and keys {list(k.shape)} do not fit each other")
    num_keys, num_blocks = k.shape[2], k.shape[2] // budget.block
    check_positions(positions, q.shape[2], num_keys)
    if start is None:
        start = torch.zeros(q.shape[0], dtype=torch.int64, device=q.device)
    check_start(start, q.shape[0], num_keys)
    q_BGRd = q.float().unflatten(1, (k.shape[1], -1)).flatten(2, 3)
    scores_BGRPN = (q_BGRd @ k.float().transpose(-1, -2)).unflatten(2, (-1, q.shape[2]))
    scores_BGRPN *= q.shape[3] ** -0.5 if scale is None else scale
    at_N = torch.arange(num_keys, device=q.device)
    is_read_BPN = (at_N <= positions[:, None]) & (at_N >= start[:, None, None])
    scores_BGRPN.masked_fill_(~is_read_BPN[:, None, None], torch.finfo(torch.float32).min)
    attention_BGRPN = scores_BGRPN.softmax(-1)[..., : num_blocks * budget.block]
    keys_BGRPJb = attention_BGRPN.unflatten(4, (num_blocks, -1))
    is_candidate_BP1J = _candidates(positions, start, budget, num_blocks)[:, :, None]
    pooled = {"sum": keys_BGRPJb.sum(-1).mean(2).transpose(1, 2) * is_candidate_BP1J}
    share_BPG = pooled["sum"].sum(-1)
    if "max" in pools:
        pooled["max"] = keys_BGRPJb.amax((2, 5)).transpose(1, 2) * is_candidate_BP1J
    return tuple(
        Target(mass=_normalised(pooled[pool]), is_candidate=is_candidate_BP1J, share=share_BPG) for pool in pools
    )


def distillation_loss(z: Tensor, target: Target, *, by_share: bool = False) -> Tensor:
    """Return KL(target || softmax of the candidates' scores), the mean over tokens and groups, in nats.

    `by_share` weights each token and group by the part of its attention that candidates get: where everything lies
    close by, there is little to choose.

    Source: DeepSeek-AI 2025, DeepSeek-V3.2-Exp, eq. 3, here over blocks and for each group. Blind to the gate's bias.

    Args:
        z: scores of all blocks [B, P, G, J].
        target: of the same queries.

    Raises:
        InputError: shapes differ, or no sampled query has a candidate.
    """
    is_row_BPG = _rows(z, target)
    z = z.masked_fill(~target.is_candidate, torch.finfo(z.dtype).min)
    divergence = torch.xlogy(target.mass, target.mass) - target.mass * z.log_softmax(-1)
    if by_share:
        return (divergence.sum(-1) * target.share).sum() / target.share.sum()
    return divergence.sum(-1)[is_row_BPG].mean()


def bias_loss(z: Tensor, bias: Tensor, target: Target, budget: Budget) -> Tensor:
    """Return the cross-entropy of the gate mass sigmoid(z) against "the oracle keeps this block".

    It teaches the bias alone: with it, the gate mass is the chance that a block is worth its place.

    Args:
        z: scores of all blocks [B, P, G, J], the bias included.
        bias: [G].
        target: of the same queries.
        budget: says how many blocks the oracle keeps.

    Raises:
        InputError: shapes differ, or no sampled query has a candidate.
    """
    _rows(z, target)
    logits = (z - bias[:, None]).detach() + bias[:, None]
    is_candidate = target.is_candidate.expand_as(logits)
    is_best = torch.zeros_like(is_candidate).scatter(-1, _oracle(target, budget), True)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits[is_candidate], is_best[is_candidate].float())


def recall(blocks: Tensor, target: Target, budget: Budget) -> Recall:
    """Return the share of the candidates' attention that the kept `blocks` [B, P, G, K] of sampled queries hold.

    Only tokens with more candidates than budget count, since the others keep all.

    Raises:
        InputError: shapes differ, or no sampled query has to choose.
    """
    num_blocks = target.mass.shape[-1]
    if blocks.shape[:3] != target.mass.shape[:3]:
        raise InputError(
            f"blocks {list(blocks.shape)} and target {list(target.mass.shape)} are not of the same queries"
        )
    chooses_BPG = (target.is_candidate.sum(-1) > budget.num_free).expand(target.share.shape) & (target.share > 0)
    if not chooses_BPG.any():
        raise InputError(f"no sampled token has more candidates than the {budget.num_free} that the budget can keep")
    mass = torch.nn.functional.pad(target.mass, (0, 1))
    kept_BPG = mass.gather(-1, blocks.long().where((blocks >= 0) & (blocks < num_blocks), num_blocks)).sum(-1)
    oracle_BPG = target.mass.gather(-1, _oracle(target, budget)).sum(-1)
    return Recall(kept=float(kept_BPG[chooses_BPG].mean()), oracle=float(oracle_BPG[chooses_BPG].mean()))


def _normalised(blocks_BPGJ: Tensor) -> Tensor:
    return blocks_BPGJ / blocks_BPGJ.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def _candidates(positions_P: Tensor, start_B: Tensor, budget: Budget, num_blocks: int) -> Tensor:
    at_J = torch.arange(num_blocks, device=positions_P.device)
    first_B = start_B // budget.block + budget.sink
    end_P = positions_P // budget.block - budget.local + 1
    return (at_J >= first_B[:, None, None]) & (at_J < end_P[:, None])


def _oracle(target: Target, budget: Budget) -> Tensor:
    return target.mass.topk(min(budget.num_free, target.mass.shape[-1]), dim=-1).indices


def _rows(z: Tensor, target: Target) -> Tensor:
    if z.shape != target.mass.shape:
        raise InputError(f"scores {list(z.shape)} and target {list(target.mass.shape)} are not of the same queries")
    has_mass_BPG = target.share > 0
    if not has_mass_BPG.any():
        raise InputError("no sampled query has a candidate block; sample later queries (see sample_positions)")
    return has_mass_BPG
