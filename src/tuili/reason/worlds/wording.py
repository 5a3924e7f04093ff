"""The words of a quantitative question: tokens in which each value is one, and known phrases among them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tuili.knowledge.records import normalise
from tuili.knowledge.text import FUNCTION_WORDS, stem
from tuili.knowledge.values import Found, find_values
from tuili.reason.worlds.formulary import Formulary, Quantity

_TOKEN = re.compile(r"[^\W_]+(?:['’´][^\W_]+)?|[^\w\s]")
_SHORT_IS = re.compile(r"(what|how|where|who|when|which)['’´]s", re.IGNORECASE)
_FILLERS = frozenset("a an the its their his her my your this that these those one some such of".split())
_PLACEHOLDERS = frozenset("it its he she they".split())
_ADJACENT = frozenset(
    "in for at to by from across up after on over under through with of during within high "
    "wide long out off as a per into".split()
)
_VERBS = frozenset("do does did will would must should have has is are was were".split())
_ENDS = frozenset(".?;!")
_DROPPED = frozenset("take last need go get move have".split())
_WIDEST_PLACEHOLDER = 6
_WIDEST_GAP = 3


@dataclass(frozen=True, slots=True)
class Word:
    """A token of a question; `value` is the index of the value that it stands for, or -1."""

    text: str
    stem: str
    start: int
    end: int
    value: int = -1

    @property
    def is_mark(self) -> bool:
        """Whether the token is punctuation."""
        return self.value < 0 and not self.text[0].isalnum()


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase of the collection: its stems, what kind of hint it is, and what for."""

    stems: tuple[str, ...]
    words: tuple[str, ...]
    kind: str
    ref: str


@dataclass(frozen=True, slots=True)
class Mention:
    """A phrase found in a question: token span, how well it fits (0 to 1)."""

    kind: str
    ref: str
    first: int
    last: int
    fit: float
    num_words: int
    is_loose: bool = False

    @property
    def span(self) -> tuple[int, int]:
        """First and last token."""
        return self.first, self.last


class Lexicon:
    """The phrases of a collection by their first stem."""

    def __init__(self, base: Formulary) -> None:
        self.by_stem: dict[str, list[Phrase]] = {}
        self.formula_words: dict[str, set[str]] = {}
        for phrase in _phrases(base):
            head = next((each for each in phrase.stems if each not in _PLACEHOLDERS), "")
            if head == phrase.stems[0]:
                self.by_stem.setdefault(head, []).append(phrase)
        for key, stems in base.vocabulary.items():
            for each in stems:
                self.formula_words.setdefault(each, set()).add(key)
        most = math.log1p(len(base.formulas))
        self.rarity = {each: max(0.0, 1.0 - math.log1p(len(keys)) / most) for each, keys in self.formula_words.items()}

    def mentions(self, words: Sequence[Word]) -> Iterator[Mention]:
        """Yield every phrase that occurs in a question."""
        for index, word in enumerate(words):
            for phrase in self.by_stem.get(word.stem, ()):
                found = _match(phrase, words, index)
                if found:
                    yield found
            if word.value >= 0:
                yield from self._within(word, index)

    def _within(self, word: Word, index: int) -> Iterator[Mention]:
        """Yield the scenarios and cues that a value's own words tell of ("100 MHz", "5 hours a day")."""
        inside = [Word(text, stem(text), word.start, word.end) for text in _TOKEN.findall(word.text)]
        for start, part in enumerate(inside):
            for phrase in self.by_stem.get(part.stem, ()):
                if phrase.kind == "scenario" or (phrase.kind == "cue" and len(phrase.stems) > 1):
                    found = _match(phrase, inside, start)
                    if found:
                        yield Mention(phrase.kind, phrase.ref, index, index, found.fit, found.num_words)

    def overlap(self, words: Sequence[Word]) -> dict[str, float]:
        """How many rare words of each formula's name and description a question has (0 to 1)."""
        found: dict[str, float] = {}
        for each in {word.stem for word in words}:
            for key in self.formula_words.get(each, ()):
                found[key] = found.get(key, 0.0) + self.rarity[each]
        return {key: min(1.0, weight / 3.0) for key, weight in found.items()}


def _phrases(base: Formulary) -> Iterator[Phrase]:
    for quantity in base.quantities.values():
        for kind, texts in (
            ("name", quantity.names),
            ("ask", quantity.asks),
            ("cue", quantity.cues),
            ("zero", quantity.zero_cues),
        ):
            yield from _made(texts, kind, quantity.id)
        yield from _made(_asked_by_what(quantity), "ask", quantity.id)
        yield from _turned(quantity.names, quantity.id)
        counted = (name.removeprefix("number of ") for name in quantity.names if name.startswith("number of "))
        yield from _made((f"how many {name}" for name in counted), "ask", quantity.id)
    for formula in base.formulas.values():
        yield from _made(formula.scenario, "scenario", formula.id)
        yield from _made((formula.name,), "formula", formula.id)
    for key, constant in base.constant_nodes.items():
        yield from _made((constant.name, *constant.aliases), "constant", key)
    for material in base.materials.values():
        yield from _made((material.name, *material.aliases), "material", material.name)


def _asked_by_what(quantity: Quantity) -> Iterator[str]:
    """Yield "what do I have after" for "how much do I have after" where money is asked for."""
    for ask in quantity.asks:
        verb = ask.removeprefix("how much ").split(" ")
        if quantity.is_money and ask.startswith("how much ") and len(verb) > 3 and verb[0] in _VERBS:
            yield f"what {' '.join(verb)}"


def _made(texts: Iterable[str], kind: str, ref: str) -> Iterator[Phrase]:
    for text in texts:
        words = tuple(_TOKEN.findall(normalise(text)))
        words = tuple(word for word in words if word[0].isalnum())
        if len(words) > 1:
            words = tuple(word for word in words if word not in _FILLERS or word == "of") or words
        if words and (kind in ("cue", "zero") or not _is_empty(words, text)):
            yield Phrase(tuple(stem(word) for word in words), words, kind, ref)


def _is_empty(words: tuple[str, ...], text: str) -> bool:
    """Tell whether a phrase says nothing: function words only, what it was about being a sign ("% of")."""
    return all(word in FUNCTION_WORDS for word in words) and (len(words) == 1 or "%" in text)


def _turned(names: Iterable[str], ref: str) -> Iterator[Phrase]:
    """Yield "length of arc" for "arc length"."""
    for name in names:
        words = normalise(name).split()
        if len(words) in (2, 3) and "of" not in words:
            yield from _made([" ".join((words[-1], "of", *words[:-1]))], "name", ref)


def _match(phrase: Phrase, words: Sequence[Word], start: int) -> Mention | None:
    """Match a phrase from a token on: fillers may be left out, "it" stands for what the question names."""
    position, fit, gaps = start, 1.0, 0
    for index, wanted in enumerate(phrase.stems):
        if index == 0:
            fit *= _closeness(phrase.words[0], words[start])
            position += 1
            continue
        if phrase.words[index] in _PLACEHOLDERS and phrase.kind in ("ask", "zero", "cue", "scenario"):
            position, cost = _skip_to(phrase, index, words, position)
            fit *= cost
            if position < 0:
                return None
            continue
        is_loose = phrase.kind == "ask" or (phrase.kind == "name" and len(phrase.stems) > 2)
        found = _find(wanted, words, position, _WIDEST_GAP if phrase.kind == "ask" else 2, is_loose)
        if found < 0 and phrase.kind == "ask" and index == len(phrase.stems) - 1 and wanted in _DROPPED and index > 1:
            return Mention(phrase.kind, phrase.ref, start, position - 1, fit * 0.8, index, True)
        if found < 0:
            return None
        gaps += found - position
        fit *= _closeness(phrase.words[index], words[found])
        position = found + 1
    return Mention(phrase.kind, phrase.ref, start, position - 1, fit * 0.93**gaps, len(phrase.stems), gaps > 1)


def _skip_to(phrase: Phrase, index: int, words: Sequence[Word], position: int) -> tuple[int, float]:
    """Skip the noun phrase that a placeholder stands for; returns the next position, or -1."""
    if index + 1 == len(phrase.stems):
        return (position + 1, 1.0) if position < len(words) and not words[position].is_mark else (position, 0.9)
    following = phrase.stems[index + 1]
    for width in range(1, _WIDEST_PLACEHOLDER + 1):
        at = position + width
        if at >= len(words) or words[at - 1].text in _ENDS:
            return -1, 0.0
        if words[at].stem == following:
            return at, 0.98 ** (width - 1)
    return -1, 0.0


def _find(wanted: str, words: Sequence[Word], position: int, most: int, any_word: bool) -> int:
    """Return where a stem stands, at most `most` tokens on; only fillers may be skipped unless `any_word`."""
    for at in range(position, min(position + most + 1, len(words))):
        if words[at].stem == wanted:
            return at
        if (words[at].is_mark and words[at].text not in "-'’\"“”") or words[at].value >= 0:
            return -1
        if not any_word and words[at].text.casefold() not in _FILLERS and words[at].text not in "-'’\"“”":
            return -1
    return -1


def _closeness(wanted: str, word: Word) -> float:
    folded = normalise(word.text)
    if folded == wanted or folded.rstrip("s") == wanted.rstrip("s"):
        return 1.0
    return 0.85


@dataclass
class Wording:
    """A question taken apart: tokens, values and mentions."""

    question: str
    words: list[Word]
    values: list[Found]
    found: list[Mention]
    value_at: dict[int, int] = field(default_factory=dict)
    overlap: dict[str, float] = field(default_factory=dict)

    def of_kind(self, *kinds: str) -> list[Mention]:
        """Return the mentions of some kinds."""
        return [mention for mention in self.found if mention.kind in kinds]

    @cached_property
    def sentence_of(self) -> list[int]:
        """For each token the number of its sentence."""
        numbers, current = [], 0
        for word in self.words:
            numbers.append(current)
            current += word.text in _ENDS
        return numbers

    def counted_by(self, index: int) -> int:
        """Return the value of which a number says how many there are, or -1.

        It follows at once ("two 12 Ω resistors") or after its noun ("20 people of 75 kg").
        """
        at, item = self.value_at[index], self.values[index]
        if not item.is_bare or item.value.magnitude < 2 or not item.value.magnitude.is_integer():
            return -1
        is_of = at + 2 < len(self.words) and self.words[at + 2].text.casefold() == "of"
        place = at + 3 if is_of else at + 1
        following = self.words[place].value if place < len(self.words) else -1
        is_listed = place + 2 < len(self.words) and self.words[place + 2].value >= 0
        return following if following >= 0 and self.values[following].unit and not is_listed else -1


def read_wording(question: str, lexicon: Lexicon) -> Wording:
    """Take a question apart; names inside longer names are left out ("energy" in "kinetic energy")."""
    values = find_values(question)
    words = list(_words(question, values))
    found = _without_shadowed(list(lexicon.mentions(words)))
    where = {word.value: index for index, word in enumerate(words) if word.value >= 0}
    return Wording(question, words, values, found, where, lexicon.overlap(words))


def _words(question: str, values: Sequence[Found]) -> Iterator[Word]:
    position = 0
    for index, item in enumerate(values):
        yield from _plain(question, position, item.value.start)
        yield Word(item.value.text, "#", item.value.start, item.value.end, index)
        position = item.value.end
    yield from _plain(question, position, len(question))


def _plain(question: str, start: int, end: int) -> Iterator[Word]:
    for match in _TOKEN.finditer(question, start, end):
        text = match.group()
        if text in "-‐‑'’\"“”" and match.start() > 0:
            continue
        short = _SHORT_IS.fullmatch(text)
        end = match.start() + len(short[1]) if short else match.end()
        text = text[: end - match.start()]
        yield Word(text, stem(text) if text[0].isalnum() else text, match.start(), end)
        if short:
            yield Word("is", "is", end, match.end())


def _without_shadowed(found: list[Mention]) -> list[Mention]:
    """Leave out names and question phrases that are part of longer names."""
    spans = {mention.span for mention in found if mention.kind in ("name", "constant") and mention.fit > 0.5}
    kept = []
    for mention in found:
        covered = mention.kind in ("name", "cue") and any(
            first <= mention.first and mention.last <= last and (first, last) != mention.span for first, last in spans
        )
        if not covered:
            kept.append(mention)
    return kept


def is_adjacent_only(mention: Mention, words: Sequence[Word]) -> bool:
    """Tell whether a cue is a mere preposition, which hints only at the value right beside it."""
    return mention.first == mention.last and words[mention.first].text.casefold() in _ADJACENT
