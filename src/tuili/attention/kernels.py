"""Attention over blocks that each query token picked: the compiled kernel, else its PyTorch twin.

The compiled kernel (`csrc/`, see `native`) runs on a CPU in float32 and bfloat16, for blocks of whole strips of 16
keys, where no gradient is wanted; everything else goes to `twin` and `select`. `available` tells what runs here.
"""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor

from tuili.attention import native, select, twin
from tuili.attention.offset import check_heads, kept_log_mass
from tuili.attention.pooling import GateKeys
from tuili.attention.select import Budget
from tuili.errors import InputError, UsageError

COMPILED_DTYPES = (torch.float32, torch.bfloat16)


def available() -> str:
    """Return which kernel runs on the CPU, and where it is the twin, why.

    Raises:
        UsageError: `TUILI_KERNEL` names what is not there.
    """
    level = native.chosen_level()
    if level is None:
        return "PyTorch twin: " + "; ".join(native.absence())
    return f"compiled kernel: {native.SHOWN[level]}"


def runs_on(device: torch.device, dtype: torch.dtype, block: int) -> str:
    """Return which kernel attends to picked blocks of so many keys on a device, without gradients.

    Raises:
        UsageError: `TUILI_KERNEL` names what is not there.
    """
    if device.type == "cuda":
        return "FlexAttention, selection in PyTorch"
    if device.type != "cpu":
        return f"PyTorch twin: there is no kernel for {device.type}"
    if dtype not in COMPILED_DTYPES:
        return f"PyTorch twin: the compiled kernel has no {str(dtype).removeprefix('torch.')}"
    if block % native.STRIP:
        return f"PyTorch twin: the compiled kernel takes blocks of a multiple of {native.STRIP} keys, not {block}"
    return available()


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    *,
    block: int,
    scale: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Return softmax attention over the picked blocks [B, H, T, d]; a token without a key gets zeros.

    A query reads no key after itself and none before its row's first valid key, whatever was picked. Time O(T K b d).
    A gradient flows into q, k and v.

    Args:
        q: queries [B, H, T, d], the last T of the N keys.
        k: keys [B, G, N, d], G a divisor of H; query head h reads group h // (H / G).
        v: values [B, G, N, d].
        blocks: picked blocks [B, T, G, K], integers: ascending, unused places -1 at the end.
        block: keys per block; block j holds the keys from j * block to (j + 1) * block - 1.
        scale: of the scores, above 0; None: d ** -0.5.
        start: [B], index of each row's first valid key; None: 0.

    Raises:
        InputError: shapes, dtypes or devices do not fit, or a block index is out of range or order.
        UsageError: block or scale are out of their bounds.
    """
    scale = _check(q, k, v, start, scale)
    _check_blocks(q, k, blocks, block)
    if q.device.type == "cuda":
        from tuili.attention import flex  # brings torch's compiler

        if flex.can_attend(q, k, v, block=block):
            return flex.attend(q, k, v, blocks, block=block, scale=scale, start=start)
    if not _attends_compiled(q, k, v, block) or not blocks.shape[-1]:
        return twin.attend(q, k, v, blocks, block=block, scale=scale, start=start)
    call = _Call(k.shape[2], start)
    call.problem.block, call.problem.keep = block, blocks.shape[-1]
    call.problem.blocks = call.hold(blocks.to(torch.int32).contiguous())
    out = call.attend(q, k, v, scale)
    call.run()
    return out


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, sink: int = 0, scale: float | None = None
) -> Tensor:
    """Return softmax attention over the last `window` keys of each token and the first `sink`: [B, H, T, d].

    By the compiled kernel alone, which `is_compiled` tells of; no gradient. Time O(T (window + sink) d).

    Args:
        q, k, v, scale: as for `sparse_attention`.
        window: keys a token reads, itself included, at least 1.
        sink: first keys that every token reads besides.

    Raises:
        InputError: shapes, dtypes or devices do not fit.
        UsageError: window, sink or scale are out of their bounds, or the compiled kernel does not run here.
    """
    scale = _check(q, k, v, None, scale)
    if window < 1 or sink < 0:
        raise UsageError(f"a window must hold at least 1 key and a sink 0, not {window} and {sink}")
    if not is_compiled(q, k, v):
        raise UsageError(f"{available()}; so no window of {q.dtype} is read on {q.device}")
    num_keys = k.shape[2]
    window, sink = min(window, num_keys), min(sink, num_keys)
    call = _Call(num_keys, None)
    call.problem.window, call.problem.window_sink, call.problem.block = window, sink, native.STRIP
    # a window or sink of n keys may begin inside a strip
    call.problem.keep = -(-window // native.STRIP) + 1 + -(-sink // native.STRIP)
    out = call.attend(q, k, v, scale)
    call.run()
    return out


def is_compiled(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Return whether the compiled kernel attends for these: on this machine, of a dtype it has, without a gradient."""
    return _attends_compiled(q, k, v, native.STRIP)


def select_blocks(  # noqa: PLR0913
    gate_q: Tensor,
    gate_k: Tensor | GateKeys,
    budget: Budget,
    *,
    num_keys: int,
    offset: Tensor | None = None,
    bias: Tensor | None = None,
    start: Tensor | None = None,
    prior: Tensor | None = None,
    penalty: float = 0.0,
) -> Tensor:
    """Return the kept blocks, int32 [B, T, G, keep]: as `select.select`, by the compiled kernel where it runs.

    Raises:
        InputError, UsageError: as `select.select`.
    """
    if not _selects_compiled(gate_q, gate_k, budget):
        return select.select(
            gate_q,
            gate_k,
            budget,
            num_keys=num_keys,
            offset=offset,
            bias=bias,
            start=start,
            prior=prior,
            penalty=penalty,
        )
    select.check_gate(gate_q, gate_k, budget, num_keys=num_keys, bias=bias, start=start, offset=offset)
    select.check_prior(gate_q, prior, penalty)
    call = _Call(num_keys, start)
    call.select(gate_q, gate_k, budget, bias, prior, penalty)
    call.take_off(offset)
    blocks = call.write_blocks()
    call.run()
    return blocks


@overload
def gated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate_q: Tensor,
    gate_k: Tensor | GateKeys,
    budget: Budget,
    *,
    normalize: bool = False,
    bias: Tensor | None = None,
    start: Tensor | None = None,
    prior: Tensor | None = None,
    penalty: float = 0.0,
    scale: float | None = None,
    log_gate: bool = False,
    return_blocks: Literal[False] = False,
) -> Tensor: ...


@overload
def gated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate_q: Tensor,
    gate_k: Tensor | GateKeys,
    budget: Budget,
    *,
    normalize: bool = False,
    bias: Tensor | None = None,
    start: Tensor | None = None,
    prior: Tensor | None = None,
    penalty: float = 0.0,
    scale: float | None = None,
    log_gate: bool = False,
    return_blocks: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def gated_attention(  # noqa: PLR0913
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate_q: Tensor,
    gate_k: Tensor | GateKeys,
    budget: Budget,
    *,
    normalize: bool = False,
    bias: Tensor | None = None,
    start: Tensor | None = None,
    prior: Tensor | None = None,
    penalty: float = 0.0,
    scale: float | None = None,
    log_gate: bool = False,
    return_blocks: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return attention over the blocks that the gate selects, and if asked for the blocks; fused where compiled.

    Args:
        q, k, v, start, scale: as for `sparse_attention`.
        gate_q, gate_k, budget, bias, prior, penalty: as for `select.select`.
        normalize: take off each gate query's scores what its heads spend on the keys always kept (see `offset`).
        log_gate: add log M of a selected block to its keys' scores, so that a gradient flows into the gate too.
        return_blocks: return (output, blocks [B, T, G, keep]) instead of the output alone.

    Raises:
        InputError, UsageError: as `sparse_attention` and `select.select`.
    """
    scale = _check(q, k, v, start, scale)
    num_keys = k.shape[2]
    select.check_gate(gate_q, gate_k, budget, num_keys=num_keys, bias=bias, start=start)
    select.check_prior(gate_q, prior, penalty)
    _check_gate_fits(q, k, gate_q)
    if normalize:
        check_heads(gate_q.shape[3], q.shape[1] // k.shape[1])
    is_fused = _attends_compiled(q, k, v, budget.block) and _selects_compiled(gate_q, gate_k, budget)
    if log_gate or not is_fused:
        rule: dict[str, Any] = {"num_keys": num_keys, "bias": bias, "start": start, "prior": prior, "penalty": penalty}
        if normalize:
            at_T = torch.arange(num_keys - q.shape[2], num_keys, device=q.device)
            rule["offset"] = kept_log_mass(
                q, k, at_T, budget, scale=scale, num_gate_queries=gate_q.shape[3], start=start
            )
        blocks = select_blocks(gate_q, gate_k, budget, **rule)
        if log_gate:
            weights = select.log_gate(gate_q, _floats(gate_k), blocks, budget, **rule)
            out = twin.attend(q, k, v, blocks, block=budget.block, scale=scale, start=start, log_gate=weights)
        else:
            out = sparse_attention(q, k, v, blocks, block=budget.block, scale=scale, start=start)
        return (out, blocks) if return_blocks else out
    call = _Call(num_keys, start)
    call.select(gate_q, gate_k, budget, bias, prior, penalty)
    call.problem.normalizes = int(normalize)
    written = call.write_blocks() if return_blocks else None
    out = call.attend(q, k, v, scale)
    call.run()
    return out if written is None else (out, written)


class _Call:
    """One call of the compiled kernel: the problem, and the tensors it points into."""

    def __init__(self, num_keys: int, start: Tensor | None) -> None:
        self.problem = native.Problem(keys=num_keys, threads=torch.get_num_threads())
        self.held: list[Tensor] = []
        if start is not None:
            self.problem.start = self.hold(start.to(torch.int64).contiguous())

    def hold(self, tensor: Tensor) -> int:
        if tensor.device.type != "cpu":
            raise InputError(f"all tensors must be on the CPU like the queries, not on {tensor.device}")
        self.held.append(tensor)
        return tensor.data_ptr()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Put attention into the problem; return the tensor that will hold the output."""
        problem, (batch, heads, num_queries, dim) = self.problem, q.shape
        out = q.new_empty(batch, num_queries, heads, dim).transpose(1, 2)
        problem.batch, problem.groups, problem.queries, problem.dim = batch, k.shape[1], num_queries, dim
        problem.heads_per_group = heads // k.shape[1]
        problem.attends, problem.is_bf16, problem.scale = 1, q.dtype == torch.bfloat16, scale
        for name, tensor in (("q", q), ("k", k), ("v", v), ("out", out)):
            dense = _dense_width(tensor)
            setattr(problem, name, self.hold(dense))
            getattr(problem, f"{name}_stride")[:] = dense.stride()[:3]
        return out

    def select(
        self,
        gate_q: Tensor,
        gate_k: Tensor | GateKeys,
        budget: Budget,
        bias: Tensor | None,
        prior: Tensor | None,
        penalty: float,
    ) -> None:
        """Put the selection into the problem."""
        problem, (batch, num_queries, groups, num_gate_queries, width) = self.problem, gate_q.shape
        problem.batch, problem.groups, problem.queries = batch, groups, num_queries
        problem.gate_queries, problem.gate_dim = num_gate_queries, width
        problem.block, problem.keep, problem.sink, problem.local = budget.block, budget.keep, budget.sink, budget.local
        if isinstance(gate_k, GateKeys):
            problem.gate_is_int8, problem.sub = 1, gate_k.sub
            for name in ("means", "mean_scale") if budget.beam else ():
                setattr(problem, name, self.hold(getattr(gate_k, name).contiguous()))
            problem.gate_scale, gate_k = self.hold(gate_k.scale.contiguous()), gate_k.values
        else:
            problem.sub = select.sub_block(problem.keys, gate_k.shape[1], budget.block)
        problem.beam = budget.beam or 0
        problem.selects, problem.gate_is_bf16 = 1, gate_q.dtype == torch.bfloat16
        problem.coverage, problem.penalty = budget.coverage or 0.0, penalty
        gate_q, gate_k = _dense_width(gate_q), _dense_width(gate_k)
        problem.gate_q, problem.gate_k = self.hold(gate_q), self.hold(gate_k)
        problem.gate_q_stride[:], problem.gate_k_stride[:] = gate_q.stride()[:4], gate_k.stride()[:3]
        if bias is not None:
            problem.bias = self.hold(bias.detach().to(torch.float32).contiguous())
        if prior is not None:
            prior = prior.clamp(-1, 2**31 - 1).to(torch.int32).contiguous()
            problem.prior, problem.prior_size = self.hold(prior), prior.shape[3]
            row, token, group = prior.stride()[:3]
            problem.prior_stride[:] = row, token if prior.shape[1] > 1 else 0, group

    def take_off(self, offset: Tensor | None) -> None:
        """Put what is taken off the scores into the problem."""
        if offset is not None:
            self.problem.offset = self.hold(offset.detach().to(torch.float32).contiguous())

    def write_blocks(self) -> Tensor:
        """Have the selection written; return the tensor that will hold it."""
        problem = self.problem
        blocks = torch.empty(problem.batch, problem.queries, problem.groups, problem.keep, dtype=torch.int32)
        problem.blocks = self.hold(blocks)
        return blocks

    def run(self) -> None:
        level = native.chosen_level()
        if level is None or not self.problem.queries or not self.problem.batch:
            return
        native.load().run(self.problem, level)


def _dense_width(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _attends_compiled(q: Tensor, k: Tensor, v: Tensor, block: int) -> bool:
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    fits = q.device.type == "cpu" and q.dtype in COMPILED_DTYPES and q.numel() and block % native.STRIP == 0
    return bool(fits) and not needs_grad and native.chosen_level() is not None


def _floats(gate_k: Tensor | GateKeys) -> Tensor:
    if isinstance(gate_k, GateKeys):
        raise UsageError("gate keys in int8 have no gradient; give them as floats, or leave log_gate out")
    return gate_k


def _selects_compiled(gate_q: Tensor, gate_k: Tensor | GateKeys, budget: Budget) -> bool:
    is_int8 = isinstance(gate_k, GateKeys)
    keys = gate_k.values if isinstance(gate_k, GateKeys) else gate_k
    fits = gate_q.device.type == keys.device.type == "cpu" and (is_int8 or gate_q.dtype == keys.dtype)
    fits = fits and gate_q.dtype in COMPILED_DTYPES and budget.block % native.STRIP == 0
    return fits and native.chosen_level() is not None


def _check(q: Tensor, k: Tensor, v: Tensor, start: Tensor | None, scale: float | None) -> float:
    """Check what both paths need; return the scale."""
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise InputError(
            "queries must have the shape [batch, heads, queries, width], keys and values [batch, groups, keys, width], "
            f"not {list(q.shape)}, {list(k.shape)} and {list(v.shape)}"
        )
    (batch, heads, num_queries, dim), (groups, num_keys) = q.shape, k.shape[1:3]
    if (batch, dim) != (k.shape[0], k.shape[3]) or not groups or heads % groups:
        raise InputError(
            f"queries {list(q.shape)} and keys {list(k.shape)} differ in batch or width, "
            "or the heads are no multiple of the groups"
        )
    if not dim or num_queries > num_keys:
        raise InputError(
            f"{num_queries} queries of width {dim} among {num_keys} keys: there must be a width, and a key each"
        )
    kinds = {(x.dtype, x.device) for x in (q, k, v)}
    if len(kinds) > 1 or not q.is_floating_point():
        shown = ", ".join(f"{x.dtype} on {x.device}" for x in (q, k, v))
        raise InputError(f"queries, keys and values must be floats of one dtype on one device, not {shown}")
    if start is not None:
        select.check_start(start, batch, num_keys)
    scale = dim**-0.5 if scale is None else scale
    if not 0 < scale < math.inf:
        raise UsageError(f"scale must be a finite number above 0, not {scale}")
    return scale


def _check_blocks(q: Tensor, k: Tensor, blocks: Tensor, block: int) -> None:
    if block < 1:
        raise UsageError(f"a block must hold at least 1 key, not {block}")
    if blocks.ndim != 4 or blocks.shape[:3] != (q.shape[0], q.shape[2], k.shape[1]) or blocks.device != q.device:
        raise InputError(
            f"picked blocks must have the shape [{q.shape[0]}, {q.shape[2]}, {k.shape[1]}, any] on {q.device}, "
            f"not {list(blocks.shape)} on {blocks.device}"
        )
    if blocks.dtype not in (torch.int32, torch.int64):
        raise InputError(f"picked blocks must be int32 or int64, not {blocks.dtype}")
    if not blocks.numel():
        return
    num_blocks = -(-k.shape[2] // block)
    lowest, highest = (int(x) for x in blocks.aminmax())
    if lowest < -1 or highest >= num_blocks:
        raise InputError(f"picked blocks must lie in -1 .. {num_blocks - 1}, not {lowest} .. {highest}")
    is_in_order = (blocks[..., 1:] > blocks[..., :-1]) | (blocks[..., 1:] == -1)
    if not bool(is_in_order.all()):
        raise InputError("picked blocks must be ascending without repeats, with the unused places -1 at the end")


def _check_gate_fits(q: Tensor, k: Tensor, gate_q: Tensor) -> None:
    if gate_q.shape[:3] != (q.shape[0], q.shape[2], k.shape[1]) or gate_q.device != q.device:
        raise InputError(
            f"gate queries must be [{q.shape[0]}, {q.shape[2]}, {k.shape[1]}, ..] on {q.device} like the queries, "
            f"not {list(gate_q.shape)} on {gate_q.device}"
        )
