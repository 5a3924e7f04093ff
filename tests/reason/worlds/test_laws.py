"""A collection given as data: what becomes a law, what is one law twice, what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_formulas import RECORDS, laws, record

from tuili.reason.worlds.dimensions import MONEY, in_base_units, read_dimension
from tuili.reason.worlds.laws import read_laws, shape_of, signature_of


def test_formulas_that_differ_in_names_are_one_law() -> None:
    found = laws()
    assert len(found.laws) == 4
    burning = next(law for law in found.laws if len(law.formulas) == 2)
    assert burning.formulas == ["Q = m×q", "m = Q/q"]
    names = {name for variable in burning.variables for name in variable.names}
    assert {"mass of fuel", "mass of coal"} <= names


def test_identity_and_self_reference_are_skipped_with_a_reason() -> None:
    skipped = laws().skipped
    assert "second name" in skipped["Q_out = Q_in"]
    assert "x = x*y" in skipped


@pytest.mark.parametrize(
    ("formula", "symbols"),
    [
        ("", {}),
        ("a = b", {"a": "mass, kg"}),
        ("a = __import__('os')*b", {"a": "mass, kg", "b": "mass, kg"}),
        ("a = b + c", {"a": "mass, kg", "b": "mass, kg", "c": "time, s"}),
        ("a = b", {"a": "mass, kg", "b": "mass, nonsense"}),
    ],
)
def test_what_is_no_equation_is_skipped(formula: str, symbols: dict[str, str]) -> None:
    found = read_laws([record(formula, **symbols)])
    assert not found.laws
    assert list(found.skipped) == [formula]


def test_dimensions_are_inferred_where_both_sides_agree() -> None:
    kilogram, joule, per = (read_dimension(unit)[1] for unit in ("kg", "J", "J/kg"))  # type: ignore[index]
    guesses = {"heat": {kilogram: 2.0, joule: 1.0}, "mass": {kilogram: 1.0}, "value": {per: 1.0, joule: 0.5}}
    entries = [{"symbol": symbol, "en_name": name} for symbol, name in (("Q", "heat"), ("m", "mass"), ("q", "value"))]
    found = read_laws([{"formula": "Q=m*q", "symbol_map": entries}], lambda names: guesses[names[0]])
    assert [variable.dimension for variable in found.laws[0].variables] == [joule, kilogram, per]


def test_shape_is_the_same_whatever_it_is_solved_for() -> None:
    names = ("v0", "v1", "v2")
    product, root = shape_of("v0 = v1**2/v2", names), shape_of("v1 = sqrt(v0*v2)", names)
    assert (product.form, product.degrees) == (root.form, root.degrees) == ("product", (1.0, -2.0, 1.0))
    assert shape_of("v0 = v1 - v2", names) == shape_of("v1 = v0 + v2", names)


def test_signature_holds_the_constant() -> None:
    metre = read_dimension("m")[1]  # type: ignore[index]
    assert signature_of("v0 = v1/2", (metre, metre)) != signature_of("v0 = v1/4", (metre, metre))
    assert len(RECORDS) == 7


@given(st.text("ab+-*/^=()12 .%×", max_size=24))
def test_any_formula_is_read_or_skipped(formula: str) -> None:
    found = read_laws([record(formula, a="mass, kg", b="time, s")])
    assert len(found.laws) + len(found.skipped) == 1


def test_units() -> None:
    assert in_base_units(20.0, "degree_Celsius")[0] == 20.0
    assert read_dimension("%") == (0.01, ())
    assert read_dimension("€") == (1.0, MONEY)
    assert read_dimension("kW·h")[0] == pytest.approx(3.6e6)  # type: ignore[index]
    assert read_dimension("furlongs of nonsense") is None
