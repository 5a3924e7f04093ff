import pytest
import torch

from tuili.attention.pooling import gate_keys, new_gate_keys
from tuili.errors import InputError, UsageError


@pytest.mark.parametrize("num_keys", [1, 3, 4, 5, 16, 33])
@pytest.mark.parametrize("sub", [1, 2, 4, 16])
def test_each_gate_key_is_the_mean_of_its_sub_block(num_keys: int, sub: int) -> None:
    k = torch.randn(2, 3, num_keys, 8)
    pooled = gate_keys(k, None, sub)
    expected = [k[:, :, begin : begin + sub].mean(2) for begin in range(0, num_keys, sub)]
    torch.testing.assert_close(pooled, torch.stack(expected, dim=1))


def test_the_projection_is_each_groups_own() -> None:
    k, w_k = torch.randn(2, 3, 10, 8), torch.randn(3, 8, 5)
    pooled, means = gate_keys(k, w_k, 4), gate_keys(k, None, 4)
    assert pooled.shape == (2, 3, 3, 5)
    for group in range(3):
        torch.testing.assert_close(pooled[:, :, group], means[:, :, group] @ w_k[group])


def test_a_pool_that_grows_is_the_pool_at_once() -> None:
    k, w_k = torch.randn(2, 3, 37, 8), torch.randn(3, 8, 5)
    pool, done = gate_keys(k[:, :, :5], w_k, 4), 5
    for end in (6, 7, 8, 9, 20, 37):
        pool = torch.cat([pool[:, : done // 4], new_gate_keys(k[:, :, :end], done, w_k, 4)], dim=1)
        done = end
        torch.testing.assert_close(pool, gate_keys(k[:, :, :end], w_k, 4))


def test_half_precision_keys_are_averaged_in_float32() -> None:
    k = torch.full((1, 1, 16, 1), 1.0, dtype=torch.bfloat16)
    k[:, :, 0] = 1024.0
    pooled = gate_keys(k, None, 16)
    assert pooled.dtype == torch.bfloat16
    assert pooled.item() == torch.tensor((1024 + 15) / 16).bfloat16().item()


def test_gradients_reach_keys_and_projection() -> None:
    k = torch.randn(1, 2, 7, 4, requires_grad=True)
    w_k = torch.randn(2, 4, 3, requires_grad=True)
    gate_keys(k, w_k, 2).square().sum().backward()
    assert k.grad is not None and k.grad.abs().min() > 0
    assert w_k.grad is not None and w_k.grad.abs().min() > 0


def test_wrong_shapes_and_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="0 keys is too small"):
        gate_keys(torch.zeros(1, 1, 4, 2), None, 0)
    with pytest.raises(InputError, match=r"not \[1, 4, 2\]"):
        gate_keys(torch.zeros(1, 4, 2), None, 2)
    with pytest.raises(InputError, match=r"must be \[1, 2, width\]"):
        gate_keys(torch.zeros(1, 1, 4, 2), torch.zeros(1, 3, 2), 2)
    with pytest.raises(InputError, match="the pool covers 5 keys, the key cache 4"):
        new_gate_keys(torch.zeros(1, 1, 4, 2), 5, None, 2)
