from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import SourceError
from tuili.knowledge.sources.formula_expressions import expression_symbols

SYMBOLS = {"a", "b", "x_0", "E", "theta"}


@pytest.mark.parametrize(
    ("expr", "symbols"),
    [
        ("a = b", {"a", "b"}),
        ("E = a*b**2/2 - (-x_0)", {"E", "a", "b", "x_0"}),
        ("a = 2*pi*sqrt(b/x_0)", {"a", "b", "x_0", "pi"}),
        ("a = b*(sin(theta))**(-1/2)", {"a", "b", "theta"}),
        ("a = 10**(b/10)", {"a", "b"}),
        ("1/a + 1/b = 1e-3", {"a", "b"}),
    ],
)
def test_arithmetic_is_accepted(expr: str, symbols: set[str]) -> None:
    assert expression_symbols(expr, SYMBOLS, "here") == symbols


@pytest.mark.parametrize(
    "expr",
    [
        "a",
        "a == b",
        "a = b = E",
        "a = ",
        "a = b +",
        "a = c",
        "a = __import__('os').system('true')",
        "a = open('x')",
        "a = (lambda: b)()",
        "a = [b][0]",
        "a = b.real",
        "a = 'b'",
        "a = True",
        "a = 1j",
        "a = 1e999",
        "a = b if b else a",
        "a = b % 2",
        "a = b // 2",
        "a = b @ b",
        "a = ~b",
        "a = sqrt(b, b)",
        "a = sqrt(x=b)",
        "a = sqrt(*b)",
        "a = factorial(b)",
        "a = b(2)",
        "a = 9**9**9",
        "a = 9**101",
        "a = 2**sqrt(2)",
        "a = " + "(" * 300 + "b" + ")" * 300,
        "a = b" + " + b" * 200,
        "a = b\x00",
    ],
)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_anything_else_is_refused(expr: str) -> None:
    with pytest.raises(SourceError, match="here: the expression"):
        expression_symbols(expr, SYMBOLS, "here")


@given(st.text(max_size=80))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    with contextlib.suppress(SourceError):
        assert expression_symbols(f"a = {text}", SYMBOLS, "here") <= SYMBOLS | {"pi"}
