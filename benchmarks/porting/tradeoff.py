"""What is lost as tokens keep fewer or more keys: the shipped plan with its budgets scaled, for gates and peers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import Any

from porting.decoding import Way, ported
from porting.peers import peer

KEYS = (512, 768, 1536)
"""Keys a token beside those of the shipped plan."""
METHODS: Mapping[str, Way] = {
    "tuili": ported,
    **{name: peer(name) for name in ("sink+window", "pooled keys", "min-max bounds")},
}


def shipped_keys(model: Any) -> int:
    """Return the keys that a late token keeps as shipped, the mean over the sparse layers."""
    with ported(model) as running:
        return round(_mean_keys(_sparse(running)))


def scaled(way: Way, keys: int) -> Way:
    """Return the way to run a ported model with `keys` keys a token, shared out among its layers as they were.

    To within a block in each layer, and never less than what is always kept.
    """

    @contextmanager
    def other(model: Any) -> Iterator[Any]:
        with way(model) as running:
            readers = _sparse(running)
            factor = keys / _mean_keys(readers)
            for reader in readers:
                budget = reader.entry.budget
                keep = max(budget.sink + budget.local, round(budget.keep * factor))
                reader.entry = replace(reader.entry, budget=replace(budget, keep=keep))
            yield running

    return other


def spelled(method: str, keys: int) -> str:
    """Return the name of a method with so many keys."""
    return f"{method}, {keys} keys"


WAYS: Mapping[str, Way] = {spelled(name, keys): scaled(way, keys) for name, way in METHODS.items() for keys in KEYS}


def _sparse(model: Any) -> list[Any]:
    """Return the readers of the sparse layers."""
    found = (getattr(module, "tuili", None) for module in model.modules())
    return [reader for reader in found if reader is not None and reader.kind == "sparse"]


def _mean_keys(readers: Sequence[Any]) -> float:
    return fmean(reader.entry.budget.keep * reader.entry.budget.block for reader in readers)
