from collections.abc import Callable, Iterator

import pytest
import torch

from tuili.attention.gate import Gate, GateShape
from tuili.attention.reference import attend
from tuili.attention.select import Budget, log_gate, select, select_at
from tuili.attention.target import (
    Target,
    attention_target,
    bias_loss,
    distillation_loss,
    recall,
    sample_positions,
)
from tuili.errors import InputError, UsageError

BUDGET = Budget(block=16, keep=8, sink=1, local=2)
SHAPE = GateShape(heads=2, groups=1, head_dim=16, queries=2, width=8, sub=16)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small steps of training are slower on more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def haystack(
    seed: int, num_keys: int = 1024, strength: float = 8.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return q, k, v and the marked key of each query: one key in 16 answers a code that queries look up.

    Half of the dimensions hold codes, the others noise that adds up in a mean of keys and hides the code.
    """
    generator = torch.Generator().manual_seed(seed)
    k = torch.zeros(1, 1, num_keys, 16)
    k[..., 8:] = 2 * torch.randn(1, 1, num_keys, 8, generator=generator)
    marked = torch.arange(0, num_keys, 16) + torch.randint(16, (num_keys // 16,), generator=generator)
    codes = torch.randn(len(marked), 8, generator=generator)
    k[0, 0, marked, :8] = 6 * torch.nn.functional.normalize(codes, dim=-1)
    wanted = torch.randint(len(marked), (num_keys,), generator=generator)
    wanted = wanted % (torch.arange(num_keys) // 16).clamp_min(1)
    q = torch.randn(1, 2, num_keys, 16, generator=generator)
    q[..., :8] = strength * torch.nn.functional.normalize(codes, dim=-1)[wanted]
    return q, k, torch.randn(1, 1, num_keys, 16, generator=generator), marked[wanted]


def share_kept(gate: Gate, seed: int) -> tuple[float, float]:
    """Return the gate's recall on an unseen haystack, and the oracle's."""
    q, k, _, _ = haystack(seed)
    positions = sample_positions(1024, 200, BUDGET, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        gate_q, gate_k = gate.queries(q[:, :, positions]), gate.keys(k)
    blocks = select_at(gate_q, gate_k, BUDGET, positions=positions, num_keys=1024, bias=gate.bias)
    found = recall(blocks, attention_target(q[:, :, positions], k, positions, BUDGET), BUDGET)
    return found.kept, found.oracle


def distill(gate: Gate, steps: int) -> list[float]:
    optimizer, losses = torch.optim.Adam(gate.parameters(), lr=2e-2), []
    for step in range(steps):
        q, k, _, _ = haystack(1000 + step)
        positions = sample_positions(1024, 64, BUDGET, torch.Generator().manual_seed(step))
        target = attention_target(q[:, :, positions], k, positions, BUDGET)
        z = gate(q[:, :, positions], k, BUDGET.block)
        loss = distillation_loss(z, target)
        optimizer.zero_grad()
        (loss + bias_loss(z, gate.bias, target, BUDGET)).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_distilled_gate_beats_a_frozen_random_one_and_pooled_keys() -> None:
    trained = Gate.low_rank(SHAPE)
    frozen, _ = share_kept(trained, seed=1)
    pooled, oracle = share_kept(Gate.training_free(2, 1, 16, sub=16), seed=1)
    losses = distill(trained, steps=60)
    kept, _ = share_kept(trained, seed=1)
    assert losses[-1] < 0.5 * losses[0]
    assert kept > 0.95 * oracle
    assert kept > pooled + 0.1 and kept > 1.5 * frozen
    assert float(trained.bias.detach()) < -0.5


def test_the_gate_also_learns_with_the_model() -> None:
    """The log-gate as a bias on kept keys; the loss is that of the task, the value of the marked key.

    The attention is softer here: where it is sure of itself, the gate's bias changes nothing it could learn from.
    """
    budget = Budget(block=16, keep=24, sink=1, local=2)
    gate = Gate.low_rank(SHAPE)
    before, _ = share_kept(gate, seed=1)
    optimizer, losses = torch.optim.Adam(gate.parameters(), lr=2e-2), []
    for step in range(80):
        q, k, v, marked = haystack(2000 + step, strength=4.0)
        q_last, wanted = q[:, :, -96:], v[:, :, marked[-96:]]
        gate_q, gate_k = gate.queries(q_last), gate.keys(k)
        blocks = select(gate_q, gate_k, budget, num_keys=1024, bias=gate.bias)
        log_mass = log_gate(gate_q, gate_k, blocks, budget, num_keys=1024, bias=gate.bias)
        kept, key_bias = as_keys(blocks, log_mass, 1024)
        loss = (attend(q_last, k, v, kept, log_gate=key_bias) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    after, _ = share_kept(gate, seed=1)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert after > 0.9 > before + 0.25


def as_keys(blocks: torch.Tensor, log_mass: torch.Tensor, num_keys: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys of the kept blocks [B, T, G, N] that are not later than the token, and their log-gate."""
    is_of = blocks[..., None] == torch.arange(num_keys) // 16
    positions = torch.arange(num_keys - blocks.shape[1], num_keys)
    kept = is_of.any(-2) & (torch.arange(num_keys) <= positions[:, None, None])
    return kept, torch.where(is_of, log_mass[..., None], 0.0).sum(-2)


def test_the_target_is_the_models_own_attention() -> None:
    q, k = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 70, 8)
    budget, start = Budget(block=4, keep=6, sink=1, local=2), torch.tensor([0, 13])
    positions = torch.tensor([3, 20, 41, 60, 69])
    target = attention_target(q, k, positions, budget, scale=0.4, start=start)
    assert target.mass.shape == (2, 5, 2, 17)
    for row, token, group in ((0, 2, 0), (1, 2, 1), (1, 4, 0), (0, 3, 1)):
        first, position = int(start[row]), int(positions[token])
        heads = q[row, group * 3 : group * 3 + 3, token]
        attention = torch.zeros(70)
        attention[first : position + 1] = (heads @ k[row, group, first : position + 1].T * 0.4).softmax(-1).mean(0)
        inside = range(first // 4 + 1, position // 4 - 1)
        mass = torch.tensor([float(attention[4 * j : 4 * j + 4].sum()) if j in inside else 0.0 for j in range(17)])
        torch.testing.assert_close(target.share[row, token, group], mass.sum())
        torch.testing.assert_close(target.mass[row, token, group], mass / mass.sum())
        assert target.is_candidate[row, token, 0].nonzero().flatten().tolist() == list(inside)
    assert not target.mass[:, 0].any() and not target.share[:, 0].any()


def test_the_loss_is_zero_for_the_targets_own_scores_and_blind_to_what_is_no_candidate() -> None:
    q, k, positions = torch.randn(1, 2, 6, 16), torch.randn(1, 1, 400, 16), torch.arange(300, 306)
    target = attention_target(q, k, positions, BUDGET)
    z = target.mass.clamp_min(1e-30).log() + 3
    assert float(distillation_loss(z, target)) == pytest.approx(0, abs=1e-6)
    other = torch.where(target.is_candidate, z, torch.full_like(z, 1e6))
    assert float(distillation_loss(other, target)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(torch.zeros_like(z), target)) > 0.01


def test_the_oracles_own_selection_has_its_recall_and_padding_tokens_do_not_count() -> None:
    q, k, positions = torch.randn(2, 2, 9, 16), torch.randn(2, 1, 400, 16), torch.arange(391, 400)
    target = attention_target(q, k, positions, BUDGET, start=torch.tensor([0, 395]))
    best = target.mass.topk(BUDGET.num_free, dim=-1).indices
    blocks = torch.nn.functional.pad(best, (0, 3), value=-1).to(torch.int32)
    found = recall(blocks, target, BUDGET)
    assert found.kept == pytest.approx(found.oracle) and found.of_oracle == pytest.approx(1)
    nothing = recall(torch.full_like(blocks, -1), target, BUDGET)
    assert nothing.kept == 0 and nothing.oracle == found.oracle


def test_tokens_without_a_candidate_do_not_dilute_the_loss() -> None:
    q, k, z = torch.randn(1, 2, 8, 16), torch.randn(1, 1, 400, 16), torch.randn(1, 8, 1, 25)
    positions = torch.tensor([0, 9, 20, 40, 390, 391, 392, 393])
    mixed = distillation_loss(z, attention_target(q, k, positions, BUDGET))
    late = distillation_loss(z[:, 4:], attention_target(q[:, :, 4:], k, positions[4:], BUDGET))
    torch.testing.assert_close(mixed, late)


def test_the_bias_alone_learns_which_blocks_are_worth_their_place() -> None:
    gate, q, k, positions = Gate.low_rank(SHAPE), torch.randn(1, 2, 6, 16), torch.randn(1, 1, 400, 16), torch.arange(6)
    positions = positions + 394
    target = attention_target(q, k, positions, BUDGET)
    bias_loss(gate(q, k, 16), gate.bias, target, BUDGET).backward()
    assert gate.q_proj.grad is None or not gate.q_proj.grad.any()
    assert gate.bias.grad is not None and float(gate.bias.grad) > 0
    optimizer = torch.optim.Adam([gate.bias], lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        bias_loss(gate(q, k, 16), gate.bias, target, BUDGET).backward()
        optimizer.step()
    mass = gate(q, k, 16).sigmoid()[target.is_candidate.expand(-1, -1, 1, -1)]
    assert float(mass.detach().mean()) == pytest.approx(5 / int(target.is_candidate[0, 0].sum()), rel=0.05)


def test_tokens_that_give_candidates_no_attention_do_not_count() -> None:
    q, k, positions = torch.ones(1, 1, 2, 4), torch.full((1, 1, 400, 4), -200.0), torch.tensor([398, 399])
    k[:, :, :16] = 200.0
    target = attention_target(q, k, positions, BUDGET)
    assert not target.share.any() and not target.mass.any()
    with pytest.raises(InputError, match="no sampled token"):
        recall(torch.zeros(1, 2, 1, 8, dtype=torch.int32), target, BUDGET)
    with pytest.raises(InputError, match="no sampled query has a candidate"):
        distillation_loss(torch.zeros(1, 2, 1, 25), target)


def test_sampled_positions_are_those_that_have_to_choose() -> None:
    positions = sample_positions(400, 50, BUDGET, torch.Generator().manual_seed(1))
    assert len(positions) == 50 and (positions.diff() > 0).all()
    assert positions.min() >= 8 * 16 and positions.max() < 400
    assert sample_positions(130, 50, BUDGET).tolist() == [128, 129]
    with pytest.raises(InputError, match="128 keys are too few to learn from: a budget of 8 blocks keeps 128"):
        sample_positions(128, 50, BUDGET)


def small_target(num_keys: int = 400, at: int = 391) -> Target:
    return attention_target(torch.randn(1, 2, 9, 16), torch.randn(1, 1, num_keys, 16), torch.arange(at, at + 9), BUDGET)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distillation_loss(torch.zeros(1, 9, 1, 24), small_target()), "are not of the same queries"),
        (lambda: distillation_loss(torch.zeros(1, 9, 1, 3), small_target(50, 0)), "no sampled query has a candidate"),
        (lambda: recall(torch.zeros(1, 8, 1, 8), small_target(), BUDGET), "are not of the same queries"),
        (
            lambda: recall(torch.zeros(1, 9, 1, 8, dtype=torch.int32), small_target(200, 100), BUDGET),
            "no sampled token has more candidates than the 5",
        ),
        (
            lambda: attention_target(torch.zeros(1, 3, 1, 4), torch.zeros(1, 2, 9, 4), torch.tensor([0]), BUDGET),
            "do not fit each other",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_the_strongest_attention_of_any_head_can_be_the_target() -> None:
    q, k, _, _ = haystack(3, num_keys=256)
    positions = torch.tensor([200, 255])
    target = attention_target(q[:, :, positions], k, positions, BUDGET, pool="max")
    scores = q[:, :, positions] @ k.transpose(-1, -2) / 4
    scores = scores.masked_fill(torch.arange(256) > positions[:, None], float("-inf"))
    strongest = scores.softmax(-1).unflatten(3, (16, 16)).amax((1, 4))[0] * target.is_candidate[0, :, 0]
    torch.testing.assert_close(target.mass[0, :, 0], strongest / strongest.sum(-1, keepdim=True))
    with pytest.raises(UsageError, match="no pool 'mean'"):
        attention_target(q[:, :, positions], k, positions, BUDGET, pool="mean")


def test_tokens_can_count_by_the_attention_that_candidates_get() -> None:
    target = small_target()
    z = torch.randn(target.mass.shape, generator=torch.Generator().manual_seed(0))
    rows = [
        float(
            distillation_loss(
                z[:, [row]],
                Target(
                    mass=target.mass[:, [row]], is_candidate=target.is_candidate[:, [row]], share=target.share[:, [row]]
                ),
                by_share=True,
            )
        )
        for row in range(z.shape[1])
        if target.share[:, row].sum() > 0
    ]
    weights = [float(target.share[:, row].sum()) for row in range(z.shape[1]) if target.share[:, row].sum() > 0]
    expected = sum(row * weight for row, weight in zip(rows, weights, strict=True)) / sum(weights)
    assert float(distillation_loss(z, target, by_share=True)) == pytest.approx(expected, rel=1e-5)
