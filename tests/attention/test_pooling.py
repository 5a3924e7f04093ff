import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuili.attention.pooling import LARGEST, GateKeys, gate_keys, quantize, rounded
from tuili.errors import InputError, UsageError


def parts(keys: GateKeys) -> list[torch.Tensor]:
    return [keys.values, keys.scale, keys.means, keys.mean_scale]


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


@given(
    num=st.integers(0, 21),
    per_block=st.sampled_from([1, 2, 5]),
    width=st.sampled_from([1, 3, 16]),
    exponent=st.integers(-30, 36),
    spread=st.floats(0, 20),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_int8_is_half_a_step_off_at_most(
    num: int, per_block: int, width: int, exponent: int, spread: float, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = torch.randn(2, num, 3, 1, generator=generator).mul(spread).clamp(-60, 60 - exponent).exp2()
    keys = (torch.randn(2, num, 3, width, generator=generator) * size * 10.0**exponent).to(dtype)
    keys = keys.where(keys.isfinite() & (keys.abs() > 1e-30), 0.0)  # smaller ones: see below
    found, num_blocks = quantize(keys, per_block, 4), num // per_block
    assert [list(part.shape) for part in parts(found)] == [
        [2, num_blocks * per_block, 3, width], [2, num_blocks, 3], [2, num_blocks, 3, width], [2, num_blocks, 3]
    ]  # fmt: skip
    assert [part.dtype for part in parts(found)] == [torch.int8, torch.float32] * 2 and found.sub == 4
    blocks = keys[:, : num_blocks * per_block].double().unflatten(1, (num_blocks, per_block))
    step = blocks.abs().amax((2, 4)) / LARGEST
    torch.testing.assert_close(found.scale.double(), step, rtol=1e-6, atol=0)
    error = (found.floats().double().unflatten(1, (num_blocks, per_block)) - blocks).abs().amax((2, 4))
    assert (error <= 0.5001 * step).all()
    means = keys[:, : num_blocks * per_block].float().unflatten(1, (num_blocks, per_block)).mean(2).double()
    mean_error = (found.mean_floats().double() - means).abs().amax(-1)
    assert (mean_error <= 0.5001 * means.abs().amax(-1) / LARGEST).all()
    assert (found.values.unflatten(1, (num_blocks, per_block)).abs().amax((2, 4))[step > 0] == LARGEST).all()


@given(shape=st.sampled_from([(1,), (3, 1), (2, 5, 16)]), exponent=st.integers(-30, 36), seed=st.integers(0, 999))
def test_rounded_queries_are_half_a_step_off_at_most(shape: tuple[int, ...], exponent: int, seed: int) -> None:
    q = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    step = q.double().abs().amax(-1, keepdim=True) / LARGEST
    found = rounded(q)
    assert found.dtype == torch.float32 and ((found.double() - q.double()).abs() <= 0.5001 * step).all()
    torch.testing.assert_close(found / step.float(), (found / step.float()).round(), rtol=1e-6, atol=1e-6)
    assert torch.equal(rounded(q.bfloat16()), rounded(q.bfloat16().float()))


def test_blocks_and_queries_of_zeros_are_zeros() -> None:
    found = quantize(torch.zeros(1, 6, 2, 4), 2, 8)
    assert not any(part.any() for part in parts(found)) and not found.floats().any()
    assert not rounded(torch.zeros(2, 4)).any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_becomes_zeros_and_touches_nothing_else(bad: float) -> None:
    keys = torch.randn(2, 12, 3, 8)
    before = quantize(keys, 4, 4)
    keys[1, 6, 2, 3] = bad
    found = quantize(keys, 4, 4)
    assert not found.values[1, 4:8, 2].any() and found.scale[1, 1, 2] == 0
    assert not found.means[1, 1, 2].any() and found.mean_scale[1, 1, 2] == 0
    assert not found.floats()[1, 4:8, 2].any()
    found.values[1, 4:8, 2], found.means[1, 1, 2] = before.values[1, 4:8, 2], before.means[1, 1, 2]
    found.scale[1, 1, 2], found.mean_scale[1, 1, 2] = before.scale[1, 1, 2], before.mean_scale[1, 1, 2]
    assert all(torch.equal(one, other) for one, other in zip(parts(found), parts(before), strict=True))
    q = torch.randn(3, 8)
    expected = rounded(q)
    q[1, 2] = bad
    assert not rounded(q)[1].any() and torch.equal(rounded(q)[::2], expected[::2])


@pytest.mark.parametrize("tiny", [1e-45, 1e-40, 1e-38])
def test_numbers_too_small_for_a_step_become_zeros_not_nan(tiny: float) -> None:
    keys = torch.full((1, 4, 1, 3), tiny)
    keys[0, :, :, 1] = 0
    found = quantize(keys, 2, 4)
    assert (found.floats() - keys).abs().max() <= tiny and found.values[..., 1].eq(0).all()
    assert (rounded(keys) - keys).abs().max() <= tiny


@given(seed=st.integers(0, 999), cut=st.integers(0, 6), num=st.integers(0, 30))
def test_a_blocks_int8_never_depends_on_another_block(seed: int, cut: int, num: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(2, 24, 3, 8, generator=generator)
    other = torch.cat([keys[:, : cut * 4], torch.randn(2, num, 3, 8, generator=generator) * 1e4], dim=1)
    one, two = quantize(keys, 4, 4), quantize(other, 4, 4)
    for first, second, size in zip(parts(one), parts(two), (cut * 4, cut, cut, cut), strict=True):
        assert torch.equal(first[:, :size], second[:, :size])
