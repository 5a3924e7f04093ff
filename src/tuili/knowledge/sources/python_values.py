"""Works out the literal values of defaults and constants, without running anything."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass

from tuili.knowledge.sources.python_model import text_of
from tuili.knowledge.sources.python_view import View

_MAX_DEPTH = 8
_MAX_CHARS = 300
_MAX_EXPONENT = 256

Plain = bool | int | float | str | None
_PLAIN = (bool, int, float, str, type(None))
_OPERATORS: dict[type[ast.operator], Callable[..., object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.BitOr: operator.or_,
    ast.LShift: operator.lshift,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True, slots=True)
class LiteralValue:
    """A value as text; `is_plain` tells whether `value` is known (a number, bool, str or None)."""

    text: str
    is_plain: bool
    value: Plain = None


class _UnknownError(Exception):
    """The expression is not a plain value."""


def literal(view: View, runtime: View, module: str, expr: ast.expr) -> LiteralValue:
    """Return an expression's value; names of plain constants are followed to them.

    `view` is how the expression's module sees names; `runtime` tells the values that stubs lack.
    """
    try:
        value = _evaluate((view, runtime), module, expr, 0)
    except (_UnknownError, TypeError, ValueError, ArithmeticError):
        return LiteralValue(_cut(text_of(expr)), is_plain=False)
    return LiteralValue(_cut(repr(value)), is_plain=True, value=value)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[: _MAX_CHARS - 1]}…"


def _evaluate(views: tuple[View, View], module: str, expr: ast.expr, depth: int) -> Plain:
    if depth > _MAX_DEPTH:
        raise _UnknownError
    if isinstance(expr, ast.Constant) and isinstance(expr.value, _PLAIN):
        return expr.value
    if isinstance(expr, ast.UnaryOp) and isinstance(expr.op, ast.USub):
        return _plain(operator.neg(_number(_evaluate(views, module, expr.operand, depth + 1))))
    if isinstance(expr, ast.BinOp) and type(expr.op) in _OPERATORS:
        left = _evaluate(views, module, expr.left, depth + 1)
        right = _evaluate(views, module, expr.right, depth + 1)
        return _combine(expr.op, left, right)
    if isinstance(expr, ast.Name | ast.Attribute):
        return _evaluate_name(views, module, expr, depth)
    raise _UnknownError


def _evaluate_name(views: tuple[View, View], module: str, expr: ast.Name | ast.Attribute, depth: int) -> Plain:
    """Follow a name to a constant of a module; attributes of classes may be more than their value."""
    view, runtime = views
    found = view.lookup(module, expr)
    if found and found.item and found.item.value is None and "." not in found.qualname:
        found = runtime.resolve(found.module, found.qualname)
    if found and found.item and found.item.value is not None and "." not in found.qualname:
        return _evaluate(views, found.module, found.item.value, depth + 1)
    raise _UnknownError


def _number(value: Plain) -> int | float:
    if isinstance(value, int | float):
        return value
    raise _UnknownError


def _combine(op: ast.operator, left: Plain, right: Plain) -> Plain:
    """Apply an operator to two numbers, or add two strings; nothing that could grow without bound."""
    texts = isinstance(left, str) and isinstance(right, str) and isinstance(op, ast.Add)
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    too_far = isinstance(op, ast.LShift | ast.Pow) and not (
        isinstance(left, int) and isinstance(right, int) and 0 <= right <= _MAX_EXPONENT
    )
    if too_far or not (texts or numbers):
        raise _UnknownError
    return _plain(_OPERATORS[type(op)](left, right))


def _plain(value: object) -> Plain:
    if isinstance(value, _PLAIN):
        return value
    raise _UnknownError
