"""Magnitudes in SI base units with dimensions that can be multiplied and compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeAlias

from tuili.knowledge.units import read_unit
from tuili.reason.verify import base_unit, convert_difference

Dimension: TypeAlias = tuple[tuple[str, float], ...]
"""Base units with their exponents, sorted by name; () for a plain number."""

MONEY: Dimension = (("money", 1.0),)
_ANGLES = frozenset({"radian"})
_FACTOR = re.compile(r"([*/]?)\s*([A-Za-z_]+)(?:\s*\*\*\s*(-?[\d.]+))?")


def power(terms: Mapping[str, float]) -> Dimension:
    """Return the dimension with these exponents; those that are zero are left out."""
    return tuple(sorted((name, round(exponent, 6)) for name, exponent in terms.items() if abs(exponent) > 1e-9))


def product(parts: list[tuple[Dimension, float]]) -> Dimension:
    """Return the dimension of a product of powers."""
    terms: dict[str, float] = {}
    for dimension, degree in parts:
        for name, exponent in dimension:
            terms[name] = terms.get(name, 0.0) + degree * exponent
    return power(terms)


@lru_cache(maxsize=4096)
def dimension_of(unit: str) -> Dimension:
    """Return the dimension of a pint unit; angles are plain numbers, as in every law of motion.

    Raises:
        InputError: pint doesn't know the unit.
    """
    terms: dict[str, float] = {}
    for sign, name, exponent in _FACTOR.findall(base_unit(unit)):
        if name not in _ANGLES:
            terms[name] = terms.get(name, 0.0) + (-1.0 if sign == "/" else 1.0) * float(exponent or 1)
    return power(terms)


def in_base_units(magnitude: float, unit: str) -> tuple[float, Dimension]:
    """Return a magnitude in SI base units and its dimension; degrees Celsius count from 0 °C.

    In calorimetry only differences of temperatures matter, so 20 °C are 20 kelvin here, never 293.15.

    Raises:
        InputError: pint doesn't know the unit.
    """
    return convert_difference(magnitude, unit, base_unit(unit)), dimension_of(unit)


def read_dimension(written: str) -> tuple[float, Dimension] | None:
    """Return what one of a written unit ("J/(kg·℃)", "kW·h") is in base units, None if it is no unit."""
    text = written.replace("•", "·").replace("⋅", "·").strip()
    if not text:
        return 1.0, ()
    unit = read_unit(text, 0)
    if unit is None or unit.end < len(text):
        return None
    return (1.0, MONEY) if unit.is_money else in_base_units(1.0, unit.text)
