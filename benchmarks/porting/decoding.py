"""The decoder, the ways to run it, and what is kept of a forward over a text: losses and best guesses, no logits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

MODEL = "smollm2-135m"
CHUNK = 512
SHORT, STRIDE = 512, 256
"""A short context is a window of so many tokens, moved by so many: SHORT - STRIDE to SHORT - 1 before a token."""
BATCH = 4

Way = Callable[[Any], AbstractContextManager[Any]]
"""Gives the model to run for a while."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model made of the N tokens of a text; the first token is not predicted.

    `losses`: [N] in nats, the first NaN. `guesses`: [N], the likeliest token at each place, the first -1.
    """

    losses: np.ndarray
    guesses: np.ndarray


def decoder() -> tuple[Any, Any]:
    """Return SmolLM2-135M and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tuili.model.packaged import ensure

    folder = ensure(MODEL)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


# -- ways to run it ------------------------------------------------------------------------------


@contextmanager
def dense(model: Any) -> Iterator[Any]:
    """Give the model as it is."""
    yield model


@contextmanager
def ported(model: Any) -> Iterator[Any]:
    """Give the model as `tuili.port` makes it without further arguments, and take it back."""
    import tuili

    tuili.port(model)
    try:
        yield model
    finally:
        tuili.unport(model)


def adapted_dense(model: Any) -> Any:
    """Return a copy of the model with the shipped adapter's low-rank weights and dense attention.

    Where the adapter holds none the model itself is returned.
    """
    from tuili.porting import lowrank
    from tuili.porting.adapter import load, shipped

    path = shipped(model)
    low_rank = {} if path is None else load(path, model).low_rank
    if not low_rank:
        return model
    adapted = copy.deepcopy(model)
    lowrank.put(adapted, low_rank)
    return adapted


# -- reading -------------------------------------------------------------------------------------


def read(model: Any, ids: Any) -> Reading:
    """Return what a model makes of a text [1, N]. Memory is linear in N."""
    import torch

    with torch.no_grad():
        hidden = model.model(ids, use_cache=False).last_hidden_state[0, :-1]
        losses, guesses = _score(model, hidden, ids[0, 1:])
    return Reading(np.concatenate([[np.nan], losses]), np.concatenate([[-1], guesses]))


def read_short(model: Any, ids: Any) -> np.ndarray:
    """Return the loss [N] of each token in a short context, the first NaN; see SHORT."""
    import torch

    num_tokens = ids.shape[1]
    if num_tokens <= SHORT:
        return read(model, ids).losses
    losses = np.full(num_tokens, np.nan)
    starts = [*range(0, num_tokens - SHORT, STRIDE), num_tokens - SHORT]
    for begin in range(0, len(starts), BATCH):
        rows = starts[begin : begin + BATCH]
        windows = torch.cat([ids[:, start : start + SHORT] for start in rows])
        with torch.no_grad():
            hidden = model.model(windows, use_cache=False).last_hidden_state
            for row, start in enumerate(rows):
                first = STRIDE if start else 1
                found, _ = _score(model, hidden[row, first - 1 : -1], windows[row, first:])
                at = np.arange(start + first, start + SHORT)
                is_new = np.isnan(losses[at])
                losses[at[is_new]] = found[is_new]
    return losses


def _score(model: Any, hidden: Any, wanted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return loss and likeliest token at each place of hidden states [N, D], in pieces."""
    import torch

    losses, guesses = [], []
    for piece, right in zip(hidden.split(CHUNK), wanted.split(CHUNK), strict=True):
        logits = model.lm_head(piece).float()
        losses.append(torch.nn.functional.cross_entropy(logits, right, reduction="none"))
        guesses.append(logits.argmax(-1))
    return torch.cat(losses).double().numpy(), torch.cat(guesses).numpy()
