"""tuili's attention in the library's registry: an attention module with a `Reader` reads its context by the plan.

Registered together with a mask function, without which the library would hand over no mask at all and padding would be
lost silently. Ours returns the padding mask [B, N] or None and refuses what that can't express; causality and windows
are the reader's own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from tuili.attention.reader import Reader
from tuili.errors import InputError, UsageError

NAME = "tuili"
"""The reader's name in its attention module, and that of the attention in the model's configuration."""

UNSUPPORTED = {
    "softcap": "it caps the attention's logits",
    "s_aux": "it has attention sinks",
    "position_bias": "it adds a bias by position",
    "cu_seq_lens_q": "the batch holds packed sequences",
    "cache": "it runs with a paged cache",
    "output_attentions": "attention weights are asked for, and they are never all computed",
}


def register() -> None:
    """Make the attention known to the library; again does no harm."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _padding_mask)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention [B, T, H, d] and no weights; the form that the library's interface asks for."""
    reader = getattr(module, NAME, None)
    if not isinstance(reader, Reader):
        raise UsageError(
            "this attention layer has no reader, but its configuration names tuili's attention: two models share one "
            "configuration object; "
            "give each its own, copy.deepcopy(config)"
        )
    for name, reason in UNSUPPORTED.items():
        if kwargs.get(name) not in (None, False):
            raise InputError(f"a ported model can't run this: {reason} ({name}); call tuili.unport(model) for it")
    if dropout:
        raise InputError(f"a ported model has no attention dropout, {dropout} is asked for; set attention_dropout to 0")
    if attention_mask is not None and attention_mask.ndim != 2:
        raise InputError(
            f"a ported model can't read an attention mask of shape {list(attention_mask.shape)}; "
            "give the padding mask [batch, keys], or call tuili.unport(model)"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return reader(query, key, value, attention_mask, scale), None


def _padding_mask(  # noqa: PLR0913
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> Tensor | None:
    """Return the padding mask of the keys [B, N], or None without padding; the form of the library's interface.

    Raises:
        InputError: the mask is more than causality, the model's window and padding, or keys are not yet written.
    """
    is_plain = mask_function is causal_mask_function or local_size is not None
    if not is_plain or not allow_is_causal_skip:
        raise InputError(
            "a ported model can only mask padding, and this call masks more (packed sequences, which position_ids "
            "that start anew look like; images; a mask function); give an attention_mask, or call tuili.unport(model)"
        )
    num_keys = kv_offset + kv_length
    if int(q_offset) + q_length != num_keys:
        raise InputError(
            f"the call ends with token {int(q_offset) + q_length}, the attention mask or the cache with {num_keys}: "
            "give a mask of all tokens and the default cache; a ported model has no static ones"
        )
    if attention_mask is None:
        return None
    if attention_mask.shape != (batch_size, num_keys):
        raise InputError(
            f"the attention mask has the shape {list(attention_mask.shape)}, the batch has {batch_size} rows and "
            f"{num_keys} tokens with those of the cache; give a mask of all of them"
        )
    valid_BN = attention_mask[:, kv_offset:]
    return None if bool(valid_BN.all()) else valid_BN
