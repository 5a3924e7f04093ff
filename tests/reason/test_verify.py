"""Solving formulas and checking units."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError
from tuili.reason.verify import convert, convert_difference, dimension, is_consistent, solve


@given(speed=st.floats(0.1, 1e3), mass=st.floats(0.1, 1e6))
def test_each_symbol_comes_back(speed: float, mass: float) -> None:
    expr = "E = m*v**2/2"
    energy = solve(expr, "E", {"m": mass, "v": speed})
    assert energy == pytest.approx(mass * speed**2 / 2)
    assert solve(expr, "m", {"E": energy, "v": speed}) == pytest.approx(mass)
    assert solve(expr, "v", {"E": energy, "m": mass}) == pytest.approx(speed)


def test_the_positive_root_is_taken() -> None:
    assert solve("s = v*t + a*t**2/2", "t", {"s": 20.0, "v": 0.0, "a": 10.0}) == pytest.approx(2.0)


def test_a_zero_that_makes_the_other_side_vanish() -> None:
    assert solve("v**2 = u**2 + 2*a*s", "s", {"v": 20.0, "u": 0.0, "a": 5.0}) == pytest.approx(40.0)


def test_signed_quantities_may_be_negative() -> None:
    expr = "1/f = 1/g + 1/b"
    assert solve(expr, "b", {"f": 0.1, "g": 0.05}, positive=False) == pytest.approx(-0.1)
    assert solve(expr, "b", {"f": 0.1, "g": 0.05}) is None


def test_no_real_root() -> None:
    assert solve("v**2 = u**2 + 2*a*s", "v", {"u": 1.0, "a": -10.0, "s": 5.0}) is None
    assert solve("n*sin(a) = sin(b)", "b", {"n": 2.0, "a": 1.2}) is None


def test_division_by_zero_has_no_value() -> None:
    assert solve("I = U/R", "I", {"U": 1.0, "R": 0.0}) is None


def test_exponentials() -> None:
    assert solve("K = P*(1 + r)**n", "n", {"K": 200.0, "P": 100.0, "r": 0.06}) == pytest.approx(
        math.log(2) / math.log(1.06)
    )
    assert solve("p = -log(c, 10)", "c", {"p": 5.0}) == pytest.approx(1e-5)


def test_a_rate_without_closed_form_is_found_numerically() -> None:
    expr = "A = P*r/(1 - (1 + r)**(-n))"
    payment = solve(expr, "A", {"P": 1000.0, "r": 0.02, "n": 12.0})
    assert payment is not None
    rate = solve(expr, "r", {"P": 1000.0, "A": payment, "n": 12.0}, no_solve=["r"])
    assert rate == pytest.approx(0.02)


def test_angles() -> None:
    assert solve("W = F*s*cos(a)", "a", {"W": 200.0, "F": 50.0, "s": 8.0}) == pytest.approx(math.pi / 3)


def test_conversions() -> None:
    assert convert(90, "kilometer / hour", "meter / second") == pytest.approx(25)
    assert convert(20, "degree_Celsius", "kelvin") == pytest.approx(293.15)
    assert convert_difference(20, "degree_Celsius", "kelvin") == pytest.approx(20)
    assert convert_difference(18, "degree_Fahrenheit", "kelvin") == pytest.approx(10)
    assert convert(0.25, "", "percent") == pytest.approx(25)
    assert convert(4, "1 / meter", "1 / centimeter") == pytest.approx(0.04)


def test_dimensions_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match="converted"):
        convert(1, "kilogram", "meter")


def test_unknown_units_are_refused() -> None:
    with pytest.raises(InputError, match="unknown"):
        dimension("bananas per furlough")


@pytest.mark.parametrize(
    ("expr", "units", "expected"),
    [
        ("E = m*v**2/2", {"E": "joule", "m": "kilogram", "v": "meter / second"}, True),
        ("E = m*v/2", {"E": "joule", "m": "kilogram", "v": "meter / second"}, False),
        (
            "s = v*t + a*t**2/2",
            {"s": "meter", "v": "meter / second", "t": "second", "a": "meter / second ** 2"},
            True,
        ),
        (
            "s = v + a*t",
            {"s": "meter", "v": "meter / second", "t": "second", "a": "meter / second ** 2"},
            False,
        ),
        ("d = T2 - T1", {"d": "kelvin", "T2": "kelvin", "T1": "kelvin"}, True),
        (
            "R = v**2*sin(2*a)/g",
            {"R": "meter", "v": "meter / second", "a": "radian", "g": "meter / second ** 2"},
            True,
        ),
        ("N = M*exp(-l*t)", {"N": "", "M": "", "l": "1 / second", "t": "second"}, True),
        ("N = M*exp(-l*t)", {"N": "", "M": "", "l": "1 / second", "t": "meter"}, False),
        ("T = 2*pi*sqrt(L/g)", {"T": "second", "L": "meter", "g": "meter / second ** 2"}, True),
    ],
)
def test_both_sides_have_one_dimension(expr: str, units: dict[str, str], expected: bool) -> None:
    assert is_consistent(expr, tuple(units.items())) is expected


def test_a_division_by_zero_gives_nothing() -> None:
    assert solve("a = b / (c - c)", "a", {"b": 1.0, "c": 2.0}) is None
    assert solve("a = x / b + x**3 * exp(x)", "x", {"a": 1.0, "b": 0.0}) is None
