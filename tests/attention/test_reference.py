import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuili.attention.pooling import gate_keys
from tuili.attention.reference import attend, gate_mask, kept_blocks, kept_keys
from tuili.attention.select import Budget, select


def as_key_mask(blocks: torch.Tensor, block: int, num_keys: int) -> torch.Tensor:
    """Return the keys [B, T, G, N] that lie in the kept blocks and are not later than the token."""
    is_in = (blocks[..., None] == torch.arange(num_keys) // block).any(-2)
    positions = torch.arange(num_keys - blocks.shape[1], num_keys)
    return is_in & (torch.arange(num_keys) <= positions[:, None, None])


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    num_queries, num_keys = q.shape[2], k.shape[2]
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def identity_gate(q: torch.Tensor, groups: int) -> torch.Tensor:
    """Return q [B, H, T, d] as gate queries [B, T, G, R, d]."""
    return q.transpose(1, 2).unflatten(2, (groups, -1)) * q.shape[-1] ** -0.5


@pytest.mark.parametrize("num_keys", [1, 15, 16, 17, 64, 65, 200])
@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (6, 2), (8, 1)])
def test_a_budget_of_all_blocks_is_dense_attention(num_keys: int, heads: int, groups: int) -> None:
    q = torch.randn(2, heads, num_keys, 8)
    k, v = torch.randn(2, groups, num_keys, 8), torch.randn(2, groups, num_keys, 8)
    budget = Budget(keep=max(5, -(-num_keys // 16)))
    log_mass = gate_mask(identity_gate(q, groups), gate_keys(k, None, 4), budget, num_keys=num_keys)
    out = attend(q, k, v, kept_keys(log_mass, budget, num_keys=num_keys))
    torch.testing.assert_close(out, dense(q, k, v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_keys", [17, 65, 300])
@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (6, 2), (8, 1)])
def test_dense_attention_under_the_selected_blocks_is_the_reference(num_keys: int, heads: int, groups: int) -> None:
    q = torch.randn(2, heads, num_keys, 8)
    k, v = torch.randn(2, groups, num_keys, 8), torch.randn(2, groups, num_keys, 8)
    budget = Budget(keep=7)
    gate_q, gate_k = identity_gate(q, groups), gate_keys(k, None, 4)
    kept = kept_keys(gate_mask(gate_q, gate_k, budget, num_keys=num_keys), budget, num_keys=num_keys)
    mask = as_key_mask(select(gate_q, gate_k, budget, num_keys=num_keys), 16, num_keys)
    assert torch.equal(mask, kept)
    heads_mask = mask.transpose(1, 2).repeat_interleave(heads // groups, dim=1)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=heads_mask, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v, kept), expected, atol=1e-5, rtol=1e-5)


@given(
    num_keys=st.integers(1, 40),
    position=st.integers(0, 39),
    first_key=st.integers(0, 39),
    keep=st.integers(3, 9),
    coverage=st.sampled_from([None, 0.2, 1.0]),
    seed=st.integers(0, 99),
)
def test_a_token_keeps_its_block_and_nothing_of_the_future(
    num_keys: int, position: int, first_key: int, keep: int, coverage: float | None, seed: int
) -> None:
    log_mass = torch.randn(40, generator=torch.Generator().manual_seed(seed)).tolist()
    budget = Budget(block=3, keep=keep, sink=1, local=2, coverage=coverage)
    kept = kept_blocks(log_mass, budget, position, first_key)
    if position < first_key:
        assert kept == []
        return
    assert kept == sorted(set(kept)) and len(kept) <= keep
    assert kept[0] == first_key // 3 and kept[-1] == position // 3
    if coverage is None and position // 3 - first_key // 3 < keep:
        assert kept == list(range(first_key // 3, position // 3 + 1))


def test_padding_and_tokens_without_a_key_give_zeros_not_nan() -> None:
    q, k, v = torch.randn(1, 2, 40, 8), torch.randn(1, 1, 40, 8), torch.randn(1, 1, 40, 8)
    k[:, :, :9], v[:, :, :9], q[:, :, :9] = torch.nan, torch.nan, torch.nan
    budget, start = Budget(block=4, keep=5, sink=1, local=2), torch.tensor([9])
    log_mass = gate_mask(identity_gate(q, 1), gate_keys(k, None, 4), budget, num_keys=40)
    kept = kept_keys(log_mass, budget, num_keys=40, start=start)
    out = attend(q.nan_to_num(), k, v, kept)
    assert not out[:, :, :9].any()
    assert out.isfinite().all() and out[:, :, 9:].abs().sum(-1).min() > 0
    alone = attend(q[:, :, 9:], k[:, :, 9:], v[:, :, 9:], kept[:, 9:, :, 9:])
    torch.testing.assert_close(out[:, :, 9:], alone)


def test_the_log_gate_turns_attention_away_from_weak_blocks() -> None:
    q, k, v = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 4, 2), torch.eye(4)[None, None]
    log_gate = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().view(1, 1, 1, 4)
    out = attend(q, k, v, torch.ones(1, 1, 1, 4, dtype=torch.bool), log_gate=log_gate)
    torch.testing.assert_close(out.flatten(), torch.tensor([0.1, 0.2, 0.3, 0.4]))


class TestNaiveListing:
    """The listing `sigmoid(Linear(D, N)(x).mean(-1)) * history.mean(1, keepdim=True) > 0.5`; see decision 005."""

    @staticmethod
    def mask(x: torch.Tensor, history: torch.Tensor, num_keys: int) -> torch.Tensor:
        linear = torch.nn.Linear(x.shape[-1], num_keys)
        return (torch.sigmoid(linear(x).mean(-1)) * history.mean(1, keepdim=True) > 0.5).unsqueeze(1)

    def test_it_mixes_the_rows_of_a_batch_and_gives_no_mask_of_queries_by_keys(self) -> None:
        x = torch.randn(3, 10, 8)
        attention = torch.randn(3, 10, 10).softmax(-1)
        assert self.mask(x, attention, 10).shape == (3, 1, 3, 10)
        scores = torch.zeros(3, 6, 10, 10)
        with pytest.raises(RuntimeError, match="must match"):
            scores.masked_fill(~self.mask(x, attention, 10), -torch.inf)
        assert self.mask(x, attention.mean(1), 10).shape == (3, 1, 10)
        with pytest.raises(RuntimeError, match="must match"):
            scores.masked_fill(~self.mask(x, attention.mean(1), 10), -torch.inf)

    def test_with_as_many_heads_as_rows_each_head_gets_another_rows_mask(self) -> None:
        mask = self.mask(torch.randn(3, 50, 8), torch.ones(3, 50), 50)
        filled = torch.zeros(3, 3, 50, 50).masked_fill(~mask, -torch.inf)
        assert all(torch.equal(filled[row, head].isinf(), ~mask[head].expand(50, 50)) for row, head in ((0, 2), (2, 0)))

    def test_its_mask_is_false_everywhere_and_its_output_nan(self) -> None:
        x = torch.randn(1, 64, 32)
        history = torch.randn(1, 64, 64).softmax(-1)
        mask = self.mask(x, history, 64)
        assert not mask.any()
        weights = torch.zeros(1, 1, 64, 64).masked_fill(~mask, -torch.inf).softmax(-1)
        assert weights.isnan().all()
        certain = self.mask(x, torch.ones(1, 64), 64)
        assert 0.1 < certain.float().mean() < 0.9

    def test_ours_chooses_keys_for_each_token_of_each_row(self) -> None:
        q, k, v = torch.randn(3, 6, 100, 8), torch.randn(3, 2, 100, 8), torch.randn(3, 2, 100, 8)
        budget = Budget(block=4, keep=6, sink=1, local=2)
        gate_q, gate_k = identity_gate(q, 2), gate_keys(k, None, 4)
        together = kept_keys(gate_mask(gate_q, gate_k, budget, num_keys=100), budget, num_keys=100)
        assert together.shape == (3, 100, 2, 100)
        assert together.any(-1).all()
        assert (together.sum(-1) <= 24).all()
        for row in range(3):
            mass = gate_mask(gate_q[row : row + 1], gate_k[row : row + 1], budget, num_keys=100)
            assert torch.equal(kept_keys(mass, budget, num_keys=100)[0], together[row])
        assert attend(q, k, v, together).isfinite().all()
