"""Attention over picked blocks with a gradient that does not need the dense scores: what sparse training runs on.

The output is that of the compiled kernel or its twin. On the way back the compiled gradient computes scores again over
the picked keys alone, O(T K b d) like the way there; where it can't run, the twin's own gradient does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tuili.attention import native, twin
from tuili.attention.kernels import sparse_attention


class _Attention(torch.autograd.Function):
    """Forward and backward of attention over blocks, with a place for the gradient of log M."""

    @staticmethod
    def forward(  # noqa: PLR0913
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_mass_BSGK: Tensor | None,
        blocks: Tensor,
        out: Tensor | None,
        block: int,
        scale: float,
        every: int,
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, blocks)
        ctx.rest = block, scale, every, log_mass_BSGK is not None
        return sparse_attention(q, k, v, blocks, block=block, scale=scale) if out is None else out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (q, k, v, blocks), (block, scale, every, learns) = ctx.saved_tensors, ctx.rest
        work = _compiled if _runs_compiled(q, block) else _twin
        grad_q, grad_k, grad_v, grad_BTGK = work(q, k, v, blocks, grads[0], block, scale, learns)
        grad_mass = None if grad_BTGK is None else grad_BTGK[:, ::every] * every
        return grad_q, grad_k, grad_v, grad_mass, None, None, None, None, None


def trained_attention(  # noqa: PLR0913
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    *,
    block: int,
    scale: float,
    out: Tensor | None = None,
    log_mass: Tensor | None = None,
    every: int = 1,
) -> Tensor:
    """Return attention over the picked blocks [B, H, T, d] with a gradient for q, k and v.

    Args:
        q, k, v, blocks, block, scale: as for `sparse_attention`, of which the arguments are checked.
        out: the output, where it is known already.
        log_mass: log M of the picked blocks of every `every`-th token [B, ceil(T / every), G, K]. The output is
            without it; its gradient is the one it would have as a summand of the scores, times `every`, so that the
            sample stands for all tokens.
        every: see there.
    """
    return _Attention.apply(q, k, v, log_mass, blocks, out, block, scale, every)


def _runs_compiled(q: Tensor, block: int) -> bool:
    fits = q.device.type == "cpu" and q.dtype != torch.float64 and block % native.STRIP == 0
    return fits and native.chosen_level() is not None


def _compiled(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, grad_out: Tensor, block: int, scale: float, learns: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of q, k, v and, if asked for, of log M [B, T, G, K]."""
    (batch, heads, num_queries, dim), (groups, num_keys) = q.shape, k.shape[1:3]
    inputs = [_wide(x) for x in (q, k, v, grad_out)]
    width = inputs[0].shape[-1]
    threads = torch.get_num_threads()
    parts = max(1, min(-(-threads // (batch * groups)), num_queries))
    grad_q = torch.zeros_like(inputs[0])
    grad_k, grad_v = (torch.zeros(parts, batch, groups, num_keys, width) for _ in range(2))
    grad_gate = torch.zeros(blocks.shape) if learns else None
    packed = torch.empty(batch, groups, -(-num_keys // native.STRIP), 2, width, native.STRIP)
    picked = blocks.to(torch.int32).contiguous()
    problem = native.Backward(
        *(batch, groups, heads // groups, num_queries, num_keys, width, block, blocks.shape[-1], parts, threads),
        *(x.data_ptr() for x in (*inputs, picked, grad_q, grad_k, grad_v)),
        grad_gate.data_ptr() if grad_gate is not None else None,
        packed.data_ptr(),
        scale,
    )
    native.load().run_backward(problem, native.chosen_level() or 0)
    given = (grad_q, grad_k.sum(0), grad_v.sum(0))
    of_q, of_k, of_v = (x[..., :dim].to(q.dtype) for x in given)
    return of_q, of_k, of_v, grad_gate


def _wide(x: Tensor) -> Tensor:
    """Return a tensor as contiguous float32, its width filled up with zeros to whole strips."""
    return torch.nn.functional.pad(x.float(), (0, -x.shape[-1] % native.STRIP)).contiguous()


def _twin(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, grad_out: Tensor, block: int, scale: float, learns: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        log_gate = torch.zeros(blocks.shape, device=q.device, requires_grad=True) if learns else None
        out = twin.attend(leaves[0], leaves[1], leaves[2], blocks, block=block, scale=scale, log_gate=log_gate)
        wanted = [*leaves, log_gate] if log_gate is not None else leaves
        grads = torch.autograd.grad(out, wanted, grad_out)
    return grads[0], grads[1], grads[2], grads[3] if learns else None
