import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tuili.attention import kernels, twin
from tuili.attention.select import Budget, select
from tuili.errors import InputError, UsageError

LENGTHS = [1, 15, 16, 17, 31, 64, 65, 1000, 2000]
HEADS = [(1, 1), (3, 3), (1, 8), (8, 1), (2, 5), (1, 7)]


def inputs(num_keys: int, groups: int, per_group: int, dim: int, **other: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return random queries, keys and values, in the memory order that a model has: token before head."""
    batch, num_queries = other.get("batch", 2), other.get("num_queries", num_keys)
    shapes = ((num_queries, groups * per_group), (num_keys, groups), (num_keys, groups))
    q, k, v = (
        torch.randn(batch, *shape, dim).transpose(1, 2).to(other.get("dtype", torch.float32)) for shape in shapes
    )
    return q, k, v


def gate(q: Tensor, k: Tensor, queries: int = 2, width: int = 20, sub: int = 4) -> tuple[Tensor, Tensor]:
    gate_q = torch.randn(q.shape[0], q.shape[2], k.shape[1], queries, width)
    return gate_q, torch.randn(q.shape[0], -(-k.shape[2] // sub), k.shape[1], width)


def random_blocks(q: Tensor, k: Tensor, keep: int, block: int) -> Tensor:
    """Return random ascending picks; later blocks than the token's own among them, and unused places."""
    num_blocks = -(-k.shape[2] // block)
    shape = (q.shape[0], q.shape[2], k.shape[1])
    kept = torch.rand(*shape, num_blocks).argsort(-1)[..., :keep].sort(-1).values
    kept = torch.nn.functional.pad(kept, (0, keep - kept.shape[-1]), value=-1)
    unused = torch.randint(0, keep + 1, shape)[..., None] <= torch.arange(keep)
    return kept.masked_fill(unused, -1).to(torch.int32)


def dense(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, block: int, start: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attention key by key under a dense mask, in float64."""
    heads, num_queries, dim = q.shape[1:]
    num_keys, per_group = k.shape[2], heads // k.shape[1]
    is_picked = (blocks.long()[..., None] == torch.arange(num_keys) // block).any(3)  # [B, T, G, N]
    is_past = torch.arange(num_keys) <= torch.arange(num_keys - num_queries, num_keys)[:, None]
    is_read = is_picked & is_past[:, None]
    if start is not None:
        is_read &= torch.arange(num_keys) >= start[:, None, None, None]
    is_read = is_read.transpose(1, 2).repeat_interleave(per_group, dim=1)
    k, v = (x.double().repeat_interleave(per_group, dim=1) for x in (k, v))
    scores = (q.double() @ k.transpose(-1, -2) * (scale or dim**-0.5)).masked_fill(~is_read, -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ v


def close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 in float32, 0.5 % of the root mean square in bfloat16; never NaN."""
    assert found.isfinite().all()
    if found.dtype == torch.bfloat16:
        error = (found.double() - expected).pow(2).mean().sqrt()
        assert error <= 0.005 * expected.pow(2).mean().sqrt()
    else:
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
class TestWindowAttention:
    @pytest.mark.parametrize(
        ("num_keys", "num_queries", "window", "sink"),
        [
            *((1, 1, 1, 0), (100, 100, 7, 0), (100, 40, 33, 5), (300, 300, 64, 20), (50, 50, 200, 3)),
            *((333, 1, 40, 17), (64, 64, 1, 0), (200, 200, 16, 16), (200, 150, 50, 170), (90, 90, 90, 90)),
        ],
    )
    def test_equals_dense_attention_under_a_mask(
        self, level: int, num_keys: int, num_queries: int, window: int, sink: int, dtype: torch.dtype
    ) -> None:
        q, k, v = inputs(num_keys, 2, 3, 24, num_queries=num_queries, dtype=dtype)
        at, key = torch.arange(num_keys - num_queries, num_keys)[:, None], torch.arange(num_keys)
        mask = (key <= at) & ((key > at - window) | (key < sink))
        wide = [x.double() for x in (q, k, v)]
        expected = scaled_dot_product_attention(*wide, mask, scale=0.2, enable_gqa=True)
        close(kernels.window_attention(q, k, v, window=window, sink=sink, scale=0.2), expected)

    @pytest.mark.parametrize("sizes", [{"window": 0}, {"window": -1}, {"window": 4, "sink": -1}])
    def test_a_window_without_keys_is_refused(self, level: int, dtype: torch.dtype, sizes: dict[str, int]) -> None:
        with pytest.raises(UsageError, match="a window must hold at least 1 key"):
            kernels.window_attention(*inputs(8, 1, 1, 8, dtype=dtype), **sizes)

    def test_what_is_not_compiled_is_refused(self, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
        q, k, v = inputs(8, 1, 1, 8, dtype=dtype)
        with pytest.raises(UsageError, match="so no window"):
            kernels.window_attention(q.detach().requires_grad_(), k, v, window=4)
        monkeypatch.setenv("TUILI_KERNEL", "torch")
        assert not kernels.is_compiled(q, k, v)
        with pytest.raises(UsageError, match=r"TUILI_KERNEL is torch; .* so no window"):
            kernels.window_attention(q, k, v, window=4)


class TestSparseAttention:
    @pytest.mark.parametrize("num_keys", LENGTHS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_equals_dense_attention_under_a_mask(self, path: str, num_keys: int, dtype: torch.dtype) -> None:
        q, k, v = inputs(num_keys, 1, 3, 64, num_queries=min(num_keys, 300), dtype=dtype)
        blocks = random_blocks(q, k, 7, 16)
        close(kernels.sparse_attention(q, k, v, blocks, block=16), dense(q, k, v, blocks, 16))

    @pytest.mark.parametrize(("groups", "per_group"), HEADS)
    @pytest.mark.parametrize("dim", [1, 24, 32, 64, 80, 96, 128])
    def test_heads_and_widths(self, path: str, groups: int, per_group: int, dim: int) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            q, k, v = inputs(77, groups, per_group, dim, num_queries=39, dtype=dtype)
            blocks = random_blocks(q, k, 3, 16)
            close(kernels.sparse_attention(q, k, v, blocks, block=16), dense(q, k, v, blocks, 16))

    @pytest.mark.parametrize("per_group", [1, 5, 16, 18])
    @pytest.mark.parametrize("step", [0.125, 2, 64])
    def test_scores_that_grow_with_every_block(self, level: int, per_group: int, step: float) -> None:
        """The largest score of a token comes last, so that what was added up before it has to shrink."""
        for dtype in (torch.float32, torch.bfloat16):
            q, k, v = inputs(1200, 1, per_group, 16, num_queries=70, dtype=dtype)
            q[...], k[..., 0] = torch.eye(16)[0], torch.arange(1200) // 16 * step
            blocks = random_blocks(q, k, 60, 16)
            found = kernels.sparse_attention(q, k, v, blocks, block=16, scale=1.0)
            close(found, dense(q, k, v, blocks, 16, scale=1.0))

    @pytest.mark.parametrize("block", [1, 8, 16, 24, 32, 64])
    def test_block_sizes(self, path: str, block: int) -> None:
        q, k, v = inputs(150, 2, 2, 32)
        blocks = random_blocks(q, k, 4, block)
        close(kernels.sparse_attention(q, k, v, blocks, block=block), dense(q, k, v, blocks, block))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_padding_is_not_read(self, path: str, dtype: torch.dtype) -> None:
        q, k, v = inputs(100, 2, 3, 32, batch=5, dtype=dtype)
        start = torch.tensor([0, 1, 16, 55, 100])
        for row, first in enumerate(start.tolist()):
            k[row, :, :first] = v[row, :, :first] = 0
        blocks = random_blocks(q, k, 5, 16)
        expected = dense(q, k, v, blocks, 16, start)
        for row, first in enumerate(start.tolist()):
            k[row, :, :first] = v[row, :, :first] = torch.nan
        found = kernels.sparse_attention(q, k, v, blocks, block=16, start=start)
        close(found, expected)
        assert not found[4].any()

    def test_all_blocks_are_dense_attention(self, path: str) -> None:
        q, k, v = inputs(200, 2, 3, 64)
        blocks = torch.arange(13).expand(2, 200, 2, 13)
        expected = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        close(kernels.sparse_attention(q, k, v, blocks, block=16), expected.double())

    def test_the_future_changes_nothing(self, path: str) -> None:
        q, k, v = inputs(96, 1, 2, 16)
        blocks = random_blocks(q, k, 6, 16)
        before = kernels.sparse_attention(q, k, v, blocks, block=16)
        k[:, :, 50:], v[:, :, 50:] = 1e4, -1e4
        after = kernels.sparse_attention(q, k, v, blocks, block=16)
        assert torch.equal(before[:, :, :50], after[:, :, :50])

    def test_what_was_not_picked_is_not_even_read(self, path: str) -> None:
        """A mask over all keys would let the NaN of an unpicked one through: 0 times NaN."""
        q, k, v = inputs(1000, 2, 3, 16, num_queries=300)
        blocks = torch.tensor([0, 3, 20], dtype=torch.int32).expand(2, 300, 2, 3).contiguous()
        expected = kernels.sparse_attention(q, k, v, blocks, block=16)
        is_read = torch.isin(torch.arange(1000) // 16, blocks[0, 0, 0])
        k, v = (x.masked_fill(~is_read[:, None], torch.nan) for x in (k, v))
        assert torch.equal(kernels.sparse_attention(q, k, v, blocks, block=16), expected)

    def test_any_memory_order(self, path: str) -> None:
        q, k, v = inputs(90, 2, 2, 32)
        blocks = random_blocks(q, k, 4, 16)
        expected = kernels.sparse_attention(q, k, v, blocks, block=16)
        for order in ((0, 1, 2, 3), (3, 1, 0, 2), (1, 3, 2, 0)):
            back = [order.index(i) for i in range(4)]
            moved = [x.permute(order).contiguous().permute(back) for x in (q, k, v)]
            assert torch.equal(kernels.sparse_attention(*moved, blocks, block=16), expected)

    def test_large_scores_do_not_overflow(self, path: str) -> None:
        q, k, v = inputs(64, 1, 2, 32)
        blocks = random_blocks(q, k, 4, 16)
        close(kernels.sparse_attention(q * 300, k * 300, v, blocks, block=16), dense(q * 300, k * 300, v, blocks, 16))

    def test_a_scale(self, path: str) -> None:
        q, k, v = inputs(64, 1, 2, 32)
        blocks = random_blocks(q, k, 4, 16)
        close(kernels.sparse_attention(q, k, v, blocks, block=16, scale=0.5), dense(q, k, v, blocks, 16, scale=0.5))

    def test_no_queries_and_no_places(self, path: str) -> None:
        q, k, v = inputs(20, 1, 2, 32)
        assert not kernels.sparse_attention(q, k, v, torch.empty(2, 20, 1, 0, dtype=torch.int32), block=16).any()
        none = torch.empty(2, 0, 1, 3, dtype=torch.int32)
        assert kernels.sparse_attention(q[:, :, :0], k, v, none, block=16).shape == (2, 2, 0, 32)

    def test_any_number_of_threads_gives_the_same_bits(self, path: str) -> None:
        q, k, v = inputs(300, 2, 3, 64)
        blocks = random_blocks(q, k, 9, 16)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            one = kernels.sparse_attention(q, k, v, blocks, block=16)
            torch.set_num_threads(2)
            two = kernels.sparse_attention(q, k, v, blocks, block=16)
        finally:
            torch.set_num_threads(before)
        assert path in ("torch", "gathered") or torch.equal(one, two)
        torch.testing.assert_close(one, two)

    def test_float64_runs_too(self, path: str) -> None:
        q, k, v = (x.double() for x in inputs(50, 1, 2, 8))
        blocks = random_blocks(q, k, 3, 16)
        torch.testing.assert_close(kernels.sparse_attention(q, k, v, blocks, block=16), dense(q, k, v, blocks, 16))


class TestGradients:
    @pytest.mark.parametrize("factor", [0, 16])
    def test_of_queries_keys_and_values(self, monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
        q, k, v = (x.double().requires_grad_() for x in inputs(11, 2, 2, 2, batch=2, num_queries=5))
        blocks, start = random_blocks(q, k, 2, 4), torch.tensor([0, 8])
        monkeypatch.setattr(twin, "PIECE_ELEMENTS", 200)
        monkeypatch.setattr(twin, "DENSE_FACTOR", factor)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return kernels.sparse_attention(q, k, v, blocks, block=4, start=start)

        assert torch.autograd.gradcheck(attend, (q, k, v))

    @pytest.mark.parametrize("factor", [0, 16])
    def test_of_the_gate(self, monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
        monkeypatch.setattr(twin, "DENSE_FACTOR", factor)
        q, k, v = (x.double() for x in inputs(60, 2, 2, 4, batch=1, num_queries=10))
        gate_q, gate_k = (x.requires_grad_() for x in gate(q, k, width=6, sub=2))
        bias = torch.randn(2, requires_grad=True)
        budget = Budget(block=4, keep=8)
        out = kernels.gated_attention(q, k, v, gate_q, gate_k, budget, bias=bias, log_gate=True)
        assert isinstance(out, Tensor)
        out.pow(2).sum().backward()
        assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (gate_q, gate_k, bias))

    @pytest.mark.parametrize("factor", [0, 16])
    def test_the_same_as_dense_attention_under_a_mask(self, monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
        monkeypatch.setattr(twin, "DENSE_FACTOR", factor)
        q, k, v = (x.requires_grad_() for x in inputs(130, 2, 3, 16))
        blocks, weight = random_blocks(q, k, 4, 16), torch.randn(2, 6, 130, 16)
        found = torch.autograd.grad((kernels.sparse_attention(q, k, v, blocks, block=16) * weight).sum(), (q, k, v))
        expected = torch.autograd.grad((dense(q, k, v, blocks, 16) * weight).sum(), (q, k, v))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def nearly_the_same(found: Tensor, expected: Tensor) -> None:
    """Two selections may differ where two scores differ by a rounding."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert (found != expected).any(-1).float().mean() <= 0.002


BUDGETS = [
    Budget(keep=12),
    Budget(keep=9, sink=3, local=6),
    Budget(keep=20, coverage=0.4),
    Budget(keep=8, beam=3),
    Budget(keep=30, beam=4, coverage=0.9),
    Budget(keep=12, beam=8),
    Budget(block=32, keep=10),
    Budget(block=8, keep=10),
]


class TestSelectBlocks:
    @pytest.mark.parametrize("budget", BUDGETS, ids=repr)
    @pytest.mark.parametrize("sub", [2, 8])
    def test_is_the_selection_of_pytorch(self, path: str, budget: Budget, sub: int) -> None:
        q, k, _ = inputs(1300, 2, 1, 1, num_queries=900)
        gate_q, gate_k = gate(q, k, queries=3, sub=sub)
        rule: dict[str, Any] = {"num_keys": 1300, "bias": torch.randn(2), "start": torch.tensor([0, 437])}
        nearly_the_same(kernels.select_blocks(gate_q, gate_k, budget, **rule), select(gate_q, gate_k, budget, **rule))

    @pytest.mark.parametrize("budget", BUDGETS, ids=repr)
    @pytest.mark.parametrize("prior_tokens", [1, 150])
    def test_with_a_prior(self, path: str, budget: Budget, prior_tokens: int) -> None:
        q, k, _ = inputs(900, 2, 1, 1, num_queries=150)
        gate_q, gate_k = gate(q, k)
        prior = torch.randint(-1, 70, (2, prior_tokens, 2, 11))
        rule: dict[str, Any] = {"num_keys": 900, "prior": prior, "penalty": 1.5}
        nearly_the_same(kernels.select_blocks(gate_q, gate_k, budget, **rule), select(gate_q, gate_k, budget, **rule))

    @pytest.mark.parametrize("queries", range(1, 10))
    @pytest.mark.parametrize("width", [1, 16, 33])
    def test_gate_queries_and_widths(self, path: str, queries: int, width: int) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            q, k, _ = inputs(500, 1, 1, 1, num_queries=40)
            gate_q, gate_k = (x.to(dtype) for x in gate(q, k, queries, width))
            found = kernels.select_blocks(gate_q, gate_k, Budget(keep=10), num_keys=500)
            nearly_the_same(found, select(gate_q, gate_k, Budget(keep=10), num_keys=500))

    @pytest.mark.parametrize("num_keys", LENGTHS)
    @pytest.mark.parametrize("beam", [None, 3])
    def test_lengths(self, path: str, num_keys: int, beam: int | None) -> None:
        q, k, _ = inputs(num_keys, 1, 1, 1, num_queries=min(num_keys, 200))
        gate_q, gate_k = gate(q, k)
        budget = Budget(keep=10, beam=beam)
        found = kernels.select_blocks(gate_q, gate_k, budget, num_keys=num_keys)
        nearly_the_same(found, select(gate_q, gate_k, budget, num_keys=num_keys))

    def test_of_equal_scores_the_later_blocks(self, path: str) -> None:
        gate_q, gate_k = torch.ones(1, 400, 1, 1, 4), torch.ones(1, 25, 1, 4)
        gate_k[:, 3] = 2
        for budget in (Budget(keep=9), Budget(keep=9, beam=3)):
            found = kernels.select_blocks(gate_q, gate_k, budget, num_keys=400)[0, -1, 0]
            assert found.tolist() == [0, 3, 18, 19, 20, 21, 22, 23, 24]

    def test_of_equal_groups_the_later_are_opened(self, path: str) -> None:
        gate_q, gate_k = torch.ones(1, 1, 1, 1, 4), torch.ones(1, 100, 1, 4)
        gate_k[:, 3] = 2
        found = kernels.select_blocks(gate_q, gate_k, Budget(keep=9, beam=3), num_keys=1600).flatten()
        assert found.tolist() == [0, 3, 93, 94, 95, 96, 97, 98, 99]

    def test_zeros_of_either_sign_are_equal(self, path: str) -> None:
        gate_q, gate_k = torch.ones(1, 1, 1, 1, 4), torch.zeros(1, 25, 1, 4)
        gate_k[:, 1:10] = -0.0
        found = kernels.select_blocks(gate_q, gate_k, Budget(keep=7), num_keys=400)
        assert found.flatten().tolist() == [0, 19, 20, 21, 22, 23, 24]

    def test_without_room_for_candidates(self, path: str) -> None:
        gate_q, gate_k = torch.randn(1, 200, 1, 1, 4), torch.randn(1, 13, 1, 4)
        found = kernels.select_blocks(gate_q, gate_k, Budget(keep=5), num_keys=200)
        assert found[0, -1, 0].tolist() == [0, 9, 10, 11, 12]


class TestGatedAttention:
    @pytest.mark.parametrize("num_keys", LENGTHS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_is_selection_then_attention(self, path: str, num_keys: int, dtype: torch.dtype) -> None:
        q, k, v = inputs(num_keys, 2, 3, 32, num_queries=min(num_keys, 200), dtype=dtype)
        gate_q, gate_k = (x.to(dtype) for x in gate(q, k))
        start = torch.tensor([0, num_keys * 2 // 3])
        budget = Budget(keep=8)
        out, blocks = kernels.gated_attention(q, k, v, gate_q, gate_k, budget, start=start, return_blocks=True)
        nearly_the_same(blocks, select(gate_q, gate_k, budget, num_keys=num_keys, start=start))
        close(out, dense(q, k, v, blocks, 16, start))
        assert torch.equal(kernels.gated_attention(q, k, v, gate_q, gate_k, budget, start=start), out)

    @pytest.mark.parametrize("beam", [None, 6])
    @pytest.mark.parametrize("normalize", [False, True])
    def test_a_budget_for_all_blocks_is_dense_attention(self, path: str, beam: int | None, normalize: bool) -> None:
        q, k, v = inputs(333, 1, 3, 64)
        found = kernels.gated_attention(q, k, v, *gate(q, k), Budget(beam=beam), normalize=normalize)
        close(found, scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).double())

    def test_tokens_one_by_one_or_in_chunks(self, path: str) -> None:
        q, k, v = inputs(330, 2, 3, 32)
        gate_q, gate_k = gate(q, k)
        budget = Budget(keep=9)
        whole, picked = kernels.gated_attention(q, k, v, gate_q, gate_k, budget, return_blocks=True)
        for begin, end in ((0, 100), (100, 101), (101, 330), (329, 330)):
            step, blocks = kernels.gated_attention(
                q[:, :, begin:end], k[:, :, :end], v[:, :, :end], gate_q[:, begin:end], gate_k[:, : -(-end // 4)],
                budget, return_blocks=True,
            )  # fmt: skip
            assert torch.equal(blocks, picked[:, begin:end])
            torch.testing.assert_close(step, whole[:, :, begin:end], atol=1e-5, rtol=1e-5)

    def test_a_gate_of_another_dtype(self, path: str) -> None:
        q, k, v = inputs(200, 1, 2, 32, dtype=torch.bfloat16)
        for dtype in (torch.float32, torch.float64):
            gate_q, gate_k = (x.to(dtype) for x in gate(q, k))
            out, blocks = kernels.gated_attention(q, k, v, gate_q, gate_k, Budget(keep=7), return_blocks=True)
            close(out, dense(q, k, v, blocks, 16))

    def test_rows_with_and_without_a_log_gate(self, path: str) -> None:
        q, k, v = inputs(200, 1, 2, 32)
        gate_q, gate_k = gate(q, k)
        plain, blocks = kernels.gated_attention(q, k, v, gate_q, gate_k, Budget(keep=7), return_blocks=True)
        gated, same = kernels.gated_attention(
            q, k, v, gate_q, gate_k, Budget(keep=7), return_blocks=True, log_gate=True
        )
        assert torch.equal(blocks, same)
        torch.testing.assert_close(plain[:, :, :80], gated[:, :, :80])  # sink and local blocks only
        assert not torch.allclose(plain[:, :, 112:], gated[:, :, 112:])


class TestBadInput:
    def arguments(self) -> dict[str, Any]:
        q, k, v = inputs(40, 2, 2, 16)
        return {"q": q, "k": k, "v": v, "blocks": random_blocks(q, k, 2, 16), "block": 16}

    def test_the_arguments_are_good(self, path: str) -> None:
        kernels.sparse_attention(**self.arguments())

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda a: {"k": a["k"].bfloat16()}, "one dtype"),
            (lambda a: {n: a[n].long() for n in "qkv"}, "must be floats"),
            (lambda a: {"k": a["k"].to("meta")}, "one device"),
            (lambda a: {"v": a["v"][:, :, 1:]}, "must have the shape"),
            (lambda a: {"q": a["q"][0]}, "must have the shape"),
            (lambda a: {"q": a["q"][:, :3]}, "no multiple of the groups"),
            (lambda a: {"q": a["q"][..., :8]}, "differ in batch or width"),
            (lambda a: {"k": a["k"][:, :, :9], "v": a["v"][:, :, :9]}, "40 queries of width 16 among 9 keys"),
            (lambda a: {"blocks": a["blocks"] + 3}, "must lie in -1 .. 2"),
            (lambda a: {"blocks": a["blocks"] - 3}, "must lie in -1 .. 2"),
            (lambda a: {"blocks": torch.zeros_like(a["blocks"])}, "ascending without repeats"),
            (lambda a: {"blocks": a["blocks"].float()}, "must be int32 or int64"),
            (lambda a: {"blocks": a["blocks"][:, 1:]}, "must have the shape"),
            (lambda a: {"start": torch.tensor([0, 41])}, "start must lie in 0 .. 40"),
            (lambda a: {"start": torch.tensor([0])}, "start must be 2 integers"),
        ],
    )
    def test_is_refused(self, path: str, change: Any, said: str) -> None:
        arguments = self.arguments()
        with pytest.raises(InputError, match=said):
            kernels.sparse_attention(**(arguments | change(arguments)))

    @pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
    def test_scales_out_of_bounds(self, path: str, scale: float) -> None:
        with pytest.raises(UsageError, match="scale must be"):
            kernels.sparse_attention(**self.arguments(), scale=scale)

    def test_blocks_without_keys(self, path: str) -> None:
        with pytest.raises(UsageError, match="at least 1 key"):
            kernels.sparse_attention(**(self.arguments() | {"block": 0}))

    def test_a_gate_for_other_queries(self, path: str) -> None:
        q, k, v = inputs(40, 2, 2, 16)
        gate_q, gate_k = gate(q, k)
        with pytest.raises(InputError, match="like the queries"):
            kernels.gated_attention(q, k, v, gate_q[:, 1:], gate_k, Budget())


@pytest.mark.parametrize(("device", "dtype", "block", "told"), [
    ("cuda", torch.bfloat16, 16, "FlexAttention"), ("mps", torch.float32, 16, "no kernel for mps"),
    ("cpu", torch.float16, 16, "twin: the compiled kernel has no float16"),
    ("cpu", torch.float32, 24, "twin: the compiled kernel takes blocks of a multiple of 16 keys, not 24"),
])  # fmt: skip
def test_which_kernel_runs_is_told(device: str, dtype: torch.dtype, block: int, told: str) -> None:
    assert told in kernels.runs_on(torch.device(device), dtype, block)
    assert kernels.runs_on(torch.device("cpu"), torch.float32, 32) == kernels.available()
