from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuili.attention.cache import GatePool
from tuili.attention.gate import Gate
from tuili.attention.pooling import gate_keys
from tuili.attention.select import Budget, select
from tuili.errors import InputError, UsageError


def grown(k: torch.Tensor, lengths: Sequence[int], sub: int, w_k: torch.Tensor | None = None) -> GatePool:
    pool = GatePool(sub)
    for length in lengths:
        pool.grow(k[:, :, :length], w_k)
    return pool


@given(lengths=st.lists(st.integers(1, 80), min_size=1, max_size=12, unique=True), sub=st.sampled_from([1, 2, 4, 16]))
def test_growing_in_any_steps_is_pooling_at_once(lengths: list[int], sub: int) -> None:
    k, w_k = torch.randn(2, 3, 80, 8), torch.randn(3, 8, 5)
    pool = GatePool(sub)
    for length in sorted(lengths):
        found = pool.grow(k[:, :, :length], w_k)
        torch.testing.assert_close(found, gate_keys(k[:, :, :length], w_k, sub))
    assert pool.num_keys == max(lengths)


def test_token_by_token_is_bit_for_bit_the_same() -> None:
    k = torch.randn(2, 3, 100, 8)
    pool = grown(k, range(1, 101), sub=4)
    assert torch.equal(pool.grow(k), gate_keys(k, None, 4))


def test_a_step_reads_only_what_is_new() -> None:
    k = torch.randn(1, 1, 41, 8)
    pool = grown(k, [40], sub=4)
    expected = gate_keys(k, None, 4)
    k[:, :, :40] = torch.nan
    assert torch.equal(pool.grow(k), expected)


@pytest.mark.parametrize("length", [0, 1, 8, 30, 31, 32, 37])
def test_cropped_and_grown_again(length: int) -> None:
    k = torch.randn(2, 1, 60, 8)
    pool = grown(k, [37], sub=4)
    pool.crop(length)
    other = torch.cat([k[:, :, :length], torch.randn(2, 1, 20, 8)], dim=2)
    assert pool.num_keys == length
    torch.testing.assert_close(pool.grow(other), gate_keys(other, None, 4))
    pool.reset()
    assert pool.num_keys == pool.num_bytes == 0
    torch.testing.assert_close(pool.grow(k[:1]), gate_keys(k[:1], None, 4))


@pytest.mark.parametrize("rows", [[1, 0, 2], [2, 2, 0], [1], [0, 0, 1, 1, 2, 2]])
def test_rows_follow_a_beam_search(rows: list[int]) -> None:
    k = torch.randn(3, 2, 40, 8)
    pool = grown(k, [37], sub=4)
    pool.reorder(torch.tensor(rows))
    torch.testing.assert_close(pool.grow(k[rows]), gate_keys(k[rows], None, 4))


def test_an_empty_pool_has_nothing_to_reorder_or_crop() -> None:
    pool = GatePool(4)
    pool.reorder(torch.tensor([5]))
    pool.crop(0)
    assert pool.num_bytes == 0


def test_memory_is_reported_and_stays_below_twice_what_is_needed() -> None:
    k = torch.randn(2, 3, 500, 8)
    pool = grown(k, range(1, 501), sub=4)
    assert 2 * 125 * 3 * 8 * 4 <= pool.num_bytes <= 2 * (2 * 125 * 3 * 8 * 4)
    half = grown(k.bfloat16(), [500], sub=4)
    assert half.num_bytes == 2 * 125 * 3 * 8 * 2


def test_steps_seldom_take_new_memory() -> None:
    k, pool = torch.randn(1, 1, 1000, 2), GatePool(4)
    places = {pool.grow(k[:, :, :length]).data_ptr() for length in range(1, 1001)}
    assert len(places) <= 9


def test_decoding_from_the_pool_selects_what_prefill_selects() -> None:
    gate, budget = Gate.training_free(6, 2, 8, sub=2), Budget(block=4, keep=7, sink=1, local=2)
    q, k = torch.randn(1, 6, 90, 8), torch.randn(1, 2, 90, 8)
    with torch.no_grad():
        once = select(gate.queries(q), gate.keys(k), budget, num_keys=90)
        pool = GatePool(2)
        for begin, end in ((0, 50), (50, 73), *((at, at + 1) for at in range(73, 90))):
            gate_k = pool.grow(k[:, :, :end], gate.k_proj)
            step = select(gate.queries(q[:, :, begin:end]), gate_k, budget, num_keys=end)
            assert torch.equal(step, once[:, begin:end])


def test_what_does_not_fit_the_pool_is_refused() -> None:
    pool = grown(torch.zeros(2, 1, 10, 4), [10], sub=4)
    with pytest.raises(InputError, match="the pool covers 10 keys, the key cache 9"):
        pool.grow(torch.zeros(2, 1, 9, 4))
    for other in (torch.zeros(1, 1, 12, 4), torch.zeros(2, 1, 12, 4).bfloat16(), torch.zeros(2, 1, 12, 5)):
        with pytest.raises(InputError, match="can't extend a pool"):
            pool.grow(other)
    with pytest.raises(InputError, match="can't crop a pool of 10 keys to 11"):
        pool.crop(11)
    with pytest.raises(InputError, match=r"rows must be a list of indices in 0 \.\. 1, not \[2\]"):
        pool.reorder(torch.tensor([2]))
    with pytest.raises(UsageError, match="a sub-block of 0 keys is too small"):
        GatePool(0)
