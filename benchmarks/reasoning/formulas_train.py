"""The worked Chinese items as problems: "A=B×C=0.3 kg×4.3×10^7 J/kg=12900000 J，…"."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from reasoning.formulas_data import (
    ROUNDED,
    Argument,
    Equation,
    Item,
    is_close,
    overlaps,
    read_quantity,
    shingles,
    stem_of,
)
from tuili.errors import InputError, LimitError
from tuili.knowledge.units import read_unit
from tuili.knowledge.values import find_values
from tuili.reason.worlds.dimensions import MONEY, Dimension, in_base_units
from tuili.reason.worlds.givens import plain
from tuili.reason.worlds.relevance import Kind

_CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]+")

_OPERATOR = re.compile(r"[×*/+\-−÷()]|\^2")
_MINUS = re.compile(r"(?<=[^\W\d_]|[℃°²³])(?<!\de)-(?=\d)", re.IGNORECASE)
_NUMBER = re.compile(
    r"\d+(?:\.\d+)?(?:e[-+]?\d+)?(?:\s*×\s*10\s*(?:\^?\s*[{(]?\s*[-−]?\d+\s*[})]?|[⁰¹²³⁴⁵⁶⁷⁸⁹]+))?", re.IGNORECASE
)


def read_worked(path: Path, held_out: Sequence[Item]) -> tuple[list[Item], int, int]:
    """Read the worked items that share no text with held-out questions.

    Returns the items, how many were left out for overlap, and how many could not be read.
    """
    records = json.loads(path.read_text(encoding="utf-8"))
    questions = [record["prompt"].split("Question:")[-1].split("\nAnswer:")[0].strip() for record in records]
    near = overlaps([shingles(text) for text in questions], [stem_of(item) for item in held_out])
    kept = [index for index in range(len(records)) if not near[index]]
    items = [worked(str(index), questions[index], records[index]["program"]) for index in kept]
    readable = [item for item in items if item is not None]
    return readable, len(records) - len(kept), len(items) - len(readable)


def values_needed(items: Sequence[Item]) -> list[tuple[list[Kind], Dimension, list[bool]]]:
    """Return for each item the kinds of the values in its text, the dimension of the result, what is needed."""
    found = []
    for item in items:
        values = _values(item.chinese)
        needed = [
            any(
                item.arguments[place].dimension == dimension and is_close(value, item.arguments[place].value, ROUNDED)
                for place in item.known
            )
            for value, (dimension, _is_bare) in values
        ]
        if any(needed):
            result = item.arguments[item.asked].dimension
            found.append(([kind for _value, kind in values], result, needed))
    return found


def _values(text: str) -> list[tuple[float, Kind]]:
    """Return the values of a Chinese text, whose own characters part them as words do; none if one is out of range."""
    found = []
    try:
        values = find_values(plain(_CHINESE.sub(" of ", text)))
    except LimitError:
        return []
    for each in values:
        try:
            value, dimension = (
                (each.value.magnitude, MONEY) if each.is_money else in_base_units(each.value.magnitude, each.unit)
            )
            found.append((value, (dimension, each.is_bare)))
        except InputError:
            continue
    return found


def worked(name: str, question: str, program: str) -> Item | None:
    """Return a worked item as a problem, None if its steps can't be read."""
    places: dict[str, int] = {}
    arguments: list[Argument] = []
    equations = []
    for step in program.split("。所以最终答案")[0].split("，"):
        sides = step.split("=")
        if len(sides) != 4:
            return None
        read = _step(*sides)
        if read is None:
            return None
        expr, quantities = read
        for label, (value, dimension) in quantities.items():
            if label not in places:
                places[label] = len(arguments)
                arguments.append(Argument((label,), value, dimension))
        equations.append(Equation(expr, tuple(places[label] for label in quantities)))
    asked = equations[-1].arguments[0]
    return Item(name, "", question, tuple(arguments), tuple(equations), asked)


def _step(left: str, formula: str, numbers: str, result: str) -> tuple[str, dict[str, tuple[float, Dimension]]] | None:
    """Return one step's equation and its quantities by name, None if it can't be read."""
    left, formula, numbers = left.strip(), _plain(formula), _MINUS.sub(" - ", _plain(numbers))
    symbols = {left: "v0"}
    quantities = {left: _quantity(_plain(result).strip())}
    position = 0
    for name, is_squared in _names(formula):
        if re.fullmatch(r"\d+(\.\d+)?%?", name):
            position = max(position, numbers.find(name, position) + len(name))
            continue
        match = _NUMBER.search(numbers, position)
        if match is None:
            return None
        end = _end_of_unit(numbers, match.end(), is_squared)
        position = end + 2 * is_squared
        quantities.setdefault(name, read_quantity(match.group(), numbers[match.end() : end]))
        symbols.setdefault(name, f"v{len(symbols)}")
    found = {name: quantity for name, quantity in quantities.items() if quantity is not None}
    return (_expression(formula, symbols), found) if len(found) == len(quantities) else None


def _plain(text: str) -> str:
    return text.replace("（", "(").replace("）", ")").replace("•", "·").replace("⋅", "·")


def _names(formula: str) -> list[tuple[str, bool]]:
    """Return the names in a formula in order, and which of them are squared."""
    parts = re.split(f"({_OPERATOR.pattern})", formula)
    names = [(part.strip(), parts[at + 1 : at + 2] == ["^2"]) for at, part in enumerate(parts) if at % 2 == 0]
    return [(name, is_squared) for name, is_squared in names if name]


def _end_of_unit(numbers: str, start: int, is_squared: bool) -> int:
    """Return where the unit after a number ends; the power of a squared quantity is no part of it."""
    unit = read_unit(numbers, start)
    end = unit.end if unit else start
    return end - 2 if is_squared and numbers[start:end].endswith("^2") else end


def _expression(formula: str, symbols: dict[str, str]) -> str:
    for name in sorted(symbols, key=len, reverse=True):
        formula = formula.replace(name, f" {symbols[name]} ")
    expr = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", formula)
    expr = expr.replace("×", "*").replace("÷", "/").replace("−", "-").replace("^", "**")
    return "v0 = " + re.sub(r"\s+", " ", expr).strip()


def _quantity(written: str) -> tuple[float, Dimension] | None:
    match = _NUMBER.match(written)
    return read_quantity(match.group(), written[match.end() :].strip()) if match else None
