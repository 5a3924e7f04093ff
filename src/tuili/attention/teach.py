"""Attention through which a gate learns together with the model.

The output is that of inference: the selected keys, their scores as they are. The gradient is that of attention to which
log M of a selected block is added (straight-through), so that blocks which deserve more weight than they get rise, and
the gate is trained on what will run.

Source: Bengio et al. 2013, Estimating or propagating gradients through stochastic neurons, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tuili.attention import select, twin
from tuili.attention.gate import Gate
from tuili.attention.kernels import select_blocks
from tuili.attention.select import Budget

PIECE_TOKENS = 256


def teaching_attention(q: Tensor, k: Tensor, v: Tensor, gate: Gate, budget: Budget, *, scale: float) -> Tensor:
    """Return the attention of the last T of N tokens over the blocks that the gate selects: [B, H, T, d].

    Gradients flow into queries, keys, values and the gate. In pieces of tokens that are computed again on the way back,
    so that memory stays bounded.

    Args:
        q: queries [B, H, T, d].
        k: keys [B, G, N, d].
        v: values [B, G, N, d].
        gate: selects, and learns.
        budget: how many keys a token may read.
        scale: factor of the scores.
    """
    gate_q, gate_k = gate.queries(q), gate.keys(k)
    num_queries, num_keys = q.shape[2], k.shape[2]
    parts = []
    for begin in range(0, num_queries, PIECE_TOKENS):
        end = min(begin + PIECE_TOKENS, num_queries)
        near = num_keys - num_queries + end
        seen_J = -(-near // gate.shape.sub)
        inputs = q[:, :, begin:end], k[:, :, :near], v[:, :, :near], gate_q[:, begin:end], gate_k[:, :seen_J], gate.bias
        parts.append(checkpoint(_attend, *inputs, budget, scale, use_reentrant=False))
    return torch.cat(parts, dim=2)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, gate_q: Tensor, gate_k: Tensor, bias: Tensor, budget: Budget, scale: float
) -> Tensor:
    num_keys = k.shape[2]
    blocks = select_blocks(gate_q.detach(), gate_k.detach(), budget, num_keys=num_keys, bias=bias.detach())
    log_mass = select.log_gate(gate_q, gate_k, blocks, budget, num_keys=num_keys, bias=bias)
    return twin.attend(q, k, v, blocks, block=budget.block, scale=scale, log_gate=log_mass - log_mass.detach())
