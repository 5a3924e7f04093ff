"""Other forms of a disease's name: short ("Marfan"), renumbered ("type 1" for "type I")."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from tuili.knowledge.records import normalise

_TYPE = re.compile(r",?\s+type\s+(\d{1,2}|[IVX]{1,6})([A-Za-z]?)\b(?!-)", re.ASCII)
_LAST_NUMBER = re.compile(r"(?<=[a-z)]),?\s+(\d{1,2})([A-Z]?)$", re.ASCII)
_ENDING = re.compile(r"\s+(?:syndrome|disease)(?=$|\s+(?:type\s+)?(?:\d+|[IVX]+)[A-Z]?$)", re.ASCII | re.IGNORECASE)
_ROMAN = (
    "",
    "I",
    "II",
    "III",
    "IV",
    "V",
    "VI",
    "VII",
    "VIII",
    "IX",
    "X",
    "XI",
    "XII",
    "XIII",
    "XIV",
    "XV",
    "XVI",
    "XVII",
    "XVIII",
    "XIX",
    "XX",
)
_LOWER_WORD = re.compile(r"\b[a-z]+\b")


def distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts without those that repeat an earlier one in other case."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(text.casefold(), text)
    return tuple(first.values())


def free_forms(names: Mapping[str, Iterable[str]], taken: Iterable[str], prose: Iterable[str]) -> dict[str, list[str]]:
    """Return, for each key, the forms of its names that belong to nothing else.

    Args:
        names: the names given to each disease.
        taken: every other name in the base.
        prose: texts whose lower-case words are ordinary words and so no short form ("child").
    """
    used = {normalise(text) for text in taken}
    used.update(normalise(name) for given in names.values() for name in given)
    for text in prose:
        used.update(_LOWER_WORD.findall(text))
    made = {key: distinct(form for name in given for form in forms(name)) for key, given in names.items()}
    claims = Counter(norm for each in made.values() for norm in {normalise(form) for form in each})
    free = {norm for norm, count in claims.items() if count == 1} - used - {""}
    return {key: [form for form in each if normalise(form) in free] for key, each in made.items()}


def forms(name: str) -> list[str]:
    """Return other forms of a name, the name itself left out.

    >>> forms("Gaucher disease, type I")
    ['Gaucher disease type I', 'Gaucher disease type 1', 'Gaucher type I', 'Gaucher type 1']
    """
    numbered = [_TYPE.sub(rf" type {number}\2", name) for number in _notations(_TYPE.search(name))]
    if not numbered:
        numbers = [word + number for number in _notations(_LAST_NUMBER.search(name)) for word in ("", "type ")]
        numbered = [_LAST_NUMBER.sub(rf" {number}\2", name) for number in numbers]
    short = [_ENDING.sub("", form) for form in (name, *numbered)]
    return [form for form in distinct([*numbered, *short]) if form != name]


def _notations(match: re.Match[str] | None) -> list[str]:
    """Return a number from 1 to 20 in both notations, as written first; any other as it is."""
    if not match:
        return []
    text = match[1]
    if text in _ROMAN:
        return [text, str(_ROMAN.index(text))]
    if text.isdigit() and 0 < int(text) < len(_ROMAN):
        return [text, _ROMAN[int(text)]]
    return [text]
