"""Run a decoder with another attention function for a while; how gates are taught, and peers measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

Attention = Callable[..., tuple[Tensor, None]]


@contextmanager
def attention_swapped(model: PreTrainedModel, name: str, attention: Attention) -> Iterator[None]:
    """Have a model compute its attention by a function of the library's form, for batches without padding.

    No mask is made, so causality is the function's own.

    Args:
        model: a decoder; its own attention is back at the end.
        name: under which the function is registered with the library.
        attention: called with module, q [B, H, T, d], k and v [B, G, N, d], mask None, and keywords.
    """
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, _no_mask)
    original = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(original)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None
