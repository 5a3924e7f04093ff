import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuili.attention.prior import from_chunk, from_layer, from_step, union
from tuili.attention.select import Budget, select
from tuili.errors import UsageError


def sets(prior: torch.Tensor) -> list[set[int]]:
    return [set(row) - {-1} for row in prior.flatten(0, 2).tolist()]


def test_every_group_gets_what_all_groups_of_the_layer_below_kept() -> None:
    blocks = torch.tensor([[[[0, 3, -1], [0, 7, 9]], [[1, -1, -1], [2, -1, -1]]]], dtype=torch.int32)
    prior = from_layer(blocks, groups=3)
    assert prior.shape[:3] == (1, 2, 3)
    assert sets(prior) == [{0, 3, 7, 9}] * 3 + [{1, 2}] * 3


def test_a_radius_takes_the_neighbours_in() -> None:
    blocks = torch.tensor([[[[0, 4, -1]]]], dtype=torch.int32)
    assert sets(from_layer(blocks, groups=1, radius=1)) == [{0, 1, 3, 4, 5}]
    assert sets(from_step(blocks, radius=2)) == [{0, 1, 2, 3, 4, 5, 6}]
    with pytest.raises(UsageError, match="a radius must be at least 0, not -1"):
        from_step(blocks, radius=-1)


def test_the_step_before_is_the_last_token() -> None:
    blocks = torch.tensor([[[[0, 4]], [[1, 5]]]], dtype=torch.int32)
    assert sets(from_step(blocks)) == [{1, 5}]


def test_the_chunk_before_gives_its_most_frequent_blocks() -> None:
    blocks = torch.tensor([[[[0, 4, 5]], [[0, 4, -1]], [[0, 2, 3]]]], dtype=torch.int32)
    assert sets(from_chunk(blocks, size=2)) == [{0, 4}]
    assert from_chunk(blocks, size=3).tolist() == [[[[0, 4, 5]]]]
    assert from_chunk(blocks, size=9).tolist() == [[[[0, 4, 5, 3, 2, -1, -1, -1, -1]]]]
    assert sets(from_chunk(torch.full_like(blocks, -1), size=2)) == [set()]
    with pytest.raises(UsageError, match="a prior of 0 blocks is too small"):
        from_chunk(blocks, size=0)


@given(seed=st.integers(0, 99), num_queries=st.integers(1, 6), size=st.integers(1, 12))
def test_the_chunks_counts_are_those_of_each_row_and_group(seed: int, num_queries: int, size: int) -> None:
    blocks = torch.randint(-1, 9, (2, num_queries, 3, 4), generator=torch.Generator().manual_seed(seed))
    prior = from_chunk(blocks, size)
    for row in range(2):
        for group in range(3):
            found = blocks[row, :, group].flatten().tolist()
            counts = sorted({(found.count(block), block) for block in found if block >= 0}, reverse=True)[:size]
            assert sets(prior)[row * 3 + group] == {block for _, block in counts}


def test_a_union_holds_all() -> None:
    below = torch.tensor([[[[0, 4]], [[1, 5]]]], dtype=torch.int32)
    before = torch.tensor([[[[8]]]], dtype=torch.int32)
    assert sets(union(below, before)) == [{0, 4, 8}, {1, 5, 8}]


def test_a_prior_carries_a_choice_from_layer_to_layer_and_stays_causal() -> None:
    budget = Budget(block=2, keep=6, sink=1, local=2)
    gate_q, gate_k = torch.randn(1, 60, 2, 1, 4), torch.randn(1, 30, 2, 4)
    below = select(gate_q, gate_k, budget, num_keys=60)
    other_q, other_k = 0.1 * torch.randn(1, 60, 2, 1, 4), 0.1 * torch.randn(1, 30, 2, 4)
    prior = from_layer(below, groups=2)
    kept = select(other_q, other_k, budget, num_keys=60, prior=prior, penalty=9.0)
    outside = [mine - below for mine, below in zip(sets(kept), sets(prior), strict=True)]
    current = [at // 2 for at in range(60) for _ in range(2)]
    assert all(blocks <= {0, at, at - 1} for blocks, at in zip(outside, current, strict=True))
    changed = prior.clone()
    changed[:, 40:] = 1
    again = select(other_q, other_k, budget, num_keys=60, prior=changed, penalty=9.0)
    assert torch.equal(again[:, :40], kept[:, :40])
