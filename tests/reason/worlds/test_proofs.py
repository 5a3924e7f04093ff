"""The bound on what sympy is asked to solve."""

from __future__ import annotations

import pytest

from tuili.reason.worlds.proofs import is_small


@pytest.mark.parametrize(
    ("expr", "small"),
    [
        ("c**2 = a**2 + b**2 - 2*a*b*cos(g)", True),
        ("A = P*(1 + r/n)**(n*t)", True),
        ("y = x**97 + a*x**3 + b", False),
        ("y = " + " + ".join(["x*a"] * 30), False),
    ],
)
def test_only_small_equations_are_solved_in_closed_form(expr: str, small: bool) -> None:
    assert is_small(expr) is small
