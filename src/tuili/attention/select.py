"""Selection: which blocks of keys each query token reads, one choice per key-value group.

The rule, for a query at absolute key index p in block c = p // block:

- always kept: the first `sink` blocks that hold a valid key and the `local` last blocks c - local + 1 .. c;
- candidates: the blocks between them, all of them closed, so that nothing of the future is read;
- score of a candidate: z = max over its gate keys and the group's gate queries of their dot product less the query's
  `offset` (see `tuili.attention.offset`), plus `bias`;
- gate mass M = sigmoid(z) * S, S = 1 in the prior set of the token and exp(-penalty) outside (no prior: S = 1);
- the best candidates by log M are kept up to the budget, of equal ones those with the higher index;
- coverage: only the first of them that together reach the share `coverage` of the mass of all scored candidates.

A query before the first valid key (padding) keeps nothing. Without a prior the order is that of z, which is the
same one. Keys that are padding are never scored, whatever they hold.

A token whose candidates lie in more than `beam` groups of 16 blocks scores each block by its mean gate key first and
then only the gate keys of the `beam` groups with the best blocks; where the beam covers all groups, the choice is that
of scoring every gate key. Cost a token: N / block products of that coarse kind, and 16 beam block / sub fine ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tuili.attention.pooling import GateKeys, rounded
from tuili.errors import InputError, UsageError

SPAN = 16
"""Blocks that are opened together."""
BEAM = 128
"""Groups that a token opens at most by default: all of 32,768 keys in blocks of 16, so that selection is exact up to
there and its fine part costs no more past that."""

CHUNK_ELEMENTS = 1 << 23
LOWEST = torch.iinfo(torch.int64).min


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many keys a query token may read, and how they are found.

    Attributes:
        block: keys per block.
        keep: blocks a token and group keep at most, sink and local blocks included.
        sink: first blocks, always kept; at least 1, since the first block may hold padding.
        local: last blocks, always kept; at least 1, the open block.
        coverage: share of the candidates' gate mass after which no more are kept, above 0 and at most 1.
        beam: groups of 16 blocks whose gate keys a token scores, chosen by mean gate keys; None: all. The default
            covers all of 32,768 keys in blocks of 16.

    Raises:
        UsageError: a value is out of its bounds.
    """

    block: int = 16
    keep: int = 64
    sink: int = 1
    local: int = 4
    coverage: float | None = None
    beam: int | None = BEAM

    def __post_init__(self) -> None:
        for name in ("block", "sink", "local"):
            _check_count(name, getattr(self, name), 1)
        _check_count("keep", self.keep, self.sink + self.local)
        if self.coverage is not None and not (type(self.coverage) in (int, float) and 0 < self.coverage <= 1):
            raise UsageError(f"coverage must be above 0 and at most 1, not {self.coverage!r}")
        least = math.ceil(self.num_free / SPAN) + 2
        if self.beam is not None:
            _check_count("beam", self.beam, least, f" to find {self.num_free} blocks")

    @property
    def num_free(self) -> int:
        """Blocks left for candidates once sink and local blocks are kept."""
        return self.keep - self.sink - self.local


def _check_count(name: str, value: object, least: int, purpose: str = "") -> None:
    if type(value) is not int:
        raise UsageError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise UsageError(f"{name} must be at least {least}{purpose}, not {value}")


def select(  # noqa: PLR0913
    gate_q: Tensor,
    gate_k: Tensor | GateKeys,
    budget: Budget,
    *,
    num_keys: int,
    offset: Tensor | None = None,
    bias: Tensor | None = None,
    start: Tensor | None = None,
    prior: Tensor | None = None,
    penalty: float = 0.0,
) -> Tensor:
    """Return the kept blocks, int32 [B, T, G, keep]: ascending indices, unused places -1 at the end.

    Works in pieces of query tokens, so that memory stays bounded. No gradient.

    Args:
        gate_q: gate queries [B, T, G, Q, e] of the last T of `num_keys` keys.
        gate_k: gate keys [B, ceil(num_keys / sub), G, e], sub a divisor of the block; or those of the whole blocks in
            int8, then gate queries are rounded too.
        budget: the budget.
        num_keys: keys in the cache, N.
        offset: [B, T, G, Q], taken off a gate query's dot products; None: 0.
        bias: [G], added to the score.
        start: [B], index of each row's first valid key; None: 0.
        prior: blocks [B, T or 1, G, P], -1 unused: the prior set of each token.
        penalty: what a candidate outside the prior set loses in log mass, at least 0.

    Raises:
        InputError: shapes do not fit.
        UsageError: the penalty is negative, not a number, or has no effect.
    """
    check_gate(gate_q, gate_k, budget, num_keys=num_keys, bias=bias, start=start, offset=offset)
    check_prior(gate_q, prior, penalty)
    positions_T = torch.arange(num_keys - gate_q.shape[1], num_keys, device=gate_q.device)
    return _Selection(gate_k, budget, num_keys, bias, start).run(gate_q, positions_T, offset, prior, penalty)


def select_at(
    gate_q: Tensor,
    gate_k: Tensor | GateKeys,
    budget: Budget,
    *,
    positions: Tensor,
    num_keys: int,
    offset: Tensor | None = None,
    bias: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Return the kept blocks of a sample of queries, those at the key indices `positions` [T], ascending.

    All else is as in `select`.

    Raises:
        InputError: as `select`, or the positions do not fit.
    """
    check_gate(gate_q, gate_k, budget, num_keys=num_keys, bias=bias, start=start, offset=offset)
    check_positions(positions, gate_q.shape[1], num_keys)
    return _Selection(gate_k, budget, num_keys, bias, start).run(gate_q, positions, offset, None, 0.0)


def always_kept(positions_T: Tensor, start_B: Tensor, budget: Budget) -> Tensor:
    """Return the sink and local blocks of each query [B, T, sink + local]; -1 for those that do not exist."""
    current_T = positions_T // budget.block
    first_B = start_B // budget.block
    sink_BTs = first_B[:, None, None] + torch.arange(budget.sink, device=first_B.device)
    sink_BTs = sink_BTs.expand(-1, len(positions_T), -1)
    sink_BTs = sink_BTs.masked_fill(sink_BTs > current_T[:, None], -1)
    local_BTl = (current_T[:, None] - torch.arange(budget.local, device=first_B.device)).expand(len(first_B), -1, -1)
    local_BTl = local_BTl.masked_fill(local_BTl < (first_B + budget.sink)[:, None, None], -1)
    is_padding_BT = positions_T < start_B[:, None]
    return torch.cat([sink_BTs, local_BTl], dim=2).masked_fill(is_padding_BT[:, :, None], -1)


def log_gate(  # noqa: PLR0913
    gate_q: Tensor,
    gate_k: Tensor,
    blocks: Tensor,
    budget: Budget,
    *,
    num_keys: int,
    offset: Tensor | None = None,
    bias: Tensor | None = None,
    start: Tensor | None = None,
    prior: Tensor | None = None,
    penalty: float = 0.0,
    positions: Tensor | None = None,
) -> Tensor:
    """Return log M of the kept blocks [B, T, G, keep], 0 for sink and local blocks and for unused places.

    Added to the scores of a kept block's keys, it lets the gate learn with the model: gradients flow into `gate_q`,
    `gate_k` and `bias`. Arguments as for `select`; `positions` [T] are the queries' key indices, by default the last
    ones. Memory: B T G keep (block / sub) e values; call it in pieces.

    Raises:
        InputError, UsageError: as `select`.
    """
    check_gate(gate_q, gate_k, budget, num_keys=num_keys, bias=bias, start=start, offset=offset)
    check_prior(gate_q, prior, penalty)
    work = _Selection(gate_k, budget, num_keys, bias, start)
    if not work.num_whole:
        return torch.zeros_like(blocks, dtype=torch.float32)
    at_BGTK = blocks.transpose(1, 2).long()
    if positions is None:
        positions = torch.arange(num_keys - gate_q.shape[1], num_keys, device=gate_q.device)
    check_positions(positions, gate_q.shape[1], num_keys)
    forced_BTF = always_kept(positions, work.start_B, budget)
    is_free_BGTK = (at_BGTK >= 0) & (at_BGTK[..., None] != forced_BTF[:, None, :, None]).all(-1)
    at_BGTK = at_BGTK.where(is_free_BGTK, work.first_B[:, None, None, None].clamp_max(work.num_whole - 1))
    log_mass_BGTK = work.log_mass(work.score_at(gate_q, at_BGTK, offset), at_BGTK, prior, penalty)
    return torch.where(is_free_BGTK, log_mass_BGTK, 0.0).transpose(1, 2)


class _Selection:
    """The state of one call: gate keys by block, their means, and the first candidate of each row."""

    def __init__(
        self,
        gate_k: Tensor | GateKeys,
        budget: Budget,
        num_keys: int,
        bias: Tensor | None,
        start: Tensor | None,
    ) -> None:
        self.budget = budget
        given, self.is_int8 = gate_k, isinstance(gate_k, GateKeys)
        if isinstance(gate_k, GateKeys):
            self.per_block, gate_k = budget.block // gate_k.sub, gate_k.floats()
        else:
            self.per_block = budget.block // sub_block(num_keys, gate_k.shape[1], budget.block)
        batch, _, groups, _ = gate_k.shape
        self.num_whole = num_keys // budget.block
        whole_BNGe = gate_k[:, : self.num_whole * self.per_block].float()
        self.keys_BGJse = whole_BNGe.transpose(1, 2).contiguous().unflatten(2, (self.num_whole, self.per_block))
        self.bias_G = torch.zeros(groups, device=gate_k.device) if bias is None else bias.float()
        self.start_B = torch.zeros(batch, dtype=torch.int64, device=gate_k.device) if start is None else start.long()
        self.first_B = self.start_B // budget.block + budget.sink
        if budget.beam is not None:
            means_BGJe = given.mean_floats().transpose(1, 2) if isinstance(given, GateKeys) else None
            self.means_BGJe = self.keys_BGJse.mean(3) if means_BGJe is None else means_BGJe

    def chunk_tokens(self, num_gate_queries: int) -> int:
        """Return how many query tokens to take at a time."""
        batch, groups, num_blocks, per_block, width = self.keys_BGJse.shape
        scored = num_blocks * per_block * (num_gate_queries + 1)
        if self.budget.beam is not None and self.budget.beam * SPAN < num_blocks:
            opened = self.budget.beam * SPAN * per_block
            scored = num_blocks * (num_gate_queries + 2) + opened * (width + num_gate_queries + 1)
        return max(1, CHUNK_ELEMENTS // max(1, batch * groups * scored))

    @torch.no_grad()
    def run(
        self, gate_q: Tensor, positions_T: Tensor, offset: Tensor | None, prior: Tensor | None, penalty: float
    ) -> Tensor:
        """Return the kept blocks [B, T, G, keep], found piece by piece."""
        if self.is_int8:
            gate_q = rounded(gate_q)
        step = self.chunk_tokens(gate_q.shape[3])
        pieces = []
        for begin in range(0, len(positions_T), step):
            piece = slice(begin, begin + step)
            piece_prior = prior if prior is None or prior.shape[1] == 1 else prior[:, piece]
            piece_offset = None if offset is None else offset[:, piece]
            pieces.append(self._blocks(gate_q[:, piece], positions_T[piece], piece_offset, piece_prior, penalty))
        return torch.cat(pieces, dim=1)

    def _blocks(
        self, gate_q: Tensor, positions_T: Tensor, offset: Tensor | None, prior: Tensor | None, penalty: float
    ) -> Tensor:
        groups = gate_q.shape[2]
        end_T = positions_T // self.budget.block - self.budget.local + 1
        forced_BTF = always_kept(positions_T, self.start_B, self.budget)
        kept_BGTK = forced_BTF[:, None].expand(-1, groups, -1, -1)
        if self.budget.num_free and (last := int(end_T[-1])) > 0:
            num_groups = (last - 1) // SPAN - int(self.first_B.min()) // SPAN + 1
            has_many = self.budget.beam is not None and num_groups > self.budget.beam
            found = self._opened if has_many else self._flat
            kept_BGTK = torch.cat([kept_BGTK, found(gate_q, offset, end_T, last, prior, penalty)], dim=3)
        return _ascending(kept_BGTK, self.budget.keep).transpose(1, 2)

    def score_at(self, gate_q: Tensor, at_BGTP: Tensor, offset: Tensor | None) -> Tensor:
        """Return the scores z of the blocks `at_BGTP`, in their shape."""
        keys_BGTPse = _take(self.keys_BGJse, at_BGTP)
        q_BGTQe = gate_q.float().transpose(1, 2)
        dots_BGTQP = q_BGTQe @ keys_BGTPse.flatten(3, 4).transpose(-1, -2)
        z_BGTP = _less(dots_BGTQP.unflatten(-1, (-1, self.per_block)).amax(5), offset).amax(3)
        return z_BGTP + self.bias_G[:, None, None]

    def log_mass(self, z_BGTP: Tensor, at_BGTP: Tensor, prior: Tensor | None, penalty: float) -> Tensor:
        """Return log M of the blocks `at_BGTP`, given their scores."""
        log_mass_BGTP = torch.nn.functional.logsigmoid(z_BGTP)
        if prior is None:
            return log_mass_BGTP
        is_prior_BGTP = _members(prior, self.num_whole).expand(-1, -1, z_BGTP.shape[2], -1).gather(3, at_BGTP)
        return log_mass_BGTP - penalty * ~is_prior_BGTP

    def _flat(
        self,
        gate_q: Tensor,
        offset: Tensor | None,
        end_T: Tensor,
        last: int,
        prior: Tensor | None,
        penalty: float,
    ) -> Tensor:
        first = min(int(self.first_B.min()), last - 1)
        q_BGTQe = gate_q.float().transpose(1, 2)
        dots_BGTJ = q_BGTQe.flatten(2, 3) @ self.keys_BGJse[:, :, first:last].flatten(2, 3).transpose(-1, -2)
        dots_BGTQJ = dots_BGTJ.unflatten(3, (last - first, self.per_block)).amax(4).unflatten(2, q_BGTQe.shape[2:4])
        z_BGTJ = _less(dots_BGTQJ, offset).amax(3) + self.bias_G[:, None, None]
        at_J = torch.arange(first, last, device=gate_q.device)
        return self._best(z_BGTJ, at_J.expand_as(z_BGTJ), end_T, prior, penalty)

    def _opened(
        self,
        gate_q: Tensor,
        offset: Tensor | None,
        end_T: Tensor,
        last: int,
        prior: Tensor | None,
        penalty: float,
    ) -> Tensor:
        """Choose among the candidates of the `beam` groups that hold the best ones by mean gate key."""
        q_BGTQe = gate_q.float().transpose(1, 2)
        dots_BGTJ = q_BGTQe.flatten(2, 3) @ self.means_BGJe[:, :, :last].transpose(-1, -2)
        z_BGTJ = _less(dots_BGTJ.unflatten(2, q_BGTQe.shape[2:4]), offset).amax(3) + self.bias_G[:, None, None]
        at_J = torch.arange(last, device=gate_q.device)
        if prior is not None:
            z_BGTJ = self.log_mass(z_BGTJ, at_J.expand_as(z_BGTJ), prior, penalty)
        is_valid_BTJ = (at_J >= self.first_B[:, None, None]) & (at_J < end_T[:, None])
        ranks_BGTJ = _ranks(z_BGTJ, at_J).masked_fill(~is_valid_BTJ[:, None], LOWEST)
        ranks_BGTS = (
            torch.nn.functional.pad(ranks_BGTJ, (0, -last % SPAN), value=LOWEST).unflatten(-1, (-1, SPAN)).amax(-1)
        )
        best = ranks_BGTS.topk(min(self.budget.beam or last, ranks_BGTS.shape[-1]), dim=-1)
        at_BGTP = (best.indices[..., None] * SPAN + torch.arange(SPAN, device=gate_q.device)).flatten(3)
        at_BGTP = at_BGTP.masked_fill((best.values == LOWEST).repeat_interleave(SPAN, dim=3), self.num_whole)
        z_BGTP = self.score_at(gate_q, at_BGTP.clamp_max(self.num_whole - 1), offset)
        return self._best(z_BGTP, at_BGTP, end_T, prior, penalty)

    def _best(self, z: Tensor, at: Tensor, end_T: Tensor, prior: Tensor | None, penalty: float) -> Tensor:
        """Return the best candidates among the blocks `at` with the scores `z` [B, G, T, P], -1 where unused."""
        is_valid = (at >= self.first_B[:, None, None, None]) & (at < end_T[:, None])
        log_mass = self.log_mass(z, at.clamp_max(self.num_whole - 1), prior, penalty)
        ranks = _ranks(z if prior is None else log_mass, at).masked_fill(~is_valid, LOWEST)
        best = ranks.topk(min(self.budget.num_free, ranks.shape[-1]), dim=-1)
        is_kept = best.values != LOWEST
        if self.budget.coverage is not None:
            is_kept &= _within_coverage(log_mass.masked_fill(~is_valid, -torch.inf), best.indices, self.budget.coverage)
        return at.gather(-1, best.indices).masked_fill(~is_kept, -1)


def _less(dots_BGTQJ: Tensor, offset: Tensor | None) -> Tensor:
    """Return the dot products less the offset [B, T, G, Q] of their gate query."""
    return dots_BGTQJ if offset is None else dots_BGTQJ - offset.float().transpose(1, 2)[..., None]


def _take(keys_BGJse: Tensor, at_BGTP: Tensor) -> Tensor:
    batch, groups = keys_BGJse.shape[:2]
    rows = torch.arange(batch, device=at_BGTP.device)[:, None, None, None]
    return keys_BGJse[rows, torch.arange(groups, device=at_BGTP.device)[:, None, None], at_BGTP]


def _members(prior: Tensor, size: int) -> Tensor:
    """Return whether each of `size` blocks is in the prior set [B, T, G, P]: bool [B, G, T, size]."""
    at_BGTP = prior.transpose(1, 2).long()
    at_BGTP = at_BGTP.where((at_BGTP >= 0) & (at_BGTP < size), size)
    flags = torch.zeros(*at_BGTP.shape[:3], size + 1, dtype=torch.bool, device=prior.device)
    return flags.scatter_(3, at_BGTP, True)[..., :size]


def _ranks(scores: Tensor, at: Tensor) -> Tensor:
    """Return int64 ranks in the order of `scores` (float32), of equal ones the higher `at` first."""
    bits = (scores + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    return (ordered << 32) + at


def _within_coverage(log_mass: Tensor, best: Tensor, coverage: float) -> Tensor:
    """Return which of the `best` are needed to reach the share `coverage` of all mass."""
    mass = (log_mass - log_mass.amax(-1, keepdim=True).clamp_min(torch.finfo(log_mass.dtype).min)).exp()
    best_mass = mass.gather(-1, best)
    before = best_mass.cumsum(-1) - best_mass
    return before < coverage * mass.sum(-1, keepdim=True)


def _ascending(kept: Tensor, width: int) -> Tensor:
    """Return `kept` sorted, the places that hold -1 last, as int32 of the given width."""
    largest = torch.iinfo(torch.int64).max
    ordered = kept.masked_fill(kept < 0, largest).sort(-1).values
    ordered = ordered.masked_fill(ordered == largest, -1).to(torch.int32)
    return torch.nn.functional.pad(ordered, (0, width - ordered.shape[-1]), value=-1)


def sub_block(num_keys: int, num_gate_keys: int, block: int) -> int:
    """Return the keys per gate key: the largest divisor of `block` that gives so many gate keys.

    Above one block of keys there is only one; below it, nothing is scored.

    Raises:
        InputError: there is none.
    """
    fitting = (sub for sub in range(block, 0, -1) if block % sub == 0 and -(-num_keys // sub) == num_gate_keys)
    if (sub := next(fitting, None)) is None:
        raise InputError(
            f"{num_gate_keys} gate keys do not fit {num_keys} keys: there must be one for each started sub-block, "
            f"whose length must divide the block of {block}"
        )
    return sub


def check_gate(
    gate_q: Tensor,
    gate_k: Tensor | GateKeys,
    budget: Budget,
    *,
    num_keys: int,
    bias: Tensor | None,
    start: Tensor | None,
    offset: Tensor | None = None,
) -> None:
    """Check the shapes of gate queries, gate keys, offset, bias and start.

    Raises:
        InputError: they do not fit each other or `num_keys`.
    """
    if offset is not None and offset.shape != gate_q.shape[:-1]:
        raise InputError(f"the offset must have the shape {list(gate_q.shape[:-1])}, not {list(offset.shape)}")
    if isinstance(gate_k, GateKeys):
        _check_int8(gate_k, budget, num_keys)
        gate_k = gate_k.values
        num_gate_keys = None
    else:
        num_gate_keys = gate_k.shape[1] if gate_k.ndim == 4 else None
    if gate_q.ndim != 5 or gate_k.ndim != 4:
        raise InputError(
            "gate queries must have the shape [batch, queries, groups, gate queries, width] and gate keys "
            f"[batch, gate keys, groups, width], not {list(gate_q.shape)} and {list(gate_k.shape)}"
        )
    batch, num_queries, groups, _, width = gate_q.shape
    if (batch, groups, width) != (gate_k.shape[0], *gate_k.shape[2:]):
        raise InputError(
            f"gate queries {list(gate_q.shape)} and gate keys {list(gate_k.shape)} differ in batch, groups or width"
        )
    if min(gate_q.shape) < 1 or num_queries > num_keys:
        raise InputError(f"{list(gate_q.shape)} gate queries: no size may be 0, nor queries exceed {num_keys} keys")
    if num_gate_keys is not None:
        sub_block(num_keys, num_gate_keys, budget.block)
    if bias is not None and bias.shape != (groups,):
        raise InputError(f"the gate's bias must have the shape [{groups}], not {list(bias.shape)}")
    if start is not None:
        check_start(start, batch, num_keys)


def _check_int8(gate_k: GateKeys, budget: Budget, num_keys: int) -> None:
    num_blocks = num_keys // budget.block
    per_block = budget.block // gate_k.sub if gate_k.sub > 0 and budget.block % gate_k.sub == 0 else 0
    parts = [gate_k.values, gate_k.scale, gate_k.means, gate_k.mean_scale]
    shapes = [list(part.shape) for part in parts]
    row = [*shapes[0][:1], num_blocks, *shapes[0][2:]]
    fits = per_block and len(row) == 4 and shapes[0][1] == num_blocks * per_block
    if not fits or shapes[1:] != [row[:3], row, row[:3]]:
        raise InputError(
            f"gate keys {shapes[0]} with factors {shapes[1]}, means {shapes[2]} with factors {shapes[3]}, one for "
            f"{gate_k.sub} keys, are not those of the {num_blocks} whole blocks of {budget.block} in {num_keys} keys"
        )
    if [part.dtype for part in parts] != [torch.int8, torch.float32] * 2:
        shown = ", ".join(str(part.dtype) for part in parts)
        raise InputError(f"gate keys and means must be int8 with float32 factors, not {shown}")


def check_start(start: Tensor, batch: int, num_keys: int) -> None:
    """Check the indices of the first valid keys.

    Raises:
        InputError: the shape or dtype is wrong, or an index lies outside 0 .. num_keys (all padding).
    """
    if start.shape != (batch,) or start.dtype not in (torch.int32, torch.int64):
        raise InputError(f"start must be {batch} integers, not {start.dtype} of shape {list(start.shape)}")
    if bool((start < 0).any()) or bool((start > num_keys).any()):
        raise InputError(f"start must lie in 0 .. {num_keys}, not {start.tolist()}")


def check_positions(positions: Tensor, num_queries: int, num_keys: int) -> None:
    """Check the key indices of a sample of queries.

    Raises:
        InputError: they are not `num_queries` ascending integers in 0 .. num_keys - 1.
    """
    if positions.shape != (num_queries,) or positions.dtype not in (torch.int32, torch.int64):
        raise InputError(
            f"positions must be {num_queries} integers, not {positions.dtype} of shape {list(positions.shape)}"
        )
    if bool((positions.diff() <= 0).any()) or int(positions[0]) < 0 or int(positions[-1]) >= num_keys:
        raise InputError(f"positions must ascend within 0 .. {num_keys - 1}, not {positions.tolist()}")


def check_prior(gate_q: Tensor, prior: Tensor | None, penalty: float) -> None:
    """Check the prior set and its penalty.

    Raises:
        InputError: the prior's shape or dtype does not fit.
        UsageError: the penalty is no finite number of at least 0, or is given without a prior.
    """
    if not 0 <= penalty < math.inf:
        raise UsageError(f"penalty must be a finite number of at least 0, not {penalty}")
    if prior is None:
        if penalty:
            raise UsageError(f"a penalty of {penalty} has no effect without a prior; give both or neither")
        return
    batch, num_queries, groups = gate_q.shape[:3]
    fits = (
        prior.ndim == 4 and prior.shape[0] == batch and prior.shape[1] in (1, num_queries) and prior.shape[2] == groups
    )
    if not fits or prior.dtype not in (torch.int32, torch.int64):
        raise InputError(
            f"the prior must hold block indices of shape [{batch}, {num_queries} or 1, {groups}, any], "
            f"not {prior.dtype} of shape {list(prior.shape)}"
        )
