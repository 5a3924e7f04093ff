"""Attention through which a gate learns together with the model.

The output is that of inference: the selected keys, their scores as they are. The gradient is that of attention to which
log M of a selected block is added (straight-through), so that blocks which deserve more weight than they get rise, and
the gate is trained on what will run. The gate's part of it is taken from every 7th token and counts seven times: 7 has
no common divisor with the usual blocks, so that all places in a block are seen, and the choice is the same however
tokens are spread over devices.

Queries, keys and values get the gradient of the attention that was computed, over the selected keys; what teaches the
gate ends at its own weights. Through the gate it would go on into the model, as the gradient of something that was not
computed and seven times as strong from single tokens: a decoder of ten million parameters lost 5 % by that.

Sources: Bengio et al. 2013, Estimating or propagating gradients through stochastic neurons, section 4; DeepSeek-AI
2025, DeepSeek-V3.2, section 2.1 (the input of the part that selects is detached).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tuili.attention import select
from tuili.attention.gate import Gate
from tuili.attention.gradient import trained_attention
from tuili.attention.kernels import gated_attention
from tuili.attention.offset import kept_log_mass
from tuili.attention.select import Budget

PIECE_TOKENS = 256
EVERY = 7
"""Of so many tokens one teaches the gate."""


def teaching_attention(
    q: Tensor, k: Tensor, v: Tensor, gate: Gate, budget: Budget, *, scale: float, every: int = EVERY
) -> Tensor:
    """Return the attention of the last T of N tokens over the blocks that the gate selects: [B, H, T, d].

    Gradients flow into queries, keys, values and, apart from these, the gate; O(T K b d), the selection aside.

    Args:
        q: queries [B, H, T, d].
        k: keys [B, G, N, d].
        v: values [B, G, N, d].
        gate: selects, and learns.
        budget: how many keys a token may read.
        scale: factor of the scores.
        every: of so many tokens one teaches the gate; 1: all of them do.
    """
    gate_q, gate_k = gate.queries(q.detach()), gate.keys(k.detach())
    with torch.no_grad():
        rule: dict[str, Any] = {"bias": gate.bias, "normalize": True, "scale": scale, "return_blocks": True}
        out, blocks = gated_attention(q, k, v, gate_q, gate_k, budget, **rule)
    log_mass = _log_mass(q, k, gate_q, gate_k, gate.bias, blocks, budget, scale, every)
    return trained_attention(q, k, v, blocks, block=budget.block, scale=scale, out=out, log_mass=log_mass, every=every)


def _log_mass(  # noqa: PLR0913
    q: Tensor,
    k: Tensor,
    gate_q: Tensor,
    gate_k: Tensor,
    bias: Tensor,
    blocks: Tensor,
    budget: Budget,
    scale: float,
    every: int,
) -> Tensor:
    """Return log M of the picked blocks of every `every`-th token [B, S, G, K], in pieces computed again on the way."""
    first = k.shape[2] - q.shape[2]
    at_T = torch.arange(first, k.shape[2], device=q.device)
    parts = []
    for begin in range(0, q.shape[2], every * PIECE_TOKENS):
        piece = slice(begin, begin + every * PIECE_TOKENS, every)
        inputs = q[:, :, piece], k, gate_q[:, piece], gate_k, bias, blocks[:, piece], at_T[piece]
        parts.append(checkpoint(_of_piece, *inputs, budget, scale, use_reentrant=False))
    return torch.cat(parts, dim=1)


def _of_piece(  # noqa: PLR0913
    q: Tensor,
    k: Tensor,
    gate_q: Tensor,
    gate_k: Tensor,
    bias: Tensor,
    blocks: Tensor,
    at_S: Tensor,
    budget: Budget,
    scale: float,
) -> Tensor:
    with torch.no_grad():
        offset = kept_log_mass(q, k, at_S, budget, scale=scale, num_gate_queries=gate_q.shape[3])
    rule: dict[str, Any] = {"num_keys": k.shape[2], "offset": offset, "bias": bias, "positions": at_S}
    return select.log_gate(gate_q, gate_k, blocks, budget, **rule)
