import math

import pytest
import torch

from tuili.attention.pooled import MeanPool, keys_of_first, num_exact, pooled_attention
from tuili.errors import InputError

SIZES = [(4, 8, 2), (16, 5, 0), (1, 3, 1), (7, 1, 3), (8, 16, 16)]
LENGTHS = (1, 2, 9, 31, 64, 90)
PARTS = {"block": 4, "window": 8, "sink": 2}


def inputs(length, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, heads, length, 6, generator=generator).to(dtype) for heads in (6, 2, 2))


def reads(position, block, window, sink):
    """Return the keys a token reads exactly and the blocks it reads the mean of, by the words of the module."""
    exact, blocks = [], []
    begin = sink
    while begin + block <= position - window + 1:
        blocks.append(range(begin, begin + block))
        begin += block
    exact = [*range(min(sink, position + 1)), *range(begin, position + 1)]
    return exact, blocks


def reference(q, k, v, scale, *, block, window, sink):
    """Return pooled attention token by token."""
    out, first = torch.zeros_like(q), k.shape[2] - q.shape[2]
    for token in range(q.shape[2]):
        exact, blocks = reads(first + token, block, window, sink)
        rows = [(each, each) for each in exact], [(each.start, each.stop - 1) for each in blocks]
        spans = [slice(begin, end + 1) for begin, end in rows[0] + rows[1]]
        k_BGrd, v_BGrd = (torch.stack([x[:, :, span].mean(2) for span in spans], dim=2) for x in (k, v))
        sizes = torch.tensor([float(span.stop - span.start) for span in spans])
        k_BHrd, v_BHrd = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k_BGrd, v_BGrd))
        scores = (q[:, :, token, None] @ k_BHrd.transpose(-1, -2)) * scale + sizes.log()
        out[:, :, token] = (scores.softmax(-1) @ v_BHrd)[:, :, 0]
    return out


@pytest.mark.parametrize(("block", "window", "sink"), SIZES)
def test_it_is_the_readable_one(block, window, sink):
    sizes = {"block": block, "window": window, "sink": sink}
    for length in LENGTHS:
        q, k, v = inputs(length)
        for num_queries in {1, length // 2 or 1, length}:
            asked = q[:, :, -num_queries:]
            expected = reference(asked, k, v, 0.7, **sizes)
            torch.testing.assert_close(
                pooled_attention(asked, k, v, **sizes, scale=0.7), expected, atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize(("block", "window", "sink"), SIZES)
def test_counts_are_those_of_what_is_read(block, window, sink):
    total = 0
    for position in range(150):
        exact, blocks = reads(position, block, window, sink)
        assert sorted([*exact, *(key for each in blocks for key in each)]) == list(range(position + 1))
        assert bool(blocks) == (position >= num_exact(block, window, sink))
        total += len(exact) + len(blocks)
        assert keys_of_first(position + 1, block, window, sink) == total
    assert keys_of_first(0, block, window, sink) == 0


def test_blocks_of_equal_keys_are_as_if_read_exactly():
    q, k, _ = inputs(90)
    k[:, :, 2:] = k[:, :, 2:].unflatten(2, (22, 4))[:, :, :, :1].expand(-1, -1, -1, 4, -1).flatten(2, 3)
    v = torch.randn(k.shape)
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=1.0)
    torch.testing.assert_close(pooled_attention(q, k, v, **PARTS, scale=1.0), dense, atol=1e-5, rtol=1e-5)


def test_pieces_change_nothing(monkeypatch):
    q, k, v = inputs(90)
    whole = pooled_attention(q, k, v, **PARTS, scale=1.0)
    for size in (1, 7, 64):
        monkeypatch.setattr("tuili.attention.pooled.PIECE_TOKENS", size)
        torch.testing.assert_close(pooled_attention(q, k, v, **PARTS, scale=1.0), whole)


@pytest.mark.parametrize("cut", [1, 10, 14, 53])
def test_the_future_changes_nothing_not_even_by_nan(cut):
    q, k, v = inputs(90)
    expected = pooled_attention(q, k, v, **PARTS, scale=1.0)[:, :, :cut]
    for each in (q, k, v):
        each[:, :, cut:] = math.nan
    alone = pooled_attention(q[:, :, :cut], k[:, :, :cut], v[:, :, :cut], **PARTS, scale=1.0)
    torch.testing.assert_close(alone, expected)
    k[:, :, cut:] = v[:, :, cut:] = 1e4
    torch.testing.assert_close(pooled_attention(q, k, v, **PARTS, scale=1.0)[:, :, :cut], expected)


def test_a_pool_that_grows_gives_the_same():
    q, k, v = inputs(90)
    expected = pooled_attention(q, k, v, **PARTS, scale=1.0)
    pool, parts, end = MeanPool(4), [], 0
    for size in (20, 1, 1, 1, 1, 30, 1, 35):
        begin, end = end, end + size
        keys, values = k[:, :, :end], v[:, :, :end]
        means = pool.means(keys[:, :, 2:], values[:, :, 2:])
        parts.append(pooled_attention(q[:, :, begin:end], keys, values, **PARTS, scale=1.0, means=means))
    torch.testing.assert_close(torch.cat(parts, dim=2), expected)
    with pytest.raises(InputError, match="the pool covers 88 keys, the key cache 10"):
        pool.means(k[:, :, :10], v[:, :, :10])


def test_gradients_are_those_of_the_readable_one():
    tensors = [each.requires_grad_() for each in inputs(40)]
    wanted = torch.autograd.grad(reference(*tensors, 0.7, **PARTS).square().sum(), tensors)
    found = torch.autograd.grad(pooled_attention(*tensors, **PARTS, scale=0.7).square().sum(), tensors)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_bfloat16_is_as_near_as_rounding():
    exact = [each.float() for each in inputs(90, torch.bfloat16)]
    found = pooled_attention(*inputs(90, torch.bfloat16), **PARTS, scale=0.4)
    wanted = reference(*exact, 0.4, **PARTS)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).square().mean().sqrt() < 0.01 * wanted.square().mean().sqrt()
