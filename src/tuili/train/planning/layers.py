"""The time of one layer: products, attention, element-wise operations, and what tensor slices send each other.

A product takes its operations at the reached rate, and on top the time in which its matrices come from memory and go
back; so narrow slices and short heads are slower without a constant of their own. Element-wise operations take the
time of their bytes, which are counted for stored (GPT with dropout, as Megatron's fused kernels) and for compiled or
plain Llama layers. All sizes are those of one device's share of one micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuili.train.planning.devices import Device, Node
from tuili.train.planning.layout import Layout, Practice
from tuili.train.planning.models import Model, Reading

ELEMENT = 2
"""Bytes of an activation or a weight as it is multiplied."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds by what they are spent on."""

    matmul: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    tensor: float = 0.0

    @property
    def total(self) -> float:
        """All seconds."""
        return self.matmul + self.attention + self.elementwise + self.tensor

    def __add__(self, other: Parts) -> Parts:
        return Parts(
            self.matmul + other.matmul,
            self.attention + other.attention,
            self.elementwise + other.elementwise,
            self.tensor + other.tensor,
        )

    def times(self, factor: float) -> Parts:
        """Return so many times as much of everything."""
        return Parts(self.matmul * factor, self.attention * factor, self.elementwise * factor, self.tensor * factor)


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward and a backward pass of something; recomputation is part of the backward pass."""

    forward: Parts
    backward: Parts

    @property
    def total(self) -> float:
        """Seconds of both."""
        return self.forward.total + self.backward.total

    def __add__(self, other: Pass) -> Pass:
        return Pass(self.forward + other.forward, self.backward + other.backward)

    def times(self, factor: float) -> Pass:
        """Return so many of it."""
        return Pass(self.forward.times(factor), self.backward.times(factor))


def product_time(
    device: Device, rows: float, inputs: float, outputs: float, *, count: float = 1, fp8: bool = False
) -> float:
    """Return the seconds of `count` products [rows, inputs] x [inputs, outputs]."""
    rate = device.peak_fp8 * device.matmul_fp8 if fp8 else device.peak * device.matmul
    moved = ELEMENT * (rows * inputs + inputs * outputs + rows * outputs)
    return count * (2 * rows * (inputs + device.warm_up) * outputs / rate + device.memory_time(moved))


def layer_pass(model: Model, reading: Reading, node: Node, layout: Layout, practice: Practice, seq: int) -> Pass:
    """Return the time of one layer for one micro-batch.

    The backward pass multiplies twice per matrix, for the gradients of what went in and of the weights, adds the
    latter to what is accumulated, and computes again what `layout.recompute` says.
    """
    device, tokens, shapes = node.device, layout.micro_batch * seq, _shapes(model, layout.tp)
    matrices = [product_time(device, tokens, inputs, outputs, fp8=practice.fp8) for inputs, outputs in shapes]
    to_inputs = sum(product_time(device, tokens, outputs, inputs, fp8=practice.fp8) for inputs, outputs in shapes)
    to_weights = sum(product_time(device, inputs, tokens, outputs, fp8=practice.fp8) for inputs, outputs in shapes)
    attention, attention_backward = _attention(model, reading, device, layout, practice, seq)
    elementwise, elementwise_backward = _elementwise(model, device, layout, practice, tokens)
    accumulated = device.memory_time(model.matrix_params / layout.tp * (2 * practice.gradient_bytes + ELEMENT))
    tensor, tensor_backward = _tensor(model, node, layout, practice, tokens, to_weights)
    forward = Parts(sum(matrices), attention, elementwise, tensor)
    backward = Parts(to_inputs + to_weights, attention_backward, elementwise_backward + accumulated, tensor_backward)
    return Pass(forward, backward + _recomputed(model, layout, practice, forward, matrices))


def _shapes(model: Model, tp: int) -> list[tuple[float, float]]:
    """Return inputs and outputs of a tensor rank's slices of the layer's matrices."""
    return [
        (inputs, outputs / tp) if cut == "out" else (inputs / tp, outputs) for inputs, outputs, cut in model.matrices
    ]


def _attention(
    model: Model, reading: Reading, device: Device, layout: Layout, practice: Practice, seq: int
) -> tuple[float, float]:
    """Return the seconds of attention itself, forward and backward.

    Fused attention computes scores again in the backward pass: five products for the forward pass's two. Stored scores
    are written and read for each operation (mask and softmax, dropout, products).
    """
    heads = layout.micro_batch * model.num_heads / layout.tp
    if practice.flash:
        operations = 4 * heads * seq * model.head_dim * reading.keys_per_token(seq)
        gate = 2 * layout.micro_batch * seq * model.num_kv_heads / layout.tp * reading.gate_operations(seq)
        forward = (operations + gate) / (device.peak * device.flash)
        return forward, 2.5 * operations / (device.peak * device.flash) + gate / (device.peak * device.flash)
    products = product_time(device, seq, model.head_dim, seq, count=heads)
    products += product_time(device, seq, seq, model.head_dim, count=heads)
    scores = heads * seq * seq
    return products + device.memory_time(9 * scores), 2 * products + device.memory_time(11 * scores)


def _elementwise(
    model: Model, device: Device, layout: Layout, practice: Practice, tokens: float
) -> tuple[float, float]:
    """Return the seconds of norms, residuals, dropout, activations and rotations, forward and backward."""
    whole, split, whole_backward, split_backward = _traffic(model, practice)
    shared = layout.tp if layout.sequence_parallel else 1
    forward = tokens * (whole / shared + split / layout.tp)
    backward = tokens * (whole_backward / shared + split_backward / layout.tp)
    return device.memory_time(forward), device.memory_time(backward)


def _traffic(model: Model, practice: Practice) -> tuple[float, float, float, float]:
    """Return bytes a token: forward in full width, forward in what slices divide, and the same backward.

    Counted by hand, two bytes for what is read or written in 16 bits, four in fp32, one for a dropout mask. GPT: two
    norms, two times bias, dropout and residual in one kernel, GELU, attention's output made contiguous. Llama compiled:
    residual and norm in one kernel, rotation, gated unit; not compiled: a kernel for each operation, norms and
    rotations in fp32.
    """
    rotated = model.attention_width + model.kv_width
    if model.biases:
        return 22 * model.hidden, 4 * model.mlp + 4 * model.attention_width, 34 * model.hidden, 6 * model.mlp
    if practice.fused:
        return 16 * model.hidden, 6 * model.mlp + 4 * rotated, 16 * model.hidden, 10 * model.mlp + 4 * rotated
    return 84 * model.hidden, 10 * model.mlp + 24 * rotated, 156 * model.hidden, 18 * model.mlp + 24 * rotated


def _tensor(
    model: Model, node: Node, layout: Layout, practice: Practice, tokens: float, to_weights: float
) -> tuple[float, float]:
    """Return the seconds in which tensor slices wait for each other, forward and backward.

    Two all-reduces (or all-gather and reduce-scatter) forward, two backward; what is cut into as many pieces as there
    are slices waits for the first piece only; in the backward pass, gradients of weights can hide it. Source: Shoeybi
    et al. 2019 (arXiv:1909.08053), section 3; Korthikanti et al. 2022 (arXiv:2205.05198), section 4.2.2.
    """
    both = 2 * 2 * node.gather_time(ELEMENT * tokens * model.hidden, 1, layout.tp)
    if practice.overlap_tensor == "all":
        return both / layout.tp, both / layout.tp
    return both, max(0.0, both - to_weights) if practice.overlap_tensor == "backward" else both


def _recomputed(model: Model, layout: Layout, practice: Practice, forward: Parts, matrices: list[float]) -> Parts:
    """Return what the backward pass computes again of the forward pass."""
    if layout.recompute == "full":
        return forward
    if layout.recompute == "none":
        return Parts()
    if not practice.flash:
        return Parts(attention=forward.attention)
    again = sum(share * matrix for share, matrix in zip(every_other(model), matrices, strict=True))
    return Parts(matmul=again, elementwise=forward.elementwise)


def every_other(model: Model) -> tuple[float, float, float, float]:
    """Return the share of each of the layer's matrices that is computed again when every other one is.

    Of q, k, v, o, gate, up, down, as torchtitan counts them, k, o and up; of q, k, v, o, up, down the second, fourth
    and sixth.
    """
    keys = model.kv_width / (model.attention_width + 2 * model.kv_width)
    return (keys, 1.0, 0.5, 0.0) if model.gated else (keys, 1.0, 0.0, 1.0)


def ends_pass(model: Model, node: Node, layout: Layout, practice: Practice, seq: int) -> tuple[Pass, Pass]:
    """Return the time of the embedding and of the output layer with its loss, for one micro-batch.

    Logits are kept in fp32: written from 16 bits, read twice by the loss, and its gradient written and read.
    """
    device, tokens = node.device, layout.micro_batch * seq
    product = product_time(device, tokens, model.hidden, model.vocab / layout.tp)
    logits = device.memory_time(tokens * model.vocab / layout.tp)
    sent = 2 * node.gather_time(ELEMENT * tokens * model.hidden, 1, layout.tp)
    looked_up = device.memory_time(2 * ELEMENT * tokens * model.hidden)
    first = Pass(Parts(elementwise=looked_up, tensor=sent), Parts(elementwise=looked_up))
    forward = Parts(matmul=product, elementwise=10 * logits)
    backward = Parts(matmul=2 * product, elementwise=10 * logits, tensor=sent)
    return first, Pass(forward, backward)
