"""Passes of a text through a decoder: hidden states, logits in pieces, and which layer is done.

Logits of a long text are never held at once: at 8,192 tokens SmolLM2's are 1.6 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from tuili.errors import UsageError

PIECE = 512
"""Tokens whose logits are held at once."""

OnLayer = Callable[[int, int], None]


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a decoder in order.

    Raises:
        UsageError: they are not where a decoder of the library has them.
    """
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or model.base_model is model:
        raise UsageError(f"a {type(model).__name__} has no list of layers below a language model head")
    return layers


@contextmanager
def watched(model: PreTrainedModel, on_layer: OnLayer) -> Iterator[None]:
    """Call `on_layer` with the number of layers done and in all, for each layer that a forward gets through."""
    layers = decoder_layers(model)
    hooks = [
        layer.register_forward_hook(lambda *_, done=index: on_layer(done, len(layers)))
        for index, layer in enumerate(layers, 1)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def logits(model: PreTrainedModel, hidden: Tensor) -> Iterator[Tensor]:
    """Yield the logits [t, vocabulary] of hidden states [T, D], `PIECE` tokens at a time, in float32.

    They go through the model's own forward, so that whatever it does to its logits is done.
    """
    base = model.base_model
    for hidden_tD in hidden.split(PIECE):
        output = BaseModelOutputWithPast(last_hidden_state=hidden_tD[None])
        with replaced_forward(base, lambda *args, output=output, **kwargs: output):
            ids = torch.zeros(1, len(hidden_tD), dtype=torch.int64, device=hidden.device)
            logits_tV = model(ids, use_cache=False).logits[0].float()
        yield logits_tV


@torch.no_grad()
def losses(model: PreTrainedModel, hidden: Tensor, ids: Tensor) -> Tensor:
    """Return the loss of the last tokens of a text in nats, float64 [T - 1].

    Args:
        model: whose head turns hidden states into logits.
        hidden: hidden states [T, D] of the last T tokens; the first one predicts the first token that counts.
        ids: token ids [N].
    """
    wanted = ids[len(ids) - len(hidden) + 1 :].split(PIECE)
    parts = [
        nn.functional.cross_entropy(logits_tV, wanted_t, reduction="none")
        for logits_tV, wanted_t in zip(logits(model, hidden[:-1]), wanted, strict=True)
    ]
    return torch.cat(parts).double()


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Have a module return what `forward` returns; hooks still run."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
