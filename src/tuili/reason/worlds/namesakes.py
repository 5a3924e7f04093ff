"""How well a name fits a variable of a law: counts of the pieces of names that stood for it.

Pieces are stems of words and, in scripts without blanks, characters and pairs of them, so one model
reads names of several languages. A score is a mean log ratio over the pieces: how often one stood for this
variable, against how often it would if all variables of the same dimension had the same names.
Source: Church and Hanks, "Word Association Norms", 1990, eq. 1 (mutual information), with counts smoothed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

from tuili.knowledge.text import FUNCTION_WORDS, stem
from tuili.reason.worlds.dimensions import Dimension
from tuili.reason.worlds.laws import Laws

_RUN = re.compile(r"[\u3400-\u9fff]+|[^\W\d_]+")
_INDEX = re.compile(r"(?<=[^\W\d_])_?(\d)(?!\d)")
_STRENGTH = 0.5
_BOUND = 3.0


@lru_cache(maxsize=65536)
def pieces(name: str) -> tuple[str, ...]:
    """Return the pieces of a name, in order, each once."""
    found: dict[str, None] = {}
    for run in _RUN.findall(name.casefold()):
        if "\u3400" <= run[0] <= "\u9fff":
            found.update(dict.fromkeys(run))
            found.update(dict.fromkeys(run[at : at + 2] for at in range(len(run) - 1)))
        elif run not in FUNCTION_WORDS:
            found[stem(run)] = None
    return tuple(found)


def all_pieces(names: Iterable[str]) -> tuple[str, ...]:
    """Return the pieces of several names of one thing, each once."""
    return tuple(dict.fromkeys(piece for name in names for piece in pieces(name)))


class Namesakes:
    """Counts of pieces for each variable of each law and for each dimension."""

    def __init__(self, laws: Laws) -> None:
        self.laws = laws
        self.of_variable: dict[tuple[int, int], Counter[str]] = {}
        self.of_dimension: dict[Dimension, Counter[str]] = {}
        for place, law in enumerate(laws.laws):
            for index, variable in enumerate(law.variables):
                self.of_variable[place, index] = Counter()
                for name in variable.names:
                    self.add(place, index, (name,))

    def add(self, place: int, index: int, names: Iterable[str]) -> None:
        """Count the names of a quantity that stood for a variable."""
        found = all_pieces(names)
        self.of_variable[place, index].update(found)
        dimension = self.laws.laws[place].variables[index].dimension
        self.of_dimension.setdefault(dimension, Counter()).update(found)

    def score(self, found: tuple[str, ...], place: int, index: int) -> float:
        """Return how well pieces fit a variable: about 0 when they tell nothing, within ±3."""
        counts = self.of_variable[place, index]
        background = self.of_dimension.get(self.laws.laws[place].variables[index].dimension, Counter())
        total, all_counts = sum(counts.values()), sum(background.values())
        if not total or not found:
            return 0.0
        ratios = []
        for piece in found:
            if not background[piece]:
                continue
            expected = total * background[piece] / all_counts
            ratio = math.log((counts[piece] + _STRENGTH) / (expected + _STRENGTH))
            ratios.append(max(-_BOUND, min(_BOUND, ratio)))
        return sum(ratios) / len(ratios) if ratios else 0.0


def indices(names: Iterable[str]) -> tuple[str, ...]:
    """Return the numbers that tell things of one sort apart, such as the 2 of "R_2"; each once."""
    return tuple(dict.fromkeys(number for name in names for number in _INDEX.findall(name)))


def kinship(first: tuple[str, ...], second: tuple[str, ...], rarity: Mapping[str, float]) -> float:
    """Return how much two names share, by the rarity of the pieces (0 to 1): both are of the water."""
    shared = set(first) & set(second)
    if not shared:
        return 0.0
    total = min(sum(rarity.get(piece, 1.0) for piece in each) for each in (first, second))
    return min(1.0, sum(rarity.get(piece, 1.0) for piece in shared) / max(total, 1e-9))


class NameDimensions:
    """Guesses a quantity's dimension from its names, by the most similar names that are known."""

    def __init__(self, examples: Iterable[tuple[str, Dimension]]) -> None:
        self.counts: dict[str, Counter[Dimension]] = {}
        self.ends: dict[str, Counter[Dimension]] = {}
        for name, dimension in examples:
            for piece in pieces(name):
                self.counts.setdefault(piece, Counter())[dimension] += 1
            for piece in pieces(name)[-2:]:
                self.ends.setdefault(piece, Counter())[dimension] += 1

    def __call__(self, names: tuple[str, ...]) -> dict[Dimension, float]:
        """Return log-weights of dimensions; pieces at the end of a name, mostly its head, count double."""
        scores: Counter[Dimension] = Counter()
        for name in names:
            found = pieces(name)
            for piece in found:
                self._vote(self.counts.get(piece), scores, 1.0 / len(found))
            for piece in found[-2:]:
                self._vote(self.ends.get(piece), scores, 1.0)
        return {dimension: math.log(weight) for dimension, weight in scores.items() if weight > 1e-3}

    def _vote(self, counts: Counter[Dimension] | None, scores: Counter[Dimension], weight: float) -> None:
        total = sum(counts.values()) if counts else 0
        for dimension, count in (counts or Counter()).items():
            scores[dimension] += weight * count / total  # type: ignore[assignment]
