"""The layer plan: how each layer of a ported decoder reads its context.

A plan speaks of tokens by their place in the row, padding left out, so that a row reads the same keys alone, in a
batch, in one go or in chunks. It names no model: what fits a model is checked when it is ported.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuili.attention.pooled import num_exact
from tuili.attention.select import Budget
from tuili.errors import InputError, UsageError

DENSE_UP_TO = 1024
"""Default crossover in tokens: up to about here SDPA is as fast, and the default budget would keep every key."""

NUM_KEPT = 64
"""Default blocks a token keeps: without training, the fewest that lose less than 1.2 % (see docs/log.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A layer that reads every key, or past a stated length the first keys and a window of the last.

    Attributes:
        window: keys a late token reads, itself included; None: every key.
        past: the first token that reads the window; tokens before it read every key. Only with a window.
        sink: first keys of the row that a late token reads besides its window. Only with a window.

    Raises:
        UsageError: a value is out of its bounds or has no effect.
    """

    window: int | None = None
    past: int = 0
    sink: int = 0

    def __post_init__(self) -> None:
        _check_int("past", self.past, least=0)
        _check_int("sink", self.sink, least=0)
        if self.window is not None:
            _check_int("window", self.window, least=1)
        elif self.past or self.sink:
            raise UsageError(f"past={self.past} and sink={self.sink} have no effect without a window; give one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """A layer that reads the blocks its gate selects.

    Attributes:
        budget: how many keys a token may read, and how they are found.
        sub: keys per gate key; must divide the block. Smaller ones find more and cost more.
        penalty: what a block outside the prior set S loses of its log mass (see `tuili.attention.prior`); 0: no prior.
        prior: what is in S. "layer": what the sparse layer below kept for the token. "before": what this layer kept for
            the token or chunk before, so that a text in chunks is not read as it is at once. "both": all of it.

    Raises:
        UsageError: a value is out of its bounds.
    """

    budget: Budget = field(default_factory=lambda: Budget(keep=NUM_KEPT))
    sub: int = 1
    penalty: float = 0.0
    prior: str = "layer"

    def __post_init__(self) -> None:
        if not isinstance(self.budget, Budget):
            raise UsageError(f"a sparse layer's budget must be a Budget, not {self.budget!r}")
        _check_int("sub", self.sub, least=1)
        if self.budget.block % self.sub:
            raise UsageError(f"sub must divide the block of {self.budget.block} keys, {self.sub} does not")
        is_number = isinstance(self.penalty, int | float) and not isinstance(self.penalty, bool)
        if not is_number or not 0 <= self.penalty < math.inf:
            raise UsageError(f"penalty must be a finite number of at least 0, not {self.penalty!r}")
        if self.prior not in PRIORS:
            raise UsageError(f"prior must be one of {', '.join(PRIORS)}, not {self.prior!r}")
        if self.prior != PRIORS[0] and not self.penalty:
            raise UsageError(f"prior={self.prior!r} has no effect with penalty=0; give a penalty or leave it out")

    def takes_prior(self, source: str) -> bool:
        """Return whether S holds what comes from a source, "layer" or "before"."""
        return self.penalty > 0 and self.prior in (source, "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """A layer that reads the first keys and a window of the last ones, and means of the blocks between.

    For the top of a decoder; no default plan has one. What it computes and costs: `tuili.attention.pooled`.

    Attributes:
        block: keys and values per mean.
        window: last keys a token reads exactly, itself included; up to `block` - 1 more to the edge of a block.
        sink: first keys of the row that a token reads exactly.

    Raises:
        UsageError: a value is out of its bounds.
    """

    block: int = 64
    window: int = 1024
    sink: int = 16

    def __post_init__(self) -> None:
        _check_int("block", self.block, least=1)
        _check_int("window", self.window, least=1)
        _check_int("sink", self.sink, least=0)

    @property
    def num_exact(self) -> int:
        """Tokens at the beginning of a row that read every key."""
        return num_exact(self.block, self.window, self.sink)


PRIORS = ("layer", "before", "both")
OPTIONAL = {"penalty", "prior"}
"""What a written plan may leave out."""
Entry = Dense | Sparse | Pooled
KINDS: dict[str, type[Entry]] = {"dense": Dense, "sparse": Sparse, "pooled": Pooled}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """How the layers of a decoder read their context.

    Attributes:
        default: what holds for the layers that are not named.
        layers: what holds for single layers, by index from 0.
        crossover: tokens of a sparse layer before this one read every key: there the dense path is as fast.

    Raises:
        UsageError: an index, an entry or the crossover is wrong.
    """

    default: Entry = field(default_factory=Sparse)
    layers: Mapping[int, Entry] = field(default_factory=dict)
    crossover: int = DENSE_UP_TO

    def __post_init__(self) -> None:
        _check_int("crossover", self.crossover, least=0)
        if not isinstance(self.layers, Mapping):
            raise UsageError(f"layers must map indices to Dense, Sparse or Pooled, not be {self.layers!r}")
        for index, entry in (("default", self.default), *self.layers.items()):
            if index != "default":
                _check_int("a layer's index", index, least=0)
            if not isinstance(entry, Entry):
                raise UsageError(f"layer {index} must be Dense, Sparse or Pooled, not {entry!r}")
        object.__setattr__(self, "layers", dict(sorted(self.layers.items())))

    def at(self, index: int) -> Entry:
        """Return what holds for a layer."""
        return self.layers.get(index, self.default)

    def to_json(self) -> str:
        """Return the plan as JSON, as `from_json` reads it."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON holds it."""
        return {
            "crossover": self.crossover,
            "default": _entry_to_dict(self.default),
            "layers": {str(index): _entry_to_dict(entry) for index, entry in self.layers.items()},
        }

    @classmethod
    def from_json(cls, text: str) -> LayerPlan:
        """Return the plan written by `to_json`.

        Raises:
            InputError: this is no JSON object, a key is unknown or missing, or a value has the wrong type.
            UsageError: a value is out of its bounds, or no number where one is needed.
        """
        try:
            plan = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"a layer plan must be JSON: {error}") from error
        return cls.from_dict(plan)

    @classmethod
    def from_dict(cls, plan: Any) -> LayerPlan:
        """Return the plan made by `to_dict`.

        Raises:
            InputError: a key is unknown or missing, or a value has the wrong type.
            UsageError: a value is out of its bounds, or no number where one is needed.
        """
        _check_keys(plan, {"crossover", "default", "layers"}, "a layer plan")
        if not isinstance(plan["layers"], dict):
            raise InputError(f"'layers' of a layer plan must be an object, not {plan['layers']!r}")
        return cls(
            crossover=plan["crossover"],
            default=_entry_from_dict(plan["default"], "'default'"),
            layers={_index(key): _entry_from_dict(value, f"layer {key}") for key, value in plan["layers"].items()},
        )


def wide() -> Dense:
    """Return the default dense layer, linear past 8,192 tokens."""
    return Dense(window=4096, past=8192, sink=16)


def sandwich(layers: Sequence[int], *, bottom: int = 2) -> LayerPlan:
    """Return the default plan for the layers that read the whole context.

    The first `bottom` of them are dense, linear past 8,192 tokens, the others sparse; at least one is.
    """
    return LayerPlan(layers=dict.fromkeys(layers[: min(bottom, len(layers) - 1)], wide()))


def _entry_to_dict(entry: Entry) -> dict[str, Any]:
    kind = next(name for name, each in KINDS.items() if isinstance(entry, each))
    return {"kind": kind, **dataclasses.asdict(entry)}


def _entry_from_dict(value: Any, place: str) -> Entry:
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{place} of a layer plan needs a 'kind' of {', '.join(KINDS)}, not {value!r}")
    fields = {each.name for each in dataclasses.fields(KINDS[kind])}
    _check_keys(value, {"kind", *fields} - (OPTIONAL - value.keys()), place)
    values = {name: value[name] for name in fields & value.keys()}
    if kind == "sparse":
        _check_keys(values["budget"], {each.name for each in dataclasses.fields(Budget)}, f"the budget of {place}")
        values["budget"] = _build(Budget, values["budget"], f"the budget of {place}")
    return _build(KINDS[kind], values, place)


def _build(kind: type, values: dict[str, Any], place: str) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{place} of a layer plan holds a value of a wrong type: {error}") from error


def _check_keys(value: Any, wanted: set[str], place: str) -> None:
    if not isinstance(value, dict) or set(value) != wanted:
        found = sorted(value) if isinstance(value, dict) else repr(value)
        raise InputError(f"{place} must be an object with exactly the keys {sorted(wanted)}, not {found}")


def _index(key: str) -> int:
    if not (key.isascii() and key.isdigit() and str(int(key)) == key):
        raise InputError(f"{key!r} is no layer index; indices count from 0")
    return int(key)


def _check_int(name: str, value: Any, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be an integer of at least {least}, not {value!r}")
