"""The built-in formulas: well formed, of consistent dimensions, solvable, without duplicates."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pint
import pytest
import sympy

from tuili.knowledge.sources.formula_expressions import CONSTANTS, FUNCTIONS
from tuili.knowledge.sources.formulas import BUILT_IN

Entry = dict[str, Any]

NEEDED = {
    "quantity": {"id", "name", "unit"},
    "formula": {"id", "name", "expr", "where", "topic", "scenario", "description", "source"},
    "constant": {"id", "name", "quantity", "value", "unit", "source"},
    "property": {"material", "quantity", "value", "unit", "source"},
}
OPTIONAL = {
    "quantity": {
        "aliases",
        "symbols",
        "is_a",
        "role",
        "asks",
        "cues",
        "zero_cues",
        "money",
        "positive",
        "counts",
    },
    "formula": {"defaults", "no_solve"},
    "constant": {"aliases", "symbols"},
    "property": {"aliases"},
}
TOPICS = {"mechanics", "electricity", "heat", "waves", "optics", "chemistry", "geometry", "finance"}
LEAST_FORMULAS = 240
TOLERANCE = 1e-6

UNITS: pint.UnitRegistry[Any] = pint.UnitRegistry()
UNITS.define("money_unit = [money]")
FILES = {path.name: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(BUILT_IN.glob("*.toml"))}


def entries(table: str) -> list[Entry]:
    return [entry for tables in FILES.values() for entry in tables.get(table, [])]


QUANTITIES = {entry["id"]: entry for entry in entries("quantity")}
CONSTANTS_BY_ID = {entry["id"]: entry for entry in entries("constant")}
FORMULAS = {entry["id"]: entry for entry in entries("formula")}
each_formula = pytest.mark.parametrize("key", FORMULAS)


@cache
def unit_of(quantity: str) -> Any:
    """Return a quantity's unit, with the unit of money in it if it is an amount of money."""
    entry = QUANTITIES[quantity]
    unit = UNITS.parse_units(entry["unit"])
    return unit * UNITS.money_unit if entry.get("money") else unit


def equation(formula: Mapping[str, Any]) -> tuple[sympy.Expr, dict[str, sympy.Symbol]]:
    """Return left minus right, and the symbols by name."""
    symbols = {name: sympy.Symbol(name) for name in formula["where"]}
    left, right = (sympy.sympify(side, locals=symbols) for side in formula["expr"].split("="))
    return left - right, symbols


def parents(quantity: str) -> list[str]:
    """Return what a quantity is, nearest first; a circle ends the list."""
    found = [quantity]
    while (parent := QUANTITIES[found[-1]].get("is_a")) and parent not in found:
        found.append(parent)
    return found[1:]


def test_only_known_tables_and_keys() -> None:
    for file, tables in FILES.items():
        assert tables.keys() <= NEEDED.keys(), file
        for table, rows in tables.items():
            for row in rows:
                assert NEEDED[table] <= row.keys() <= NEEDED[table] | OPTIONAL[table], (file, row)


@pytest.mark.parametrize("table", ["quantity", "formula", "constant"])
def test_ids_are_unique(table: str) -> None:
    counts = Counter(entry["id"] for entry in entries(table))
    assert [key for key, count in counts.items() if count > 1] == []


def test_a_material_has_each_property_once() -> None:
    counts = Counter((entry["material"], entry["quantity"]) for entry in entries("property"))
    assert [key for key, count in counts.items() if count > 1] == []


def test_at_least_240_formulas_in_all_eight_topics() -> None:
    assert len(FORMULAS) >= LEAST_FORMULAS
    assert {formula["topic"] for formula in FORMULAS.values()} == TOPICS


def test_a_file_holds_its_own_topic() -> None:
    for file, tables in FILES.items():
        assert {formula["topic"] for formula in tables.get("formula", [])} <= {Path(file).stem}, file


def test_quantities() -> None:
    for key, entry in QUANTITIES.items():
        assert entry.get("role", "initial") in {"initial", "final", "change"}, key
        for parent in parents(key):
            assert unit_of(parent).dimensionality == unit_of(key).dimensionality, f"{key} is no {parent}"
            assert QUANTITIES[parent].get("is_a") != key, f"is_a of {key} goes in a circle"
        if "counts" in entry:
            assert entry["unit"] == "", f"{key} counts a unit, so it is a plain number"
            UNITS.parse_units(entry["counts"])


@pytest.mark.parametrize("table", ["constant", "property"])
def test_values_have_the_dimension_of_their_quantity(table: str) -> None:
    for entry in entries(table):
        quantity = QUANTITIES[entry["quantity"]]
        expected = UNITS.parse_units(quantity.get("counts", quantity["unit"])).dimensionality
        assert UNITS.parse_units(entry["unit"]).dimensionality == expected, entry
        assert math.isfinite(entry["value"])


def test_every_quantity_is_used() -> None:
    used = {quantity for formula in FORMULAS.values() for quantity in formula["where"].values()}
    used |= {entry["quantity"] for entry in (*entries("constant"), *entries("property"))}
    used |= {parent for quantity in used for parent in parents(quantity)}
    assert sorted(QUANTITIES.keys() - used) == []


def test_formulas_refer_to_what_exists() -> None:
    for key, formula in FORMULAS.items():
        names, defaults = formula["where"], formula.get("defaults", {})
        assert set(names.values()) <= QUANTITIES.keys(), key
        assert len(set(names.values())) == len(names), f"{key} has two symbols for one quantity"
        assert {*defaults, *formula.get("no_solve", [])} <= names.keys(), key
        assert set(defaults.values()) <= CONSTANTS_BY_ID.keys(), key
        for symbol, constant in defaults.items():
            given = unit_of(CONSTANTS_BY_ID[constant]["quantity"]).dimensionality
            assert given == unit_of(names[symbol]).dimensionality, (key, symbol)


def test_expressions_have_just_the_declared_symbols() -> None:
    for key, formula in FORMULAS.items():
        used = {
            name
            for side in formula["expr"].split("=")
            for name in compile(side.strip(), key, "eval").co_names
            if name not in FUNCTIONS | CONSTANTS
        }
        assert used == set(formula["where"]), key
        assert {symbol.name for symbol in equation(formula)[0].free_symbols} == used, f"{key}: one cancels out"


@each_formula
def test_both_sides_have_the_same_dimension(key: str) -> None:
    """Evaluates both sides on values with units; pint refuses sums of different dimensions."""
    formula = FORMULAS[key]
    random = Random(key)
    values = {
        symbol: UNITS.Quantity(random.uniform(0.3, 0.9), unit_of(quantity)).to_base_units()
        for symbol, quantity in formula["where"].items()
    }
    known = {**{name: on_plain_numbers for name in FUNCTIONS}, "sqrt": square_root, "pi": math.pi, **values}
    left, right = (
        UNITS.Quantity(eval(side.strip(), {"__builtins__": {}}, known)) for side in formula["expr"].split("=")
    )
    assert left.dimensionality == right.dimensionality


def on_plain_numbers(value: Any) -> float:
    """Stand in for a function that takes a number without dimension and gives one."""
    UNITS.Quantity(value).to("")
    return 0.5


def square_root(value: Any) -> Any:
    value = UNITS.Quantity(value)
    return UNITS.Quantity(abs(value.magnitude), value.units) ** 0.5


@each_formula
def test_formula_is_solved_for_every_symbol(key: str) -> None:
    """One of the solutions must give back a number that satisfies the equation."""
    values = consistent_values(key)
    symbols = FORMULAS[key]["where"].keys() - set(FORMULAS[key].get("no_solve", []))
    assert [name for name in sorted(symbols) if not is_recovered(key, name, values)] == []


@cache
def solutions(key: str, name: str) -> tuple[sympy.Expr, ...]:
    """Return what a formula gives for one of its symbols."""
    difference, symbols = equation(FORMULAS[key])
    try:
        return tuple(sympy.solve(difference, symbols[name], simplify=False, check=False))
    except NotImplementedError:
        return ()


def is_recovered(key: str, name: str, values: Mapping[str, complex]) -> bool:
    others = {other: value for other, value in values.items() if other != name}
    results = (complex(solution.subs(others).evalf()) for solution in solutions(key, name))
    return any(abs(result - values[name]) <= TOLERANCE * abs(values[name]) for result in results)


def consistent_values(key: str) -> dict[str, complex]:
    """Return values of all symbols that satisfy the formula: random ones, and one that is solved for."""
    random = Random(key)
    names = FORMULAS[key]["where"]
    values = {name: random.uniform(0.3, 0.9) for name in names}
    for name in names:
        others = {other: value for other, value in values.items() if other != name}
        for solution in solutions(key, name):
            result = complex(solution.subs(others).evalf())
            if abs(result) > TOLERANCE:
                return {**others, name: result}
    raise AssertionError(f"{FORMULAS[key]['expr']} has no solution in any of its symbols")


def test_no_formula_is_given_twice() -> None:
    groups: dict[frozenset[str], list[str]] = defaultdict(list)
    for key, formula in FORMULAS.items():
        groups[frozenset(formula["where"].values())].append(key)
    twice = [
        (first, second)
        for keys in groups.values()
        for first, second in itertools.combinations(keys, 2)
        if say_the_same(FORMULAS[first], FORMULAS[second])
    ]
    assert twice == []


def say_the_same(first: Entry, second: Entry) -> bool:
    """Tell whether values that satisfy one formula satisfy the other, of the same quantities."""
    values = consistent_values(first["id"])
    by_quantity = {quantity: values[name] for name, quantity in first["where"].items()}
    difference, symbols = equation(second)
    at = {symbol: by_quantity[second["where"][name]] for name, symbol in symbols.items()}
    return bool(abs(complex(difference.subs(at).evalf())) < TOLERANCE)
