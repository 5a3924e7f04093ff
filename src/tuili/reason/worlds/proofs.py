"""Evaluating a chain of formulas step by step, and showing it as a path with sources."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from tuili.errors import InputError
from tuili.reason.answer import Input, Path, PathEdge, Pruned, Step
from tuili.reason.verify import convert, is_consistent, solve
from tuili.reason.worlds.chains import Chain
from tuili.reason.worlds.formulary import Formula, Formulary, Quantity
from tuili.reason.worlds.leaves import Resolution
from tuili.reason.worlds.wording import Wording

_PREFIXED = {
    "meter": 10_000.0,
    "joule": 1_000.0,
    "watt": 1_000.0,
    "newton": 10_000.0,
    "pascal": 1_000.0,
    "volt": 1_000.0,
    "hertz": 1_000.0,
}
_SMALL_PREFIXES = (("milli", 1e-4), ("micro", 1e-7), ("nano", 1e-10))
_TIMES = (("year", 6.3e7), ("day", 172_800.0), ("hour", 7200.0), ("minute", 300.0))
_LENGTHS = {"meter", "centimeter", "millimeter", "kilometer", "foot", "inch"}
_POWERS = {"meter ** 2", "meter ** 3"}
_SMALL = {"meter", "ampere", "volt", "coulomb", "farad", "watt", "joule", "henry", "tesla", "second"}
_CHANGE = 1.01
UNIT_CONVERSION = "unit conversion"
_MOST_OPERATIONS = 40
_HIGHEST_POWER = 8


def evaluate(base: Formulary, wording: Wording, chain: Chain) -> tuple[Step, ...] | None:
    """Solve a chain from its leaves to its target; None if a step has no real solution."""
    evaluation = _Evaluation(base, chain, wording)
    try:
        magnitude = evaluation.value(chain.target)
    except InputError:
        return None
    if magnitude is None or (magnitude == 0 and base.quantities[chain.target].is_positive):
        return None
    if not depends_on_givens(base, chain, magnitude):
        return None
    if not evaluation.steps:
        item, unit = chain.resolved[chain.target], base.quantities[chain.target].unit
        looked_up = {"": evaluation.input(chain.target, magnitude)}
        source = item.known.source if item.known else ""
        return (Step("", "", looked_up, "", chain.target, magnitude, unit, source),)
    return tuple(evaluation.steps)


def depends_on_givens(base: Formulary, chain: Chain, magnitude: float) -> bool:
    """Tell whether a change of any given changes the result; where it cancels out, it proves nothing."""
    needed = [key for item in chain.resolved.values() if item.formula for key in item.formula.where.values()]
    if len(set(needed)) == len(needed):
        return True
    for key, item in chain.resolved.items():
        if item.how == "given" and item.magnitude:
            changed = {**chain.resolved, key: replace(item, magnitude=item.magnitude * _CHANGE)}
            other = _Evaluation(base, replace(chain, resolved=changed)).value(chain.target)
            if other is not None and abs(other - magnitude) <= 1e-9 * abs(magnitude):
                return False
    return True


class _Evaluation:
    """Solves a chain, each quantity once; `steps` are the formulas solved, in order."""

    def __init__(self, base: Formulary, chain: Chain, wording: Wording | None = None) -> None:
        self.base = base
        self.chain = chain
        self.wording = wording
        self.steps: list[Step] = []
        self._known: dict[str, float] = {}

    def value(self, key: str) -> float | None:
        """Return a quantity's magnitude in its own unit, None if a step has no real solution."""
        if key not in self._known:
            magnitude = self._found(key, self.chain.resolved[key])
            if magnitude is None or not math.isfinite(magnitude):
                return None
            self._known[key] = magnitude
        return self._known[key]

    def _found(self, key: str, item: Resolution) -> float | None:
        unit = self.base.quantities[key].unit
        if item.how == "formula":
            magnitude = self._solved(item)
            return None if magnitude is None else convert(magnitude, self.base.quantities[item.via].unit, unit)
        return convert(item.known.magnitude, item.known.unit, unit) if item.known else item.magnitude

    def _solved(self, item: Resolution) -> float | None:
        formula = item.formula
        assert formula is not None  # a resolution by formula holds it
        symbol = formula.symbol(item.via)
        inputs: dict[str, Input] = {}
        for other, key in formula.where.items():
            if other != symbol:
                magnitude = self.value(key)
                if magnitude is None:
                    return None
                quantity = self.base.quantities[key]
                inputs[other] = self.input(key, convert(magnitude, quantity.unit, quantity.plain_unit))
        return self._step(item, formula, symbol, inputs) if _is_checked(self.base, formula) else None

    def _step(self, item: Resolution, formula: Formula, symbol: str, inputs: Mapping[str, Input]) -> float | None:
        quantity = self.base.quantities[item.via]
        values = {other: each.magnitude for other, each in inputs.items()}
        found = solve(formula.expr, symbol, values, positive=quantity.is_positive, no_solve=_unsolvable(formula))
        if found is None:
            return None
        found = convert(found, quantity.plain_unit, quantity.unit)
        key, unit = f"formula:{formula.id}", quantity.unit
        self.steps.append(Step(key, formula.expr, inputs, symbol, item.quantity, found, unit, formula.source))
        return found

    def input(self, key: str, magnitude: float) -> Input:
        """Return what a symbol stands for, with where its magnitude comes from."""
        item = self.chain.resolved[key]
        given = [index for index in (item.value, item.partner) if index >= 0 and self.wording]
        texts = tuple(self.wording.values[index].value.text for index in given) if self.wording else ()
        return Input(key, magnitude, item.how, texts, item.known.key if item.known else "")


@lru_cache(maxsize=4096)
def is_small(expr: str) -> bool:
    """Tell whether sympy solves an equation in a moment: not too many operations, no high powers."""
    nodes = [node for side in expr.split("=") for node in ast.walk(ast.parse(side.strip(), mode="eval"))]
    powers = [node.right for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
    numbers = [part.value for power in powers for part in ast.walk(power) if isinstance(part, ast.Constant)]
    return (
        sum(isinstance(node, ast.BinOp | ast.Call) for node in nodes) <= _MOST_OPERATIONS
        and max((abs(number) for number in numbers if isinstance(number, int | float)), default=0) <= _HIGHEST_POWER
    )


def _unsolvable(formula: Formula) -> tuple[str, ...]:
    """Return the symbols for which no closed form is looked for; all but the one that the formula defines if large."""
    if is_small(formula.expr):
        return formula.no_solve
    defined = formula.expr.partition("=")[0].strip()
    return tuple(symbol for symbol in formula.where if symbol != defined or symbol in formula.no_solve)


def _is_checked(base: Formulary, formula: Formula) -> bool:
    """Check with pint that the formula's sides have one dimension; what counts is a plain number in it."""
    quantities = {symbol: base.quantities[key] for symbol, key in formula.where.items()}
    units = tuple((symbol, "" if each.is_count else each.unit) for symbol, each in quantities.items())
    return is_consistent(formula.expr, units)


def friendly_unit(magnitude: float, quantity: Quantity, given: Sequence[str]) -> str:
    """Return the unit in which people would give a magnitude: kilojoules, minutes, °C if °C were given."""
    unit, size = quantity.unit, abs(magnitude)
    if unit == "kelvin" and quantity.role != "change" and "degree_Celsius" in given:
        return "degree_Celsius"
    if unit.startswith("meter"):
        lengths = {each for each in given if each in _LENGTHS}
        unit = unit.replace("meter", lengths.pop()) if len(lengths) == 1 and unit in _POWERS else unit
    if unit == "second":
        return next((name for name, seconds in _TIMES if size >= seconds), unit)
    if unit in _PREFIXED and size >= _PREFIXED[unit]:
        return f"mega{unit}" if size >= 1e6 else f"kilo{unit}"
    prefix = next((name for name, least in _SMALL_PREFIXES if size >= least), "")
    return prefix + unit if unit in _SMALL and size < 0.1 else unit


def path_of(base: Formulary, wording: Wording, chain: Chain, steps: Sequence[Step]) -> Path:
    """Return a chain as a path: values, quantities, formulas, and the target, with sources."""
    edges = tuple(_edges(base, wording, chain))
    if not edges:
        edges = tuple(
            PathEdge(UNIT_CONVERSION, "gives", base.quantities[step.quantity].name, source="question") for step in steps
        )
    return Path(edges, math.exp(-max(0.0, chain.cost) / 4))


def _edges(base: Formulary, wording: Wording, chain: Chain) -> Iterator[PathEdge]:
    order = list(chain.resolved.items())
    for key, item in reversed(order):
        name = base.quantities[key].name
        if item.how == "formula" and item.formula:
            yield from _formula_edges(base, item, name)
        elif item.how == "given":
            text = wording.values[item.value].value.text
            yield PathEdge(
                text, "is the", name, math.exp(-max(0.0, item.cost)), {"evidence": item.evidence}, "question"
            )
        elif item.known:
            relation = "value of" if item.how in ("constant", "default") else "property of"
            yield PathEdge(
                f"{item.known.name} = {item.known.magnitude:g} {item.known.unit}",
                relation,
                name,
                math.exp(-max(0.0, item.cost)),
                {},
                item.known.source,
            )
        elif item.how == "zero":
            yield PathEdge("0", "is the", name, math.exp(-item.cost), {}, "question")
        else:
            yield PathEdge(f"{item.magnitude:g}", f"is the {item.how}", name, math.exp(-item.cost), {}, "conversation")


def _formula_edges(base: Formulary, item: Resolution, name: str) -> Iterator[PathEdge]:
    formula = item.formula
    assert formula is not None  # the caller checked it
    source = f"{formula.source}; {formula.topic}.toml" if formula.source else f"{formula.topic}.toml"
    for symbol, key in formula.where.items():
        if key != item.via:
            yield PathEdge(
                base.quantities[key].name, f"{symbol} in", f"{formula.name}: {formula.expr}", 1.0, {}, source
            )
    yield PathEdge(
        f"{formula.name}: {formula.expr}",
        "gives",
        base.quantities[item.via].name,
        math.exp(-max(0.0, item.cost)),
        {"scenario": item.evidence},
        source,
    )
    if item.via != item.quantity:
        yield PathEdge(base.quantities[item.via].name, "is a", name, 1.0, {}, source)


def pruned_of(base: Formulary, chain: Chain, reason: str) -> Pruned:
    """Return a chain that was not taken, with the reason."""
    names = ", ".join(base.formulas[key].name for key in sorted(chain.formulas)) or base.quantities[chain.target].name
    return Pruned(f"{base.quantities[chain.target].name} by {names}", math.exp(-max(0.0, chain.cost) / 4), reason)
