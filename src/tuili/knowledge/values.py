"""Values in a question: numbers with their units, ranges, rates and amounts of money."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tuili.errors import LimitError
from tuili.knowledge.numbers import Numeral, find_numbers
from tuili.knowledge.query import Value
from tuili.knowledge.units import MONEY, Unit, read_rate, read_unit

MAX_VALUES = 60
_OFFSET = re.compile(r"[-\s\u00a0]*")
_RANGE = re.compile(
    r"\s*(?:(?:mark\s+)?(?:up |down |on )?to(?: the| a)?|→|->|–|—|(?<=\s)-(?=\s)|until)\s*", re.IGNORECASE
)
_LIST = re.compile(r"\s*(?:,|and|or|to|up to|down to|by|x|×|–|-|,\s*and|→)\s*", re.IGNORECASE)
_EXPONENT = re.compile(r"[^\W\d_]\^$")
_TIMES = re.compile(r"\s*\*\s*")
_HEADING = re.compile(r"[^\W\d_]\s*[(（/]\s*([^\s()（）/:=]+(?:/[^\s()（）/:=]+)?)\s*[)）]?\s*[:=]?\s*$")
_COMPOUND = re.compile(r"\s+(?:and\s+)?", re.IGNORECASE)
_COSTS = re.compile(r"\s+(?:costs?|is|are|for|at)\s+(?:only\s+|about\s+)?", re.IGNORECASE)
_ONE = re.compile(
    r"\b(?:a|an|one|each|1)\s+(?=kwh|kilowatt|kWh|kg\b|kilogram|lit|hour|ton|m[²^]|square)", re.IGNORECASE
)
_TIME_RANK = {
    "year": 7,
    "month": 6,
    "week": 5,
    "day": 4,
    "hour": 3,
    "minute": 2,
    "second": 1,
    "millisecond": 0,
}
_LENGTH_RANK = {"foot": 2, "inch": 1, "meter": 4, "centimeter": 3, "kilometer": 5, "millimeter": 2}
_SINGLE_TIME = re.compile(
    r"\b(?:in|for|during|after|within|per|every)\s+(an?|one|each)\s+(?=second|minute|hour|day|year)",
    re.IGNORECASE,
)
_PER_SEVERAL = re.compile(r"\s*(?:/|per|for every|every)\s*(\d{1,6}(?:\.\d{1,6})?)(?=[^\d.,])", re.IGNORECASE)
_CENTS = re.compile(r"\bcents?\b", re.IGNORECASE)
_WHOLE_MONEY = re.compile(r"[€$£]|\b(?:euros?|dollars?|pounds?|francs?)\b", re.IGNORECASE)
_ORDINALS = {"first": 1.0, "second": 2.0, "third": 3.0, "fourth": 4.0, "fifth": 5.0}
_ORDER = re.compile(
    r"\b(first|second|third|fourth|fifth)"
    r"(?=(?:[- ]order)?[- ](?:maxim|minim|(?:bright |dark )?fringe|spectrum|diffract))",
    re.IGNORECASE,
)
_AFTER_FROM = re.compile(r"\b(?:from|initially|originally|starting at|starts at)\s+(?:the |a |an )?$", re.IGNORECASE)
_AFTER_TO = re.compile(
    r"(?<!added )(?<!connected )(?<!attached )(?<!applied )(?<!joined )"
    r"\b(?:to|until(?: there are| it is)?|reaches|becomes|into)\s+(?:the |a |an )?$",
    re.IGNORECASE,
)
_AFTER_BETWEEN = re.compile(r"\bbetween\s+(?:the |a |an )?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """A value in a question and what its writing tells about it.

    `role` is "initial" or "final" in a range or after "from" or "to"; `in_range` that both ends are
    written together. `is_bare` is a number without unit, `noun` the word after such a number.
    """

    value: Value
    role: str = ""
    in_range: bool = False
    is_money: bool = False
    is_bare: bool = False
    in_words: bool = False
    noun: str = ""

    @property
    def unit(self) -> str:
        """The value's unit as a pint string; "" for money and plain numbers."""
        return self.value.unit


def find_values(question: str) -> list[Found]:
    """Return the values of a question in order.

    Raises:
        LimitError: there are more than `MAX_VALUES`, or a number is too long or too large.
    """
    found: list[Found] = []
    for numeral in find_numbers(question):
        is_exponent = _EXPONENT.search(question, 0, numeral.start) is not None
        item = None if is_exponent else _read(question, numeral)
        if item and not (found and item.value.start < found[-1].value.end):
            found.append(item)
    found += _single_times(question, found)
    found += _orders(question, found)
    if len(found) > MAX_VALUES:
        raise LimitError(f"the question holds {len(found)} numbers, the limit is {MAX_VALUES}; ask for less at once")
    found.sort(key=lambda item: item.value.start)
    for step in (_head_units, _multiply, _scale_cents, _share_units, _join_compounds, _join_prices, _give_roles):
        found = step(question, found)
    return found


def find_units(question: str) -> list[tuple[Unit, int]]:
    """Return the units that stand without a number ("how many joules", "in km/h?") with their starts."""
    taken = [(item.value.start, item.value.end) for item in find_values(question)]
    found: list[tuple[Unit, int]] = []
    position = 0
    for word in re.finditer(r"[^\W\d_]+|[°%€$£]", question):
        if word.start() < position or any(start <= word.start() < end for start, end in taken):
            continue
        before = question[max(0, word.start() - 1) : word.start()]
        unit = read_unit(question, word.start()) if before in ("", " ", "(", "/", "\n") else None
        if word.group() in ("A", "a") and not question[: word.start()].endswith(" in "):
            continue
        if unit and unit.end >= word.end() and (unit.text or unit.is_money):
            found.append((unit, word.start()))
            position = unit.end
    return found


def _read(question: str, numeral: Numeral) -> Found | None:
    start, end = numeral.start, numeral.end
    money_before = re.search(r"([€$£¥]|US\$|\b(?:EUR|USD|GBP)) ?$", question[:start])
    if money_before and not numeral.in_words:
        return _amount(question, numeral, start - len(money_before.group()))
    hyphen = question[end : end + 1] == "-"
    unit = read_unit(question, end) or (None if hyphen else read_rate(question, end))
    if unit and unit.is_word is False and _is_article(question, end, unit):
        unit = None
    if unit is None:
        is_word_only = numeral.is_part or (numeral.in_words and numeral.number == 1)
        return None if is_word_only else _bare(question, numeral)
    magnitude = numeral.number
    several = _per_several(question, unit)
    if several:
        unit, magnitude = several[0], magnitude / several[1]
    text = question[start : unit.end]
    return Found(Value(magnitude, unit.text, text, start, unit.end), is_money=unit.is_money, in_words=numeral.in_words)


def _per_several(question: str, unit: Unit) -> tuple[Unit, float] | None:
    """Read what follows "6.5 litres" in "6.5 litres per 100 km": the unit per kilometre, and 100."""
    per = _PER_SEVERAL.match(question, unit.end)
    below = read_unit(question, per.end()) if per else None
    if not per or not below or not below.text or float(per.group(1)) == 0:
        return None
    joined = f"{unit.text or 1} / ({below.text})"
    return replace(unit, text=joined, end=below.end), float(per.group(1))


def _is_article(question: str, end: int, unit: Unit) -> bool:
    """Tell whether a one-letter "unit" is a word of the sentence ("at 5 A car …", "2 in", "3 h = …")."""
    written = question[end : unit.end].strip()
    following = question[unit.end : unit.end + 3]
    return (len(written) == 1 and written.isalpha() and bool(re.match(r"\s*=", following))) or (
        written == "A" and bool(re.match(r"\s[a-z]", question[unit.end : unit.end + 2])) and question[end] != " "
    )


def _amount(question: str, numeral: Numeral, start: int) -> Found:
    """Read money whose sign stands before the number, "per unit" included."""
    rate = read_rate(question, numeral.end)
    scale = re.compile(r"\s?([km])(?!\w)", re.IGNORECASE).match(question, numeral.end)
    end = rate.end if rate else scale.end() if scale else numeral.end
    factor = {"k": 1e3, "m": 1e6}[scale.group(1).casefold()] if scale and not rate else 1.0
    value = Value(numeral.number * factor, rate.text if rate else "", question[start:end], start, end)
    return Found(value, is_money=True)


def _bare(question: str, numeral: Numeral) -> Found:
    noun = re.compile(r"[\s-]+([^\W\d_]+)").match(question, numeral.end)
    value = Value(numeral.number, "", question[numeral.start : numeral.end], numeral.start, numeral.end)
    return Found(value, is_bare=True, in_words=numeral.in_words, noun=noun.group(1) if noun else "")


def _single_times(question: str, found: list[Found]) -> list[Found]:
    """Read "in a second" and "within an hour" as values of one."""
    singles = []
    for match in _SINGLE_TIME.finditer(question):
        unit = read_unit(question, match.end())
        taken = any(item.value.start < match.end() and match.start(1) < item.value.end for item in found)
        if unit and not taken and not match.group().casefold().startswith("per"):
            start = match.start(1)
            singles.append(Found(Value(1.0, unit.text, question[start : unit.end], start, unit.end), in_words=True))
    return singles


def _scale_cents(question: str, found: list[Found]) -> list[Found]:
    """Give cents in whole units of money where the question speaks of those too."""
    if not _WHOLE_MONEY.search(question):
        return found
    return [
        replace(item, value=replace(item.value, magnitude=item.value.magnitude / 100))
        if item.is_money and _CENTS.search(item.value.text)
        else item
        for item in found
    ]


def _orders(question: str, found: list[Found]) -> list[Found]:
    """Read the order of interference: "the second-order maximum", "the first minimum"."""
    taken = [item.value.start for item in found]
    return [
        Found(
            Value(_ORDINALS[match.group().casefold()], "", match.group(), match.start(), match.end()),
            is_bare=True,
            in_words=True,
            noun="order",
        )
        for match in _ORDER.finditer(question)
        if match.start() not in taken
    ]


def heading_unit(question: str, start: int) -> Unit | None:
    """Return the unit in the heading before a place, as tables have it: "area (m^2) 2.5", "distance/km 10"."""
    heading = _HEADING.search(question, max(0, start - 30), start)
    unit = read_unit(question, heading.start(1)) if heading else None
    return unit if heading and unit and unit.text and heading.end(1) <= unit.end <= heading.end() else None


def _head_units(question: str, found: list[Found]) -> list[Found]:
    """Give bare numbers the unit of their heading."""
    given = list(found)
    for index, item in enumerate(found):
        unit = heading_unit(question, item.value.start) if item.is_bare and not item.in_words else None
        if unit is not None:
            given[index] = replace(item, value=replace(item.value, unit=unit.text), is_bare=False, noun="")
    return given


def _multiply(question: str, found: list[Found]) -> list[Found]:
    """Join what is multiplied: "30*60 s" is 1800 s."""
    joined: list[Found] = []
    for item in found:
        before = joined[-1] if joined else None
        if before and before.is_bare and _TIMES.fullmatch(question, before.value.end, item.value.start):
            start, magnitude = before.value.start, before.value.magnitude * item.value.magnitude
            text = question[start : item.value.end]
            joined[-1] = replace(item, value=replace(item.value, magnitude=magnitude, text=text, start=start))
        else:
            joined.append(item)
    return joined


def _share_units(question: str, found: list[Found]) -> list[Found]:
    """Give the unit of the last of a list or range to the bare numbers before it ("from 36 to 90 km/h")."""
    shared = list(found)
    for index in range(len(shared) - 2, -1, -1):
        current, following = shared[index], shared[index + 1]
        between = question[current.value.end : following.value.start]
        if not current.is_bare or following.is_bare or following.is_money or not _LIST.fullmatch(between):
            continue
        if between.strip() == "," and not _is_long_list(question, found, index):
            continue
        if current.in_words and not following.in_words:
            continue
        value = replace(current.value, unit=following.unit)
        shared[index] = replace(current, value=value, is_bare=False, noun="")
    return shared


def _is_long_list(question: str, found: list[Found], index: int) -> bool:
    """Tell whether a comma stands in a list of three ("3, 4 and 5 m"), not between two things ("rank 3, 5 m")."""
    gaps = [question[found[at].value.end : found[at + 1].value.start] for at in range(len(found) - 1)]
    return any(_LIST.fullmatch(gaps[at]) for at in (index - 1, index + 1) if 0 <= at < len(gaps))


def _join_compounds(question: str, found: list[Found]) -> list[Found]:
    """Join "1 h 30 min" and "6 ft 2 inches" into one value."""
    joined: list[Found] = []
    for item in found:
        before = joined[-1] if joined else None
        if before and _is_continuation(question, before, item):
            value = before.value
            magnitude = value.magnitude + _in_unit(item.value, value.unit)
            text = question[value.start : item.value.end]
            joined[-1] = replace(before, value=Value(magnitude, value.unit, text, value.start, item.value.end))
        else:
            joined.append(item)
    return joined


def _is_continuation(question: str, before: Found, item: Found) -> bool:
    between = question[before.value.end : item.value.start]
    if not _COMPOUND.fullmatch(between) or before.in_words != item.in_words:
        return False
    for rank in (_TIME_RANK, _LENGTH_RANK):
        if before.unit in rank and item.unit in rank:
            return rank[before.unit] > rank[item.unit] and ("and" not in between or rank is _TIME_RANK)
    return False


_SIZES = {
    "year": 31_557_600.0,
    "month": 2_629_800.0,
    "week": 604_800.0,
    "day": 86_400.0,
    "hour": 3600.0,
    "minute": 60.0,
    "second": 1.0,
    "millisecond": 1e-3,
    "foot": 0.3048,
    "inch": 0.0254,
    "meter": 1.0,
    "centimeter": 0.01,
    "kilometer": 1000.0,
    "millimeter": 1e-3,
}


def _in_unit(value: Value, unit: str) -> float:
    return value.magnitude * _SIZES[value.unit] / _SIZES[unit]


def _join_prices(question: str, found: list[Found]) -> list[Found]:
    """Read "one kWh costs 0.30" as a price per kilowatt-hour."""
    joined = list(found)
    for match in _ONE.finditer(question):
        unit = read_unit(question, match.end())
        verb = unit and _COSTS.match(question, unit.end)
        price = verb and next(
            (item for item in joined if abs(item.value.start - verb.end()) <= 1 and (item.is_money or item.is_bare)),
            None,
        )
        if not unit or not price:
            continue
        inside = [item for item in joined if match.start() <= item.value.start < price.value.start]
        value = Value(
            price.value.magnitude,
            f"1 / ({unit.text})",
            question[match.start() : price.value.end],
            match.start(),
            price.value.end,
        )
        joined = [item for item in joined if item is not price and item not in inside]
        joined.append(Found(value, is_money=True))
    return sorted(joined, key=lambda item: item.value.start)


def _give_roles(question: str, found: list[Found]) -> list[Found]:
    """Tell the ends of ranges, and what stands after "from" and "to"."""
    given = list(found)
    for index, item in enumerate(given):
        before = question[max(0, item.value.start - 30) : item.value.start]
        role = "initial" if _AFTER_FROM.search(before) else "final" if _AFTER_TO.search(before) else ""
        given[index] = replace(item, role=role)
    for index in range(len(given) - 1):
        first, second = given[index], given[index + 1]
        between = question[first.value.end : second.value.start]
        is_between = bool(_AFTER_BETWEEN.search(question[: first.value.start])) and between.strip() == "and"
        if _same_dimension(first, second) and (_RANGE.fullmatch(between) or is_between):
            given[index] = replace(first, role="initial", in_range=True)
            given[index + 1] = replace(second, role="final", in_range=True)
    return given


def _same_dimension(first: Found, second: Found) -> bool:
    if first.is_money or second.is_money:
        return first.is_money and second.is_money
    return first.is_bare == second.is_bare


def currency(text: str) -> str:
    """Return the currency that a value's text names, or ""."""
    for sign, name in MONEY.items():
        if sign in text:
            return name
    named = re.search(r"\b(euro|dollar|yen|franc|rupee|cent)s?\b", text, re.IGNORECASE)
    return named.group(1).casefold() if named else ""
