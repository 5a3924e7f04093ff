"""Which quantity a value of the question may be: by dimension, and by the words around it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from tuili.errors import InputError
from tuili.knowledge.text import FUNCTION_WORDS, stem
from tuili.knowledge.values import Found
from tuili.reason.verify import convert, convert_difference, dimension
from tuili.reason.worlds.formulary import ORDINALS, Formulary, Quantity
from tuili.reason.worlds.wording import Mention, Wording, is_adjacent_only

_CONNECTORS = frozenset(
    "of is was are were be = : a an the about to only at with by has have being equals equal "
    "measures under each amounts does it ( over".split()
)
_AFTER_CONNECTORS = frozenset("of in the a its - away".split())
_NAMES_ITS_VALUE = frozenset("of is was = :".split())
_BEFORE_NOUNS = frozenset("a an the with of its his her their by has have".split())
_OFFSETS = frozenset({"degree_Celsius", "degree_Fahrenheit"})
_COPULAS = frozenset("is was are were measures equals weighs be".split())
_RELATIVE = frozenset("that which who whose where when while".split())
_ASKING = frozenset("what which how find determine calculate compute".split())
_BEFORE_ASKED = frozenset("the its their his a an is are was were much many large great big high long total".split())
_NO_EVIDENCE = 0.8
_SPECIAL = 0.35
_RARE = 0.8
_SHARE = 0.8
_GENERAL = 0.5
_PLAIN_COUNT = 0.2
_WITHIN = 0.8
_COUNTED = 0.65
_COUNTED_THING = 0.8
_OTHER_THING = 0.8
_LISTED = re.compile(r"\s*(?:,|and|, and|&)?\s*(?:an?|one of|another of|the other of)?\s*", re.IGNORECASE)
_ROLES = {"initial", "final"}


@dataclass(frozen=True, slots=True)
class Binding:
    """A value read as a quantity: magnitude in the quantity's unit, cost, evidence (0 to 1)."""

    value: int
    quantity: str
    magnitude: float
    cost: float
    evidence: float


class Bindings:
    """The readings of a question's values as quantities of the collection."""

    def __init__(self, base: Formulary, wording: Wording) -> None:
        self.base = base
        self.wording = wording
        self.readings = [self._readings(item) for item in wording.values]
        self.evidence = self._all_evidence()

    def _readings(self, item: Found) -> dict[str, tuple[float, float]]:
        """A value in the unit of each quantity that it may be, with what that reading costs."""
        read = (
            (key, magnitude_as(item, quantity, self.base.dimensions[key]))
            for key, quantity in self.base.quantities.items()
        )
        return {key: reading for key, reading in read if reading is not None}

    @cached_property
    def of_quantity(self) -> dict[str, list[Binding]]:
        """For each quantity the values that it may have, cheapest first."""
        found: dict[str, list[Binding]] = defaultdict(list)
        for index in range(len(self.wording.values)):
            for binding in self._of_value(index):
                found[binding.quantity].append(binding)
        return {key: sorted(each, key=lambda binding: binding.cost) for key, each in found.items()}

    @cached_property
    def groups(self) -> list[frozenset[int]]:
        """Values of one kind listed together ("4 Ω and 8 Ω"): they belong together or not at all."""
        found: list[set[int]] = []
        values = self.wording.values
        for index in range(len(values) - 1):
            first, second = values[index], values[index + 1]
            between = self.wording.question[first.value.end : second.value.start]
            if first.is_bare or first.in_range or self.readings[index].keys() != self.readings[index + 1].keys():
                continue
            if _LISTED.fullmatch(between) and between.strip():
                if found and index in found[-1]:
                    found[-1].add(index + 1)
                else:
                    found.append({index, index + 1})
        return [frozenset(group) for group in found]

    @cached_property
    def misnamed(self) -> dict[int, Mention]:
        """Values named as a quantity that they can't be ("an acceleration of 3 kg"), with that name."""
        found = {}
        for index, at in self.wording.value_at.items():
            names = self._names_before(at)
            follower = self.wording.words[at + 1].text.casefold() if at + 1 < len(self.wording.words) else ""
            is_thing = follower == "of" or not self.wording.values[index].unit
            if names and not is_thing and not any(name.ref in self.readings[index] for name in names):
                found[index] = names[0]
        return found

    def _names_before(self, at: int) -> list[Mention]:
        """Return the readings of the noun that names a value right after it ("with a base of 5 seconds")."""
        words = self.wording.words
        last = at - 1
        while last >= 0 and words[last].text.casefold() in _NAMES_ITS_VALUE:
            last -= 1
        ending = [mention for mention in self.wording.of_kind("name") if mention.last == last and mention.fit > 0.9]
        first = min((mention.first for mention in ending), default=0)
        if first and not words[first - 1].is_mark and words[first - 1].text.casefold() not in _BEFORE_NOUNS:
            return []
        return [mention for mention in ending if mention.first == first and not self._is_asked(mention)]

    def _of_value(self, index: int) -> list[Binding]:
        readings = self.readings[index]
        own = {key: self._own_evidence(index, key) for key in readings}
        return [
            Binding(index, key, magnitude, extra + self._cost(index, key, own), own[key])
            for key, (magnitude, extra) in readings.items()
        ]

    def _own_evidence(self, index: int, key: str) -> float:
        """Evidence for a quantity, from itself, from its cases, and less from what it is a case of."""
        near = self.evidence[index]
        best = near.get(key, 0.0)
        for below, steps in self.base.descendants[key].items():
            best = max(best, near.get(below, 0.0) - 0.08 * steps)
        for above, steps in self.base.ancestors[key].items():
            best = max(best, 0.75 * near.get(above, 0.0) - 0.05 * steps)
        return max(best, _GENERAL * near.get(self.base.general_of(key), 0.0))

    def _cost(self, index: int, key: str, own: dict[str, float]) -> float:
        general = self.base.general_of(key)
        rival = max(
            (
                weight * (_GENERAL if other == general else 1.0)
                for other, weight in self.evidence[index].items()
                if other in own and not self.base.is_related(key, other)
            ),
            default=0.0,
        )
        if key in self.base.constants_of and own[key] < 0.5:
            rival += 0.5
        unsure = _NO_EVIDENCE * (1.0 - _SHARE * self.base.share[key]) + _RARE * self.base.rarity[key]
        cost = unsure * (1.0 - own[key]) + 1.3 * max(0.0, rival - own[key] - 0.05)
        special = max((self.evidence[index].get(below, 0.0) for below in self.base.descendants[key]), default=0.0)
        cost += _SPECIAL * (special > self.evidence[index].get(key, 0.0) + 0.2)
        return cost + self._role_cost(index, key)

    def _role_cost(self, index: int, key: str) -> float:
        item, role = self.wording.values[index], self.base.quantities[key].role
        if role == "change" and item.in_range:
            return 1.5
        if role == "change" and item.unit in _OFFSETS and self.evidence[index].get(key, 0.0) < 0.5:
            return 0.6
        if role in _ROLES and item.role in _ROLES and role != item.role:
            return 1.5 if item.in_range else 0.5
        if item.in_range and role not in _ROLES:
            return 0.6
        return 0.0

    def _all_evidence(self) -> list[dict[str, float]]:
        """For each value, how strongly the words around it hint at each quantity."""
        evidence: list[dict[str, float]] = [defaultdict(float) for _ in self.wording.values]
        for mention in self.wording.of_kind("name", "cue"):
            if mention.kind == "name" and self._is_asked(mention):
                continue
            for index in range(len(evidence)):
                weight = self._weight(mention, index)
                if weight > evidence[index][mention.ref]:
                    evidence[index][mention.ref] = weight
        for index, item in enumerate(self.wording.values):
            self._add_symbols(index, evidence[index])
            self._add_partial(index, evidence[index])
            self._add_listed(index, evidence[index])
            self._add_counted(index, evidence)
            self._add_roles(item, self.readings[index], evidence[index])
        return evidence

    def _is_asked(self, mention: Mention) -> bool:
        """Tell whether a name follows a question word, and so is no value's name."""
        position = mention.first - 1
        while position >= 0 and self.wording.words[position].text.casefold() in _BEFORE_ASKED:
            position -= 1
        return position >= 0 and self.wording.words[position].text.casefold() in _ASKING

    def _weight(self, mention: Mention, index: int) -> float:
        """How strongly one mention hints at one value: the nearer the more, less across other values."""
        at = self.wording.value_at[index]
        if mention.ref not in self.readings[index]:
            return 0.0
        if mention.last < at:
            weight = self._before(mention, at)
        elif mention.first > at:
            weight = self._after(mention, at)
        else:
            return _WITHIN * mention.fit
        if mention.kind == "cue":
            if is_adjacent_only(mention, self.wording.words):
                near = min(abs(mention.first - at), abs(mention.last - at)) <= 1
                return 0.3 * mention.fit if near else 0.0
            weight *= 0.75 if mention.num_words > 1 else 0.6
        return weight * mention.fit

    def _before(self, mention: Mention, at: int) -> float:
        if self._is_subject(mention, at):
            return 0.92
        words = self.wording.words[mention.last + 1 : at]
        distance = sum(word.text.casefold() not in _CONNECTORS for word in words)
        weight = max(0.15, 1.0 - 0.15 * distance) if distance < 12 else 0.0
        return weight * self._crossing(mention, mention.last + 1, at)

    def _is_subject(self, mention: Mention, at: int) -> bool:
        """Tell whether a name is the subject of "is 80 cm": the first fitting one of its clause."""
        words = self.wording.words
        if mention.kind != "name" or at < 1 or words[at - 1].text.casefold() not in _COPULAS:
            return False
        start = at
        while start and words[start - 1].text not in ".?!;" and words[start - 1].text.casefold() not in ("and", "if"):
            start -= 1
        inside = [other for other in self.wording.of_kind("name") if start <= other.first < at]
        value = words[at].value
        fitting = [other.first for other in inside if other.ref in self.readings[value]]
        return mention.first >= start and mention.first == min(fitting, default=-1)

    def _after(self, mention: Mention, at: int) -> float:
        words = self.wording.words[at + 1 : mention.first]
        distance = sum(word.text.casefold() not in _AFTER_CONNECTORS for word in words)
        weight = max(0.1, 0.95 - 0.2 * distance) if distance < 8 else 0.0
        if self._has_value_right_after(mention):
            weight *= 0.4
        return weight * self._crossing(mention, at + 1, mention.first)

    def _has_value_right_after(self, mention: Mention) -> bool:
        position = mention.last + 1
        while position < len(self.wording.words):
            word = self.wording.words[position]
            if word.value >= 0:
                return mention.ref in self.readings[word.value]
            if word.text.casefold() not in _CONNECTORS:
                return False
            position += 1
        return False

    def _crossing(self, mention: Mention, first: int, last: int) -> float:
        """The factor for what lies between a mention and a value: other values, clause ends."""
        factor = 1.0
        for word in self.wording.words[first:last]:
            if word.value >= 0:
                factor *= 0.5 if mention.ref in self.readings[word.value] else 0.8
            elif word.text in ".?!;":
                factor *= 0.35
            elif word.text in ",:(" or word.text.casefold() in _RELATIVE:
                factor *= 0.6
        return factor

    def _add_symbols(self, index: int, evidence: dict[str, float]) -> None:
        """Read "m = 5 kg"."""
        before = self.wording.question[: self.wording.values[index].value.start].rstrip()
        if not before.endswith(("=", ":")):
            return
        written = before[:-1].rstrip().split(" ")[-1].strip("(,;")
        for key in self.readings[index]:
            if written in self.base.quantities[key].symbols:
                evidence[key] = max(evidence[key], 0.9)

    def _add_partial(self, index: int, evidence: dict[str, float]) -> None:
        """Read "1,200 primary and 60 secondary turns": the word beside a bare number is part of a name."""
        if not self.wording.values[index].is_bare:
            return
        at = self.wording.value_at[index]
        beside = {
            word.stem for word in self.wording.words[max(0, at - 1) : at + 2] if word.value < 0 and len(word.text) > 3
        }
        for key in self.readings[index]:
            if beside & self.base.name_stems[key]:
                evidence[key] = max(evidence[key], 0.5)

    def _add_listed(self, index: int, evidence: dict[str, float]) -> None:
        """Values listed together are first and second of their kind."""
        if not any(index in group for group in self.groups):
            return
        for key in self.readings[index]:
            if key.partition("_")[0] in ORDINALS:
                evidence[key] = max(evidence[key], 0.65)

    def _add_counted(self, index: int, evidence: list[dict[str, float]]) -> None:
        """Read "two 12 Ω resistors" as a number of things and what each of them has."""
        counted = self.wording.counted_by(index)
        if counted < 0:
            return
        for place, sign in ((index, "number of "), (counted, " of each")):
            for key in self.readings[place]:
                if sign in self.base.quantities[key].name:
                    evidence[place][key] = max(evidence[place][key], _COUNTED)

    def _add_roles(self, item: Found, readings: Iterable[str], evidence: dict[str, float]) -> None:
        if not item.role:
            return
        for key in readings:
            if self.base.quantities[key].role == item.role:
                evidence[key] = max(evidence[key], 0.85 if item.in_range else 0.45)


def magnitude_as(item: Found, quantity: Quantity, wanted: str) -> tuple[float, float] | None:
    """Return a value in a quantity's unit with the cost of reading it so, or None if it can't be.

    `wanted` is the quantity's dimension. Angles, money and percentages are kept apart although
    pint gives none of them a dimension.
    """
    if item.is_money and not quantity.is_money:
        return None
    unit, cost = _unit_as(item, quantity, wanted)
    if unit == "percent" and (quantity.is_angle or quantity.is_money):
        return None
    if quantity.is_angle and unit not in ("degree", "radian", "milliradian", "revolution"):
        return None
    if "revolution" in unit and "radian" not in quantity.unit:
        unit = unit.replace("revolution", "1", 1)
    if not item.is_money and quantity.is_money and unit == "":
        cost = 0.35 + (_COUNTED_THING if item.noun and item.noun.casefold() not in FUNCTION_WORDS else 0.0)
    if item.is_bare and item.in_words:
        cost += 0.3
    if quantity.is_count and _counts_other(item, quantity):
        cost += _OTHER_THING
    return _converted(item, unit, quantity, wanted, cost)


def _unit_as(item: Found, quantity: Quantity, wanted: str) -> tuple[str, float]:
    """Return the unit that a value's writing means for a quantity, and what that reading costs."""
    unit = item.unit
    if unit == "degree" and not quantity.is_angle:
        return "degree_Celsius" if wanted == "[temperature]" else "no", 0.3
    if unit == "coulomb" and wanted == "[temperature]" and item.value.text.endswith(" C"):
        return "degree_Celsius", 0.5
    if unit in ("percent / year", "percent / month") and wanted == "dimensionless":
        return "percent", 0.0
    if item.is_money and quantity.is_money and unit.removeprefix("1 / ") in quantity.periods:
        return quantity.unit, 0.0
    return unit, 0.0


def _counts_other(item: Found, quantity: Quantity) -> bool:
    """Tell whether a plain number counts things that no name of the quantity speaks of ("12 cigarettes")."""
    noun = item.noun.casefold()
    if not item.is_bare or not noun or noun in FUNCTION_WORDS:
        return False
    phrases = (*quantity.names, *quantity.cues)
    return not any(stem(noun) == stem(word) for phrase in phrases for word in phrase.casefold().split())


def _converted(item: Found, unit: str, quantity: Quantity, wanted: str, cost: float) -> tuple[float, float] | None:
    if "decibel" in (unit, quantity.unit):
        return (item.value.magnitude, cost) if unit in ("", "decibel") and quantity.unit == "decibel" else None
    if quantity.is_count and (unit == "" or (unit == "percent" and quantity.unit.startswith("1 /"))):
        return convert(item.value.magnitude, unit, ""), cost + (_PLAIN_COUNT if unit == "" else 0.0)
    if unit == "no" or dimension(unit) != wanted:
        return None
    if quantity.role == "change" and unit in _OFFSETS:
        return convert_difference(item.value.magnitude, unit, quantity.unit), cost
    try:
        return convert(item.value.magnitude, unit, quantity.unit), cost
    except InputError:
        return None
