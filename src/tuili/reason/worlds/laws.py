"""A collection of formulas given as data, as laws: what is alike up to names is one law.

A record holds `formula` ("Q_吸=c*m*Δt") and `symbol_map` (symbol, names in any languages and, if it is
known, a unit for each symbol). Where units are missing, dimensions are inferred from the names such that
both sides agree. Formulas that say the same of the same dimensions (m = Q/q and Q = m*q) become one law,
whose variables keep all the names; an identity of one dimension (Q_out = Q_in) is no law but a second name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice, product
from typing import Any, TypeAlias

from tuili.errors import SourceError
from tuili.knowledge.sources.formula_expressions import expression_symbols
from tuili.reason.verify import parse
from tuili.reason.worlds import dimensions
from tuili.reason.worlds.dimensions import Dimension, read_dimension

Guess: TypeAlias = Callable[[tuple[str, ...]], Mapping[Dimension, float]]
"""How likely (any scale, higher is likelier) a quantity of these names has each dimension."""

_MOST_GUESSES = 5
_MOST_ASSIGNMENTS = 4_000
_MOST_VARIABLES = 8
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "^": "**", "−": "-", "（": "(", "）": ")", "π": "pi"})
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")


@dataclass(slots=True)
class Variable:
    """One quantity of a law; `degree` is its exponent in a product, its factor in a sum, else 0."""

    dimension: Dimension
    degree: float
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Law:
    """An equation over the symbols v0, v1, …; `form` is product, sum or other."""

    expr: str
    form: str
    variables: list[Variable]
    formulas: list[str] = field(default_factory=list)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of the variables, in order."""
        return tuple(f"v{index}" for index in range(len(self.variables)))


@dataclass(frozen=True)
class Laws:
    """The laws of a collection, and which formulas are none with the reason."""

    laws: tuple[Law, ...]
    skipped: Mapping[str, str]

    @cached_property
    def giving(self) -> dict[Dimension, list[tuple[int, int]]]:
        """For each dimension the laws and the variables that they can be solved for."""
        found: dict[Dimension, list[tuple[int, int]]] = {}
        for place, law in enumerate(self.laws):
            for index, variable in enumerate(law.variables):
                found.setdefault(variable.dimension, []).append((place, index))
        return found


@dataclass(frozen=True, slots=True)
class Shape:
    """What is left of an equation without names: degrees of the symbols, the constant, the form."""

    form: str
    degrees: tuple[float, ...]
    constant: float


def read_laws(records: Iterable[Mapping[str, Any]], guess: Guess | None = None) -> Laws:
    """Read a collection; records that can't be read as an equation are listed in `skipped`."""
    merged: dict[Any, Law] = {}
    skipped: dict[str, str] = {}
    for record in records:
        written = str(record.get("formula", ""))
        try:
            law = _read(record, guess)
        except SourceError as error:
            skipped[written] = str(error)
            continue
        key = signature(law)
        if key in merged:
            _merge(merged[key], law)
        else:
            merged[key] = law
    return Laws(tuple(merged.values()), skipped)


def _read(record: Mapping[str, Any], guess: Guess | None) -> Law:
    """Return a record as a law.

    Raises:
        SourceError: it is no equation over its symbols, an identity, or no units make both sides agree.
    """
    entries = [entry for entry in record.get("symbol_map", ()) if entry.get("symbol")]
    written = str(record.get("formula", ""))
    if not 2 <= len(entries) <= _MOST_VARIABLES:
        raise SourceError(f"{written}: {len(entries)} symbols; a law has 2 to {_MOST_VARIABLES}")
    expr = rename(written, [str(entry["symbol"]) for entry in entries])
    names = tuple(f"v{index}" for index in range(len(entries)))
    if missing := set(names) - expression_symbols(expr, set(names), written):
        raise SourceError(f"{written}: {len(missing)} of its symbols are not in the formula")
    shape = shape_of(expr, names)
    if len(names) == 2 and shape.form == "product" and shape.degrees == (1.0, -1.0) and shape.constant == 1.0:
        raise SourceError(f"{written}: only a second name")
    if shape.form == "product" and 0.0 in shape.degrees:
        raise SourceError(f"{written}: a symbol cancels out, the formula refers to itself")
    chosen = _dimensions(expr, shape, entries, guess)
    if chosen is None:
        raise SourceError(f"{written}: no units are known that make both sides agree")
    variables = [
        Variable(dimension, degree, [str(value) for key, value in entry.items() if key.endswith("name") and value])
        for dimension, degree, entry in zip(chosen, shape.degrees, entries, strict=True)
    ]
    return Law(expr, shape.form, variables, [written])


def rename(written: str, symbols: list[str]) -> str:
    """Return a formula in sympy's syntax over v0, v1, … for its symbols."""
    by_length = sorted(range(len(symbols)), key=lambda index: -len(symbols[index]))
    pattern = "|".join(re.escape(symbols[index]) for index in by_length)
    place = {symbol: index for index, symbol in reversed(list(enumerate(symbols)))}
    renamed = re.sub(f"({pattern})", lambda match: f" v{place[match.group(1)]} ", written)
    return re.sub(r"\s+", " ", _PERCENT.sub(r"(\1/100)", renamed.translate(_SIGNS))).strip()


@lru_cache(maxsize=4096)
def shape_of(expr: str, names: tuple[str, ...]) -> Shape:
    """Return the shape of an equation: a product of powers, a sum with factors, or other."""
    import sympy

    left, _, right = expr.partition("=")
    sides = [parse(f"{side} = 0", names).expr for side in (left, right)]
    symbols = [sympy.Symbol(name, real=True) for name in names]
    ratio = sympy.powdenest(sympy.simplify(sides[0] / sides[1]), force=True)
    constant, rest = ratio.as_coeff_Mul()
    powers = rest.as_powers_dict()
    if all(base in symbols and exponent.is_number for base, exponent in powers.items()):
        return _normal("product", [float(powers.get(symbol, 0)) for symbol in symbols], float(constant))
    difference = sympy.expand(sides[0] - sides[1])
    factors = [difference.coeff(symbol) for symbol in symbols]
    rest = difference - sum(factor * symbol for factor, symbol in zip(factors, symbols, strict=True))
    if all(factor.is_number and factor != 0 for factor in factors) and sympy.simplify(rest) == 0:
        return _normal("sum", [float(factor) for factor in factors], 0.0)
    return Shape("other", (0.0,) * len(names), 0.0)


def _normal(form: str, degrees: list[float], constant: float) -> Shape:
    """Scale the smallest degree of a product to 1; choose the sign with fewer negative degrees."""
    scale = min((abs(degree) for degree in degrees if degree), default=1.0) if form == "product" else 1.0
    degrees = [degree / scale for degree in degrees]
    constant = abs(constant) ** (1 / scale)
    num_negative, num_positive = sum(degree < 0 for degree in degrees), sum(degree > 0 for degree in degrees)
    if num_negative > num_positive or (num_negative == num_positive and degrees[0] < 0):
        degrees = [-degree for degree in degrees]
        constant = 1 / constant if form == "product" and constant else constant
    return Shape(form, tuple(round(degree, 6) for degree in degrees), round(constant, 9))


def signature(law: Law) -> Any:
    """Return what two laws share that differ in names only."""
    return signature_of(law.expr, tuple(variable.dimension for variable in law.variables))


def signature_of(expr: str, chosen: tuple[Dimension, ...]) -> Any:
    """Return the signature of an equation over v0, v1, … of these dimensions."""
    shape = shape_of(expr, tuple(f"v{index}" for index in range(len(chosen))))
    parts = tuple(sorted(zip(chosen, shape.degrees, strict=True)))
    return (shape.form, round(shape.constant, 6), parts, expr.replace(" ", "") if shape.form == "other" else "")


def _merge(law: Law, other: Law) -> None:
    """Give a law the names of another one of the same signature; variables alike are paired in order."""
    free = list(range(len(law.variables)))
    for variable in other.variables:
        fitting = [
            index
            for index in free
            if (law.variables[index].dimension, law.variables[index].degree) == (variable.dimension, variable.degree)
        ]
        best = max(fitting, key=lambda index: _shared(law.variables[index].names, variable.names))
        law.variables[best].names += variable.names
        free.remove(best)
    law.formulas += other.formulas


def _shared(names: list[str], others: list[str]) -> int:
    letters = set("".join(others).casefold())
    return max((len(letters & set(name.casefold())) for name in names), default=0)


def _dimensions(
    expr: str, shape: Shape, entries: list[Mapping[str, Any]], guess: Guess | None
) -> tuple[Dimension, ...] | None:
    """Return the likeliest dimensions with which both sides agree, or None."""
    options = [_options(entry, guess) for entry in entries]
    ranked = sorted(
        islice(product(*options), _MOST_ASSIGNMENTS), key=lambda each: -sum(weight for _dimension, weight in each)
    )
    for assignment in ranked:
        chosen = tuple(dimension for dimension, _weight in assignment)
        if agree(expr, shape, chosen):
            return chosen
    return None


def _options(entry: Mapping[str, Any], guess: Guess | None) -> list[tuple[Dimension, float]]:
    if entry.get("unit") is not None:
        known = read_dimension(str(entry["unit"]))
        return [(known[1], 0.0)] if known else []
    names = tuple(str(value) for key, value in entry.items() if key.endswith("name") and value)
    weights = guess((*names, str(entry["symbol"]))) if guess else {}
    return sorted(weights.items(), key=lambda item: -item[1])[:_MOST_GUESSES]


def agree(expr: str, shape: Shape, chosen: tuple[Dimension, ...]) -> bool:
    """Tell whether both sides of an equation have one dimension."""
    if shape.form == "product":
        return dimensions.product(list(zip(chosen, shape.degrees, strict=True))) == ()
    if shape.form == "sum":
        return len(set(chosen)) == 1
    left, _, right = expr.partition("=")
    return _of(left, chosen) == _of(right, chosen) is not None


def _of(side: str, chosen: tuple[Dimension, ...]) -> Dimension | None:
    """Return the dimension of one side, None if it adds what differs."""
    names = tuple(f"v{index}" for index in range(len(chosen)))
    known = {name: dimension for name, dimension in zip(names, chosen, strict=True)}
    return _walk(parse(f"{side} = 0", names).expr, known)


def _walk(expr: Any, known: Mapping[str, Dimension]) -> Dimension | None:
    if expr.is_Symbol:
        return known[expr.name]
    if expr.is_number:
        return ()
    parts = [_walk(part, known) for part in expr.args]
    if any(part is None for part in parts):
        return None
    found = [part for part in parts if part is not None]
    if expr.is_Mul:
        return dimensions.product([(part, 1.0) for part in found])
    if expr.is_Pow:
        return dimensions.product([(found[0], float(expr.args[1]))]) if expr.args[1].is_number else None
    return found[0] if len(set(found)) == 1 else None
