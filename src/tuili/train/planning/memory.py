"""What a device holds during a step: parameters, gradients, optimiser, activations."""

from __future__ import annotations

from dataclasses import dataclass

from tuili.train.planning.devices import GIB
from tuili.train.planning.layers import ELEMENT
from tuili.train.planning.layout import Layout, Practice
from tuili.train.planning.models import Model

MASTER = 4
"""Bytes of a parameter as the optimiser keeps it."""
MOMENTS = 8
"""Bytes of Adam's two moments of a parameter."""
LOGIT = 16
"""Bytes of a logit while the loss is computed: in 16 bits, in fp32, its log-softmax, and gradients of both."""
HEADROOM = 0.08
"""Share of a device's memory that is kept free: the runtime's own, and what allocations leave between them."""


@dataclass(frozen=True, slots=True)
class Memory:
    """GiB on one device."""

    parameters: float
    gradients: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.parameters + self.gradients + self.optimiser + self.activations


def stage_memory(
    model: Model, layout: Layout, practice: Practice, seq: int, num_micro: int, counts: tuple[int, ...], rank: int
) -> Memory:
    """Return what a device of one stage holds; `counts`: layers of each chunk of the pipeline."""
    num_layers = sum(counts[rank :: layout.pp])
    is_first, is_last = rank == 0, rank == layout.pp - 1
    params = num_layers * model.layer_params
    params += model.embedding_params if is_first else 0
    params += model.head_params if is_last else 0
    params += model.vocab * model.hidden if model.tied and is_last and not is_first else 0
    parameters, gradients, optimiser = _states(model, layout, practice, params / layout.tp)
    tokens = layout.micro_batch * seq
    kept = tokens * num_layers * activation_bytes(model, layout, practice, seq) * in_flight(layout, num_micro, rank)
    activations = kept + _working(model, layout, practice, seq, is_last)
    return Memory(parameters / GIB, gradients / GIB, optimiser / GIB, activations / GIB)


def _states(model: Model, layout: Layout, practice: Practice, params: float) -> tuple[float, float, float]:
    """Return bytes of parameters, gradients and optimiser of a rank that computes with `params` parameters.

    Replicated: a copy to multiply with, a gradient, the optimiser's own copy and moments. Sharded: the fp32 shard is
    the optimiser's own copy; what is multiplied is gathered, two layers at a time, or with a pipeline once a step, and
    then gradients are whole until the step's end. Source: Rajbhandari et al. 2020 (arXiv:1910.02054), section 5.
    """
    if layout.dp_shard == 1:
        return ELEMENT * params, practice.gradient_bytes * params, (MASTER + MOMENTS) * params
    shard = params / layout.dp_shard
    gathered = params if layout.pp > 1 else min(params, 2 * model.layer_params / layout.tp)
    return MASTER * shard + ELEMENT * gathered, MASTER * shard + MASTER * gathered, MOMENTS * shard


def in_flight(layout: Layout, num_micro: int, rank: int = 0) -> float:
    """Return for how many micro-batches a rank keeps the activations of all its layers at once.

    Source: Narayanan et al. 2021 (arXiv:2104.04473), section 2.2; interleaved, first rank: Korthikanti et al. 2022
    (arXiv:2205.05198), section 4.2.3, p (1 + (p - 1) / (p v)); each later rank warms up two chunks less.
    """
    if layout.pp == 1:
        return 1.0
    if layout.schedule == "gpipe":
        return float(num_micro)
    if layout.virtual > 1:
        chunks = layout.pp * layout.virtual + layout.pp - 1 - 2 * rank
        return min(float(num_micro), chunks / layout.virtual)
    return float(min(num_micro, layout.pp - rank))


def activation_bytes(model: Model, layout: Layout, practice: Practice, seq: int) -> float:
    """Return the bytes a token and layer that wait for the backward pass on a device.

    Source: for GPT Korthikanti et al. 2022, table 2; for Llama the same count of what each operation keeps: inputs of
    norms and matrices, queries, keys and values, attention's output, gate, up and their product.
    """
    if layout.recompute == "full":
        return ELEMENT * model.hidden / _shared(layout)
    return _layer_bytes(model, layout, practice, seq, is_selective=layout.recompute == "selective")


def _layer_bytes(model: Model, layout: Layout, practice: Practice, seq: int, *, is_selective: bool) -> float:
    width, kv, hidden = model.attention_width, model.kv_width, model.hidden
    stored = 0.0 if is_selective else 5.0 * model.num_heads * seq
    scores = 4.0 * model.num_heads if practice.flash else stored
    if is_selective and practice.flash:
        masks = 2.0 * hidden if model.biases else 0.0
        whole, split = 4.0 * hidden + masks, 4.0 * width + 2.0 * kv + 2.0 * model.mlp
    elif model.biases:
        whole, split = 10.0 * hidden, 8.0 * width + 4.0 * model.mlp
    else:
        copies = 0.0 if practice.fused else 16.0 * hidden
        whole, split = 8.0 * hidden + copies, 4.0 * width + 4.0 * kv + 6.0 * model.mlp
    return whole / _shared(layout) + (split + scores) / layout.tp


def _shared(layout: Layout) -> int:
    return layout.tp if layout.sequence_parallel else 1


def _working(model: Model, layout: Layout, practice: Practice, seq: int, is_last: bool) -> float:
    """Return the bytes that one micro-batch needs for a moment: a layer computed again, or logits and gradients."""
    tokens = layout.micro_batch * seq
    again = _layer_bytes(model, layout, practice, seq, is_selective=False) if layout.recompute == "full" else 0.0
    logits = model.vocab / layout.tp * LOGIT if is_last and not practice.chunked_loss else 0.0
    return tokens * max(again, logits)
