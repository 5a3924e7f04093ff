"""The values of a question in words, with the words that name each: known quantities without a fixed list of names.

A gap "[X]" is the asked quantity; "the answer … is V" makes V a known value of what the question asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tuili.errors import InputError
from tuili.knowledge.units import read_unit
from tuili.knowledge.values import Found, find_values, heading_unit
from tuili.reason.worlds.dimensions import MONEY, Dimension, in_base_units

GAP = "[X]"
_LATEX = (
    (re.compile(r"\\(?:text|mathrm|rm)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s*\{?\\circ\}?|\\circ"), "°"),
    (re.compile(r"\\(?:times)"), "×"),
    (re.compile(r"\\(?:cdot|bullet)|[•⋅∙]"), "·"),
    (re.compile(r"\\(?:[()\[\],]|eta|rho)"), " "),
    (re.compile(r"(?<=\d)([VAWΩ]|Hz|kW|kV)(?=\d)"), r"\1 "),
)
_ANSWER = re.compile(
    r"\b(?:if (?:we )?(?:already )?(?:know|knew)\b|if (?:it is|we have)\b.{0,20}known|if the answer"
    r"|given that the answer|knowing that the answer)[^?]{0,90}?\b(?:is|be|as)\b(?: already known to be)?\s*(?=[-\d])",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.?!;；。])\s+|(?<=\?)")
_ASKING = re.compile(
    r"\b(?:how (?:much|many|long|far|fast|high)|what|find|calculate|determine|solve for|required|try to|to which"
    r"|question)\b[:\s]*",
    re.IGNORECASE,
)
_BREAK = re.compile(r"[.;?!:()\[\]\"“”]|,(?!\d)")
_WORD = re.compile(r"[^\W\d_]+")
_SHARE_AFTER = re.compile(
    r"\s+of\s+(?:the|its|this|that|all)\b[^.?;]{0,25}?\b(?:heat|energy|work|power)\b"
    r"|[\s,]+(?:is|are|was|were|being)\s+(?:\w+ly\s+)?(?:used|utili[sz]ed|absorbed|converted|lost|transferred)\b",
    re.IGNORECASE,
)
_SHARE_BEFORE = re.compile(r"\befficiency\b[^.;,?]{0,60}$", re.IGNORECASE)
_MOST_BEFORE, _MOST_BEFORE_GAP, _MOST_AFTER = 9, 18, 5
_LINKS = frozenset(
    "to and or is the a an of until with at from by about approximately up down"
    " represented denoted expressed namely".split()
)


_IMPLIED = (
    (r"\bwater\b", 4200.0, "joule / kilogram / kelvin", "specific heat capacity of water"),
    (r"\bwater\b", 1000.0, "kilogram / meter ** 3", "density of water"),
    (r"\b(?:weigh|weight|gravity|lift|mass|fall)", 10.0, "newton / kilogram", "gravitational acceleration g"),
    (r"\bboil", 100.0, "degree_Celsius", "heated to the boiling point final temperature"),
)
"""What a question of school physics leaves unsaid: the words that hint at it, value, pint unit, name."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value in SI base units with the words before and after it, and what its place tells.

    `traits`: short marks such as "answer", "parameter", "last", "bare", "percent", "initial".
    """

    value: float
    dimension: Dimension
    before: str
    after: str
    text: str
    traits: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The words that may name it."""
        return (self.before, self.after, " ".join(sorted(self.traits & {"initial", "final", "share"})))


@dataclass(frozen=True, slots=True)
class Asking:
    """A question read: its values in order, and the gap that is asked for (a dimension if a unit follows it)."""

    givens: tuple[Given, ...]
    gap: Given | None
    has_unit: bool


def read_question(question: str) -> Asking:
    """Read a question with a gap.

    Raises:
        LimitError: it holds more values than `find_values` takes.
    """
    text = plain(question)
    answer = list(_ANSWER.finditer(text))
    answer_at = answer[-1].end() if answer else -1
    asked_text = text[: answer[-1].start()] if answer else text
    values = find_values(text)
    places = [(found.value.start, found.value.end) for found in values if not found.in_words]
    gaps = [match.start() for match in re.finditer(re.escape(GAP), text)]
    blocks = sorted([*places, *((at, at + len(GAP)) for at in gaps)])
    givens = []
    for found in values:
        given = _given(text, found, blocks, asked_text)
        if given is not None:
            is_answer = answer_at >= 0 and found.value.start - 2 <= answer_at <= found.value.end
            if found.value.start > answer_at >= 0 and not is_answer:
                continue
            givens.append(_answer(given, asked_text) if is_answer else given)
    givens += _implied(text, givens)
    gap, has_unit = _gap(text, gaps, blocks)
    return Asking(tuple(givens), gap, has_unit)


def _implied(text: str, givens: list[Given]) -> list[Given]:
    """Return the constants that the words hint at, unless the question gives a value of that kind itself."""
    found = []
    for hint, magnitude, unit, name in _IMPLIED:
        value, dimension = in_base_units(magnitude, unit)
        alike = [each for each in givens if each.dimension == dimension]
        is_told = any(each.value == value for each in alike) if unit == "degree_Celsius" else bool(alike)
        if not is_told and re.search(hint, text, re.IGNORECASE):
            found.append(Given(value, dimension, name, "", name, frozenset({"implied", f"implied {name}"})))
    return found


def plain(question: str) -> str:
    """Return a question without the commands of typesetting."""
    for pattern, to in _LATEX:
        question = pattern.sub(to, question)
    return question


def _given(text: str, found: Found, blocks: list[tuple[int, int]], asked_text: str) -> Given | None:
    start, end = found.value.start, found.value.end
    if found.is_money:
        magnitude, dimension = found.value.magnitude, MONEY
    else:
        try:
            magnitude, dimension = in_base_units(found.value.magnitude, found.unit)
        except InputError:
            return None
    before, after = _around(text, start, end, blocks)
    return Given(magnitude, dimension, before, after, found.value.text, _traits(text, found, asked_text))


def _traits(text: str, found: Found, asked_text: str) -> frozenset[str]:
    start = found.value.start
    sentences = [match.end() for match in _SENTENCE.finditer(asked_text.rstrip())]
    begin = max([0, *(at for at in sentences if at <= start)])
    end = min([at for at in sentences if at > start] or [len(asked_text)])
    sentence = asked_text[begin:end].casefold()
    marks = {
        "parameter": "parameter" in sentence,
        "supplement": "supplement" in text[max(0, start - 250) : start].casefold(),
        "last": begin == max([0, *sentences]) and start < len(asked_text),
        "first": begin == 0,
        "bare": found.is_bare,
        "percent": found.unit == "percent",
        "in_words": found.in_words,
        "asking": bool(_ASKING.search(sentence)),
        "gap_beside": GAP.casefold() in sentence,
        "only": sentence.count(" ") < 12,
        "quoted": text[max(0, start - 1)] in "\"“'" or text[found.value.end : found.value.end + 1] in "\"”'",
        "equals": text[:start].rstrip().endswith("="),
        found.role: bool(found.role),
    }
    return frozenset(name for name, holds in marks.items() if holds)


def _around(
    text: str, start: int, end: int, blocks: list[tuple[int, int]], most_before: int = _MOST_BEFORE
) -> tuple[str, str]:
    """Return the words before and after a place, up to the next value or mark; "to 40 °C" takes those of "from"."""
    earlier = [block for block in blocks if block[1] <= start]
    left = max([0, *(block[1] for block in earlier[-1:])])
    before = _tail(text[left:start])
    if not [word for word in before if word.casefold() not in _LINKS] and earlier and start - left < 12:
        inherited, _after = _around(text, *earlier[-1], blocks)
        before = [*inherited.split(), *before]
    right = min([block[0] for block in blocks if block[0] >= end] or [len(text)])
    broken = _BREAK.search(text, end, right)
    after = _WORD.findall(text[end : broken.start() if broken else right])[:_MOST_AFTER]
    return " ".join(before[-most_before:]), " ".join(after)


def _tail(text: str) -> list[str]:
    """Return the last words of a text after its last mark that ends a clause, if words follow it."""
    parts = _BREAK.split(text)
    words: list[str] = []
    for part in reversed(parts):
        words = [*_WORD.findall(part), *words]
        if len([word for word in words if word.casefold() not in _LINKS]) >= 1:
            break
    return words


def _answer(given: Given, asked_text: str) -> Given:
    """Return the value of the answer, named by the last clause that asks for something."""
    sentences = [part for part in _SENTENCE.split(asked_text) if part.strip()]
    for sentence in reversed(sentences):
        asking = list(_ASKING.finditer(sentence))
        if asking:
            clause = sentence[asking[-1].end() :]
            words = _WORD.findall(_BREAK.split(clause, maxsplit=1)[0] or clause)[:14]
            return Given(given.value, given.dimension, " ".join(words), "", given.text, frozenset({"answer"}))
    return Given(given.value, given.dimension, "", "", given.text, frozenset({"answer"}))


def _gap(text: str, gaps: list[int], blocks: list[tuple[int, int]]) -> tuple[Given | None, bool]:
    """Return the gap with its words, and whether its dimension is told: by a unit, or as a share of something."""
    if not gaps:
        return None, False
    start, end = gaps[0], gaps[0] + len(GAP)
    before, after = _around(text, start, end, blocks, _MOST_BEFORE_GAP)
    roles = _roles(before, after, text[end:])
    unit = read_unit(text, end)
    if _SHARE_AFTER.match(text, end) or _SHARE_BEFORE.search(text, 0, start):
        return Given(1.0, (), before, after, GAP, roles | {"share"}), True
    if (
        unit is None
        or not unit.text
        or not re.match(r"\s?\S", text[end:])
        or (unit.end - end <= 2 and text[end] == " ")
    ):
        unit = heading_unit(text, start)
    if unit is None:
        return Given(0.0, (), before, after, GAP, roles), False
    scale, dimension = in_base_units(1.0, unit.text)
    return Given(scale, dimension, before, after, GAP, roles), True


def _roles(before: str, after: str, following: str) -> frozenset[str]:
    """Return whether a gap is the end or the start of a change: "from 20 °C to [X]", "from [X] to boiling"."""
    words, then = before.casefold().split(), after.casefold().split()[:1]
    if re.match(r"\s*(?:°C|℃)?\s*to\b", following) and (then == ["to"] or words[-1:] == ["from"]):
        return frozenset({"initial"})
    is_end = words[-1:] == ["to"] and bool({"from", "temperature", "heated", "rises", "drops", "cooled"} & set(words))
    return frozenset({"final"} if is_end else ())
