from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuili.attention.cache import GatePool
from tuili.attention.gate import Gate
from tuili.attention.pooling import GateKeys, gate_keys, quantize
from tuili.attention.select import Budget, select
from tuili.errors import InputError, UsageError


def grown(k: torch.Tensor, lengths: Sequence[int], block: int, sub: int) -> GatePool:
    pool = GatePool(block, sub)
    for length in lengths:
        pool.grow(k[:, :, :length])
    return pool


def at_once(k: torch.Tensor, block: int, sub: int, w_k: torch.Tensor | None = None) -> GateKeys:
    whole = k[:, :, : k.shape[2] // block * block]
    return quantize(gate_keys(whole, w_k, sub), block // sub, sub)


def check_equal(found: GateKeys, expected: GateKeys) -> None:
    for name in ("values", "scale", "means", "mean_scale"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype and torch.equal(one, other), name
    assert found.sub == expected.sub


@given(
    lengths=st.lists(st.integers(1, 80), min_size=1, max_size=12, unique=True),
    sizes=st.sampled_from([(1, 1), (4, 1), (4, 4), (16, 2), (16, 16), (24, 3)]),
    has_projection=st.booleans(),
)
def test_growing_in_any_steps_is_pooling_at_once_bit_for_bit(
    lengths: list[int], sizes: tuple[int, int], has_projection: bool
) -> None:
    k, w_k = torch.randn(2, 3, 80, 8), torch.randn(3, 8, 8) / 8 if has_projection else None
    k[0, 1, 30:32], k[1, 2, 7] = torch.nan, torch.inf
    pool = GatePool(*sizes)
    for length in sorted(lengths):
        found = pool.grow(k[:, :, :length], w_k)
        expected = at_once(k[:, :, :length], *sizes, w_k)
        if w_k is None:
            check_equal(found, expected)
        else:  # matrix products of other sizes may round otherwise
            torch.testing.assert_close(found.floats(), expected.floats(), atol=2e-2, rtol=0)
    assert pool.num_blocks == max(lengths) // sizes[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_by_token_is_bit_for_bit_the_same(dtype: torch.dtype) -> None:
    k = torch.randn(2, 3, 100, 8).to(dtype)
    pool = grown(k, range(1, 101), 16, 4)
    check_equal(pool.grow(k), at_once(k, 16, 4))


def test_only_whole_blocks_are_pooled() -> None:
    k, pool = torch.randn(1, 2, 40, 8), GatePool(16, 4)
    assert pool.grow(k[:, :, :15]).values.shape == (1, 0, 2, 8)
    assert pool.grow(k).values.shape == (1, 8, 2, 8)


def test_a_step_reads_only_what_is_new() -> None:
    k = torch.randn(1, 1, 48, 8)
    pool = grown(k, [40], 16, 4)
    expected = at_once(k, 16, 4)
    k[:, :, :32] = torch.nan
    check_equal(pool.grow(k), expected)
    k[:] = torch.nan
    check_equal(pool.grow(k), expected)


@pytest.mark.parametrize("length", [0, 1, 8, 30, 31, 32, 37, 90])
def test_cropped_and_grown_again(length: int) -> None:
    k = torch.randn(2, 1, 60, 8)
    pool = grown(k, [37], 8, 4)
    pool.crop(length)
    assert pool.num_blocks == min(length, 37) // 8
    other = torch.cat([k[:, :, : min(length, 37)], torch.randn(2, 1, 20, 8)], dim=2)
    check_equal(pool.grow(other), at_once(other, 8, 4))
    pool.reset()
    assert pool.num_blocks == pool.num_bytes == 0
    check_equal(pool.grow(k[:1]), at_once(k[:1], 8, 4))


@pytest.mark.parametrize("rows", [[1, 0, 2], [2, 2, 0], [1], [0, 0, 1, 1, 2, 2]])
def test_rows_follow_a_beam_search(rows: list[int]) -> None:
    k = torch.randn(3, 2, 40, 8)
    pool = grown(k, [37], 8, 4)
    pool.reorder(torch.tensor(rows))
    poisoned = k[rows]
    poisoned[:, :, :32] = torch.nan
    check_equal(pool.grow(poisoned), at_once(k[rows], 8, 4))


def test_an_empty_pool_has_nothing_to_reorder_or_crop() -> None:
    pool = GatePool(8, 4)
    pool.reorder(torch.tensor([5]))
    pool.crop(0)
    assert pool.num_bytes == 0


def needed(num_rows: int, num_blocks: int, block: int, sub: int, width: int) -> int:
    """Bytes of gate keys and means in int8, and a factor in float32 for each."""
    return num_rows * num_blocks * ((block // sub) * width + 4 + width + 4)


def test_memory_is_reported_and_stays_below_twice_what_is_needed() -> None:
    k = torch.randn(2, 3, 500, 8)
    least = needed(6, 31, 16, 4, 8)
    assert grown(k, [500], 16, 4).num_bytes == grown(k.bfloat16(), [500], 16, 4).num_bytes == least
    assert least <= grown(k, range(1, 501), 16, 4).num_bytes <= 2 * least


def test_a_gate_key_for_each_key_takes_a_byte_where_the_cache_has_eight() -> None:
    k = torch.randn(1, 3, 1600, 64)
    cache_bytes = 2 * k.untyped_storage().nbytes()
    assert grown(k, [1600], 16, 1).num_bytes <= cache_bytes / 8 * (1 + 1 / 16 + 8 / 16 / 64)


def test_steps_seldom_take_new_memory() -> None:
    k, pool = torch.randn(1, 1, 1000, 2), GatePool(4, 4)
    places = {pool.grow(k[:, :, :length]).values.data_ptr() for length in range(4, 1001)}
    assert len(places) <= 9


def test_decoding_from_the_pool_selects_what_prefill_selects() -> None:
    gate, budget = Gate.training_free(6, 2, 8, sub=2), Budget(block=4, keep=7, sink=1, local=2)
    q, k = torch.randn(1, 6, 90, 8), torch.randn(1, 2, 90, 8)
    once = select(gate.queries(q), GatePool(4, 2).grow(k), budget, num_keys=90)
    pool = GatePool(4, 2)
    for begin, end in ((0, 50), (50, 73), *((at, at + 1) for at in range(73, 90))):
        step = select(gate.queries(q[:, :, begin:end]), pool.grow(k[:, :, :end]), budget, num_keys=end)
        assert torch.equal(step, once[:, begin:end])


def test_what_does_not_fit_the_pool_is_refused() -> None:
    pool = grown(torch.zeros(2, 1, 10, 4), [10], 4, 4)
    with pytest.raises(InputError, match="the pool covers 8 keys, the key cache 7"):
        pool.grow(torch.zeros(2, 1, 7, 4))
    for other in (torch.zeros(1, 1, 12, 4), torch.zeros(2, 3, 12, 4), torch.zeros(2, 1, 12, 5)):
        with pytest.raises(InputError, match="can't extend a pool"):
            pool.grow(other)
    with pytest.raises(InputError, match="can't crop a pool to -1 keys"):
        pool.crop(-1)
    for rows in (torch.tensor([2]), torch.tensor([-1]), torch.tensor([[0]]), torch.tensor([0.0])):
        with pytest.raises(InputError, match=r"rows must be a list of indices in 0 \.\. 1, not"):
            pool.reorder(rows)
    for block, sub in ((4, 0), (4, 3), (4, 8)):
        with pytest.raises(UsageError, match=f"a sub-block of {sub} keys must have at least 1 and divide the block"):
            GatePool(block, sub)
