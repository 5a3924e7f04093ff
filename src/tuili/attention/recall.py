"""Gate keys kept beside the library's key-value cache, so that a step pools only the keys it added.

The library hands the attention function no cache, and its caches can be cropped, reordered or reset between calls.
So a hook notes the cache layer and the keys it holds before a forward, and a pool is used again only if these are the
very tensor that it was made from; whatever else happened to the cache, the keys are pooled anew.
"""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tuili.attention.cache import BlockPool

Note = tuple[Any, Tensor | None]
_noted: contextvars.ContextVar[Note | None] = contextvars.ContextVar("noted", default=None)


@dataclass(frozen=True, slots=True)
class Known:
    """What was pooled from one cache layer: one pool for the batch, or one for each row of a padded batch."""

    owner: weakref.ref[nn.Module]
    keys: weakref.ref[Tensor]
    valid: Tensor | None
    pools: list[BlockPool]

    def fits(self, owner: nn.Module, keys: Tensor | None, valid: Tensor | None) -> bool:
        """Return whether the pools were made by `owner` from `keys`, with the padding that `valid` begins with.

        What was made in inference mode can't be written to outside of it.
        """
        if keys is None or self.owner() is not owner or self.keys() is not keys:
            return False
        if keys.is_inference() and not torch.is_inference_mode_enabled():
            return False
        if self.valid is None or valid is None:
            return self.valid is valid
        return torch.equal(self.valid, valid[:, : self.valid.shape[1]])


_known: weakref.WeakKeyDictionary[Any, Known] = weakref.WeakKeyDictionary()


def note_cache(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Note which cache layer an attention module will fill and what it holds now; a forward pre-hook."""
    layers = getattr(kwargs.get("past_key_values"), "layers", ())
    layer = layers[module.layer_idx] if len(layers) > module.layer_idx else None
    _noted.set(None if layer is None else (layer, layer.keys))


def take_note() -> Note | None:
    """Return the cache layer that this forward fills and the keys it held before, and forget them."""
    note = _noted.get()
    _noted.set(None)
    return note


def recall(
    note: Note | None, owner: nn.Module, k: Tensor, valid: Tensor | None, make: Callable[[], BlockPool]
) -> list[BlockPool]:
    """Return the pools to grow to the keys `k`: known ones if the noted cache still fits, else what `make` returns.

    They are remembered for as long as the cache layer lives.
    """
    pools = [make() for _ in range(1 if valid is None else len(k))]
    if note is None:
        return pools
    layer, keys_before = note
    known = _known.get(layer)
    if known is not None and known.fits(owner, keys_before, valid):
        pools = known.pools
    _known[layer] = Known(weakref.ref(owner), weakref.ref(k), valid, pools)
    return pools


def num_bytes(cache: Any) -> int:
    """Return how many bytes the gate keys beside a cache take."""
    known = [_known[layer] for layer in getattr(cache, "layers", ()) if layer in _known]
    return sum(pool.num_bytes for each in known for pool in each.pools)
