"""Units as people write them ("m/s²", "metres per second squared", "W/(m K)") as pint unit strings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

MONEY = {"€": "euro", "$": "dollar", "£": "pound", "¥": "yen"}
_MONEY_WORDS = re.compile(
    r"(?:euros?|eur|dollars?|usd|us\$|pounds? sterling|gbp|yen|jpy|francs?|chf|rupees?|cents?|€|\$|£|¥)"
    r"(?![^\W\d_])",
    re.IGNORECASE,
)

_PREFIXES = {
    "f": "femto",
    "p": "pico",
    "n": "nano",
    "µ": "micro",
    "μ": "micro",
    "u": "micro",
    "m": "milli",
    "c": "centi",
    "d": "deci",
    "h": "hecto",
    "k": "kilo",
    "M": "mega",
    "G": "giga",
    "T": "tera",
}
_PREFIXED_SYMBOLS = {
    "m": "meter",
    "g": "gram",
    "s": "second",
    "A": "ampere",
    "K": "kelvin",
    "mol": "mole",
    "Hz": "hertz",
    "N": "newton",
    "Pa": "pascal",
    "J": "joule",
    "W": "watt",
    "C": "coulomb",
    "V": "volt",
    "F": "farad",
    "Ω": "ohm",
    "\u2126": "ohm",
    "ohm": "ohm",
    "S": "siemens",
    "H": "henry",
    "T": "tesla",
    "Wb": "weber",
    "lm": "lumen",
    "lx": "lux",
    "Bq": "becquerel",
    "Gy": "gray",
    "Sv": "sievert",
    "L": "liter",
    "l": "liter",
    "eV": "electron_volt",
    "cd": "candela",
    "bar": "bar",
    "cal": "calorie",
    "Wh": "watt_hour",
    "Ah": "ampere_hour",
}
_SYMBOLS = {
    "min": "minute",
    "h": "hour",
    "hr": "hour",
    "hrs": "hour",
    "sec": "second",
    "secs": "second",
    "d": "day",
    "yr": "year",
    "yrs": "year",
    "t": "metric_ton",
    "°": "degree",
    "º": "degree",
    "°C": "degree_Celsius",
    "ºC": "degree_Celsius",
    "℃": "degree_Celsius",
    "°F": "degree_Fahrenheit",
    "ºF": "degree_Fahrenheit",
    "degC": "degree_Celsius",
    "degF": "degree_Fahrenheit",
    "deg": "degree",
    "rad": "radian",
    "mrad": "milliradian",
    "ha": "hectare",
    "atm": "atmosphere",
    "mmHg": "mmHg",
    "psi": "psi",
    "ft": "foot",
    "lb": "pound",
    "lbs": "pound",
    "oz": "ounce",
    "gal": "gallon",
    "mi": "mile",
    "yd": "yard",
    "mph": "mile / hour",
    "kph": "kilometer / hour",
    "kmh": "kilometer / hour",
    "km/hr": "kilometer / hour",
    "rpm": "revolution / minute",
    "rps": "revolution / second",
    "kn": "knot",
    "hp": "horsepower",
    "M": "mole / liter",
    "mM": "millimole / liter",
    "D": "1 / meter",
    "dpt": "1 / meter",
    "Nm": "newton * meter",
    "kNm": "kilonewton * meter",
    "Ns": "newton * second",
    "Vs": "volt * second",
    "As": "ampere * second",
    "Js": "joule * second",
    "Ωm": "ohm * meter",
    "\u2126m": "ohm * meter",
    "%": "percent",
    "‰": "permille",
    "ppm": "ppm",
    "Å": "angstrom",
    "ly": "light_year",
    "AU": "astronomical_unit",
    "dB": "decibel",
    "VA": "volt * ampere",
    "cc": "centimeter ** 3",
    "amp": "ampere",
    "amps": "ampere",
}
_PREFIXED_NAMES = {
    "meter": "meter",
    "metre": "meter",
    "gram": "gram",
    "gramme": "gram",
    "second": "second",
    "ampere": "ampere",
    "amp": "ampere",
    "kelvin": "kelvin",
    "mole": "mole",
    "mol": "mole",
    "hertz": "hertz",
    "newton": "newton",
    "pascal": "pascal",
    "joule": "joule",
    "watt": "watt",
    "coulomb": "coulomb",
    "volt": "volt",
    "farad": "farad",
    "ohm": "ohm",
    "siemens": "siemens",
    "henry": "henry",
    "tesla": "tesla",
    "weber": "weber",
    "candela": "candela",
    "lumen": "lumen",
    "lux": "lux",
    "becquerel": "becquerel",
    "gray": "gray",
    "sievert": "sievert",
    "liter": "liter",
    "litre": "liter",
    "electronvolt": "electron_volt",
    "electron volt": "electron_volt",
    "electron-volt": "electron_volt",
    "bar": "bar",
    "calorie": "calorie",
    "watt hour": "watt_hour",
    "watt-hour": "watt_hour",
    "watthour": "watt_hour",
    "ampere hour": "ampere_hour",
    "ampere-hour": "ampere_hour",
    "amp hour": "ampere_hour",
    "amp-hour": "ampere_hour",
    "radian": "radian",
    "ton": "metric_ton",
    "tonne": "metric_ton",
}
_NAMES = {
    "minute": "minute",
    "hour": "hour",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "year",
    "annum": "year",
    "decade": "decade",
    "century": "century",
    "centurie": "century",
    "ton": "metric_ton",
    "tonne": "metric_ton",
    "metric ton": "metric_ton",
    "metric tonne": "metric_ton",
    "degree": "degree",
    "degree celsius": "degree_Celsius",
    "degree c": "degree_Celsius",
    "degree centigrade": "degree_Celsius",
    "celsius": "degree_Celsius",
    "centigrade": "degree_Celsius",
    "degree fahrenheit": "degree_Fahrenheit",
    "fahrenheit": "degree_Fahrenheit",
    "degree kelvin": "kelvin",
    "dioptre": "1 / meter",
    "diopter": "1 / meter",
    "dioptrie": "1 / meter",
    "hectare": "hectare",
    "acre": "acre",
    "atmosphere": "atmosphere",
    "mile": "mile",
    "nautical mile": "nautical_mile",
    "foot": "foot",
    "feet": "foot",
    "inch": "inch",
    "inche": "inch",
    "yard": "yard",
    "pound": "pound",
    "ounce": "ounce",
    "gallon": "gallon",
    "knot": "knot",
    "horsepower": "horsepower",
    "molar": "mole / liter",
    "light year": "light_year",
    "light-year": "light_year",
    "lightyear": "light_year",
    "angstrom": "angstrom",
    "astronomical unit": "astronomical_unit",
    "parsec": "parsec",
    "decibel": "decibel",
    "percent": "percent",
    "per cent": "percent",
    "kilo": "kilogram",
    "micron": "micrometer",
    "henrie": "henry",
    "millimolar": "millimole / liter",
    "sec": "second",
}
_CYCLES = frozenset("revolution rotation turn cycle oscillation vibration swing beat time".split())
_POWER_WORDS = {"squared": 2, "cubed": 3, "square": 2, "cubic": 3, "sq": 2, "cu": 3, "sq.": 2, "cu.": 3}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺−", "0123456789-+-")
_LETTER = r"[^\W\d_⁰-⁹¹²³]"
_NAME = re.compile(rf"{_LETTER}+(?:[ -]{_LETTER}+)?")
_SYMBOL = re.compile(rf"°[CF]?(?!{_LETTER})|º[CF]?|[%‰℃]|{_LETTER}+")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*\(?([-−+]?\d)\)?|([⁻⁺]?[¹²³⁴⁵⁶])|([-−]?[1-6])(?![\d.,]*\d)(?!\w)")
_POWER_BEFORE = re.compile(r"(square|cubic|sq\.?|cu\.?)\s+", re.IGNORECASE)
_POWER_AFTER = re.compile(r"\s+(squared|cubed)\b", re.IGNORECASE)
_PER = re.compile(r"\s*/\s*|\s+(?:per|a|an|each|every)\s+|\s*-?per-?\s*(?=[^\W\d_])", re.IGNORECASE)
_TIMES = re.compile(r"\s*[·⋅*×]\s*|[ -]")
_DELTA = {"degree_Celsius": "kelvin", "degree_Fahrenheit": "delta_degree_Fahrenheit"}
_CONVENTIONS = frozenset({"minute", "hour", "second", "day", "week", "month", "year", "degree", "percent"})
_TIME_UNITS = frozenset({"minute", "hour", "second", "day", "week", "month", "year", "kilowatt_hour"})
_SPACED_SYMBOLS = frozenset({"m", "s", "h", "K", "kg", "mol", "V", "C", "cm"})


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit read from a text: a pint string ("" for money) and where it ends."""

    text: str
    end: int
    is_money: bool = False
    is_word: bool = False


@cache
def _symbols() -> dict[str, str]:
    found = {
        prefix + symbol: long + name for symbol, name in _PREFIXED_SYMBOLS.items() for prefix, long in _PREFIXES.items()
    }
    del found["pH"]
    return found | _PREFIXED_SYMBOLS | {"kt": "kilometric_ton", "Mt": "megametric_ton"} | _SYMBOLS


@cache
def _names() -> dict[str, str]:
    prefixes = [*_PREFIXES.values(), "deca", "peta"]
    found = {prefix + name: prefix + unit for name, unit in _PREFIXED_NAMES.items() for prefix in prefixes}
    return found | _PREFIXED_NAMES | _NAMES


def named_unit(word: str) -> str:
    """Return the pint string of a written-out unit, singular or plural, or "" ("metres" → "meter")."""
    folded = " ".join(word.casefold().split())
    names = _names()
    for form in (
        folded,
        folded.removesuffix("s"),
        re.sub(r"s(?=[ -])", "", folded),
        re.sub(r"s(?=[ -])", "", folded).removesuffix("s"),
    ):
        if names.get(form):
            return names[form]
    return ""


def read_unit(text: str, start: int) -> Unit | None:
    """Read the unit that begins at `start` (after blanks or one hyphen), or return None."""
    while start < len(text) and text[start] in " \u00a0\u202f\t":
        start += 1
    if text[start : start + 1] == "-" and text[start + 1 : start + 2].isalpha():
        start += 1
    money = _MONEY_WORDS.match(text, start)
    if money:
        return _rate(text, Unit("", money.end(), is_money=True, is_word=money.group()[0].isalpha()))
    return _product(text, start)


def read_rate(text: str, start: int) -> Unit | None:
    """Read the denominator that follows a bare number ("0.30 per kWh", "12 times a minute")."""
    cycle = re.compile(r"\s*(\w+?)s?(?=\s+(?:per|a|an|each|every)\s)", re.IGNORECASE).match(text, start)
    if cycle and cycle.group(1).casefold() in _CYCLES:
        unit = _rate(text, Unit("revolution", cycle.end()))
        return unit if unit.text != "revolution" else None
    thing = re.compile(r"\s+[^\W\d_]+(?=\s+per\s)").match(text, start)
    for begin in (start, thing.end() if thing else start):
        unit = _rate(text, Unit("", begin))
        if unit.text:
            return unit
    return None


def _rate(text: str, unit: Unit) -> Unit:
    """Extend a unit by "per ..." if that follows."""
    per = _PER.match(text, unit.end)
    other_money = per and _MONEY_WORDS.match(text, per.end())
    if unit.is_money and other_money:
        return Unit("", other_money.end())
    denominator = per and _term(text, per.end())
    if not per or not denominator or not denominator.text:
        return unit
    if re.search(r"\ba", per.group(), re.I) and not _is_rate_base(denominator.text):
        return unit
    below = f"({denominator.text})" if "*" in denominator.text else _wrap(denominator.text)
    joined = f"{unit.text or 1} / {below}"
    return Unit(joined, denominator.end, unit.is_money, denominator.is_word)


def _is_rate_base(unit: str) -> bool:
    return unit in _TIME_UNITS


def _product(text: str, start: int) -> Unit | None:
    """Read terms joined by multiplication and division; what follows a "/" by "·" stays below it."""
    first = _factor(text, start)
    if first is None or not first.text:
        return first if first else None
    above, end, last = [first.text], first.end, first
    below: list[str] = []
    is_below = False
    while True:
        following = _next_factor(text, end, last, is_below)
        if following is None:
            break
        unit, divided = following
        is_below = is_below or divided
        (below if is_below else above).append(unit.text)
        end, last = unit.end, unit
    if len(above) + len(below) > 1:
        above, below = [[_DELTA.get(part, _wrap(part)) for part in parts] for parts in (above, below)]
    joined = " * ".join(above)
    if below:
        joined += " / " + (below[0] if len(below) == 1 and "*" not in below[0] else f"({' * '.join(below)})")
    return Unit(joined, end, is_word=first.is_word)


def _wrap(part: str) -> str:
    return f"({part})" if "/" in part else part


def _next_factor(text: str, end: int, last: Unit, is_below: bool) -> tuple[Unit, bool] | None:
    per = _PER.match(text, end)
    if per:
        factor = _factor(text, per.end())
        by_article = bool(re.fullmatch(r"\s+(?:a|an|each|every)\s+", per.group(), re.I))
        if factor and factor.text and (not by_article or factor.text in _TIME_UNITS):
            return factor, True
        return None
    times = _TIMES.match(text, end)
    if not times:
        return None
    factor = _factor(text, times.end())
    if factor is None or not factor.text:
        return None
    if times.group() in " -" and not _may_follow(text, times.end(), last, factor, is_below):
        return None
    return factor, False


def _may_follow(text: str, start: int, last: Unit, factor: Unit, is_below: bool) -> bool:
    """Tell whether a unit after a mere blank belongs to the same product ("N m", "newton metres")."""
    if last.text in _CONVENTIONS or text[factor.end : factor.end + 2].strip().startswith("="):
        return False
    written = text[start : factor.end]
    if last.is_word and factor.is_word:
        is_length = last.text.endswith("meter")
        return factor.text in {"meter", "second", "hour"} and not is_length
    if re.search(r"[\^²³⁻]|-\d", written):
        return True
    is_base = re.search(r"(newton|joule|watt|ohm|pascal|volt|weber|tesla)$", last.text) is not None
    may_multiply = is_base or is_below or last.text == "kilogram"
    return not factor.is_word and written in _SPACED_SYMBOLS and may_multiply


def _factor(text: str, start: int) -> Unit | None:
    """Read one unit with its power, a parenthesis of units, or the 1 of "1/K"."""
    if text[start : start + 1] == "(":
        inner = _product_in_parentheses(text, start)
        if inner:
            return inner
    if re.compile(r"1\s*/\s*(?=[^\W\d_(°])").match(text, start):
        return Unit("1", start + 1)
    return _term(text, start)


def _product_in_parentheses(text: str, start: int) -> Unit | None:
    close = text.find(")", start)
    if close < 0 or close - start > 40:
        return None
    inside = re.sub(r"\s+", "·", text[start + 1 : close].strip())
    unit = _product(inside.replace("·/·", "/").replace("·*·", "·").replace("···", "·").replace("··", "·"), 0)
    if unit is None or not unit.text or unit.end < len(inside.replace("·*·", "·").replace("···", "·")):
        return None
    return Unit(unit.text, close + 1)


def _term(text: str, start: int) -> Unit | None:
    power = 1
    before = _POWER_BEFORE.match(text, start)
    if before:
        power, start = _POWER_WORDS[before.group(1).casefold()], before.end()
    unit = _word(text, start)
    if unit is None or not unit.text:
        return None
    end = unit.end
    after, exponent = _POWER_AFTER.match(text, end), _EXPONENT.match(text, end)
    if after and power == 1:
        power, end = _POWER_WORDS[after.group(1).casefold()], after.end()
    elif exponent and not unit.is_word and power == 1:
        digits = next(group for group in exponent.groups() if group)
        power, end = int(digits.translate(_SUPERSCRIPTS)), exponent.end()
    return Unit(unit.text if power == 1 else f"{_wrap(unit.text)} ** {power}", end, is_word=unit.is_word)


def _word(text: str, start: int) -> Unit | None:
    """Read one unit name or symbol; two words are tried before one."""
    symbol = _SYMBOL.match(text, start)
    if symbol is None:
        return None
    match = _NAME.match(text, start)
    if match:
        unit = named_unit(match.group())
        if unit:
            return Unit(unit, match.end(), is_word=True)
    written = symbol.group()
    if written in ("°", "º"):
        spaced = re.compile(r"\s([CF])(?![^\W\d_])").match(text, symbol.end())
        if spaced:
            return Unit(_SYMBOLS["°" + spaced.group(1)], spaced.end())
    if written in _symbols():
        return Unit(_symbols()[written], symbol.end())
    unit = named_unit(written)
    return Unit(unit, symbol.end(), is_word=True) if unit else None
