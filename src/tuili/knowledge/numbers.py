"""Numbers as people write them: "1,500", "1.5e3", "3×10^8", "½", "4.5 million", "twenty-five", "half a"."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tuili.errors import LimitError

MAX_DIGITS = 60
MAX_EXPONENT = 300
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺−–", "0123456789-+--")
_FRACTIONS = {"½": 0.5, "¼": 0.25, "¾": 0.75, "⅓": 1 / 3, "⅔": 2 / 3, "⅛": 0.125, "⅕": 0.2, "⅒": 0.1}
_SCALES = {
    "hundred": 1e2,
    "thousand": 1e3,
    "million": 1e6,
    "billion": 1e9,
    "trillion": 1e12,
    "dozen": 12.0,
    "mio": 1e6,
    "bn": 1e9,
}
_ONES = {
    word: float(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        " seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: float(number)
    for number, word in zip(
        range(20, 100, 10), "twenty thirty forty fifty sixty seventy eighty ninety".split(), strict=True
    )
}
_PARTS = {
    "half": 1 / 2,
    "third": 1 / 3,
    "quarter": 1 / 4,
    "fifth": 1 / 5,
    "tenth": 1 / 10,
    "hundredth": 1 / 100,
    "thousandth": 1 / 1000,
}
_DIGITS = re.compile(
    r"""(?P<mantissa>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?       # 1,500.25
        |\d{1,3}(?:[\u00a0\u202f ’']\d{3})+(?![\d.]\d)(?:\.\d+)?   # 1 500
        |\d+,\d{1,2}(?![\d,])                             # 2,5
        |\d+(?:\.\d+)?|\.\d+)
    (?:(?P<e>[eE][-+−]?\d+)(?!\d)
      |\s*(?:[×·*⋅]|x(?=\s*10(?:\s*[\^⁰¹²³⁴⁵⁶⁷⁸⁹⁻*]|[-−]\d)))\s*10(?:\s*(?:\^|\*\*)\s*[({]?\s*(?P<power>[-+−]?\d+)\s*[)}]?
            |(?P<super>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)|(?P<plain>[-−]\d+)))?
    (?P<vulgar>\s?[½¼¾⅓⅔⅛⅕⅒])?
    (?:\s*/\s*(?P<under>\d+)(?![\d.]*\d|\s*\w*/))?

    (?:[\s-]+(?P<scale>hundred|thousand|million|billion|trillion|dozen|mio|bn)\b)?""",
    re.VERBOSE | re.IGNORECASE,
)
_TEN_POWER = re.compile(r"10(?:(?:\^|\*\*)[({]?([-+−]?\d+)[)}]?|([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))")
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number in a text; `in_words` if spelled out, `is_part` if a fraction such as "half a"."""

    number: float
    start: int
    end: int
    in_words: bool = False
    is_part: bool = False


def find_numbers(text: str) -> Iterator[Numeral]:
    """Yield the numbers of a text in order.

    Raises:
        LimitError: a number has more than `MAX_DIGITS` digits or an exponent beyond `MAX_EXPONENT`.
    """
    position = 0
    while position < len(text):
        found = _at(text, position)
        if found:
            yield found
            position = found.end
        else:
            word = _WORD.match(text, position)
            position = word.end() if word else position + 1


def _at(text: str, start: int) -> Numeral | None:
    char = text[start]
    if (char.isdigit() and char.isascii()) or (char == "." and text[start + 1 : start + 2].isdecimal()):
        return None if _is_part_of_name(text, start) else _digits(text, start)
    if char in _FRACTIONS:
        return Numeral(_FRACTIONS[char], start, start + 1)
    if char.isalpha() and (start == 0 or not (text[start - 1].isalnum() or text[start - 1] == "_")):
        return _words(text, start)
    return None


def _is_part_of_name(text: str, start: int) -> bool:
    """Tell whether the digits belong to a name: "H2O", "iodine-131", "v_0"."""
    return bool(re.search(r"[^\W\d_][-_]?\d*[.,]?\d*$|_$", text[max(0, start - 12) : start]))


def _digits(text: str, start: int) -> Numeral:
    sign, begin = _sign(text, start)
    power = _TEN_POWER.match(text, start)
    if power:
        exponent = int(_bounded(power.group(1) or power.group(2)))
        return Numeral(sign * 10.0**exponent, begin, power.end())
    match = _DIGITS.match(text, start)
    assert match is not None  # the caller saw a digit
    return Numeral(sign * _value(match), begin, match.end())


def _value(match: re.Match[str]) -> float:
    written = match["mantissa"]
    if sum(char.isdigit() for char in written) > MAX_DIGITS:
        raise LimitError(f"the number {written[:20]}… has more than {MAX_DIGITS} digits; write it as 1.5e30")
    number = _mantissa(written)
    exponent = (match["e"] or "")[1:] or match["power"] or match["super"] or match["plain"]
    if exponent:
        number *= 10.0 ** int(_bounded(exponent))
    if match["vulgar"]:
        number += _FRACTIONS[match["vulgar"].strip()]
    if match["under"]:
        number = _divided(number, match["under"])
    if match["scale"]:
        number *= _SCALES[match["scale"].casefold()]
    if not math.isfinite(number):
        raise LimitError(f"the number {match.group()[:40]!r} is beyond 1e308; give a smaller one")
    return number


def _mantissa(written: str) -> float:
    if re.fullmatch(r"\d+,\d{1,2}", written):
        return float(written.replace(",", "."))
    return float(re.sub(r"[^\d.]", "", written))


def _divided(number: float, under: str) -> float:
    if len(under) > MAX_DIGITS or float(under) == 0:
        raise LimitError(f"the fraction with denominator {under[:20]} has no value; write a plain number")
    return number / float(under)


def _bounded(exponent: str) -> str:
    plain = exponent.translate(_SUPERSCRIPTS)
    if len(plain) > 5 or abs(int(plain)) > MAX_EXPONENT:
        raise LimitError(f"the exponent {plain[:12]} is beyond ±{MAX_EXPONENT}; give a smaller number")
    return plain


def _sign(text: str, start: int) -> tuple[float, int]:
    """Read a minus sign that is no dash between two values or words."""
    before = text[:start]
    if re.search(r"(?:^|[\s(=:])[-−]$", before) and not re.search(r"(?:\d|°[CF]?|%)\s+[-−]$", before[-6:]):
        return -1.0, start - 1
    if re.search(r"\b(?:to|and|from|of|is|at)\s+[-−]\s?$|\bminus\s+(?:[-−]\s?)?$", before, re.IGNORECASE):
        return -1.0, re.search(r"(?:minus\s+|[-−]\s?)$", before, re.I).start()  # type: ignore[union-attr]
    return 1.0, start


def _words(text: str, start: int) -> Numeral | None:
    """Read a spelled-out number, or a part ("half", "three quarters of") before what it is a part of."""
    part = _part(text, start)
    if part:
        return part
    words = _run(text, start)
    total, current, end = 0.0, None, start
    for word, word_end in words:
        if word in _ONES or word in _TENS:
            current = (current or 0.0) + (_ONES.get(word) or _TENS.get(word) or 0.0)
        elif word in _SCALES and (current is not None or end > start):
            current = (1.0 if current is None else current) * _SCALES[word]
            if _SCALES[word] >= 1000:
                total, current = total + current, 0.0
        elif word in ("a", "an") and end == start:
            current = None
        elif not (word == "and" and current):
            break
        if word != "and":
            end = word_end
    return _finish(text, start, end, total, current)


def _finish(text: str, start: int, end: int, total: float, current: float | None) -> Numeral | None:
    first = text[start:end].split(" ")[0].split("-")[0].casefold()
    if end == start or (current is None and not total) or (first in ("a", "an") and end - start < 4):
        return None
    number = total + (current or 0.0)
    half = re.compile(r"\s+and\s+(?:a\s+(half|quarter)|(three)\s+quarters)\b", re.IGNORECASE).match(text, end)
    if half:
        number += 0.75 if half.group(2) else _PARTS[half.group(1).casefold()]
        end = half.end()
    return Numeral(number, start, end, in_words=True)


def _run(text: str, start: int) -> Iterator[tuple[str, int]]:
    """Yield the words from `start` on that may make up one number, with their ends."""
    position = start
    while True:
        word = _WORD.match(text, position)
        if word is None:
            return
        yield word.group().casefold(), word.end()
        gap = re.compile(r"[ -]").match(text, word.end())
        if gap is None:
            return
        position = gap.end()


_PART = re.compile(
    r"(?:(?P<count>a|an|one|two|three|four|five|seven|nine)[ -])?"
    r"(?P<part>half|third|quarter|fifth|tenth|hundredth|thousandth)s?(?:\s+of)?\s+(?:an?\s+|the\s+)?(?=[^\W\d_])",
    re.IGNORECASE,
)


def _part(text: str, start: int) -> Numeral | None:
    match = _PART.match(text, start)
    if match is None:
        return None
    count = (match["count"] or "one").casefold()
    number = _ONES.get(count, 1.0) * _PARTS[match["part"].casefold()]
    return Numeral(number, start, match.end(), in_words=True, is_part=True)
