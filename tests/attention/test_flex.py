"""FlexAttention against the twin: block lists read as the library documents them, and once compiled for the CPU."""

import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import BlockMask, create_mask

from tuili.attention import flex, twin

CASES = [(1, 1, 1, 1), (1, 50, 2, 3), (33, 77, 2, 3), (64, 64, 3, 1), (40, 300, 1, 8), (20, 31, 2, 17)]


def inputs(num_queries: int, num_keys: int, groups: int, per_group: int, dtype: torch.dtype) -> list[Tensor]:
    """Random queries, keys, values, and ascending picks, some of them later than their token, some unused."""
    shapes = ((groups * per_group, num_queries), (groups, num_keys), (groups, num_keys))
    q, k, v = (torch.randn(2, *shape, 32).to(dtype) for shape in shapes)
    shape = (2, num_queries, groups)
    kept = torch.rand(*shape, -(-num_keys // 16)).argsort(-1)[..., :4].sort(-1).values
    unused = torch.randint(0, 5, shape)[..., None] <= torch.arange(kept.shape[-1])
    return [q, k, v, kept.masked_fill(unused, -1).int()]


def read_lists(q: Tensor, k: Tensor, v: Tensor, *, block_mask: BlockMask, scale: float, kernel_options: Any) -> Tensor:
    """Attention as a block mask means it: the listed blocks' keys for which the mask function is true."""
    rows, block = block_mask.BLOCK_SIZE
    counts, lists = block_mask.kv_num_blocks, block_mask.kv_indices
    batch, heads, num_rows, num_keys = *q.shape[:3], k.shape[2]
    is_used = torch.arange(lists.shape[-1]) < counts[..., None]
    is_listed = torch.zeros(*counts.shape, -(-num_keys // block) + 1, dtype=torch.bool)
    is_listed.scatter_(3, torch.where(is_used, lists, is_listed.shape[-1] - 1).long(), True)
    is_listed = is_listed[..., :-1].repeat_interleave(block, 3)[..., :num_keys].repeat_interleave(rows, 2)
    is_read = is_listed & create_mask(block_mask.mask_mod, batch, heads, num_rows, num_keys, device="cpu")
    scores = (q.float() @ k.float().transpose(-1, -2) * scale).masked_fill(~is_read, -torch.inf)
    return (scores.softmax(-1).nan_to_num(0.0) @ v.float()).to(q.dtype)


def agree(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape and found.isfinite().all()
    close = {"atol": 1e-5, "rtol": 1e-5} if found.dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(found, expected, **close)


class TestLists:
    @pytest.fixture(autouse=True)
    def _as_documented(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flex, "_compiled", lambda: read_lists)

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_equals_the_twin(self, case: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        q, k, v, blocks = inputs(*case, dtype)
        agree(flex.attend(q, k, v, blocks, block=16, scale=0.2), twin.attend(q, k, v, blocks, block=16, scale=0.2))

    def test_padding_is_not_read(self) -> None:
        q, k, v, blocks = inputs(50, 50, 2, 3, torch.float32)
        start = torch.tensor([0, 37])
        k[1, :, :37] = v[1, :, :37] = torch.nan
        found = flex.attend(q, k, v, blocks, block=16, scale=0.2, start=start)
        agree(found, twin.attend(q, k, v, blocks, block=16, scale=0.2, start=start))
        assert not found[1, :, :37].any() and found[1, :, 37:].any()

    def test_tokens_without_picks_get_zeros(self) -> None:
        q, k, v, blocks = inputs(20, 40, 2, 3, torch.float32)
        assert not flex.attend(q, k, v, torch.full_like(blocks, -1), block=16, scale=0.2).any()
        assert not flex.attend(q, k, v, blocks[..., :0], block=16, scale=0.2).any()
        assert flex.attend(q[:, :, :0], k, v, blocks[:, :0], block=16, scale=0.2).shape == (2, 6, 0, 32)


class TestMask:
    def test_is_linear_in_the_picks(self) -> None:
        blocks = torch.zeros(1, 64, 1, 4, dtype=torch.int32, device="meta")
        mask = flex.token_mask(blocks, block=16, num_keys=1 << 20)
        assert mask.kv_indices.shape == (1, 1, 64, 4) and mask.q_indices is None


class TestCompiled:
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on importing its compiler
    @pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
    def test_equals_the_twin(self) -> None:
        q, k, v, blocks = inputs(33, 77, 2, 3, torch.float32)
        start = torch.tensor([0, 55])
        k[1, :, :55] = v[1, :, :55] = torch.nan
        with torch.no_grad():
            found = flex.attend(q, k, v, blocks, block=16, scale=0.2, start=start)
        agree(found, twin.attend(q, k, v, blocks, block=16, scale=0.2, start=start))


class TestCompilations:
    """What is compiled is counted behind the compiler's front, which decides that; no C++ is made."""

    SIZES = ((64, 64), (64, 128), (64, 192), (17, 209), (300, 300), (16, 316), (16, 332), (40, 500), (20, 20))

    @pytest.fixture
    def counter(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
        torch._dynamo.reset()
        counter = CompileCounter()
        compile_with = partial(torch.compile, backend=counter)
        monkeypatch.setattr(torch, "compile", compile_with)
        flex._compiled.cache_clear()
        yield counter
        flex._compiled.cache_clear()
        torch._dynamo.reset()

    @pytest.mark.parametrize("start", [None, torch.tensor([0, 5])])
    def test_other_lengths_and_offsets_are_not_compiled_anew(
        self, counter: CompileCounter, start: Tensor | None
    ) -> None:
        counts = []
        for num_queries, num_keys in self.SIZES:
            q, k, v, blocks = inputs(num_queries, num_keys, 2, 3, torch.float32)
            flex.attend(q, k, v, blocks, block=16, scale=0.2, start=start)
            counts.append(counter.frame_count)
        assert counts[0] == 1 and counts[3:] == [counts[3]] * 6 and counts[3] <= 3

    def test_past_the_limit_it_raises_and_does_not_make_all_scores(
        self, counter: CompileCounter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(flex, "MAX_COMPILED", 1)
        flex.attend(*inputs(20, 40, 2, 3, torch.float32), block=16, scale=0.2)
        with pytest.raises(FailOnRecompileLimitHit):
            flex.attend(*inputs(20, 40, 1, 3, torch.float32), block=16, scale=0.2)


class TestCanAttend:
    def test_leaves_the_cpu_to_the_kernel(self) -> None:
        q, k, v, _ = inputs(64, 64, 2, 3, torch.float32)
        assert not flex.can_attend(q, k, v, block=16)

    def test_gradients_and_odd_blocks_are_left_to_the_twin(self) -> None:
        class OnCuda(torch.Tensor):
            device = torch.device("cuda")

        q, k, v = (x.as_subclass(OnCuda) for x in inputs(64, 64, 2, 3, torch.float32)[:3])
        assert flex.can_attend(q, k, v, block=16) and flex.can_attend(q, k, v, block=64)
        assert not flex.can_attend(q, k, v, block=24) and not flex.can_attend(q, k, v, block=8)
        assert not flex.can_attend(q[:, :, :1], k, v, block=16)
        assert not flex.can_attend(q, k, v.requires_grad_(), block=16)
