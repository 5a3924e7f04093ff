"""The ways to know a quantity without a formula: given, said to be zero, stated by the base, known before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from tuili.reason.verify import convert
from tuili.reason.worlds.formulary import Formula, Known
from tuili.reason.worlds.scene import Scene

TO_PARENT = 0.2
TO_CHILD = 0.5
UNTOLD_CONSTANT = 3.2
_SCENE_CONSTANT = 0.25
_UNTOLD_PROPERTY = 1.0
_EARLIER = 0.1
_REMEMBERED = 0.35
_NEARLY = 0.1
_UNASKED = 2.5
_MOST_GIVEN = 8
_MOST_BINDING = 2.33
_NEW_MEANING = 0.8


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a quantity gets its value.

    `how` is "given", "zero", "constant", "default", "property", "earlier", "remembered", "formula"
    or "missing"; `via` is the quantity that was really known or solved for, the same or a related one.
    A given is a value of the question, or the difference between it and its `partner`.
    """

    how: str
    quantity: str
    via: str
    cost: float
    magnitude: float | None = None
    value: int = -1
    partner: int = -1
    known: Known | None = None
    material: str = ""
    formula: Formula | None = None
    evidence: float = 1.0
    position: int = -1


@dataclass(frozen=True, slots=True)
class Goal:
    """A quantity to be found; `above` are those that it is needed for.

    `default` is the constant that its formula falls back on, `is_told` that the question's words
    tell of that formula.
    """

    quantity: str
    above: tuple[str, ...] = ()
    default: str = ""
    is_told: bool = False


class Leaves:
    """Finds the ways to know a quantity, for one scene and its asked candidates."""

    def __init__(self, scene: Scene, candidates: Mapping[str, float]) -> None:
        self.scene = scene
        self.base = scene.base
        self.candidates = candidates
        self._found: dict[tuple[str, bool, str, bool], tuple[Resolution, ...]] = {}

    def of(self, goal: Goal) -> tuple[Resolution, ...]:
        """Return the ways to know a goal's quantity, cheapest first."""
        key = (goal.quantity, bool(goal.above), goal.default, goal.is_told)
        if key not in self._found:
            self._found[key] = tuple(sorted(self._all(goal), key=lambda item: item.cost))
        return self._found[key]

    def known_quantities(self) -> Iterable[str]:
        """Return the quantities that may have a leaf at all."""
        found = set(self.scene.bindings.of_quantity) | set(self.base.constants_of)
        for key in (*self.scene.zeros, *self.scene.earlier, *self.scene.remembered, *self._properties):
            found |= {key, *self.base.ancestors[key], *self.base.descendants[key]}
        return found

    @cached_property
    def _properties(self) -> set[str]:
        return {key for name, _first, _last in self.scene.materials for key in self.base.properties(name)}

    def _all(self, goal: Goal) -> Iterator[Resolution]:
        if goal.above:
            yield from self._given(goal.quantity)
            yield from self._zeros(goal.quantity)
            yield from self._known_before(goal.quantity, "earlier", self.scene.earlier, _EARLIER)
        yield from self._properties_for(goal)
        yield from self._constants(goal)
        yield from self._known_before(goal.quantity, "remembered", self.scene.remembered, _REMEMBERED)

    def _given(self, key: str) -> Iterator[Resolution]:
        for binding in self.scene.bindings.of_quantity.get(key, ())[:_MOST_GIVEN]:
            if binding.cost > _MOST_BINDING:
                break
            known_as = self.scene.meanings.get(binding.value, key)
            cost = binding.cost + (0.0 if known_as == key else _NEW_MEANING)
            yield Resolution(
                "given",
                key,
                key,
                cost,
                binding.magnitude,
                binding.value,
                evidence=binding.evidence,
                position=self.scene.wording.value_at[binding.value],
            )
        yield from self._differences(key)

    def _differences(self, key: str) -> Iterator[Resolution]:
        """Yield the width of a range: "from the 3 m mark to the 18 m mark"."""
        if self.base.quantities[key].role or (key != self.base.general_of(key) and key not in self.scene.named):
            return
        values, readings = self.scene.wording.values, self.scene.bindings.readings
        for index in range(len(values) - 1):
            first, second = values[index], values[index + 1]
            is_range = first.in_range and second.in_range and (first.role, second.role) == ("initial", "final")
            if is_range and key in readings[index] and key in readings[index + 1]:
                width = readings[index + 1][key][0] - readings[index][key][0]
                yield Resolution(
                    "given",
                    key,
                    key,
                    0.6,
                    width,
                    index,
                    partner=index + 1,
                    evidence=0.5,
                    position=self.scene.wording.value_at[index],
                )

    def _zeros(self, key: str) -> Iterator[Resolution]:
        for via in (key, *self.base.descendants[key]):
            if via in self.scene.zeros:
                cost, place = self.scene.zeros[via]
                yield Resolution("zero", key, via, cost + (0.3 if via != key else 0.0), 0.0, position=place)

    def _known_before(self, key: str, how: str, known: Mapping[str, float], cost: float) -> Iterator[Resolution]:
        for via, magnitude in known.items():
            extra = self.coercion(via, key)
            if extra is not None:
                unit, wanted = self.base.quantities[via].unit, self.base.quantities[key].unit
                yield Resolution(how, key, via, cost + extra, convert(magnitude, unit, wanted))

    def coercion(self, known: str, wanted: str) -> float | None:
        """What it costs to take one quantity for another, or None if they aren't related."""
        if known == wanted:
            return 0.0
        if wanted in self.base.ancestors[known]:
            return TO_PARENT * self.base.ancestors[known][wanted]
        if known in self.base.ancestors[wanted]:
            return TO_CHILD * self.base.ancestors[wanted][known]
        return None

    def _properties_for(self, goal: Goal) -> Iterator[Resolution]:
        for order, (name, first, _last) in enumerate(self.scene.materials):
            for via, known in self.base.properties(name).items():
                extra = self.coercion(via, goal.quantity)
                if extra is not None and self._is_hinted(via, goal.quantity):
                    cost = 0.1 + self._property_cost(goal, via, extra) + self._side_cost(goal.quantity, first)
                    yield Resolution(
                        "property",
                        goal.quantity,
                        via,
                        cost + 0.02 * order,
                        known=known,
                        material=name,
                        position=first,
                    )

    def _is_hinted(self, via: str, wanted: str) -> bool:
        """Tell whether the question tells of a property's special sense: sound, where the speed of sound is known."""
        if via not in self.base.descendants[wanted] or via in self.scene.hinted:
            return True
        special = self.base.name_stems[via] - self.base.name_stems[wanted]
        return any(word.stem in special for word in self.scene.wording.words)

    def _property_cost(self, goal: Goal, via: str, extra: float) -> float:
        """A property that the question doesn't name is seldom what it asks for."""
        named = via in self.scene.named or self.candidates.get(via, 9.0) < 0.6
        if not goal.above:
            is_asked = self.candidates.get(via, 9.0) <= min(self.candidates.values()) + _NEARLY
            return min(extra, 0.3) + self._lookup_cost + (0.0 if is_asked else _UNASKED)
        is_special = via in self.base.descendants[goal.quantity]
        untold = 0.0 if named or goal.is_told else _UNTOLD_PROPERTY
        return min(extra, 0.3) + untold + (0.5 if is_special and not named else 0.0)

    @cached_property
    def _lookup_cost(self) -> float:
        """What it costs to answer with a stored value although the question gives some."""
        return min(2.0, sum(not item.is_bare for item in self.scene.wording.values))

    def _side_cost(self, key: str, place: int) -> float:
        """A material after "from" is the first of two, one after "into" the second."""
        words = {word.text.casefold() for word in self.scene.wording.words[max(0, place - 2) : place]}
        side = "first" if "from" in words else "second" if words & {"into", "to", "enters", "strikes"} else ""
        ordinal = key.partition("_")[0]
        return 0.5 if side and ordinal in ("first", "second") and ordinal != side else 0.0

    def _constants(self, goal: Goal) -> Iterator[Resolution]:
        key = goal.quantity
        if key in self.base.constants_of:
            cost = 0.35 if goal.is_told or key in self.scene.named else UNTOLD_CONSTANT
            cost += 0.0 if goal.above else self._lookup_cost
            yield Resolution("constant", key, key, cost, known=self.base.constants_of[key])
        if goal.default in self.base.constants:
            known = self.base.constants[goal.default]
            yield Resolution("default", key, key, self.default_cost(known.quantity, goal.is_told), known=known)

    def default_cost(self, quantity: str, is_told: bool) -> float:
        """What a formula's own constant costs: little if the question's words tell of either."""
        return _SCENE_CONSTANT if is_told or quantity in self.scene.named else UNTOLD_CONSTANT
