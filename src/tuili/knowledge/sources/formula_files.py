"""Reader of formula collections: TOML files with [[quantity]], [[formula]], [[constant]], [[property]].

Every entry is checked: its keys, types, ids, units and dimensions, and that an expression is plain
arithmetic, so that nothing in a foreign file is ever run.

A quantity that formulas take as a plain number, such as a number of years in an exponent, has the
unit "" and names in "counts" the unit that it counts ("year"). A value of that dimension is
converted to it; a plain number is taken as it is.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuili.errors import DependencyError, SourceError
from tuili.knowledge.sources.formula_expressions import expression_symbols

MONEY = "[money]"
"""The dimension of amounts of money, for which pint has no unit."""

_ROLES = ("", "initial", "final", "change")
_TABLES: dict[str, dict[str, type]] = {
    "quantity": {
        "id": str,
        "name": str,
        "unit": str,
        "aliases": list,
        "symbols": list,
        "is_a": str,
        "role": str,
        "asks": list,
        "cues": list,
        "zero_cues": list,
        "money": bool,
        "positive": bool,
        "counts": str,
    },
    "formula": {
        "id": str,
        "name": str,
        "expr": str,
        "where": dict,
        "topic": str,
        "scenario": list,
        "description": str,
        "source": str,
        "defaults": dict,
        "no_solve": list,
    },
    "constant": {
        "id": str,
        "name": str,
        "quantity": str,
        "value": float,
        "unit": str,
        "aliases": list,
        "symbols": list,
        "source": str,
    },
    "property": {
        "material": str,
        "quantity": str,
        "value": float,
        "unit": str,
        "aliases": list,
        "source": str,
    },
}
_NEEDED = {"id", "name", "unit", "expr", "where", "quantity", "value", "material"}
_TYPE_NAMES = {
    str: "a text",
    list: "a list of texts",
    dict: "a table of texts",
    float: "a finite number",
    bool: "true or false",
}

Entry = dict[str, Any]
"""One entry, absent keys filled in; "at" tells the file and entry for messages and provenance."""


@dataclass(slots=True)
class Collection:
    """Quantities, formulas and constants by id, and material properties by "MATERIAL QUANTITY"."""

    quantity: dict[str, Entry] = field(default_factory=dict)
    formula: dict[str, Entry] = field(default_factory=dict)
    constant: dict[str, Entry] = field(default_factory=dict)
    property: dict[str, Entry] = field(default_factory=dict)


def read_collection(folder: Path) -> Collection:
    """Read and check all TOML files of a folder; each quantity gets its "dimension".

    Raises:
        DependencyError: pint is not installed.
        SourceError: a file or an entry is wrong; the message names both.
    """
    paths = sorted(folder.glob("*.toml"))
    if not paths:
        raise SourceError(f"{folder} holds no .toml file; name a folder with formula files")
    collection = Collection()
    for path in paths:
        for table, entry in _entries(path):
            _add(collection, table, entry)
    _check(collection)
    return collection


def _entries(path: Path) -> Iterator[tuple[str, Entry]]:
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SourceError(f"can't read {path}: {error}") from error
    for table, entries in tables.items():
        if table not in _TABLES or not isinstance(entries, list):
            raise SourceError(f"{path.name}: {table!r} is no table of entries; known are {_listed(_TABLES)}")
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict):
                raise SourceError(f"{path.name}: {table} {number} is no table; write [[{table}]] above it")
            label = entry.get("id") or f"{entry.get('material', number)} {entry.get('quantity', '')}".strip()
            yield table, _filled(entry, _TABLES[table], f"{path.name}: {table} {label}")


def _filled(entry: Entry, types: dict[str, type], at: str) -> Entry:
    """Return the entry with absent keys filled in, or raise `SourceError`."""
    for key in entry:
        if key not in types:
            raise SourceError(f"{at}: the key {key!r} is unknown; known are {_listed(types)}")
    filled: Entry = {"at": at}
    for key, kind in types.items():
        if key in _NEEDED and key not in entry:
            raise SourceError(f"{at}: the key {key!r} is missing")
        value = entry.get(key, True if key == "positive" else kind())
        if not _fits(value, kind) or (key in _NEEDED and key != "unit" and value in ("", {})):
            raise SourceError(f"{at}: {key} is {value!r}, expected {_TYPE_NAMES[kind]}")
        filled[key] = value
    return filled


def _fits(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(value, list):
        return kind is list and all(isinstance(each, str) and each for each in value)
    if isinstance(value, dict):
        return kind is dict and all(isinstance(each, str) for each in value.values())
    return isinstance(value, kind)


def _add(collection: Collection, table: str, entry: Entry) -> None:
    entries: dict[str, Entry] = getattr(collection, table)
    key = entry["id"] if table != "property" else f"{entry['material']} {entry['quantity']}"
    if key in entries:
        raise SourceError(f"{entry['at']}: it is given twice, before in {entries[key]['at']}")
    entries[key] = entry


def _check(collection: Collection) -> None:
    dimension = _dimension_reader()
    quantities = collection.quantity
    for entry in quantities.values():
        entry["dimension"] = MONEY if entry["money"] else dimension(entry)
    for entry in quantities.values():
        _check_quantity(entry, quantities)
    for entry in collection.formula.values():
        _check_formula(entry, collection)
    for entry in (*collection.constant.values(), *collection.property.values()):
        expected = _quantity(entry["quantity"], entry, quantities)["dimension"]
        _check_dimension(dimension(entry), expected, f"unit {entry['unit']!r}", entry)


def _dimension_reader() -> Callable[[Entry], str]:
    """Return a function that gives the dimension of an entry's unit, as pint writes it."""
    try:
        import pint
    except ImportError as error:
        raise DependencyError("pint", "formulas", "the base of formulas") from error
    registry: Any = pint.UnitRegistry()
    known: dict[str, str] = {}

    def dimension(entry: Entry) -> str:
        unit = entry.get("counts") or entry["unit"]
        if unit not in known:
            try:
                known[unit] = str(registry.parse_units(unit).dimensionality)
            except Exception as error:  # pint lets errors of its tokenizer through, of many types
                raise SourceError(f"{entry['at']}: the unit {unit!r} is unknown to pint ({error})") from error
        return known[unit]

    return dimension


def _check_quantity(entry: Entry, quantities: dict[str, Entry]) -> None:
    if entry["counts"] and entry["unit"]:
        raise SourceError(f"{entry['at']}: counts needs a plain number; leave unit {entry['unit']!r} away")
    if entry["role"] not in _ROLES:
        raise SourceError(f"{entry['at']}: role is {entry['role']!r}, expected one of {_listed(_ROLES[1:])}")
    seen, current = {entry["id"]}, entry
    while parent := current["is_a"]:
        current = _quantity(parent, current, quantities)
        if parent in seen:
            raise SourceError(f"{entry['at']}: is_a leads back to {parent!r}; break the circle")
        seen.add(parent)
        _check_dimension(entry["dimension"], current["dimension"], f"is_a {parent!r}", entry)


def _check_formula(entry: Entry, collection: Collection) -> None:
    where: dict[str, str] = entry["where"]
    for key in where.values():
        _quantity(key, entry, collection.quantity)
    if len(set(where.values())) < len(where):
        raise SourceError(f"{entry['at']}: two symbols mean the same quantity; give each its own, with is_a")
    used = expression_symbols(entry["expr"], set(where), entry["at"])
    if unused := set(where) - used:
        raise SourceError(f"{entry['at']}: where has {_listed(sorted(unused))}, which the expression has not")
    for symbol in (*entry["defaults"], *entry["no_solve"]):
        if symbol not in where:
            raise SourceError(f"{entry['at']}: defaults or no_solve name {symbol!r}, which where has not")
    for symbol, key in entry["defaults"].items():
        _check_default(symbol, key, entry, collection)


def _check_default(symbol: str, key: str, entry: Entry, collection: Collection) -> None:
    constant = collection.constant.get(key)
    if constant is None:
        raise SourceError(f"{entry['at']}: the default {key!r} is no [[constant]] of the collection")
    quantities = collection.quantity
    given = _quantity(constant["quantity"], constant, quantities)["dimension"]
    needed = quantities[entry["where"][symbol]]["dimension"]
    _check_dimension(given, needed, f"default {symbol} = {key!r}", entry)


def _quantity(key: str, entry: Entry, quantities: dict[str, Entry]) -> Entry:
    if key not in quantities:
        raise SourceError(f"{entry['at']}: the quantity {key!r} is defined nowhere in the folder")
    return quantities[key]


def _check_dimension(given: str, needed: str, what: str, entry: Entry) -> None:
    if given != needed:
        raise SourceError(f"{entry['at']}: {what} has the dimension {given}, expected {needed}")


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts)
