import pytest
import torch

from tuili.attention import gradient, native, twin
from tuili.attention.gradient import trained_attention


def random_blocks(batch, num_queries, groups, num_keys, keep, block):
    """Ascending picks, some later than the token's own block, some places unused."""
    shape, num_blocks = (batch, num_queries, groups), -(-num_keys // block)
    kept = torch.rand(*shape, num_blocks).argsort(-1)[..., :keep].sort(-1).values
    kept = torch.nn.functional.pad(kept, (0, keep - kept.shape[-1]), value=-1)
    return kept.masked_fill(torch.randint(0, keep + 1, shape)[..., None] <= torch.arange(keep), -1).to(torch.int32)


def case(batch, groups, per_group, num_queries, num_keys, dim, block, keep):
    q = torch.randn(batch, num_queries, groups * per_group, dim).transpose(1, 2)  # token before head, as a model has it
    k, v = (torch.randn(batch, num_keys, groups, dim).transpose(1, 2) for _ in range(2))
    blocks = random_blocks(batch, num_queries, groups, num_keys, keep, block)
    return q, k, v, blocks, torch.randn(q.shape)


CASES = [
    (2, 2, 2, 70, 70, 16, 16, 4),
    (1, 2, 3, 100, 133, 40, 16, 5),
    (1, 1, 5, 33, 90, 64, 32, 3),
    (1, 3, 8, 40, 40, 20, 16, 6),
    (1, 1, 1, 1, 5, 8, 16, 2),
    (2, 1, 9, 18, 300, 48, 16, 19),
]


@pytest.mark.parametrize("sizes", CASES)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_compiled_gradient_is_that_of_the_twin(level, sizes, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    q, k, v, blocks, grad = case(*sizes)
    block = sizes[6]
    found = gradient._compiled(q, k, v, blocks, grad, block, 0.3, True)
    expected = gradient._twin(q, k, v, blocks, grad, block, 0.3, True)
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, atol=2e-5, rtol=1e-4)


def test_float64_is_not_rounded():
    q, k, v, blocks, grad = case(1, 2, 2, 40, 64, 16, 16, 3)
    wide = [x.double().requires_grad_() for x in (q, k, v)]
    trained_attention(*wide, blocks, block=16, scale=0.25).backward(grad.double())
    expected = gradient._twin(*(x.detach() for x in wide), blocks, grad.double(), 16, 0.25, False)
    for leaf, other in zip(wide, expected, strict=False):
        torch.testing.assert_close(leaf.grad, other, atol=1e-12, rtol=1e-12)


def test_gradients_agree_with_finite_differences():
    q, k, v, blocks, _ = case(1, 1, 2, 6, 20, 8, 16, 2)
    inputs = [x.double().requires_grad_() for x in (q, k, v)]

    def attend(*tensors):
        return twin.attend(*tensors, blocks, block=16, scale=0.4)

    assert torch.autograd.gradcheck(attend, inputs, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", ["torch", None])
def test_forward_is_attention_and_backward_reaches_all_inputs(kernel, monkeypatch):
    if kernel:
        monkeypatch.setenv(native.VARIABLE, kernel)
    q, k, v, blocks, grad = case(2, 2, 2, 40, 64, 16, 16, 3)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = trained_attention(*leaves, blocks, block=16, scale=0.25)
    torch.testing.assert_close(out, twin.attend(q, k, v, blocks, block=16, scale=0.25), atol=1e-5, rtol=1e-5)
    out.backward(grad)
    expected = gradient._twin(q, k, v, blocks, grad, 16, 0.25, False)
    for leaf, other in zip(leaves, expected, strict=False):
        torch.testing.assert_close(leaf.grad, other, atol=2e-5, rtol=1e-4)


def test_a_sample_of_tokens_stands_for_all_of_them():
    q, k, v, blocks, grad = case(1, 2, 2, 29, 64, 16, 16, 3)
    q.requires_grad_()
    log_mass = torch.zeros(1, 5, 2, 3, requires_grad=True)  # tokens 0, 7, .. 28
    out = trained_attention(q, k, v, blocks, block=16, scale=0.25, log_mass=log_mass, every=7)
    out.backward(grad)
    whole = gradient._twin(q.detach(), k, v, blocks, grad, 16, 0.25, True)[3]
    torch.testing.assert_close(log_mass.grad, whole[:, ::7] * 7, atol=2e-5, rtol=1e-4)
    assert log_mass.grad.any()


def test_nothing_of_the_future_gets_a_gradient():
    q, k, v, blocks, grad = case(1, 1, 2, 48, 48, 16, 16, 3)
    blocks = torch.arange(3, dtype=torch.int32).expand(1, 48, 1, 3).contiguous()
    grad[:, :, 20:] = 0
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    trained_attention(*leaves, blocks, block=16, scale=0.25).backward(grad)
    for leaf in leaves:
        assert not leaf.grad[:, :, 20:].any() and leaf.grad[:, :, :20].any()


def test_bfloat16_gets_gradients_of_its_own_kind():
    q, k, v, blocks, grad = (x.bfloat16() if x.is_floating_point() else x for x in case(1, 2, 2, 40, 64, 16, 16, 3))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    trained_attention(*leaves, blocks, block=16, scale=0.25).backward(grad)
    expected = gradient._twin(*(x.float() for x in (q, k, v)), blocks, grad.float(), 16, 0.25, False)
    for leaf, other in zip(leaves, expected, strict=False):
        assert leaf.grad.dtype == torch.bfloat16
        torch.testing.assert_close(leaf.grad.float(), other, atol=0.03, rtol=0.03)
