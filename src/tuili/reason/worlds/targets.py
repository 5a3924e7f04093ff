"""What a quantitative question asks for: one slot per asked quantity, with candidates and their costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuili.errors import InputError
from tuili.knowledge.records import normalise
from tuili.knowledge.text import FUNCTION_WORDS, stem
from tuili.knowledge.units import Unit
from tuili.knowledge.values import find_units
from tuili.reason.verify import dimension
from tuili.reason.worlds.bindings import Bindings
from tuili.reason.worlds.formulary import Formulary
from tuili.reason.worlds.wording import Mention, Word, Wording

_QUESTION_WORDS = frozenset("what which how where when whats".split())
_COMMANDS = frozenset("find determine calculate compute estimate obtain evaluate derive convert work state".split())
_SUBORDINATE = frozenset(
    "if when whose while after that since because although as given knowing under once until before who".split()
)
_CONDITIONAL = _SUBORDINATE - frozenset("that whose who under".split())
_ARTICLES = frozenset("a an the its their his her my then also first total great large big much is are was".split())
_SIZES = frozenset("high low large big great strong".split())
_COPULAS = frozenset("is was are were".split())
_STEM = 6
_BARE_COUNT = 1.4
_OPENING = 0.3
_SHADOWED = 0.6
_SURE = 0.15
_CLEARLY = 0.2
_ENDS = ".?;!"


@dataclass(slots=True)
class Slot:
    """One asked quantity: candidate ids with costs, and the unit in which the answer is wanted."""

    candidates: dict[str, float] = field(default_factory=dict)
    unit: str = ""
    unit_text: str = ""
    label: str = ""
    start: int = 0

    def add(self, key: str, cost: float) -> None:
        """Add a candidate, or make it cheaper."""
        self.candidates[key] = min(cost, self.candidates.get(key, cost))


class Asked:
    """Finds the slots of a question."""

    def __init__(self, base: Formulary, wording: Wording, bindings: Bindings) -> None:
        self.base = base
        self.wording = wording
        self.words = wording.words
        self.evidence = bindings.evidence
        self.readings = bindings.readings
        self.misnaming = {mention.span for mention in bindings.misnamed.values() if mention.first > 1}
        self.units = _asked_units(wording)
        self.names = sorted(
            (mention for mention in wording.of_kind("name") if mention.fit > 0.6),
            key=lambda mention: (mention.first, -mention.last),
        )
        self.asks = wording.of_kind("ask")

    def slots(self) -> list[Slot]:
        """Return what is asked for, in order; empty if nothing that the base knows."""
        zones = self._zones()
        slots = self._elliptic() if not zones else [slot for zone in zones for slot in self._in_zone(*zone)]
        return [slot for slot in _merged(slots) if slot.candidates]

    @property
    def has_question(self) -> bool:
        """Whether the question has words that ask for an amount."""
        return bool(self._zones())

    def _zones(self) -> list[tuple[int, int]]:
        starts = [index for index in range(len(self.words)) if self._is_trigger(index)]
        starts = [start for position, start in enumerate(starts) if position == 0 or start - starts[position - 1] > 1]
        zones = []
        for position, start in enumerate(starts):
            end = starts[position + 1] if position + 1 < len(starts) else len(self.words)
            for index in range(start, end):
                if self.words[index].text in _ENDS:
                    end = index
                    break
            zones.append((start, end))
        return zones

    def _is_trigger(self, index: int) -> bool:
        word = self.words[index].text.casefold()
        if word.replace("'", "") not in _QUESTION_WORDS and word not in _COMMANDS:
            return False
        before = self.words[index - 1].text.casefold() if index else "."
        if word == "work" and [each.text.casefold() for each in self.words[index + 1 : index + 2]] != ["out"]:
            return False
        if word in _COMMANDS:
            return before in (".", ";", ",", ":", "?", "!", "and", "then", "to", "please", "us") or index == 0
        if word == "what" and index and self.words[index - 1].value >= 0:
            return not any(self._is_trigger(earlier) for earlier in range(index))
        if word in ("when", "where"):
            return before in (".", "?", ";", "!") or (word == "where" and before in ("and", ":"))
        if word == "which":
            return before != "," and (
                index < 2 or before in (".", ";", ":", "and", "?") or self.words[index - 2].is_mark
            )
        return True

    def _in_zone(self, start: int, end: int) -> list[Slot]:
        slot = Slot(label=self._text(start, end), start=start)
        slots = [slot]
        for mention in self._asks_at(start, end):
            slot.add(
                mention.ref,
                0.3
                - 0.06 * min(mention.num_words, 5)
                + 0.8 * (1 - mention.fit)
                + (_BARE_COUNT if self._is_bare_count(mention) else 0.0)
                + (_SHADOWED if self._is_shadowed(mention) else 0.0),
            )
        self._add_counted_unit(slot, start)
        rank = 0
        for mention in self._named(start, end):
            attached = self._is_attached(mention)
            if attached and mention.first > start + 3:
                continue
            if rank and not attached and not self._is_subordinate(start, mention.first) and self._is_joined(mention):
                slots.append(slot := Slot(label=self._text(mention.first, end), start=mention.first))
                rank = 0
            is_subordinate = self._is_subordinate(start, mention.first)
            if self._is_conditional(start, mention.first) and min(slot.candidates.values(), default=9.0) < _SURE:
                continue
            cost = 0.45 * rank + (1.3 if attached else 0.0) + (0.6 if is_subordinate else 0)
            slot.add(mention.ref, self._name_cost(mention) + cost)
            rank += not self._shares_span(mention)
        is_unsure = min(slot.candidates.values(), default=9.0) > 1.0
        if is_unsure:
            self._add_partial(slot, start, end)
        self._add_pronoun(slot, start, end, is_unsure)
        self._limit_units(slots, start, end)
        for each in slots:
            self._drop_general(each)
        return slots

    def _drop_general(self, slot: Slot) -> None:
        """Leave out what is more general than a clearly better candidate: length, where focal length is asked for."""
        for key, cost in list(slot.candidates.items()):
            special = (slot.candidates.get(below, 9.0) for below in self.base.descendants[key])
            if min(special, default=9.0) + _CLEARLY < cost:
                del slot.candidates[key]

    def _add_partial(self, slot: Slot, start: int, end: int) -> None:
        """Take quantities of whose name the question has one word ("where is the image": image distance)."""
        stems = {
            word.stem[:_STEM]
            for word in self.words[start + 1 : end]
            if word.value < 0
            and len(word.stem) > 3
            and word.text.casefold() not in FUNCTION_WORDS
            and not self._is_known_value_word(word)
        }
        for key, quantity in self.base.quantities.items():
            for name in quantity.names:
                words = [stem(word)[:_STEM] for word in normalise(name).split()]
                shared = sum(word in stems for word in words)
                if shared:
                    slot.add(key, 1.3 - 0.6 * shared / len(words))

    def _add_pronoun(self, slot: Slot, start: int, end: int, is_unsure: bool) -> None:
        """Take "how high is it at the end" to ask for the quantity named last, a subject, or any if all else fails."""
        before = [mention for mention in self.names if mention.last < start]
        words = [word.text.casefold() for word in self.words[start : min(start + 5, end)]]
        if (
            before
            and "it" in words
            and (is_unsure or (words[1:2] and words[1] in _SIZES and self._is_stated(before[-1])))
        ):
            slot.add(before[-1].ref, 0.9)

    def _is_stated(self, mention: Mention) -> bool:
        """Tell whether a name is the subject of "the pressure is …"."""
        following = self.words[mention.last + 1 : mention.last + 2]
        return bool(following) and following[0].text.casefold() in _COPULAS

    def _is_known_value_word(self, word: Word) -> bool:
        """Tell whether a word belongs to a value, or is in a name that does."""
        at = self.words.index(word)
        following = [other for other in self.words[at + 1 : at + 4] if other.text.casefold() not in ("of", "=", "is")]
        if self.words[at - 1].value >= 0 or (following and following[0].value >= 0):
            return True
        return any(mention.first <= at <= mention.last and self._is_attached(mention) for mention in self.names)

    def _is_bare_count(self, mention: Mention) -> bool:
        """Tell whether a question phrase is a mere "how many" or "what is", which asks for whatever follows."""
        words = self.words[mention.first : mention.last + 1]
        return [word.text.casefold() for word in words] in (["how", "many"], ["what", "is"])

    def _is_shadowed(self, mention: Mention) -> bool:
        """Tell whether a question phrase begins a longer one: "how long" in "how long is a wave"."""
        return any(
            longer.first == mention.first and longer.last > mention.last and longer.fit > 0.9 and not longer.is_loose
            for longer in self.asks
        )

    def _skips_name(self, mention: Mention) -> bool:
        """Tell whether a loose phrase passes over a name: "how much (buoyant force does) water"."""
        return mention.is_loose and any(
            mention.first < name.first and name.last < mention.last and name.ref != mention.ref for name in self.names
        )

    def _shares_span(self, mention: Mention) -> bool:
        index = self.names.index(mention)
        return index + 1 < len(self.names) and self.names[index + 1].span == mention.span

    def _name_cost(self, mention: Mention) -> float:
        return 0.15 + 0.8 * (1 - mention.fit) - 0.05 * min(mention.num_words, 3)

    def _named(self, start: int, end: int) -> list[Mention]:
        return [mention for mention in self.names if start <= mention.first < end]

    def _asks_at(self, start: int, end: int) -> list[Mention]:
        """Question phrases that begin at the trigger, or with the preposition before it."""
        return [
            mention
            for mention in self.asks
            if start - 2 <= mention.first <= start + 1
            and start <= mention.last <= end
            and not self._skips_name(mention)
        ]

    def _is_subordinate(self, start: int, first: int) -> bool:
        return any(word.text.casefold() in _SUBORDINATE for word in self.words[start + 1 : first])

    def _is_conditional(self, start: int, first: int) -> bool:
        """Tell whether a name is in a clause that gives the circumstances ("if I heat it")."""
        return any(word.text.casefold() in _CONDITIONAL for word in self.words[start + 1 : first])

    def _is_joined(self, mention: Mention) -> bool:
        """Tell whether a name follows "and" or "then", articles and adjectives between."""
        for index in range(mention.first - 1, max(-1, mention.first - 5), -1):
            text = self.words[index].text.casefold()
            if text in ("and", "then"):
                return True
            if self.words[index].value >= 0 or self.words[index].is_mark:
                return False
            if text not in _ARTICLES and index < mention.first - 2:
                return False
        return False

    def _is_attached(self, mention: Mention) -> bool:
        """Tell whether a name belongs to a value right beside it, of its dimension if words lie between."""
        if self._is_followed_by_value(mention):
            return True
        for index, near in enumerate(self.evidence):
            at = self.wording.value_at[index]
            gap = self.words[mention.last + 1 : at] if mention.last < at else self.words[at + 1 : mention.first]
            if near.get(mention.ref, 0.0) < 0.75 or len(gap) > 4 or any(word.text in ",;.?!" for word in gap):
                continue
            if mention.last < at and any(word.text == ":" for word in gap):
                continue
            return True
        return False

    def _is_followed_by_value(self, mention: Mention) -> bool:
        following = [word for word in self.words[mention.last + 1 : mention.last + 3] if word.text != "="]
        return bool(following) and following[0].value >= 0

    def _add_counted_unit(self, slot: Slot, start: int) -> None:
        """Read "how many joules": any quantity with that dimension may be meant."""
        asked = next(
            (
                (unit, at)
                for unit, at in self.units
                if start < at <= start + 2 and self.words[start].text.casefold() == "how"
            ),
            None,
        )
        if asked:
            self._add_unit_candidates(slot, asked[0], 0.55)

    def _add_unit_candidates(self, slot: Slot, unit: Unit, cost: float) -> None:
        for key, quantity in self.base.quantities.items():
            if _fits(unit, self.base.dimensions[key], quantity.is_angle, quantity.is_money):
                named = any(mention.ref == key and not self._is_attached(mention) for mention in self.names)
                depth = len(self.base.ancestors[key])
                slot.add(key, cost - (0.35 if named else 0.0) + 0.1 * min(depth, 3))

    def _limit_units(self, slots: list[Slot], start: int, end: int) -> None:
        """Keep to the dimension of the unit that the answer is wanted in."""
        for unit, at in self.units:
            if not start <= at < end:
                continue
            slot = [each for each in slots if each.start <= at][-1]
            self._limit(slot, unit)

    def _fitting(self, slot: Slot, unit: Unit) -> dict[str, float]:
        """Return the slot's candidates whose dimension is the unit's."""
        quantities = self.base.quantities
        return {
            key: cost
            for key, cost in slot.candidates.items()
            if _fits(unit, self.base.dimensions[key], quantities[key].is_angle, quantities[key].is_money)
        }

    def _limit(self, slot: Slot, unit: Unit) -> None:
        fitting = self._fitting(slot, unit)
        if not fitting:
            self._add_unit_candidates(slot, unit, 0.7)
            fitting = self._fitting(slot, unit)
        if fitting and unit.text != "percent":
            slot.candidates = fitting
        slot.unit, slot.unit_text = unit.text, unit.text

    def _elliptic(self) -> list[Slot]:
        """Find the targets where nothing but a name stands for the question ("12 V, 4 Ω: power?")."""
        free = [
            mention for mention in self.names if not self._is_attached(mention) and mention.span not in self.misnaming
        ]
        last = max(self.wording.sentence_of, default=0)
        slot = Slot(label=self.wording.question, start=0)
        slots = [slot]
        clause = self._last_clause()
        for mention in free:
            inside = mention.first >= clause
            cost = 0.0 if inside else 0.35 + 0.1 * min(3, mention.first)
            if inside and slot.candidates and self._is_joined(mention) and slot.start:
                slots.append(slot := Slot(start=mention.first, label=self._text(mention.first, len(self.words))))
            elif inside and not slot.start:
                slot.start = max(1, mention.first)
            slot.add(mention.ref, self._name_cost(mention) + cost)
        for mention in self.asks:
            if self.wording.sentence_of[mention.first] == last:
                slot.add(mention.ref, 0.3 + 0.8 * (1 - mention.fit))
        for unit, at in self.units:
            self._limit([each for each in slots if each.start <= max(at, 1)][-1] if len(slots) > 1 else slots[0], unit)
        if not slots[0].candidates:
            self._add_free_units(slots[0])
        if not slots[0].candidates:
            self._add_opening(slots[0])
        if not slots[0].candidates and self.readings:
            self._add_partial(slots[0], self._last_mark(), len(self.words))
        return slots

    def _add_opening(self, slot: Slot) -> None:
        """Take the name that the question opens with ("hypotenuse with legs 8 cm and 15 cm")."""
        for mention in self.names:
            at = mention.last + 1
            value = self.words[at].value if at < len(self.words) else -1
            if mention.first <= 1 and (value < 0 or mention.ref not in self.readings[value]):
                slot.add(mention.ref, self._name_cost(mention) + _OPENING)

    def _add_free_units(self, slot: Slot) -> None:
        for unit, _at in self.units[-1:]:
            self._add_unit_candidates(slot, unit, 0.6)

    def _last_clause(self) -> int:
        """Return where the last clause begins: after the last mark that is not at the end."""
        marks = [index for index, word in enumerate(self.words[:-1]) if word.text in ",;:.?!"]
        trailing = len(self.words) - 1
        marks = [index for index in marks if index < trailing - 0]
        while marks:
            start = marks.pop() + 1
            if any(start <= mention.first for mention in self.names) or any(start <= at for _unit, at in self.units):
                return self._with_joined(start)
        return 0

    def _last_mark(self) -> int:
        """Return the place of the last mark that is not at the end, or -1."""
        return max((index for index, word in enumerate(self.words[:-1]) if word.text in ",;:.?!"), default=-1)

    def _with_joined(self, start: int) -> int:
        """Take in the clause before ", and": "current, and power?" asks for both."""
        if start < len(self.words) and self.words[start].text.casefold() in ("and", "then"):
            before = [index for index, word in enumerate(self.words[: start - 1]) if word.text in ",;:.?!"]
            return before[-1] + 1 if before else 0
        return start

    def _text(self, start: int, end: int) -> str:
        if start >= len(self.words):
            return ""
        return self.wording.question[self.words[start].start : self.words[min(end, len(self.words)) - 1].end]


def _asked_units(wording: Wording) -> list[tuple[Unit, int]]:
    """Units without a number after "how many", "in" or at a question's end, with their tokens."""
    found = []
    for unit, start in find_units(wording.question):
        at = next((index for index, word in enumerate(wording.words) if word.start >= start and word.value < 0), -1)
        if at < 0:
            continue
        before = [word.text.casefold() for word in wording.words[max(0, at - 3) : at]]
        after = wording.words[at + 1 : at + 2]
        is_plural = wording.question[start : unit.end].endswith("s") and unit.is_word
        wanted = (
            before[-2:] == ["how", "many"]
            or before[-1:] in (["in"], ["to"], ["into"], ["of"], ["a"])
            or before[-2:] in (["in", "degrees"], ["how", "much"])
        )
        at_end = all(word.is_mark for word in wording.words[at + 1 :])
        if (
            (wanted and _may_ask(before, unit, is_plural, wording, at))
            or (at_end and (is_plural or not unit.is_word))
            or (is_plural and before[-1:] == ["the"] and after and after[0].text == "of")
        ):
            found.append((unit, at))
    return found


def _may_ask(before: list[str], unit: Unit, is_plural: bool, wording: Wording, at: int) -> bool:
    text = wording.question[wording.words[at].start : unit.end]
    if before[-2:] == ["how", "many"]:
        return unit.text not in ("percent",) or True
    if before[-1:] == ["a"]:
        return "ahrenheit" in text or "elsius" in text
    if before[-1:] == ["of"]:
        return False
    return text.casefold() not in ("second", "a", "molar", "gray", "bar", "air", "day", "time") and (
        before[-1:] == ["in"] or "ahrenheit" in text or "elsius" in text or is_plural or not unit.is_word
    )


def _fits(unit: Unit, wanted: str, is_angle: bool, is_money: bool) -> bool:
    if unit.is_money:
        return is_money
    if is_money:
        return False
    if unit.text in ("degree", "radian"):
        return is_angle or (unit.text == "degree" and wanted == "[temperature]")
    if is_angle:
        return False
    try:
        return dimension(unit.text) == wanted
    except InputError:
        return False


def _merged(slots: list[Slot]) -> list[Slot]:
    """Leave out a slot that asks for the same thing as the one before."""
    kept: list[Slot] = []
    for slot in slots:
        if not slot.candidates:
            continue
        best = min(slot.candidates, key=slot.candidates.__getitem__)
        if kept and min(kept[-1].candidates, key=kept[-1].candidates.__getitem__) == best:
            kept[-1].unit = kept[-1].unit or slot.unit
            continue
        kept.append(slot)
    return kept
