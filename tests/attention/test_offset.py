from typing import Any

import pytest
import torch
from torch import Tensor

from tuili.attention import offset as module
from tuili.attention.offset import kept_log_mass
from tuili.attention.select import Budget
from tuili.errors import InputError


def inputs(num_keys: int, groups: int, per_group: int, num_queries: int = 0) -> tuple[Tensor, Tensor]:
    q = torch.randn(3, groups * per_group, num_queries or num_keys, 8)
    return q, torch.randn(3, groups, num_keys, 8)


def expected_offset(
    q: Tensor, k: Tensor, positions: Tensor, budget: Budget, scale: float, queries: int, start: Tensor | None
) -> Tensor:
    """The same under a dense mask, in float64, head by head."""
    num_keys, per_group = k.shape[2], q.shape[1] // k.shape[1]
    first_B = torch.zeros(len(k), dtype=torch.int64) if start is None else start
    at_N, sink_B = torch.arange(num_keys), first_B // budget.block
    block_N, own_T = at_N // budget.block, positions // budget.block
    is_sink = (block_N >= sink_B[:, None]) & (block_N < (sink_B + budget.sink)[:, None])
    is_local = block_N > (own_T - budget.local)[:, None]
    is_read = (is_sink[:, None] | is_local) & (at_N <= positions[:, None]) & (at_N >= first_B[:, None, None])
    scores = q.double() @ k.double().repeat_interleave(per_group, dim=1).transpose(-1, -2) * scale
    of_heads = scores.masked_fill(~is_read[:, None], -torch.inf).logsumexp(-1).masked_fill(~is_read.any(2)[:, None], 0)
    of_heads = of_heads.unflatten(1, (-1, per_group))
    shares = [[r for r in range(per_group) if r * queries // per_group == one] for one in range(queries)]
    return torch.stack([of_heads[:, :, share].mean(2) for share in shares], dim=-1).transpose(1, 2)


@pytest.mark.parametrize(("groups", "per_group", "queries"), [(1, 1, 1), (2, 3, 3), (2, 3, 2), (1, 4, 1), (3, 5, 2)])
@pytest.mark.parametrize("starts", [None, [0, 37, 100]])
@pytest.mark.parametrize("piece", [None, 1, 1 << 15])
def test_it_is_the_log_of_what_a_dense_computation_spends_on_the_kept_keys(
    monkeypatch: pytest.MonkeyPatch, groups: int, per_group: int, queries: int, starts: Any, piece: int | None
) -> None:
    if piece is not None:
        monkeypatch.setattr(module, "PIECE_ELEMENTS", piece)
    q, k = inputs(100, groups, per_group)
    start = None if starts is None else torch.tensor(starts)
    for budget in (Budget(block=8, keep=9, sink=2, local=3), Budget(block=5, keep=2, local=1)):
        positions = torch.arange(100)
        found = kept_log_mass(q, k, positions, budget, scale=0.4, num_gate_queries=queries, start=start)
        assert found.shape == (3, 100, groups, queries) and found.dtype == torch.float32
        expected = expected_offset(q, k, positions, budget, 0.4, queries, start)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", [[0], [3, 4, 50, 99], [98, 99]])
def test_a_sample_of_positions_is_as_in_the_whole(positions: list[int]) -> None:
    (q, k), budget, start = inputs(100, 2, 2), Budget(block=8, keep=6), torch.tensor([0, 3, 60])
    rule: dict[str, Any] = {"scale": 0.3, "num_gate_queries": 2, "start": start}
    whole = kept_log_mass(q, k, torch.arange(100), budget, **rule)
    sample = kept_log_mass(q[:, :, positions], k, torch.tensor(positions), budget, **rule)
    torch.testing.assert_close(sample, whole[:, positions], atol=1e-6, rtol=1e-6)


def test_a_token_without_a_key_has_none_whatever_padding_holds() -> None:
    (q, k), budget, start = inputs(60, 2, 2), Budget(block=8, keep=6), torch.tensor([0, 13, 60])
    rule: dict[str, Any] = {"scale": 0.3, "num_gate_queries": 1, "start": start}
    before = kept_log_mass(q, k, torch.arange(60), budget, **rule)
    for row, first in enumerate(start.tolist()):
        k[row, :, :first] = torch.nan
    found = kept_log_mass(q, k, torch.arange(60), budget, **rule)
    assert torch.equal(found, before) and found.isfinite().all()
    assert not found[1, :13].any() and not found[2].any() and found[1, 13:].all()


@pytest.mark.parametrize("later", [torch.nan, torch.inf, 1e3])
def test_later_and_unkept_keys_change_nothing(later: float) -> None:
    (q, k), budget = inputs(100, 2, 2), Budget(block=8, keep=6, sink=1, local=2)
    rule: dict[str, Any] = {"scale": 0.3, "num_gate_queries": 2}
    before = kept_log_mass(q, k, torch.arange(100), budget, **rule)
    changed = k.clone()
    changed[:, :, 43:] = later
    assert torch.equal(kept_log_mass(q, changed, torch.arange(100), budget, **rule)[:, :43], before[:, :43])
    changed = k.clone()
    changed[:, :, 8:80] = later
    assert torch.equal(kept_log_mass(q, changed, torch.arange(100), budget, **rule)[:, 88:], before[:, 88:])


def test_half_precision_is_summed_in_float32_and_large_scores_do_not_overflow() -> None:
    q, k = inputs(64, 1, 2)
    budget, rule = Budget(block=8, keep=6), {"scale": 1.0, "num_gate_queries": 2}
    half = kept_log_mass(q.bfloat16(), k.bfloat16(), torch.arange(64), budget, **rule)
    assert torch.equal(
        half, kept_log_mass(q.bfloat16().float(), k.bfloat16().float(), torch.arange(64), budget, **rule)
    )
    large = kept_log_mass(q * 100, k * 100, torch.arange(64), budget, **rule)
    expected = expected_offset(q * 100, k * 100, torch.arange(64), budget, 1.0, 2, None)
    torch.testing.assert_close(large.double(), expected, rtol=1e-4, atol=1e-2)


def test_more_gate_queries_than_heads_are_refused() -> None:
    q, k = inputs(20, 2, 2)
    with pytest.raises(InputError, match="3 gate queries for 2 heads a group"):
        kept_log_mass(q, k, torch.arange(20), Budget(), scale=1.0, num_gate_queries=3)
