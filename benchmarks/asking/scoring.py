"""Whether an answer is right: the same set of names, the same number, the same yes or no."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Protocol

from asking.questions import Gold, Question

if TYPE_CHECKING:
    import pint

TOLERANCE = 0.02
MIN_PROBABILITY = 0.5
_WORD = re.compile(r"\w+")


class Scored(Protocol):
    """An entity of an answer and the probability that it belongs there."""

    @property
    def name(self) -> str: ...

    @property
    def probability(self) -> float: ...


class Number(Protocol):
    """A number of an answer with its pint unit."""

    @property
    def magnitude(self) -> float: ...

    @property
    def unit(self) -> str: ...


class Answered(Protocol):
    """What is read of an answer."""

    @property
    def text(self) -> str: ...

    @property
    def entities(self) -> Iterable[Scored]: ...

    @property
    def value(self) -> Number | None: ...

    @property
    def abstained(self) -> bool: ...


def is_right(question: Question, answer: Answered) -> bool:
    """Tell whether an answer is exactly right; to an unanswerable question it must abstain."""
    if answer.abstained or not question.answerable:
        return answer.abstained and not question.answerable
    if question.yes is not None:
        return says(answer.text) == question.yes
    if question.value is not None:
        return answer.value is not None and is_same_number(answer.value, question.value)
    names = chosen(answer.entities)
    if question.first is not None:
        return names[:1] == [question.first]
    return question.entities is not None and frozenset(names) == question.entities


def chosen(entities: Iterable[Scored]) -> list[str]:
    """Return the names that are the answer, best first: those of probability 0.5 and more."""
    return [item.name for item in entities if item.probability >= MIN_PROBABILITY]


def says(text: str) -> bool | None:
    """Return what a text's first word says: yes, no or neither."""
    word = _WORD.search(text)
    return {"yes": True, "no": False}.get(word.group().casefold()) if word else None


def is_same_number(found: Number, gold: Gold) -> bool:
    """Tell whether a number is within 2 % of the right one, in the right one's unit.

    The right one's own unit is compared in, so 20 °C is not 2 % of 293 K away from 25 °C.
    """
    import pint

    try:
        quantity = _registry().Quantity(found.magnitude, found.unit or "dimensionless")
        magnitude = quantity.to(gold.unit or "dimensionless").magnitude
    except (pint.PintError, AttributeError, TypeError, ValueError):
        return False
    return bool(abs(magnitude - gold.magnitude) <= TOLERANCE * abs(gold.magnitude) + 1e-9 * (gold.magnitude == 0))


@cache
def _registry() -> pint.UnitRegistry:
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
