"""A tiny collection of formulas with units, for tests."""

from __future__ import annotations

from typing import Any

from tuili.reason.worlds.dimensions import read_dimension
from tuili.reason.worlds.expansions import Expander
from tuili.reason.worlds.fillings import Known, Problem
from tuili.reason.worlds.laws import Laws, read_laws
from tuili.reason.worlds.namesakes import Namesakes
from tuili.reason.worlds.usage import Usage


def record(formula: str, **symbols: str) -> dict[str, Any]:
    """Return a record; each symbol is given as "name, unit"."""
    entries = []
    for symbol, text in symbols.items():
        name, _, unit = text.partition(", ")
        entries.append({"en_name": name, "symbol": symbol, "unit": unit})
    return {"formula": formula, "symbol_map": entries}


RECORDS = [
    record("Q = c*m*d", Q="heat absorbed, J", c="specific heat capacity, J/(kg·℃)", m="mass of water, kg", d="rise, ℃"),
    record("d = t-s", d="rise, ℃", t="final temperature, ℃", s="initial temperature, ℃"),
    record("Q = m×q", Q="heat released, J", m="mass of fuel, kg", q="calorific value, J/kg"),
    record("m = Q/q", m="mass of coal, kg", Q="heat of combustion, J", q="calorific value of coal, J/kg"),
    record("e = U/Q*100%", e="efficiency, ", U="useful heat, J", Q="heat released, J"),
    record("Q_out = Q_in", Q_out="heat released, J", Q_in="heat absorbed, J"),
    record("x = x*y", x="loop, m", y="factor, "),
]


def laws() -> Laws:
    """Return the laws of the collection."""
    return read_laws(RECORDS)


def known(name: str, value: float, unit: str, relevance: float = 0.0) -> Known:
    """Return a known quantity."""
    scale = read_dimension(unit)
    assert scale is not None
    return Known((name,), value * scale[0], scale[1], relevance)


def expander(asked: str, unit: str, *given: Known, needs_all: bool = True, usage: Usage | None = None) -> Expander:
    """Return the expander of a problem."""
    scale = read_dimension(unit)
    assert scale is not None
    found = laws()
    problem = Problem(given, (asked,), {scale[1]: 0.0}, needs_all)
    return Expander(found, Namesakes(found), usage or Usage(), problem)


WATER = (
    known("specific heat capacity", 4200.0, "J/(kg·℃)"),
    known("mass of water", 2.0, "kg"),
    known("final temperature", 70.0, "℃"),
    known("initial temperature", 20.0, "℃"),
    known("calorific value", 4.2e7, "J/kg"),
    known("efficiency", 50.0, "%"),
)
"""What burning 0.02 kg of fuel takes: 420 kJ of useful heat at 50 %."""


def some_usage() -> Usage:
    """Return counts that tell useful heat from released heat: the fuel's heat is solved for from the efficiency."""
    found = laws()
    usage = Usage()
    burning = next(place for place, law in enumerate(found.laws) if len(law.formulas) == 2)
    efficiency = next(place for place, law in enumerate(found.laws) if law.formulas == ["e = U/Q*100%"])
    heating = next(place for place, law in enumerate(found.laws) if law.formulas == ["Q = c*m*d"])
    for _ in range(6):
        usage.add((burning, 1), None)
        usage.add((efficiency, 2), (burning, 0))
        usage.add((heating, 0), (efficiency, 1))
    return usage


def fuel() -> Expander:
    """Return a problem with four laws in its chain; 0.02 kg is right."""
    return expander("mass of fuel", "kg", *WATER, usage=some_usage())
