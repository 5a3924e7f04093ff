"""The expressions that a formula may hold: plain arithmetic, checked without running anything.

Sympy reads expressions by `eval`; only what passes here may be handed to it.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Set

from tuili.errors import SourceError

FUNCTIONS = frozenset({"sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "exp", "log"})
CONSTANTS = frozenset({"pi"})

MAX_CHARACTERS = 500
"""The most characters of an expression."""

MAX_EXPONENT = 100
"""The largest number in an exponent; 9**9**9 would take forever to work out."""

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)


def expression_symbols(expr: str, allowed: Set[str], at: str) -> set[str]:
    """Return the symbols of an equation "left = right".

    Args:
        expr: sympy syntax with one "="; + - * / **, `FUNCTIONS` of one argument, `CONSTANTS`, numbers.
        allowed: the symbols that may occur.
        at: file and entry, for messages.

    Raises:
        SourceError: it is anything else, or uses another symbol.
    """
    sides = expr.split("=")
    if len(expr) > MAX_CHARACTERS or len(sides) != 2:
        raise SourceError(
            f"{at}: the expression {expr[:80]!r} is no equation with one '=' in at most {MAX_CHARACTERS} characters"
        )
    used: set[str] = set()
    for side in sides:
        try:
            tree = ast.parse(side.strip(), mode="eval").body
            used |= _symbols(tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise SourceError(f"{at}: the expression {expr!r} is refused: {error}") from error
    if unknown := used - allowed - CONSTANTS:
        raise SourceError(f"{at}: the expression has {', '.join(sorted(unknown))}, which where has not")
    return used


def _symbols(node: ast.AST) -> set[str]:
    """Return the names in a tree; raise `ValueError` for what is no arithmetic."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Constant):
        _check_number(node.value)
        return set()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return _symbols(node.operand)
    if isinstance(node, ast.BinOp) and isinstance(node.op, _OPERATORS):
        exponent = _symbols(node.right)
        if isinstance(node.op, ast.Pow) and not exponent:
            _check_exponent(node.right)
        return _symbols(node.left) | exponent
    if isinstance(node, ast.Call) and _is_known(node):
        return _symbols(node.args[0])
    allowed = ", ".join(sorted(FUNCTIONS))
    raise ValueError(f"{ast.unparse(node)[:80]!r} is no arithmetic; allowed are + - * / ** and {allowed}")


def _is_known(call: ast.Call) -> bool:
    known = isinstance(call.func, ast.Name) and call.func.id in FUNCTIONS
    return known and len(call.args) == 1 and not call.keywords


def _check_number(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")


def _check_exponent(node: ast.AST) -> None:
    """Refuse an exponent without symbols that is no number or ratio of numbers up to `MAX_EXPONENT`."""
    if isinstance(node, ast.UnaryOp):
        _check_exponent(node.operand)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        _check_exponent(node.left)
        _check_exponent(node.right)
    elif not (isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value <= MAX_EXPONENT):
        raise ValueError(f"the exponent {ast.unparse(node)[:80]!r} is no number up to {MAX_EXPONENT}")
