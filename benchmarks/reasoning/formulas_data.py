"""FormulaReasoning as problems: the questions with gold chains, the worked training items, the collection.

Source: nju-websoft/FormulaReasoning (Apache-2.0).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuili.errors import InputError
from tuili.reason.worlds.dimensions import Dimension, read_dimension

OVERLAP = 0.4
ROUNDED = 0.006
UNREAD: tuple[float, Dimension] = (float("nan"), (("unread", 1.0),))
_SHINGLE = 6
_CHINESE_UNITS = {"焦": "J", "千克": "kg", "牛": "N", "米": "m", "秒": "s", "瓦": "W"}


@dataclass(frozen=True, slots=True)
class Argument:
    """A quantity of an item in SI base units."""

    names: tuple[str, ...]
    value: float
    dimension: Dimension


@dataclass(frozen=True, slots=True)
class Equation:
    """A gold formula over places of arguments: `expr` holds v0, v1, … for `arguments`."""

    expr: str
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """A question: its arguments, the gold equations in order, the place of the asked argument."""

    id: str
    english: str
    chinese: str
    arguments: tuple[Argument, ...]
    equations: tuple[Equation, ...]
    asked: int
    faults: tuple[str, ...] = field(default=())

    @property
    def known(self) -> tuple[int, ...]:
        """The places of what is given: in a formula, never worked out, and not asked."""
        worked = {equation.arguments[0] for equation in self.equations}
        used = dict.fromkeys(place for equation in self.equations for place in equation.arguments)
        return tuple(place for place in used if place not in worked and place != self.asked)


def read_items(path: Path) -> list[Item]:
    """Read questions in the format of `hof_test.json`; those without a gold chain can't be scored and are left out."""
    return [_item(record) for record in json.loads(path.read_text(encoding="utf-8")) if record["solution"]]


def read_number(written: str) -> float | None:
    """Return a number as the data set writes it: "4.2×10^3", "4.0e+7", "1.5×10⁻³", "30×60", "50%"."""
    text = re.sub("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda match: "^" + unicodedata.normalize("NFKC", match.group()), written)
    text = re.sub(r"[{}()\s]", "", unicodedata.normalize("NFKC", text)).replace("−", "-")
    total = 0.01 if text.endswith("%") else 1.0
    text = text.removesuffix("%")
    for factor in re.split("[×x*]", text):
        base, _, exponent = factor.partition("^")
        try:
            total *= float(base) ** int(exponent or 1)
        except ValueError:
            return None
    return total


def read_quantity(number: str, unit: str) -> tuple[float, Dimension] | None:
    """Return a number and a unit in base units, None if either can't be read."""
    magnitude = read_number(number)
    for chinese, symbol in _CHINESE_UNITS.items():
        unit = unit.replace(chinese, symbol)
    try:
        scale = read_dimension(unit)
    except InputError:
        return None
    return None if magnitude is None or scale is None else (magnitude * scale[0], scale[1])


def _item(record: dict[str, Any]) -> Item:
    places: dict[str, int] = {}
    arguments = []
    faults = []
    for entry in record["arguments"]:
        quantity = read_quantity(str(entry["num"]), str(entry["unit"]))
        if quantity is None:
            faults.append(f"unread: {entry['num']} {entry['unit']}")
            quantity = UNREAD
        places[entry["zh_name"].strip()] = len(arguments)
        names = tuple(str(entry[key]).strip() for key in ("zh_name", "en_name", "symbol") if entry.get(key))
        arguments.append(Argument(names, *quantity))
    for name in (name.strip() for text in record["solution"] for name in re.findall(r"\[(.*?)\]", text)):
        if name not in places:
            faults.append(f"no argument: {name}")
            places[name] = len(arguments)
            arguments.append(Argument((name,), *UNREAD))
    equations = tuple(equation(text, places) for text in record["solution"])
    question = record["question"]
    return Item(
        str(record["id"]),
        question["en"],
        question["zh"],
        tuple(arguments),
        equations,
        equations[-1].arguments[0],
        tuple(faults),
    )


def equation(text: str, places: dict[str, int]) -> Equation:
    """Read "[A] = [B]*[C]"; arguments in the order in which they appear."""
    used: dict[str, int] = {}

    def symbol(match: re.Match[str]) -> str:
        name = match.group(1).strip()
        return f"v{used.setdefault(name, len(used))}"

    expr = re.sub(r"\[(.*?)\]", symbol, text).replace("^", "**").replace("×", "*")
    return Equation(expr, tuple(places[name] for name in used))


def shingles(text: str) -> frozenset[str]:
    """Return the runs of six letters of a text without marks and blanks."""
    plain = re.sub(r"\W", "", unicodedata.normalize("NFKC", text)).lower()
    return frozenset(plain[at : at + _SHINGLE] for at in range(len(plain) - _SHINGLE + 1))


def stem_of(item: Item) -> frozenset[str]:
    """Return the shingles of a question without the sentence that turns it round."""
    return shingles(item.chinese.split("如果我们已经知道")[0])


def overlaps(texts: Sequence[frozenset[str]], others: Sequence[frozenset[str]]) -> list[dict[int, float]]:
    """Return for each text the others that share at least `OVERLAP` of the shorter one's shingles."""
    index: dict[str, list[int]] = defaultdict(list)
    for place, other in enumerate(others):
        for shingle in other:
            index[shingle].append(place)
    found = []
    for text in texts:
        counts = Counter(place for shingle in text for place in index.get(shingle, ()))
        shares = {place: count / min(len(text), len(others[place])) for place, count in counts.items()}
        found.append({place: share for place, share in shares.items() if share >= OVERLAP})
    return found


def families(items: Sequence[Item]) -> list[int]:
    """Return for each item the number of its family: one source, or texts that overlap."""
    parent = list(range(len(items)))

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    texts = [stem_of(item) for item in items]
    by_source: dict[str, int] = {}
    for place, (item, near) in enumerate(zip(items, overlaps(texts, texts), strict=True)):
        for other in (*near, by_source.setdefault(item.id.partition("_")[0], place)):
            parent[root(other)] = root(place)
    return [root(place) for place in range(len(items))]


def is_close(value: float | None, gold: float, tolerance: float = 0.01) -> bool:
    """Tell whether a value is within the relative tolerance of the gold one."""
    return value is not None and abs(value - gold) <= tolerance * abs(gold) + 1e-12


def names_and_dimensions(items: Iterable[Item]) -> list[tuple[str, Dimension]]:
    """Return every argument's name with its dimension."""
    return [(argument.names[0], argument.dimension) for item in items for argument in item.arguments]
