"""The collection of formulas as the reasoner reads it: quantities, formulas, constants, materials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from tuili.knowledge.graph import Entity, Graph
from tuili.knowledge.records import normalise
from tuili.knowledge.text import content_stems, stem
from tuili.reason.verify import base_unit, dimension

_MOST = 20_000
_SIDE_RARITY = 0.1
_PERIODS = {
    "year": {"annual", "yearly", "year"},
    "month": {"monthly", "month"},
    "week": {"weekly", "week"},
    "day": {"daily", "day"},
}
ORDINALS = ("first", "second", "third")
_ANGLE_UNITS = frozenset({"radian", "degree", "revolution"})


@dataclass(frozen=True, slots=True)
class Quantity:
    """What can be measured, with the words that name it, ask for it and hint at it.

    `unit` is the one whose numbers formulas take, such as mol/l in a pH. `is_count` tells that the
    number itself counts, so that a plain number may be meant in that unit (an interest rate of 0.05).
    """

    id: str
    name: str
    names: tuple[str, ...]
    symbols: tuple[str, ...]
    unit: str
    parent: str
    role: str
    asks: tuple[str, ...]
    cues: tuple[str, ...]
    zero_cues: tuple[str, ...]
    is_money: bool
    is_positive: bool
    is_count: bool = False

    @property
    def plain_unit(self) -> str:
        """The unit in which formulas take it: what it counts, or SI base units."""
        return self.unit if self.is_count else base_unit(self.unit)

    @property
    def periods(self) -> frozenset[str]:
        """The periods that its names tell of: "month" for a monthly payment."""
        words = {word for name in self.names for word in normalise(name).split()}
        return frozenset(period for period, adverbs in _PERIODS.items() if words & adverbs)

    @property
    def is_angle(self) -> bool:
        """Whether it is given in radians."""
        return self.unit in _ANGLE_UNITS


@dataclass(frozen=True, slots=True)
class Formula:
    """An equation between quantities; `where` maps its symbols to quantity ids."""

    id: str
    name: str
    expr: str
    where: Mapping[str, str]
    topic: str
    scenario: tuple[str, ...]
    description: str
    source: str
    defaults: Mapping[str, str]
    no_solve: tuple[str, ...]

    @property
    def defines(self) -> str:
        """The quantity that stands alone on the left, or ""."""
        return self.where.get(self.expr.partition("=")[0].strip(), "")

    @property
    def is_identity(self) -> bool:
        """Whether it merely says that two quantities are the same, as the law of reflection does."""
        return all(side.strip() in self.where for side in self.expr.split("="))

    def symbol(self, quantity: str) -> str:
        """Return the symbol that stands for a quantity."""
        return next(symbol for symbol, each in self.where.items() if each == quantity)


@dataclass(frozen=True, slots=True)
class Known:
    """A value that the base states: of a constant, or of a material's property; `key` is that of either."""

    name: str
    quantity: str
    magnitude: float
    unit: str
    source: str
    key: str


class Formulary:
    """Everything that a base knows for answering quantitative questions; read once per graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.quantities = {item.key.partition(":")[2]: _quantity(item) for item in _all(graph, "quantity")}
        self.formulas = {item.key.partition(":")[2]: _formula(item) for item in _all(graph, "formula")}
        self.constant_nodes = {item.key.partition(":")[2]: item for item in _all(graph, "constant")}
        self.materials = {item.name: item for item in _all(graph, "material")}
        self._properties: dict[str, dict[str, Known]] = {}

    @cached_property
    def constants(self) -> dict[str, Known]:
        """The constants by id."""
        return {key: _constant(item) for key, item in self.constant_nodes.items()}

    @cached_property
    def constants_of(self) -> dict[str, Known]:
        """The constants by the quantity whose value they are."""
        return {known.quantity: known for known in reversed(self.constants.values())}

    @cached_property
    def formulas_of(self) -> dict[str, list[Formula]]:
        """The formulas by each of their quantities."""
        found: dict[str, list[Formula]] = {key: [] for key in self.quantities}
        for formula in self.formulas.values():
            for quantity in formula.where.values():
                found[quantity].append(formula)
        return found

    @cached_property
    def ancestors(self) -> dict[str, dict[str, int]]:
        """For each quantity the more general ones, with the number of steps."""
        return {key: self._ancestors(key) for key in self.quantities}

    @cached_property
    def descendants(self) -> dict[str, dict[str, int]]:
        """For each quantity the more special ones, with the number of steps."""
        found: dict[str, dict[str, int]] = {key: {} for key in self.quantities}
        for key, above in self.ancestors.items():
            for ancestor, steps in above.items():
                found[ancestor][key] = steps
        return found

    def _ancestors(self, key: str) -> dict[str, int]:
        found: dict[str, int] = {}
        while (key := self.quantities[key].parent) and key not in found and key in self.quantities:
            found[key] = len(found) + 1
        return found

    def is_related(self, first: str, second: str) -> bool:
        """Tell whether one quantity is the other or a case of it."""
        return first == second or second in self.ancestors[first] or first in self.ancestors[second]

    @cached_property
    def dimensions(self) -> dict[str, str]:
        """The dimension of each quantity."""
        return {key: dimension(quantity.unit) for key, quantity in self.quantities.items()}

    @cached_property
    def rarity(self) -> dict[str, float]:
        """How unusual each quantity is among those of its dimension (0 to 1), by the formulas it is in."""
        counts = self._uses
        most: dict[tuple[str, bool, bool], int] = {}
        for key, number in counts.items():
            most[self._sort(key)] = max(number, most.get(self._sort(key), 1))
        rarity = {key: 1.0 - math.log1p(number) / math.log1p(most[self._sort(key)]) for key, number in counts.items()}
        for key, quantity in self.quantities.items():
            if quantity.parent in rarity and (quantity.role or key.partition("_")[0] in ORDINALS):
                rarity[key] = min(rarity[key], rarity[quantity.parent] + _SIDE_RARITY)
        return rarity

    @cached_property
    def _uses(self) -> dict[str, int]:
        """In how many formulas each quantity is, its special cases included."""
        return {
            key: sum(len(self.formulas_of[each]) for each in (key, *self.descendants[key])) for key in self.quantities
        }

    @cached_property
    def share(self) -> dict[str, float]:
        """How likely a value of its dimension is each quantity, when nothing else is known (0 to 1)."""
        total: dict[tuple[str, bool, bool], int] = {}
        for key in self.quantities:
            total[self._sort(key)] = total.get(self._sort(key), 0) + len(self.formulas_of[key])
        return {key: number / max(1, total[self._sort(key)]) for key, number in self._uses.items()}

    @cached_property
    def general(self) -> dict[tuple[str, bool, bool], str]:
        """The most usual quantity of each sort."""
        found: dict[tuple[str, bool, bool], str] = {}
        for key in self.quantities:
            best = found.setdefault(self._sort(key), key)
            if (self.rarity[key], len(self.ancestors[key])) < (self.rarity[best], len(self.ancestors[best])):
                found[self._sort(key)] = key
        return found

    def general_of(self, key: str) -> str:
        """The most usual quantity of the same dimension: speed for an initial velocity."""
        return self.general[self._sort(key)]

    @cached_property
    def is_ambiguous(self) -> dict[str, bool]:
        """Whether a formula's quantities don't tell it from others, so that it needs its scenario's words."""
        alike: dict[tuple[str, ...], list[str]] = {}
        for formula in self.formulas.values():
            kinds = tuple(
                sorted(self.dimensions[key] for key in formula.where.values() if key not in self.constants_of)
            )
            alike.setdefault(kinds, []).append(formula.id)
        found = {}
        for each in alike.values():
            ranked = sorted(each, key=lambda key: sum(self.rarity[q] for q in self.formulas[key].where.values()))
            for key in ranked:
                formula = self.formulas[key]
                is_ratio = len({self.dimensions[q] for q in formula.where.values()}) == 1
                found[key] = key != ranked[0] or formula.topic == "geometry" or is_ratio
        return found

    def _sort(self, key: str) -> tuple[str, bool, bool]:
        quantity = self.quantities[key]
        return self.dimensions[key], quantity.is_angle, quantity.is_money

    @cached_property
    def name_stems(self) -> dict[str, frozenset[str]]:
        """The stems of the words in each quantity's names."""
        return {
            key: frozenset(stem(word) for name in quantity.names for word in normalise(name).split() if len(word) > 3)
            for key, quantity in self.quantities.items()
        }

    @cached_property
    def vocabulary(self) -> dict[str, frozenset[str]]:
        """The stems of the words that tell of each formula: its name, description and scenario."""
        return {
            formula.id: frozenset(content_stems(" ".join((formula.name, formula.description, *formula.scenario))))
            for formula in self.formulas.values()
        }

    def properties(self, material: str) -> dict[str, Known]:
        """Return what is known of a material, by quantity."""
        if material not in self._properties:
            facts = self.graph.step(self.materials[material].id, "has property")
            known = [(self.graph.entity(fact.object).key.partition(":")[2], fact) for fact in facts]
            self._properties[material] = {
                quantity: Known(
                    f"{self.quantities[quantity].name} of {material}",
                    quantity,
                    float(fact.data["value"]),
                    str(fact.data["unit"]),
                    fact.source,
                    self.materials[material].key,
                )
                for quantity, fact in known
            }
        return self._properties[material]


_loaded: WeakKeyDictionary[Graph, Formulary] = WeakKeyDictionary()


def formulary(graph: Graph) -> Formulary:
    """Return the collection in a graph, read at most once."""
    if graph not in _loaded:
        _loaded[graph] = Formulary(graph)
    return _loaded[graph]


def _all(graph: Graph, kind: str) -> list[Entity]:
    return graph.entities(graph.members(kind, _MOST)) if kind in graph.kinds else []


def _texts(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(data.get(key) or ())


def _quantity(item: Entity) -> Quantity:
    data: Mapping[str, Any] = item.data
    return Quantity(
        item.key.partition(":")[2],
        item.name,
        (item.name, *item.aliases),
        _texts(data, "symbols"),
        str(data.get("counts") or data.get("unit") or ""),
        str(data.get("is_a") or ""),
        str(data.get("role") or ""),
        _texts(data, "asks"),
        _texts(data, "cues"),
        _texts(data, "zero_cues"),
        bool(data.get("money", False)),
        bool(data.get("positive", True)),
        bool(data.get("counts")) and not data.get("unit"),
    )


def _formula(item: Entity) -> Formula:
    data: Mapping[str, Any] = item.data
    return Formula(
        item.key.partition(":")[2],
        item.name,
        str(data["expr"]),
        dict(data["where"]),
        str(data.get("topic") or ""),
        _texts(data, "scenario"),
        item.description,
        str(data.get("source") or ""),
        dict(data.get("defaults") or {}),
        _texts(data, "no_solve"),
    )


def _constant(item: Entity) -> Known:
    data: Mapping[str, Any] = item.data
    return Known(
        item.name,
        str(data["quantity"]),
        float(data["value"]),
        str(data["unit"]),
        str(data.get("source") or ""),
        item.key,
    )
