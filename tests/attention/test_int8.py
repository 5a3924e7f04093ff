"""Gate keys in int8 and scores relative to what is kept: the compiled kernel against its twin, level by level."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from tuili.attention import kernels, native
from tuili.attention import select as module
from tuili.attention.cache import GatePool
from tuili.attention.offset import kept_log_mass
from tuili.attention.pooling import GateKeys, gate_keys, quantize
from tuili.attention.select import SPAN, Budget, select
from tuili.errors import InputError, UsageError

WIDTHS = [1, 8, 16, 33, 64, 80]
SUBS = [1, 2, 4, 16]
BEAMS = [None, 3, 40]


def whole_steps(*shape: int, reach: int = 127) -> Tensor:
    """Return numbers of at most 127 steps of 1 / 128, the first of each row 127 of them: int8 holds them exactly."""
    steps = torch.randint(-reach, reach + 1, shape).float()
    steps[..., 0] = torch.where(steps[..., 0] < 0, -127.0, 127.0)
    return steps / 128


def exact_keys(num_blocks: int, per_block: int, width: int, sub: int, reach: int) -> GateKeys:
    """Return random gate keys whose factors are powers of two or 0, so that every product is exact in float32."""
    values, means = (
        torch.randint(-reach, reach + 1, (2, size, 2, width), dtype=torch.int8)
        for size in (num_blocks * per_block, num_blocks)
    )
    scale, mean_scale = (torch.randint(-7, -4, (2, num_blocks, 2)).float().exp2() for _ in range(2))
    scale[:, num_blocks // 3] = 0.0
    return GateKeys(values, scale, means, mean_scale, sub)


def int8(k: Tensor, sub: int, block: int = 16) -> GateKeys:
    """Return the gate keys of the whole blocks of keys [B, G, N, d]."""
    return quantize(gate_keys(k[:, :, : k.shape[2] // block * block], None, sub), block // sub, sub)


def nearly_the_same(found: Tensor, expected: Tensor) -> None:
    """Two selections may differ where two scores differ by a rounding."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert (found != expected).any(-1).float().mean() <= 0.002


def rules(num_queries: int, queries: int, num_keys: int) -> Iterator[dict[str, Any]]:
    """Yield arguments that leave every sum exact: none, and a bias, padding and an offset together."""
    yield {}
    yield {
        "bias": torch.randint(-64, 65, (2,)) / 64,
        "start": torch.tensor([num_keys // 2 - 5, 0]),
        "offset": torch.randint(-256, 257, (2, num_queries, 2, queries)) / 64,
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("block", [16, 32])
def test_the_kernel_selects_exactly_what_the_twin_selects(level: int, width: int, block: int) -> None:
    num_keys, reach = 100 * block + 7, 3 if width < 16 else 127  # few values: many equal scores
    sizes = [(1, 1), (45, 3)] if block == 16 else [(33, 6)]
    for sub, beam, (num_queries, queries) in product(SUBS, BEAMS, sizes):
        gate_k = exact_keys(100, block // sub, width, sub, reach)
        gate_q = whole_steps(2, num_queries, 2, queries, width, reach=reach)
        budget = Budget(block=block, keep=19, beam=beam)
        for rule in rules(num_queries, queries, num_keys):
            found = kernels.select_blocks(gate_q, gate_k, budget, num_keys=num_keys, **rule)
            assert torch.equal(found, select(gate_q, gate_k, budget, num_keys=num_keys, **rule))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_the_largest_products_are_not_cut_off(level: int, width: int, sign: int) -> None:
    """All of one sign and nearly all of the largest size: what a narrow sum could not hold decides the choice."""
    values, means = (torch.full((2, size, 2, width), 127, dtype=torch.int8) for size in (400, 100))
    for some in (values, means):
        some -= (torch.rand(some.shape) < 0.1).to(torch.int8)
    gate_k = GateKeys(sign * values, torch.full((2, 100, 2), 2**-7), sign * means, torch.full((2, 100, 2), 2**-7), 4)
    gate_q = torch.full((2, 33, 2, 3, width), 127 / 128)
    gate_q[:, ::2] *= -1
    for beam in BEAMS:
        budget = Budget(keep=19, beam=beam)
        found = kernels.select_blocks(gate_q, gate_k, budget, num_keys=1603)
        assert torch.equal(found, select(gate_q, gate_k, budget, num_keys=1603))


@pytest.mark.parametrize("beam", BEAMS)
def test_tokens_whose_scores_differ_widely(level: int, beam: int | None) -> None:
    """A token's scores tell nothing of the next one's: neither their size nor their sign."""
    gate_k, gate_q = exact_keys(700, 4, 16, 4, 127), whole_steps(2, 90, 2, 3, 16)
    gate_q *= torch.randint(-9, 10, (2, 90, 2, 1, 1)).float().exp2() * (1 - 2 * torch.randint(0, 2, (2, 90, 2, 1, 1)))
    budget = Budget(keep=64, beam=beam if beam != 3 else 8)
    for rule in rules(90, 3, 11207):
        found = kernels.select_blocks(gate_q, gate_k, budget, num_keys=11207, **rule)
        assert torch.equal(found, select(gate_q, gate_k, budget, num_keys=11207, **rule))


@pytest.mark.parametrize("sub", SUBS)
@pytest.mark.parametrize("beam", BEAMS)
def test_with_a_prior_and_coverage(level: int, sub: int, beam: int | None) -> None:
    for block, coverage, prior_tokens in product((16, 32), (None, 0.5), (1, 80)):
        num_keys = 90 * block + 3
        gate_k = int8(torch.randn(2, 2, num_keys, 16), sub, block)
        gate_q = torch.randn(2, 80, 2, 3, 16)
        rule: dict[str, Any] = {
            "num_keys": num_keys,
            "bias": torch.randn(2),
            "start": torch.tensor([0, 20 * block + 3]),
            "offset": torch.randn(2, 80, 2, 3),
            "prior": torch.randint(-1, 95, (2, prior_tokens, 2, 11)),
            "penalty": 1.5,
        }
        budget = Budget(block=block, keep=19, beam=beam, coverage=coverage)
        nearly_the_same(kernels.select_blocks(gate_q, gate_k, budget, **rule), select(gate_q, gate_k, budget, **rule))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_keys", [1, 15, 16, 17, 64, 65, 1000])
def test_lengths_and_dtypes(level: int, num_keys: int, dtype: torch.dtype) -> None:
    gate_q = torch.randn(1, min(num_keys, 70), 2, 2, 20).to(dtype)
    gate_k = int8(torch.randn(1, 2, num_keys, 20).to(dtype), 2)
    for beam in (None, 3):
        budget = Budget(keep=10, beam=beam)
        found = kernels.select_blocks(gate_q, gate_k, budget, num_keys=num_keys)
        nearly_the_same(found, select(gate_q, gate_k, budget, num_keys=num_keys))


def test_gate_queries_that_int8_can_not_hold_are_zeros(level: int) -> None:
    gate_q, gate_k = whole_steps(2, 40, 2, 3, 20), exact_keys(40, 4, 20, 4, 127)
    gate_q[0, 3, 0, 1, 7], gate_q[0, 9, 1, 2, 0], gate_q[1, 30, 1, 0, 19] = torch.nan, torch.inf, -torch.inf
    gate_q[1, 5, 0], gate_q[1, 6, 0] = 1e-40, 0.0
    found = kernels.select_blocks(gate_q, gate_k, Budget(keep=9), num_keys=640)
    assert torch.equal(found, select(gate_q, gate_k, Budget(keep=9), num_keys=640))
    assert torch.equal(found[1, 5, 0], found[1, 6, 0])


@pytest.mark.parametrize("beam", [7, 9, 1000])
@pytest.mark.parametrize("is_int8", [True, False])
def test_a_beam_that_covers_all_groups_is_no_beam(path: str, beam: int, is_int8: bool) -> None:
    keys, gate_q = torch.randn(2, 2, 1600, 16), torch.randn(2, 90, 2, 2, 16)
    gate_k = int8(keys, 4) if is_int8 else gate_keys(keys, None, 4)
    rule: dict[str, Any] = {"num_keys": 1600, "start": torch.tensor([0, 333]), "offset": torch.randn(2, 90, 2, 2)}
    found = kernels.select_blocks(gate_q, gate_k, Budget(keep=30, beam=beam), **rule)
    assert torch.equal(found, kernels.select_blocks(gate_q, gate_k, Budget(keep=30), **rule))


@pytest.mark.parametrize("is_int8", [True, False])
def test_a_beam_scores_no_gate_key_outside_the_groups_it_opens(path: str, is_int8: bool) -> None:
    """The best means decide which 3 of 10 groups are opened; in all others lies what would win if it were scored."""
    beam, best = 3, [1, 4, 9]
    keys = torch.rand(1, 160 * 4, 1, 8) * 0.1
    keys[:, ::4] += 1.0
    is_open = torch.zeros(160, dtype=torch.bool)
    for group in best:
        is_open[group * SPAN + 5] = True
    keys.unflatten(1, (160, 4))[:, is_open] += 2.0
    opened = is_open.unflatten(0, (10, SPAN)).any(1).repeat_interleave(SPAN)
    hidden = keys.clone()
    hidden.unflatten(1, (160, 4))[:, ~opened, 0] += 50.0
    hidden.unflatten(1, (160, 4))[:, ~opened, 1] -= 50.0  # the mean stays
    gate_q = torch.rand(1, 1, 1, 2, 8) + 0.1
    gate_q[..., 1:] = 0.0
    budget = Budget(keep=20, beam=beam)
    kept = [
        kernels.select_blocks(gate_q, quantize(one, 4, 4) if is_int8 else one, budget, num_keys=2560)
        for one in (keys, hidden)
    ]
    assert torch.equal(*kept)
    free = kept[1].flatten().long()[1:-4]
    assert opened[free].all() and set(is_open.nonzero().flatten().tolist()) <= set(free.tolist())
    every = kernels.select_blocks(gate_q, quantize(hidden, 4, 4) if is_int8 else hidden, Budget(keep=20), num_keys=2560)
    assert not opened[every.flatten().long()[1:-4]].any()


def test_with_a_beam_the_number_of_scored_gate_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    score_at = module._Selection.score_at

    def counted(self: Any, gate_q: Tensor, at: Tensor, offset: Tensor | None) -> Tensor:
        scored.append(at.numel() * self.per_block)
        return score_at(self, gate_q, at, offset)

    monkeypatch.setattr(module._Selection, "score_at", counted)
    for num_keys in (1 << 13, 1 << 15, 1 << 17):
        gate_q, keys = torch.randn(1, 4, 1, 1, 2), torch.randn(1, num_keys // 4, 1, 2)
        for gate_k in (keys, quantize(keys, 4, 4)):
            select(gate_q, gate_k, Budget(keep=16, beam=8), num_keys=num_keys)
    assert scored == [4 * 8 * SPAN * 4] * 6


@pytest.mark.parametrize("later", [torch.nan, torch.inf, -torch.inf, 1e4, -1e4])
@pytest.mark.parametrize("beam", [None, 3])
def test_later_keys_change_no_earlier_choice(path: str, later: float, beam: int | None) -> None:
    q, k, v = (torch.randn(1, heads, 1100, 16) for heads in (4, 2, 2))
    budget, gate_q = Budget(keep=9, beam=beam), q.unflatten(1, (2, 2)).permute(0, 3, 1, 2, 4) / 4

    def kept(k: Tensor, end: int) -> tuple[Tensor, Tensor]:
        cut = slice(900, end)
        gate_k = GatePool(16, 2).grow(k[:, :, :end])
        return kernels.gated_attention(
            q[:, :, cut], k[:, :, :end], v[:, :, :end], gate_q[:, cut], gate_k, budget,
            normalize=True, return_blocks=True,
        )  # fmt: skip

    out, before = kept(k, 1100)
    for cut in (901, 911, 912, 1007):
        changed = k.clone()
        changed[:, :, cut:] = later
        changed_out, after = kept(changed, 1100)
        assert torch.equal(after[:, : cut - 900], before[:, : cut - 900])
        torch.testing.assert_close(changed_out[:, :, : cut - 900], out[:, :, : cut - 900], atol=1e-5, rtol=1e-5)
        assert torch.equal(kept(k, cut)[1], before[:, : cut - 900])


@pytest.mark.parametrize("beam", [None, 3])
def test_pieces_and_steps_choose_as_one_call(path: str, beam: int | None) -> None:
    q, k, v = (torch.randn(2, heads, 1040, 16) for heads in (6, 2, 2))
    gate_q, budget = q.unflatten(1, (2, 3)).permute(0, 3, 1, 2, 4) / 4, Budget(keep=9, beam=beam)
    rule: dict[str, Any] = {"normalize": True, "return_blocks": True}
    whole, picked = kernels.gated_attention(q, k, v, gate_q, GatePool(16, 1).grow(k), budget, **rule)
    pool = GatePool(16, 1)
    for begin, end in ((0, 700), (700, 701), (701, 975), *((at, at + 1) for at in range(975, 1040))):
        gate_k = pool.grow(k[:, :, :end])
        piece = q[:, :, begin:end], k[:, :, :end], v[:, :, :end], gate_q[:, begin:end]
        step, blocks = kernels.gated_attention(*piece, gate_k, budget, **rule)
        assert torch.equal(blocks, picked[:, begin:end])
        torch.testing.assert_close(step, whole[:, :, begin:end], atol=1e-5, rtol=1e-5)


class TestNormalized:
    @pytest.mark.parametrize(("per_group", "queries"), [(1, 1), (3, 3), (4, 1), (5, 2), (8, 8)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_fused_is_the_twin(
        self, level: int, monkeypatch: pytest.MonkeyPatch, per_group: int, queries: int, dtype: torch.dtype
    ) -> None:
        for num_keys, num_queries, is_int8 in ((900, 330, True), (900, 330, False), (900, 1, True), (20, 20, True)):
            q, k, v = (torch.randn(2, heads, num_keys, 24).to(dtype) for heads in (2 * per_group, 2, 2))
            q = q[:, :, num_keys - num_queries :] * 2
            gate_q = (torch.randn(2, num_queries, 2, queries, 24) / 3).to(dtype)
            gate_k = int8(k, 4) if is_int8 else gate_keys(k, None, 4)
            call = (q, k, v, gate_q, gate_k, Budget(keep=9, local=2))
            rule: dict[str, Any] = {"normalize": True, "return_blocks": True, "scale": 0.3}
            rule |= {"start": torch.tensor([0, num_keys // 3]), "bias": torch.randn(2)}
            monkeypatch.delenv(native.VARIABLE, raising=False)
            out, blocks = kernels.gated_attention(*call, **rule)
            plain = kernels.gated_attention(*call, **(rule | {"normalize": False}))[1]
            monkeypatch.setenv(native.VARIABLE, "torch")
            expected_out, expected = kernels.gated_attention(*call, **rule)
            assert (blocks != expected).any(-1).float().mean() <= 0.003
            is_same = (blocks == expected).all(-1).all(-1)[:, None, :, None]
            error = ((out - expected_out).float() * is_same).abs().max()
            assert error <= (1e-5 if dtype == torch.float32 else 0.03)
            assert queries == 1 or num_keys == 20 or not torch.equal(plain, blocks)

    def test_it_takes_the_offset_off(self, path: str) -> None:
        q, k, v = (torch.randn(2, heads, 600, 16) for heads in (6, 2, 2))
        gate_q, start = torch.randn(2, 600, 2, 3, 16) / 2, torch.tensor([0, 100])
        gate_k, budget = int8(k, 2), Budget(keep=9)
        found = kernels.gated_attention(
            q, k, v, gate_q, gate_k, budget, normalize=True, start=start, scale=0.4, return_blocks=True
        )[1]
        offset = kept_log_mass(q, k, torch.arange(600), budget, scale=0.4, num_gate_queries=3, start=start)
        nearly_the_same(found, select(gate_q, gate_k, budget, num_keys=600, offset=offset, start=start))

    def test_more_gate_queries_than_heads_are_refused(self, path: str) -> None:
        q, k, v = (torch.randn(1, 2, 40, 16) for _ in range(3))
        gate_q, gate_k = torch.randn(1, 40, 2, 2, 16), int8(k, 4)
        with pytest.raises(InputError, match="2 gate queries for 1 heads a group"):
            kernels.gated_attention(q, k, v, gate_q, gate_k, Budget(), normalize=True)


class TestBadInput:
    def call(self, path: str, **changes: Any) -> None:
        parts = {"values": (2, 40, 2, 8), "scale": (2, 10, 2), "means": (2, 10, 2, 8), "mean_scale": (2, 10, 2)}
        dtypes = {"values": torch.int8, "means": torch.int8}
        tensors = {name: torch.zeros(shape, dtype=dtypes.get(name)) for name, shape in parts.items()}
        gate_k = GateKeys(**(tensors | {"sub": 4} | changes))
        kernels.select_blocks(torch.zeros(2, 3, 2, 1, 8), gate_k, Budget(), num_keys=167)

    def test_the_arguments_are_good(self, path: str) -> None:
        self.call(path)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"sub": 0}, "one for 0 keys, are not those of the 10 whole blocks of 16 in 167 keys"),
            ({"sub": 3}, "one for 3 keys, are not those"),
            ({"sub": 2}, "one for 2 keys, are not those"),
            ({"values": torch.zeros(2, 44, 2, 8, dtype=torch.int8)}, r"gate keys \[2, 44, 2, 8\]"),
            ({"values": torch.zeros((), dtype=torch.int8)}, r"gate keys \[\]"),
            ({"scale": torch.zeros(2, 11, 2)}, r"factors \[2, 11, 2\]"),
            ({"means": torch.zeros(2, 9, 2, 8, dtype=torch.int8)}, r"means \[2, 9, 2, 8\]"),
            ({"means": torch.zeros(2, 10, 2, 4, dtype=torch.int8)}, r"means \[2, 10, 2, 4\]"),
            ({"mean_scale": torch.zeros(2, 10)}, r"factors \[2, 10\]"),
            ({"values": torch.zeros(2, 40, 2, 8)}, "must be int8 with float32 factors, not torch.float32"),
            ({"means": torch.zeros(2, 10, 2, 8)}, "must be int8 with float32 factors"),
            ({"mean_scale": torch.zeros(2, 10, 2).double()}, "must be int8 with float32 factors"),
        ],
    )
    def test_gate_keys_that_do_not_fit_are_refused(self, path: str, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(InputError, match=said):
            self.call(path, **changes)

    def test_a_log_gate_of_int8_keys_is_refused(self, path: str) -> None:
        q, k, v = (torch.randn(1, 2, 40, 16) for _ in range(3))
        gate_k = int8(k, 4)
        with pytest.raises(UsageError, match="int8 have no gradient"):
            kernels.gated_attention(q, k, v, q.transpose(1, 2)[:, :, :, None], gate_k, Budget(), log_gate=True)
