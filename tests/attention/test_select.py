from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuili.attention import reference
from tuili.attention import select as module
from tuili.attention.pooling import LARGEST, GateKeys, rounded
from tuili.attention.select import SPAN, Budget, log_gate, select, select_at
from tuili.errors import InputError, UsageError


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Return small multiples of 1/2, whose dot products are exact, so that equal scores are really equal."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)) / 2


def exact_keys(seed: int, batch: int, num_blocks: int, groups: int, width: int, per_block: int = 1) -> GateKeys:
    """Return gate keys in int8 whose products with `whole_steps` are exact."""
    draws = torch.Generator().manual_seed(seed)
    sizes = (batch, num_blocks * per_block, groups, width), (batch, num_blocks, groups, width)
    values, means = (torch.randint(-3, 4, size, generator=draws, dtype=torch.int8) for size in sizes)
    scale = torch.randint(-3, 1, (2, batch, num_blocks, groups), generator=draws).float().exp2()
    return GateKeys(values, scale[0], means, scale[1], 1)


def whole_steps(seed: int, *shape: int) -> torch.Tensor:
    """Return gate queries that int8 holds exactly."""
    steps = torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()
    steps[..., 0] = LARGEST
    return steps


def expected_blocks(
    gate_q: torch.Tensor, gate_k: torch.Tensor, budget: Budget, num_keys: int, start: Any = None, **gate: Any
) -> torch.Tensor:
    log_mass = reference.gate_mask(gate_q, gate_k, budget, num_keys=num_keys, **gate)
    return chosen(log_mass, budget, num_keys, start)


def chosen(log_mass: torch.Tensor, budget: Budget, num_keys: int, start: Any = None) -> torch.Tensor:
    """Return the blocks that the reference keeps, given their log mass."""
    batch, num_queries, groups, _ = log_mass.shape
    blocks = torch.full((batch, num_queries, groups, budget.keep), -1, dtype=torch.int32)
    for row in range(batch):
        for token in range(num_queries):
            for group in range(groups):
                kept = reference.kept_blocks(
                    log_mass[row, token, group].tolist(),
                    budget,
                    num_keys - num_queries + token,
                    0 if start is None else int(start[row]),
                )
                blocks[row, token, group, : len(kept)] = torch.tensor(kept, dtype=torch.int32)
    return blocks


@pytest.mark.parametrize("beam", [None, 3])
@pytest.mark.parametrize("num_keys", [1, 15, 16, 17, 64, 65, 333])
@pytest.mark.parametrize("sub", [2, 16])
def test_the_blocks_are_those_of_the_reference(beam: int | None, num_keys: int, sub: int) -> None:
    budget = Budget(keep=8, beam=beam)
    gate_q, gate_k = draw(1, 2, num_keys, 2, 3, 4), draw(2, 2, -(-num_keys // sub), 2, 4)
    blocks = select(gate_q, gate_k, budget, num_keys=num_keys)
    assert blocks.dtype == torch.int32
    torch.testing.assert_close(blocks, expected_blocks(gate_q, gate_k, budget, num_keys))


def test_two_thousand_keys_are_selected_as_in_the_reference() -> None:
    gate_q, gate_k = draw(1, 1, 40, 1, 2, 8), draw(2, 1, 500, 1, 8)
    for beam in (None, 8):
        budget = Budget(keep=20, beam=beam)
        blocks = select(gate_q, gate_k, budget, num_keys=2000)
        torch.testing.assert_close(blocks, expected_blocks(gate_q, gate_k, budget, 2000))


@given(data=st.data())
def test_any_budget_selects_what_the_reference_selects(data: st.DataObject) -> None:
    block = data.draw(st.sampled_from([1, 2, 3, 4, 6]), label="block")
    sub = data.draw(st.sampled_from([sub for sub in range(1, block + 1) if block % sub == 0]), label="sub")
    num_keys = data.draw(st.integers(1, 70), label="num_keys")
    num_queries = data.draw(st.integers(1, num_keys), label="num_queries")
    sink, local = data.draw(st.integers(1, 3), label="sink"), data.draw(st.integers(1, 3), label="local")
    budget = Budget(
        block=block,
        keep=sink + local + data.draw(st.integers(0, 9), label="free"),
        sink=sink,
        local=local,
        coverage=data.draw(st.sampled_from([None, 0.03, 0.45, 0.97]), label="coverage"),
        beam=data.draw(st.sampled_from([None, 5]), label="beam"),
    )
    seed = data.draw(st.integers(0, 999), label="seed")
    gate_q, gate_k = draw(seed, 2, num_queries, 2, 2, 3), draw(seed + 1, 2, -(-num_keys // sub), 2, 3)
    start = torch.tensor(data.draw(st.lists(st.integers(0, num_keys), min_size=2, max_size=2), label="start"))
    gate: dict[str, Any] = {"bias": draw(seed + 2, 2)}
    if data.draw(st.booleans(), label="has offset"):
        gate["offset"] = draw(seed + 3, 2, num_queries, 2, 2)
    if data.draw(st.booleans(), label="has prior"):
        prior_T = data.draw(st.sampled_from([1, num_queries]))
        gate |= {"prior": torch.randint(-1, 12, (2, prior_T, 2, 4)), "penalty": 0.7}
    blocks = select(gate_q, gate_k, budget, num_keys=num_keys, start=start, **gate)
    torch.testing.assert_close(blocks, expected_blocks(gate_q, gate_k, budget, num_keys, start, **gate))


@given(data=st.data())
def test_int8_selects_what_the_reference_selects_from_the_rounded_numbers(data: st.DataObject) -> None:
    block = data.draw(st.sampled_from([1, 2, 4]), label="block")
    num_keys = data.draw(st.integers(block, 70), label="num_keys")
    num_queries, num_blocks = data.draw(st.integers(1, num_keys), label="num_queries"), num_keys // block
    budget = Budget(
        block=block,
        keep=4 + data.draw(st.integers(0, 9), label="free"),
        sink=1,
        local=data.draw(st.integers(1, 3), label="local"),
        beam=data.draw(st.sampled_from([None, 5]), label="beam"),
    )
    seed = data.draw(st.integers(0, 999), label="seed")
    gate_q, gate_k = whole_steps(seed, 2, num_queries, 2, 2, 3), exact_keys(seed, 2, num_blocks, 2, 3, block)
    start = torch.tensor(data.draw(st.lists(st.integers(0, num_keys), min_size=2, max_size=2), label="start"))
    gate: dict[str, Any] = {"bias": draw(seed + 2, 2), "offset": draw(seed + 3, 2, num_queries, 2, 2)}
    blocks = select(gate_q, gate_k, budget, num_keys=num_keys, start=start, **gate)
    assert torch.equal(rounded(gate_q), gate_q)
    log_mass = reference.gate_mask(gate_q, gate_k.floats(), budget, num_keys=num_blocks * block, **gate)
    torch.testing.assert_close(blocks, chosen(log_mass, budget, num_keys, start))


@pytest.mark.parametrize("beam", [None, 3])
@pytest.mark.parametrize("later", [torch.nan, torch.inf, 1e3, -1e3])
def test_later_tokens_change_nothing_before(beam: int | None, later: float) -> None:
    budget = Budget(block=2, keep=8, sink=1, local=1, beam=beam)
    gate_q, gate_k = torch.rand(1, 200, 2, 2, 4), torch.randn(1, 100, 2, 4)
    before = select(gate_q, gate_k, budget, num_keys=200)
    for cut in (1, 7, 64, 65, 133, 199):
        changed_q, changed_k = gate_q.clone(), gate_k.clone()
        changed_q[:, cut:], changed_k[:, cut // 2 :] = later, later
        after = select(changed_q, changed_k, budget, num_keys=200)
        assert torch.equal(after[:, :cut], before[:, :cut])
        shorter = select(gate_q[:, :cut], gate_k[:, : -(-cut // 2)], budget, num_keys=cut)
        assert torch.equal(shorter, before[:, :cut])


@pytest.mark.parametrize("beam", [None, 3])
@pytest.mark.parametrize("padding", [torch.nan, torch.inf, 1e3, -1e3])
def test_what_padding_and_sink_blocks_hold_changes_nothing(beam: int | None, padding: float) -> None:
    budget = Budget(block=4, keep=8, sink=1, local=2, beam=beam)
    gate_q, gate_k, start = torch.rand(1, 300, 2, 2, 4), torch.randn(1, 150, 2, 4), torch.tensor([50])
    before = select(gate_q, gate_k, budget, num_keys=300, start=start)
    gate_k[:, :26] = padding
    assert torch.equal(select(gate_q, gate_k, budget, num_keys=300, start=start), before)


@pytest.mark.parametrize("beam", [None, 3])
def test_a_piece_of_queries_selects_as_all_of_them(beam: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(block=2, keep=9, sink=1, local=2, beam=beam)
    gate_q, gate_k, prior = draw(1, 2, 150, 2, 2, 4), draw(2, 2, 75, 2, 4), torch.randint(-1, 75, (2, 150, 2, 5))
    offset = draw(3, 2, 150, 2, 2)
    rule: dict[str, Any] = {"num_keys": 150, "penalty": 1.0}
    once = select(gate_q, gate_k, budget, prior=prior, offset=offset, **rule)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1)
    lengths, blocks_of = [], module._Selection._blocks

    def noted(self: Any, gate_q: torch.Tensor, *rest: Any) -> torch.Tensor:
        lengths.append(gate_q.shape[1])
        return blocks_of(self, gate_q, *rest)

    monkeypatch.setattr(module._Selection, "_blocks", noted)
    assert torch.equal(select(gate_q, gate_k, budget, prior=prior, offset=offset, **rule), once)
    assert lengths == [1] * 150
    last = select(gate_q[:, 140:], gate_k, budget, prior=prior[:, 140:], offset=offset[:, 140:], **rule)
    assert torch.equal(last, once[:, 140:])


@pytest.mark.parametrize("beam", [None, 3])
@pytest.mark.parametrize("is_int8", [False, True])
def test_a_sample_of_queries_selects_as_all_of_them(beam: int | None, is_int8: bool) -> None:
    budget = Budget(block=2, keep=9, sink=1, local=2, beam=beam)
    gate_q, start, offset = draw(1, 2, 150, 2, 2, 4), torch.tensor([0, 31]), draw(3, 2, 150, 2, 2)
    gate_k = exact_keys(2, 2, 75, 2, 4, per_block=2) if is_int8 else draw(2, 2, 75, 2, 4)
    once = select(gate_q, gate_k, budget, num_keys=150, start=start, offset=offset)
    positions = torch.tensor([0, 3, 30, 77, 140, 149])
    rule: dict[str, Any] = {"positions": positions, "num_keys": 150, "start": start}
    sample = select_at(gate_q[:, positions], gate_k, budget, offset=offset[:, positions], **rule)
    assert torch.equal(sample, once[:, positions])


@pytest.mark.parametrize("positions", [[3, 2], [1, 1], [-1, 2], [0, 40], [0]])
def test_positions_that_do_not_ascend_within_the_keys_are_refused(positions: list[int]) -> None:
    with pytest.raises(InputError, match="positions must"):
        select_at(
            torch.zeros(1, 2, 1, 1, 4),
            torch.zeros(1, 10, 1, 4),
            Budget(),
            positions=torch.tensor(positions),
            num_keys=40,
        )


@pytest.mark.parametrize("beam", [None, 3])
def test_left_padding_shifts_by_whole_blocks_and_is_never_scored(beam: int | None) -> None:
    budget = Budget(block=4, keep=8, sink=2, local=2, beam=beam)
    gate_q, gate_k = draw(1, 1, 120, 2, 2, 4), draw(2, 1, 60, 2, 4)
    alone = select(gate_q, gate_k, budget, num_keys=120)
    pad_q, pad_k = torch.full((1, 8, 2, 2, 4), torch.nan), torch.full((1, 4, 2, 4), torch.nan)
    both_q = torch.cat([torch.cat([pad_q, gate_q], 1), torch.cat([gate_q, pad_q], 1)])
    both_k = torch.cat([torch.cat([pad_k, gate_k], 1), torch.cat([gate_k, pad_k], 1)])
    blocks = select(both_q, both_k, budget, num_keys=128, start=torch.tensor([8, 0]))
    assert (blocks[0, :8] == -1).all()
    assert torch.equal(torch.where(blocks[:1, 8:] < 0, -1, blocks[:1, 8:] - 2), alone)
    assert torch.equal(blocks[1:, :120], alone)


@pytest.mark.parametrize("beam", [None, 3])
def test_of_equal_scores_the_later_block_is_kept(beam: int | None) -> None:
    budget = Budget(block=1, keep=5, sink=1, local=1, beam=beam)
    blocks = select(torch.zeros(1, 1, 1, 1, 2), torch.ones(1, 100, 1, 2), budget, num_keys=100)
    assert blocks.flatten().tolist() == [0, 96, 97, 98, 99]


def test_ranks_follow_the_scores_and_then_the_index() -> None:
    scores = torch.tensor([0.0, -0.0, 1e-40, -1e-40, -3.0, torch.inf, -torch.inf, 7.0, 7.0])
    ranks = module._ranks(scores, torch.arange(9))
    assert ranks.argsort().tolist() == [6, 4, 3, 0, 1, 2, 7, 8, 5]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_narrow_beam_finds_a_block_that_stands_out(sign: int) -> None:
    gate_q, gate_k = torch.ones(1, 1, 1, 1, 4), torch.rand(1, 4096, 1, 4)
    gate_k[0, 777] = 5.0
    budget = Budget(block=1, keep=16, beam=3)
    assert 777 in select(sign * gate_q, sign * gate_k, budget, num_keys=4096)


def test_a_narrow_beam_opens_the_groups_of_the_prior() -> None:
    gate_q, gate_k = torch.ones(1, 1, 1, 1, 1), torch.arange(4096.0).view(1, 4096, 1, 1) / 400
    budget = Budget(block=1, keep=16, beam=3)
    prior = torch.tensor([700, 1500]).view(1, 1, 1, 2)
    kept = set(select(gate_q, gate_k, budget, num_keys=4096, prior=prior, penalty=50.0).flatten().tolist())
    assert {700, 1500} <= kept


def test_coverage_keeps_few_blocks_where_the_mass_lies_in_few() -> None:
    gate_q = torch.tensor([20.0, 0.0]).view(1, 2, 1, 1, 1)
    gate_k = torch.full((1, 100, 1, 1), -1.0)
    gate_k[0, 50] = 1.0
    blocks = select(gate_q, gate_k, Budget(block=1, keep=40, sink=1, local=2, coverage=0.9), num_keys=100)
    counts = (blocks >= 0).sum(-1).flatten().tolist()
    assert counts == [3 + 1, 40]
    assert 50 in blocks[0, 0]


def test_full_coverage_is_the_fixed_budget() -> None:
    gate_q, gate_k = torch.randn(1, 300, 1, 2, 4), torch.randn(1, 150, 1, 4)
    blocks = [select(gate_q, gate_k, Budget(block=4, keep=10, coverage=c), num_keys=300) for c in (None, 1.0)]
    assert torch.equal(*blocks)


def test_coverage_holds_where_every_mass_is_tiny() -> None:
    gate_q, gate_k = torch.ones(1, 1, 1, 1, 1), torch.full((1, 50, 1, 1), -500.0)
    blocks = select(gate_q, gate_k, Budget(block=1, keep=50, sink=1, local=1, coverage=0.5), num_keys=50)
    assert int((blocks >= 0).sum()) == 2 + 24


def test_a_large_penalty_confines_the_choice_to_the_prior() -> None:
    gate_q, gate_k = torch.ones(1, 1, 1, 1, 1), torch.arange(100.0).view(1, 100, 1, 1) / 10
    prior = torch.tensor([3, 40, 41, -1]).view(1, 1, 1, 4)
    budget = Budget(block=1, keep=5, sink=1, local=1)
    blocks = select(gate_q, gate_k, budget, num_keys=100, prior=prior, penalty=50.0)
    assert blocks.flatten().tolist() == [0, 3, 40, 41, 99]
    assert select(gate_q, gate_k, budget, num_keys=100, prior=prior).flatten().tolist() == [0, 96, 97, 98, 99]


def test_memory_per_piece_is_bounded() -> None:
    for num_keys in (1000, 100_000):
        for beam in (None, 6):
            gate_k = torch.zeros(1, num_keys // 4, 2, 8)
            work = module._Selection(gate_k, Budget(beam=beam), num_keys, None, None)
            opens = beam is not None and num_keys // 16 > 6 * SPAN
            scored = num_keys // 16 * 2 * 4 + 6 * SPAN * 4 * 2 * 8 if opens else num_keys // 4 * 2 * 4
            assert work.chunk_tokens(3) * scored <= 1.1 * module.CHUNK_ELEMENTS


@pytest.mark.parametrize("beam", [None, 3])
def test_blocks_of_padding_in_every_row_take_no_memory(beam: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    scored, best = [], module._Selection._best

    def counted(self: Any, z: torch.Tensor, *rest: Any) -> torch.Tensor:
        scored.append(z.shape[-1])
        return best(self, z, *rest)

    monkeypatch.setattr(module._Selection, "_best", counted)
    gate_q, gate_k = draw(1, 2, 5, 1, 2, 4), draw(2, 2, 300, 1, 4)
    start = torch.tensor([265, 271])
    select(gate_q, gate_k, Budget(block=1, keep=9, beam=beam), num_keys=300, start=start)
    assert scored == [296 - 266]


def test_the_log_gate_is_zero_on_blocks_that_are_always_kept() -> None:
    budget = Budget(block=4, keep=8, sink=1, local=2)
    gate_q, gate_k, bias = torch.randn(2, 60, 2, 3, 4), torch.randn(2, 30, 2, 4), torch.randn(2)
    start = torch.tensor([0, 9])
    prior = torch.randint(-1, 15, (2, 1, 2, 4))
    gate: dict[str, Any] = {"bias": bias, "prior": prior, "penalty": 0.5}
    blocks = select(gate_q, gate_k, budget, num_keys=60, start=start, **gate)
    log_mass = reference.gate_mask(gate_q, gate_k, budget, num_keys=60, **gate).float()
    found = log_gate(gate_q, gate_k, blocks, budget, num_keys=60, start=start, **gate)
    current = torch.arange(60)[None, :, None, None] // 4
    is_free = (blocks > (start // 4)[:, None, None, None]) & (blocks < current - 1)
    assert is_free.any()
    expected = torch.where(is_free, log_mass.gather(-1, blocks.clamp_min(0).long()), 0.0)
    torch.testing.assert_close(found, expected)


def test_the_log_gate_has_the_right_gradient() -> None:
    budget = Budget(block=4, keep=6, sink=1, local=1)
    gate = [torch.randn(2, 60, 2, 3, 4), torch.randn(2, 30, 2, 4), torch.randn(2)]
    blocks = select(gate[0], gate[1], budget, num_keys=60, bias=gate[2])
    weights = torch.randn(blocks.shape)

    def gradients(total: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        inputs = [tensor.clone().requires_grad_() for tensor in gate]
        return torch.autograd.grad((total(*inputs) * weights).sum(), inputs)

    def ours(gate_q: torch.Tensor, gate_k: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return log_gate(gate_q, gate_k, blocks, budget, num_keys=60, bias=bias)

    def readable(gate_q: torch.Tensor, gate_k: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        log_mass = reference.gate_mask(gate_q, gate_k, budget, num_keys=60, bias=bias)
        is_free = (blocks > 0) & (blocks < torch.arange(60)[None, :, None, None] // 4)
        return torch.where(is_free, log_mass.gather(-1, blocks.clamp_min(0).long()), 0.0)

    torch.testing.assert_close(gradients(ours), gradients(readable))


def test_the_log_gate_of_less_than_a_block_is_zero() -> None:
    blocks = torch.tensor([[[[0, -1, -1, -1, -1]]]], dtype=torch.int32)
    found = log_gate(torch.ones(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 2), blocks, Budget(keep=5), num_keys=9)
    assert found.shape == blocks.shape and not found.any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": 0}, "keep must be at least 5, not 0"),
        ({"keep": 4}, "keep must be at least 5, not 4"),
        ({"block": 0}, "block must be at least 1, not 0"),
        ({"sink": 0}, "sink must be at least 1, not 0"),
        ({"local": 0}, "local must be at least 1, not 0"),
        ({"beam": 5}, "beam must be at least 6 to find 59 blocks, not 5"),
        ({"keep": 5, "beam": 1}, "beam must be at least 2 to find 0 blocks, not 1"),
        ({"keep": 22, "beam": 3}, "beam must be at least 4 to find 17 blocks, not 3"),
        ({"coverage": 0.0}, "coverage must be above 0 and at most 1, not 0.0"),
        ({"coverage": float("nan")}, "coverage must be above 0 and at most 1, not nan"),
    ],
)
def test_a_budget_out_of_bounds_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(**values)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"gate_q": torch.zeros(1, 40, 2, 4)}, InputError, "gate queries must have the shape"),
        ({"gate_q": torch.zeros(2, 40, 2, 1, 4)}, InputError, "differ in batch, groups or width"),
        ({"gate_q": torch.zeros(1, 0, 2, 1, 4)}, InputError, "no size may be 0"),
        ({"gate_q": torch.zeros(1, 41, 2, 1, 4)}, InputError, "nor queries exceed 40 keys"),
        ({"gate_k": torch.zeros(1, 14, 2, 4)}, InputError, "must divide the block of 16"),
        ({"bias": torch.zeros(3)}, InputError, r"bias must have the shape \[2\], not \[3\]"),
        ({"offset": torch.zeros(1, 40, 2)}, InputError, r"the offset must have the shape \[1, 40, 2, 1\], not"),
        ({"offset": torch.zeros(1, 40, 2, 2)}, InputError, r"not \[1, 40, 2, 2\]"),
        ({"start": torch.zeros(2, dtype=torch.int64)}, InputError, "start must be 1 integers"),
        ({"start": torch.zeros(1)}, InputError, "start must be 1 integers, not torch.float32"),
        ({"start": torch.tensor([41])}, InputError, r"start must lie in 0 .. 40, not \[41\]"),
        ({"prior": torch.zeros(1, 3, 2, 4, dtype=torch.int32)}, InputError, "the prior must hold block indices"),
        ({"prior": torch.zeros(1, 1, 2, 4)}, InputError, "not torch.float32"),
        ({"penalty": 1.0}, UsageError, "has no effect without a prior"),
        ({"penalty": -1.0}, UsageError, "penalty must be a finite number of at least 0"),
        ({"penalty": float("nan")}, UsageError, "penalty must be a finite number of at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"gate_q": torch.zeros(1, 40, 2, 1, 4), "gate_k": torch.zeros(1, 10, 2, 4)} | changes
    with pytest.raises(error, match=message):
        select(arguments.pop("gate_q"), arguments.pop("gate_k"), Budget(), num_keys=40, **arguments)


def test_all_padding_keeps_nothing() -> None:
    blocks = select(
        torch.randn(1, 40, 1, 1, 4), torch.randn(1, 40, 1, 4), Budget(), num_keys=40, start=torch.tensor([40])
    )
    assert (blocks == -1).all()


@pytest.mark.parametrize(
    "change", [{"keep": 64.5}, {"block": True}, {"local": "4"}, {"beam": 8.0}, {"coverage": "all"}]
)
def test_what_is_no_whole_number_is_no_budget(change: dict[str, object]) -> None:
    """A plan is read from JSON, where a number may be anything."""
    with pytest.raises(UsageError, match=f"{next(iter(change))} must be"):
        Budget(**change)  # type: ignore[arg-type]
