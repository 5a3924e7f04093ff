"""Solving formulas with sympy and checking units with pint; everything is cached by formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from tuili.errors import DependencyError, InputError

_LARGEST = 1e300
_DIFFERENCES = {"degree_Celsius": "kelvin", "degree_Fahrenheit": "delta_degree_Fahrenheit"}
_GUESSES = (1.0, 0.01, 100.0, 0.5, 1e-6, 1e6)


@cache
def _pint() -> Any:
    try:
        import pint
    except ImportError as error:
        raise DependencyError("pint", "formulas", "answering questions with quantities") from error
    return pint


@cache
def _registry() -> Any:
    return _pint().UnitRegistry()


@lru_cache(maxsize=4096)
def _unit(unit: str) -> Any:
    try:
        return _registry().parse_units(unit)
    except Exception:  # pint's tokenizer raises errors of many types; "1 / meter" needs an expression
        return _scaled_unit(unit)


def _scaled_unit(unit: str) -> Any:
    try:
        quantity = _registry().parse_expression(unit)
    except Exception as error:
        raise InputError(f"the unit {unit!r} is unknown; write it as in 'meter / second ** 2'") from error
    return quantity if isinstance(quantity, int | float) else quantity.units


@lru_cache(maxsize=4096)
def dimension(unit: str) -> str:
    """Return the dimension of a unit as pint writes it, "dimensionless" for none.

    Raises:
        InputError: pint doesn't know the unit.
    """
    parsed = _unit(unit)
    return str(getattr(parsed, "dimensionality", "dimensionless"))


@lru_cache(maxsize=4096)
def base_unit(unit: str) -> str:
    """Return the SI base units of a unit: formulas over a wage per hour and seconds need one system.

    Raises:
        InputError: pint doesn't know the unit.
    """
    quantity = _registry().Quantity(1.0, _unit(unit) or "").to_base_units()
    return "" if quantity.unitless and str(quantity.units) != "radian" else str(quantity.units)


@lru_cache(maxsize=4096)
def convert(magnitude: float, unit: str, target: str) -> float:
    """Return a magnitude in another unit of the same dimension; offsets of temperatures count.

    Raises:
        InputError: the dimensions differ.
    """
    if unit == target:
        return magnitude
    registry = _registry()
    try:
        return float(registry.Quantity(magnitude, _unit(unit) or "").to(_unit(target) or "").magnitude)
    except _pint().DimensionalityError as error:
        raise InputError(f"{unit!r} can't be converted to {target!r}: {error}") from error


@lru_cache(maxsize=4096)
def convert_difference(magnitude: float, unit: str, target: str) -> float:
    """Return a difference in another unit: 10 °C of warming are 10 K."""
    return convert(magnitude, _DIFFERENCES.get(unit, unit), _DIFFERENCES.get(target, target))


@dataclass(frozen=True, slots=True)
class Equation:
    """A formula as sympy sees it: what is zero, and its symbols by name."""

    expr: Any
    symbols: Mapping[str, Any]


@lru_cache(maxsize=2048)
def parse(expr: str, names: tuple[str, ...]) -> Equation:
    """Parse "left = right" over the named symbols.

    The expressions were checked on import to be plain arithmetic, so parsing runs no foreign code.
    """
    import sympy
    from sympy.parsing.sympy_parser import parse_expr, standard_transformations

    symbols = {name: sympy.Symbol(name, real=True) for name in names}
    left, _, right = expr.partition("=")
    sides = [
        parse_expr(side.strip(), local_dict=dict(symbols), transformations=standard_transformations)
        for side in (left, right)
    ]
    return Equation(sides[0] - sides[1], symbols)


@lru_cache(maxsize=4096)
def _roots(expr: str, names: tuple[str, ...], wanted: str) -> tuple[Callable[..., Any], ...]:
    """Return functions of the other symbols, one for each root of the equation for `wanted`."""
    import sympy

    left, _, right = expr.partition("=")
    others = tuple(name for name in names if name != wanted)
    equation = parse(expr, names)
    arguments = [equation.symbols[name] for name in others]
    for side, other in ((left, right), (right, left)):
        if side.strip() == wanted and wanted not in _names(parse(f"{other} = 0", names).expr):
            direct = parse(f"{other} = 0", names).expr
            return (sympy.lambdify(arguments, direct, "math"),) if _is_finite(direct) else ()
    try:
        roots = sympy.solve(equation.expr, equation.symbols[wanted], check=False)
    except (NotImplementedError, ValueError, TypeError, RecursionError):
        return ()
    return tuple(sympy.lambdify(arguments, root, ["math", "sympy"]) for root in roots if _is_finite(root))


def _is_finite(expr: Any) -> bool:
    """Tell whether an expression holds no division by zero such as b / (c - c)."""
    import sympy

    return not expr.has(sympy.zoo, sympy.oo, sympy.nan)


def residual(expr: str, values: Mapping[str, float]) -> float:
    """Return by what share of their size the sides of a formula differ for these values; infinite if one is not real.

    Raises:
        InputError: a symbol has no value.
    """
    names = tuple(sorted(values))
    sides = [parse(f"{side} = 0", names).expr for side in expr.split("=", 1)]
    if unknown := {name for side in sides for name in _names(side)} - set(names):
        raise InputError(f"{', '.join(sorted(unknown))} in {expr!r} has no value")
    import sympy

    functions = [sympy.lambdify(list(names), side, ["math", "sympy"]) for side in sides]
    left, right = (_evaluate(function, [values[name] for name in names]) for function in functions)
    if left is None or right is None:
        return math.inf
    size = max(abs(left), abs(right))
    return abs(left - right) / size if size else 0.0


def _names(expr: Any) -> set[str]:
    return {symbol.name for symbol in expr.free_symbols}


def solve(
    expr: str,
    wanted: str,
    values: Mapping[str, float],
    *,
    positive: bool = True,
    no_solve: Iterable[str] = (),
) -> float | None:
    """Return the value of `wanted` that makes the formula true, or None if there is no real one.

    Of several roots the smallest positive one is taken (the first time a falling body is there), or
    the largest if the quantity may be negative and no root is positive.
    """
    names = tuple(sorted({*values, wanted}))
    arguments = [values[name] for name in names if name != wanted]
    found = (
        []
        if wanted in set(no_solve)
        else [number for root in _roots(expr, names, wanted) if (number := _evaluate(root, arguments)) is not None]
    )
    if not found and _is_implicit(expr, wanted, names):
        found = _search_roots(expr, wanted, values, names)
    return _choose(found, positive)


def _is_implicit(expr: str, wanted: str, names: tuple[str, ...]) -> bool:
    left, _, right = expr.partition("=")
    return wanted not in (left.strip(), right.strip()) or wanted in _names(parse(f"{right} = 0", names).expr)


def _evaluate(function: Callable[..., Any], arguments: list[float]) -> float | None:
    try:
        number = complex(function(*arguments))
    except (ValueError, ZeroDivisionError, OverflowError, TypeError, AttributeError):
        return None
    size = abs(number)
    if not math.isfinite(size) or size > _LARGEST or abs(number.imag) > 1e-9 * max(size, 1e-300):
        return None
    return number.real


def _choose(found: list[float], positive: bool) -> float | None:
    above = sorted(number for number in found if number > 0)
    if above:
        return above[0]
    rest = [number for number in found if number == 0 or not positive]
    return max(rest) if rest else None


def _search_roots(expr: str, wanted: str, values: Mapping[str, float], names: tuple[str, ...]) -> list[float]:
    """Find a root numerically where sympy finds no closed form (loan rates)."""
    import sympy

    equation = parse(expr, names)
    numbers = {equation.symbols[name]: value for name, value in values.items()}
    reduced = equation.expr.subs(numbers)
    if not _is_finite(reduced):
        return []
    for guess in _GUESSES:
        try:
            return [float(sympy.nsolve(reduced, equation.symbols[wanted], guess))]
        except (ValueError, TypeError, ZeroDivisionError, OverflowError, AttributeError):
            continue
    return []


@lru_cache(maxsize=4096)
def is_consistent(expr: str, symbol_units: tuple[tuple[str, str], ...]) -> bool:
    """Check with pint that both sides of a formula have one dimension when its symbols have these units."""
    import sympy

    units = dict(symbol_units)
    names = tuple(sorted(units))
    left, _, right = expr.partition("=")
    registry = _registry()
    try:
        sides = [_in_pint(parse(f"{side} = 0", names).expr, sympy, registry, units) for side in (left, right)]
        return bool((sides[0] / sides[1]).check("[]"))
    except (_pint().DimensionalityError, ZeroDivisionError, OverflowError, ValueError):
        return False


def _in_pint(expr: Any, sympy: Any, registry: Any, units: Mapping[str, str]) -> Any:
    """Evaluate an expression with pint quantities of magnitude one (0.5 within trigonometry's domain)."""
    if expr.is_Symbol:
        return registry.Quantity(1.0, _unit(units[expr.name]))
    if expr.is_number:
        return registry.Quantity(float(expr), "")
    parts = [_in_pint(part, sympy, registry, units) for part in expr.args]
    if expr.is_Add:
        return _total(parts)
    if expr.is_Mul:
        return math.prod(parts[1:], start=parts[0])
    if expr.is_Pow:
        exponent = float(parts[1].to("").magnitude)
        return parts[0] ** exponent if not parts[0].unitless else registry.Quantity(1.0, "")
    for part in parts:
        part.to("radian")
    return registry.Quantity(0.5, "")


def _total(parts: list[Any]) -> Any:
    """Add the absolute values, so that a difference of ones is not nothing; dimensions are checked."""
    total = abs(parts[0])
    for part in parts[1:]:
        total = total + abs(part).to(total.units)
    return total
