import pytest
import torch

from tuili.attention import teach
from tuili.attention.gate import Gate, GateShape
from tuili.attention.kernels import gated_attention
from tuili.attention.select import Budget
from tuili.attention.teach import teaching_attention

BUDGET = Budget(block=4, keep=6, sink=1, local=2)
SHAPE = GateShape(heads=4, groups=2, head_dim=8, queries=2, width=6, sub=2)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inputs(length=70, num_queries=None):
    q, k, v = (torch.randn(2, heads, length, 8) for heads in (4, 2, 2))
    return q[:, :, -(num_queries or length) :], k, v


def learning_gate():
    gate = Gate.low_rank(SHAPE)
    with torch.no_grad():
        gate.bias.add_(0.3)
    return gate


@pytest.mark.parametrize("size", [7, 64, 256])
@pytest.mark.parametrize("num_queries", [1, 30, 70])
def test_the_output_is_that_of_inference(monkeypatch, size, num_queries):
    monkeypatch.setattr(teach, "PIECE_TOKENS", size)
    (q, k, v), gate = inputs(num_queries=num_queries), learning_gate()
    with torch.no_grad():
        gate_q, gate_k = gate.queries(q), gate.keys(k)
        expected = gated_attention(q, k, v, gate_q, gate_k, BUDGET, bias=gate.bias, scale=0.7, normalize=True)
    torch.testing.assert_close(teaching_attention(q, k, v, gate, BUDGET, scale=0.7), expected, atol=1e-5, rtol=1e-5)


def test_the_gate_gets_a_gradient_and_inputs_get_that_of_attention():
    (q, k, v), gate = inputs(), learning_gate()
    for each in (q, k, v):
        each.requires_grad_()
    weights = torch.randn(q.shape)
    found = torch.autograd.grad((teaching_attention(q, k, v, gate, BUDGET, scale=0.7) * weights).sum(), [q, k, v])
    gate_q, gate_k = gate.queries(q).detach(), gate.keys(k).detach()
    plain = gated_attention(q, k, v, gate_q, gate_k, BUDGET, bias=gate.bias.detach(), scale=0.7, normalize=True)
    torch.testing.assert_close(found, torch.autograd.grad((plain * weights).sum(), [q, k, v]), atol=1e-5, rtol=1e-5)
    (teaching_attention(q, k, v, gate, BUDGET, scale=0.7) * weights).sum().backward()
    for name, parameter in gate.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def lookup(seed, length=256, per_block=16):
    """Return q, k, v and the marked key of each query: one key in 16 answers a code that queries look up, softly.

    Half of the dimensions hold codes, the others noise that hides them in a mean of keys.
    """
    generator = torch.Generator().manual_seed(seed)
    k = torch.zeros(1, 1, length, 16)
    k[..., 8:] = 2 * torch.randn(1, 1, length, 8, generator=generator)
    marked = torch.arange(0, length, per_block) + torch.randint(per_block, (length // per_block,), generator=generator)
    codes = torch.nn.functional.normalize(torch.randn(len(marked), 8, generator=generator), dim=-1)
    k[0, 0, marked, :8] = 6 * codes
    wanted = torch.randint(len(marked), (length,), generator=generator) % (torch.arange(length) // per_block).clamp_min(
        1
    )
    q = torch.randn(1, 2, length, 16, generator=generator)
    q[..., :8] = 4 * codes[wanted]
    return q, k, torch.randn(1, 1, length, 16, generator=generator), marked[wanted]


def task_loss(gate, seed):
    """Return how far the output is from the value of the marked key, for late queries."""
    q, k, v, marked = lookup(seed)
    out = teaching_attention(q[:, :, -64:], k, v, gate, Budget(block=16, keep=8, sink=1, local=2), scale=0.25)
    return (out - v[:, :, marked[-64:]]).square().mean()


def test_a_gate_that_learns_with_the_task_beats_a_frozen_random_one():
    torch.manual_seed(0)
    gate = Gate.low_rank(GateShape(heads=2, groups=1, head_dim=16, queries=2, width=8, sub=16))
    with torch.no_grad():
        frozen = sum(float(task_loss(gate, seed)) for seed in range(8)) / 8
    optimizer = torch.optim.Adam(gate.parameters(), lr=2e-2, foreach=False)
    for step in range(100):
        optimizer.zero_grad()
        task_loss(gate, 1_000 + step).backward()
        optimizer.step()
    with torch.no_grad():
        learned = sum(float(task_loss(gate, seed)) for seed in range(8)) / 8
    assert learned < 0.9 * frozen, (learned, frozen)
