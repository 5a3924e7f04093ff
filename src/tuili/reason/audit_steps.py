"""Checking a derivation: every step is put into its formula again, every input is traced to where it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuili.errors import InputError, LimitError
from tuili.knowledge.graph import Graph
from tuili.knowledge.values import find_values
from tuili.reason.document import number, objects, text
from tuili.reason.verify import convert, convert_difference, is_consistent, residual
from tuili.reason.worlds.bindings import magnitude_as
from tuili.reason.worlds.formulary import Formulary, Quantity, formulary

TOLERANCE = 1e-6
SHOWN = 1e-4
MAX_STEPS = 200
REMEMBERED = "remembered"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing checked: what, whether it holds (None: it can't be proven from the base), and why not."""

    what: str
    holds: bool | None
    detail: str = ""


def check_steps(document: Mapping[str, Any], graph: Graph) -> Iterator[Check]:
    """Check every step of a derivation, and that the values shown are what the steps give.

    Raises:
        InputError: the document's steps can't be read.
        LimitError: there are too many.
    """
    steps = objects(document, "steps")
    if len(steps) > MAX_STEPS:
        raise LimitError(f"the derivation has {len(steps)} steps, at most {MAX_STEPS} are checked")
    if not steps:
        return
    trace = _Trace(formulary(graph), text(document, "question"))
    for step in steps:
        yield from trace.check(step)
    for value in objects(document, "values"):
        yield trace.shown(value)


def is_from_talk(document: Mapping[str, Any]) -> bool:
    """Tell whether a derivation uses what only an earlier turn of a conversation gave."""
    inputs = [step["inputs"] for step in objects(document, "steps") if isinstance(step.get("inputs"), Mapping)]
    return any(isinstance(each, Mapping) and each.get("how") == REMEMBERED for many in inputs for each in many.values())


class _Trace:
    """What is proven so far: the results of the steps by quantity, in the quantity's own unit."""

    def __init__(self, base: Formulary, question: str) -> None:
        self.base = base
        self.values = find_values(question)
        self.known: dict[str, float] = {}

    def check(self, step: Mapping[str, Any]) -> Iterator[Check]:
        quantity = self._quantity(text(step, "quantity"))
        if quantity is None:
            yield Check(f"step to {step['quantity']}", False, "the base knows no such quantity")
            return
        inputs = step.get("inputs")
        if not isinstance(inputs, Mapping) or not all(isinstance(each, Mapping) for each in inputs.values()):
            raise InputError(f"a step's inputs must be an object of objects, not {inputs!r}")
        for symbol, each in inputs.items():
            yield self._input(symbol, each, in_plain_units=bool(text(step, "formula")))
        check = self._formula if text(step, "formula") else self._looked_up
        yield check(step, quantity, inputs)
        self.known[quantity.id] = number(step, "magnitude")

    def _quantity(self, key: str) -> Quantity | None:
        return self.base.quantities.get(key)

    # -- a formula -----------------------------------------------------------------------------

    def _formula(self, step: Mapping[str, Any], quantity: Quantity, inputs: Mapping[str, Any]) -> Check:
        what = f"step {text(step, 'expr')} for {text(step, 'symbol')}"
        formula = self.base.formulas.get(text(step, "formula").partition(":")[2])
        if formula is None or formula.expr != text(step, "expr"):
            return Check(what, False, f"the base has {formula.expr!r}" if formula else "the base has no such formula")
        if formula.source != text(step, "source"):
            return Check(what, False, f"the base has it from {formula.source!r}")
        if set(inputs) | {step["symbol"]} != set(formula.where):
            return Check(what, False, f"its symbols are {', '.join(formula.where)}")
        for symbol, each in inputs.items():
            if formula.where[symbol] != text(each, "quantity"):
                return Check(what, False, f"{symbol} stands for {formula.where[symbol]}, not {each['quantity']}")
        solved = formula.where[step["symbol"]]
        if not self.base.is_related(solved, quantity.id):
            return Check(what, False, f"it gives {solved}, not {quantity.id}")
        return self._balance(what, step, self.base.quantities[solved], inputs)

    def _balance(self, what: str, step: Mapping[str, Any], solved: Quantity, inputs: Mapping[str, Any]) -> Check:
        formula = self.base.formulas[text(step, "formula").partition(":")[2]]
        all_of = {symbol: self.base.quantities[key] for symbol, key in formula.where.items()}
        units = tuple((symbol, "" if each.is_count else each.unit) for symbol, each in all_of.items())
        if not is_consistent(formula.expr, units):
            return Check(what, False, "the units of its sides differ")
        values = {symbol: number(each, "magnitude") for symbol, each in inputs.items()}
        try:
            result = convert(number(step, "magnitude"), text(step, "unit"), solved.plain_unit)
        except InputError as error:
            return Check(what, False, str(error))
        off = residual(formula.expr, values | {step["symbol"]: result})
        if not off <= TOLERANCE:
            return Check(what, False, f"with {result:g} its sides differ by {off:.2g} of their size")
        return Check(what, True)

    def _looked_up(self, step: Mapping[str, Any], quantity: Quantity, inputs: Mapping[str, Any]) -> Check:
        what = f"{quantity.name} as it stands"
        values = [number(each, "magnitude") for each in inputs.values()]
        holds = len(values) == 1 and _close(values[0], number(step, "magnitude"))
        return Check(what, holds, "" if holds else f"{number(step, 'magnitude'):g} is not what it was read from")

    # -- where an input comes from -------------------------------------------------------------

    def _input(self, symbol: str, each: Mapping[str, Any], *, in_plain_units: bool) -> Check:
        key, how, magnitude = text(each, "quantity"), text(each, "how"), number(each, "magnitude")
        what = f"{key} = {magnitude:g}" + (f" ({symbol})" if symbol else "")
        quantity = self._quantity(key)
        if quantity is None:
            return Check(what, False, "the base knows no such quantity")
        if how == REMEMBERED:
            return Check(what, None, "it is known from a conversation, which the base does not hold")
        try:
            found = list(self._origins(how, each, quantity))
            found = [convert(one, quantity.unit, quantity.plain_unit) for one in found] if in_plain_units else found
        except InputError as error:
            return Check(what, False, str(error))
        holds = any(_close(one, magnitude) for one in found)
        shown = " or ".join(f"{one:g}" for one in found[:3]) or "nothing"
        return Check(what, holds, "" if holds else f"{_from(how, each)} gives {shown}")

    def _origins(self, how: str, each: Mapping[str, Any], quantity: Quantity) -> Iterator[float]:
        """Yield what an input may be, in the quantity's own unit, by what it says of its origin."""
        if how == "given":
            yield from self._given(_texts(each), quantity)
        elif how == "zero":
            yield 0.0
        elif how in ("formula", "earlier"):
            yield from self._earlier(quantity)
        elif how in ("constant", "default", "property"):
            yield from self._stated(text(each, "stated_by"), quantity)
        else:
            raise InputError(f"an input can't be {how!r}")

    def _given(self, texts: Sequence[str], quantity: Quantity) -> Iterator[float]:
        dimension = self.base.dimensions[quantity.id]
        named = [[found for found in self.values if found.value.text == one] for one in texts]
        readings = [[read[0] for found in each if (read := magnitude_as(found, quantity, dimension))] for each in named]
        if len(readings) == 1:
            yield from readings[0]
        elif len(readings) == 2:
            yield from (last - first for first in readings[0] for last in readings[1])

    def _earlier(self, quantity: Quantity) -> Iterator[float]:
        for key, magnitude in self.known.items():
            if self.base.is_related(key, quantity.id):
                yield convert(magnitude, self.base.quantities[key].unit, quantity.unit)

    def _stated(self, key: str, quantity: Quantity) -> Iterator[float]:
        """Yield what the base states under a constant's or a material's key."""
        sort, _, name = key.partition(":")
        if sort == "constant" and name in self.base.constants:
            known = self.base.constants[name]
            yield convert(known.magnitude, known.unit, quantity.unit)
        material = next((each for each, node in self.base.materials.items() if node.key == key), "")
        for via, known in self.base.properties(material).items() if material else ():
            if self.base.is_related(via, quantity.id):
                yield convert(known.magnitude, known.unit, quantity.unit)

    # -- what is shown -------------------------------------------------------------------------

    def shown(self, value: Mapping[str, Any]) -> Check:
        """Check that a value of the answer is the result of a step, in its unit."""
        magnitude, unit = number(value, "magnitude"), text(value, "unit")
        holds = any(_close(one, magnitude, SHOWN) for one in self._in_unit(unit))
        return Check(f"{magnitude:g} {unit}".strip(), holds, "" if holds else "no step gives it")

    def _in_unit(self, unit: str) -> Iterator[float]:
        for key, magnitude in self.known.items():
            quantity = self.base.quantities[key]
            turn = convert_difference if quantity.role == "change" else convert
            try:
                yield turn(magnitude, quantity.unit, unit)
            except InputError:
                continue


def _texts(each: Mapping[str, Any]) -> list[str]:
    texts = each.get("texts")
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        raise InputError(f"a given's texts must be a list of texts, not {texts!r}")
    return list(texts)


def _from(how: str, each: Mapping[str, Any]) -> str:
    if how == "given":
        return f"the question's {' and '.join(map(repr, _texts(each)))}"
    return f"the base's {each.get('stated_by')}" if each.get("stated_by") else f"what is said to be {how}"


def _close(one: float, other: float, tolerance: float = TOLERANCE) -> bool:
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)
