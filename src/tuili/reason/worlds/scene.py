"""What a question says, as the search sees it: readings, zeros, materials, fitting formulas, penalties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tuili.knowledge.text import FUNCTION_WORDS
from tuili.knowledge.values import Found
from tuili.reason.worlds.bindings import Bindings
from tuili.reason.worlds.formulary import Formula, Formulary
from tuili.reason.worlds.wording import Mention, Wording

_FORMULA = 1.0
_SCENARIO_GAIN = 0.55
_SCENARIO_LACK = 0.3
_AMBIGUOUS_LACK = 0.9
_NAMED = 0.55
_OVERLAP = 0.4
_SPECIAL = 0.4
_UNUSED = {"unit": 1.0, "money": 0.5, "bare": 0.25, "word": 0.05, "count": 2.0}
_UNUSED_MATERIAL = 0.5


@dataclass
class Scene:
    """All that a question says: readings of its values, zeros, materials, results, fitting formulas."""

    base: Formulary
    wording: Wording
    bindings: Bindings
    earlier: dict[str, float] = field(default_factory=dict)
    remembered: dict[str, float] = field(default_factory=dict)
    meanings: Mapping[int, str] = field(default_factory=dict)
    patience: float = 1.0

    @cached_property
    def zeros(self) -> dict[str, tuple[float, int]]:
        """Quantities that the question says are nothing ("from rest"): cost and place."""
        found: dict[str, tuple[float, int]] = {}
        for mention in self.wording.of_kind("zero"):
            cost = 0.15 + 0.6 * (1 - mention.fit)
            if mention.ref not in found or cost < found[mention.ref][0]:
                found[mention.ref] = (cost, mention.first)
        return found

    @cached_property
    def materials(self) -> list[tuple[str, int, int]]:
        """Materials named in the question, with first and last token; the longest name at each place."""
        mentions = sorted(self.wording.of_kind("material"), key=lambda item: (item.first, item.first - item.last))
        found: list[tuple[str, int, int]] = []
        for mention in mentions:
            if mention.fit > 0.8 and (not found or mention.first > found[-1][2] or mention.span == found[-1][1:]):
                found.append((mention.ref, mention.first, mention.last))
        return found

    @cached_property
    def scenario(self) -> dict[str, float]:
        """How well each formula's words fit the question (0 to 1)."""
        sharing: dict[tuple[int, int], int] = {}
        mentions = self.wording.of_kind("scenario", "formula")
        for mention in mentions:
            sharing[mention.span] = sharing.get(mention.span, 0) + 1
        fits: dict[str, dict[tuple[int, int], float]] = {}
        longest = [mention.span for mention in mentions if self._num_content(mention) > 1]
        for mention in mentions:
            if any(
                first <= mention.first and mention.last <= last and (first, last) != mention.span
                for first, last in longest
            ):
                continue
            weight = mention.fit * (0.75 if mention.num_words == 1 else 0.9) / sharing[mention.span] ** 0.25
            spans = fits.setdefault(mention.ref, {})
            spans[mention.span] = max(spans.get(mention.span, 0.0), weight)
        return {key: _combined(list(spans.values())) for key, spans in fits.items()}

    def _num_content(self, mention: Mention) -> int:
        words = self.wording.words[mention.first : mention.last + 1]
        return sum(word.text.casefold() not in FUNCTION_WORDS for word in words)

    @cached_property
    def fit(self) -> dict[str, float]:
        """How well each formula fits: by its own words, and by the names of its quantities."""
        named = (
            self.named
            | {above for key in self.named for above in self.base.ancestors[key]}
            | {below for key in self.named for below in self.base.descendants[key]}
        )
        found = {}
        for formula in self.base.formulas.values():
            needed = [key for key in formula.where.values() if key not in self.base.constants_of]
            share = sum(key in named for key in needed) / len(needed) if needed else 0.0
            found[formula.id] = _combined(
                [
                    self.scenario.get(formula.id, 0.0),
                    _NAMED * share * share,
                    _OVERLAP * self.wording.overlap.get(formula.id, 0.0),
                ]
            )
        return found

    @cached_property
    def named(self) -> set[str]:
        """Quantities that the question names."""
        return {mention.ref for mention in self.wording.of_kind("name")}

    @cached_property
    def hinted(self) -> set[str]:
        """Quantities that the question names, asks for or hints at."""
        return {mention.ref for mention in self.wording.of_kind("name", "ask", "cue")}

    @cached_property
    def misnamed(self) -> set[str]:
        """Quantities to which the question gives a value that they can't have."""
        return {mention.ref for mention in self.bindings.misnamed.values()}

    @property
    def material_penalty(self) -> float:
        """What it costs to leave a named material out."""
        return _UNUSED_MATERIAL * self.patience

    @cached_property
    def penalties(self) -> list[float]:
        """What it costs to leave each value out."""
        found: list[float] = []
        for index, item in enumerate(self.wording.values):
            kind = self._sort_of_value(index, item)
            cost = 0.0 if index in self.meanings or self._is_repeated(index) else _UNUSED[kind]
            found.append(cost * self.patience)
        return found

    def _sort_of_value(self, index: int, item: Found) -> str:
        if self.wording.counted_by(index) >= 0:
            return "count"
        if item.is_bare:
            return "word" if item.in_words else "bare"
        return "money" if item.is_money else "unit"

    def _is_repeated(self, index: int) -> bool:
        """Tell whether a value says again what another one says ("half an hour, 30 min")."""
        mine = self.bindings.readings[index]
        for other in range(index + 1, len(self.wording.values)):
            shared = mine.keys() & self.bindings.readings[other].keys()
            key = min(shared, default="")
            if (
                key
                and self.wording.values[index].unit
                and abs(mine[key][0] - self.bindings.readings[other][key][0]) <= 1e-9 * abs(mine[key][0])
            ):
                return True
        return False

    def is_told(self, formula: Formula) -> bool:
        """Whether the question tells of a formula: by its scenario, or by naming what only it defines."""
        if self.scenario.get(formula.id):
            return True
        return formula.defines in self.named and self.base.rarity[formula.defines] > _SPECIAL

    @cached_property
    def told_stems(self) -> dict[str, frozenset[str]]:
        """For each formula the stems of the question's words that tell of it."""
        found: dict[str, set[str]] = {}
        for mention in self.wording.of_kind("scenario", "formula"):
            stems = {word.stem for word in self.wording.words[mention.first : mention.last + 1]}
            found.setdefault(mention.ref, set()).update(stems)
        return {key: frozenset(stems) for key, stems in found.items()}

    def formula_cost(self, formula: Formula) -> float:
        """The cost of using a formula: less if the question's words tell of it."""
        cost = _FORMULA - _SCENARIO_GAIN * self.fit[formula.id]
        if self.scenario.get(formula.id) or not formula.scenario:
            return cost
        lack = _AMBIGUOUS_LACK if self.base.is_ambiguous[formula.id] else _SCENARIO_LACK
        return cost + lack * (1.0 - min(1.0, self.wording.overlap.get(formula.id, 0.0)))


def _combined(weights: list[float]) -> float:
    missing = 1.0
    for weight in weights:
        missing *= 1.0 - weight
    return min(1.0, 1.0 - missing)
