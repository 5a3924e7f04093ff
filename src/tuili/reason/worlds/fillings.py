"""All ways to get a quantity of some dimension from one law and the known values, as arrays.

A filling solves a law for a variable of the wanted dimension; each other variable is a known value of its
dimension or stays open. What doesn't depend on the state of a search is worked out once for a problem.
Shapes: E fillings, V variables of the longest law, K known values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from tuili.reason.policy import Floats, Ints
from tuili.reason.worlds.dimensions import Dimension
from tuili.reason.worlds.laws import Law, Laws
from tuili.reason.worlds.namesakes import Namesakes, all_pieces, indices, kinship
from tuili.reason.worlds.usage import Place, Usage

OPEN, SOLVED, ABSENT = -2, -1, -3
MAX_FILLINGS_OF_LAW = 3_000
Masks = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Known:
    """A given quantity in SI base units; `relevance` is the log-odds that it is needed (0 where unknown)."""

    names: tuple[str, ...]
    value: float
    dimension: Dimension
    relevance: float = 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """What is known, and the names of the asked quantity with the log-weight of each dimension it may have.

    `needs_all`: a derivation counts only if every known quantity plays a part.
    """

    known: tuple[Known, ...]
    asked: tuple[str, ...]
    dimensions: Mapping[Dimension, float]
    needs_all: bool = True


class Wordings:
    """How well the names in a problem fit the variables of laws, each looked up once."""

    def __init__(self, laws: Laws, names: Namesakes, usage: Usage, problem: Problem) -> None:
        self.laws, self.names, self.usage, self.problem = laws, names, usage, problem
        self.pieces = [all_pieces(known.names) for known in problem.known]
        self.asked = all_pieces(problem.asked)
        self._scores: dict[tuple[int, int, int], float] = {}
        self._contexts: dict[Place, float] = {}

    @cached_property
    def of_dimension(self) -> dict[Dimension, list[int]]:
        """The places of the known values by dimension."""
        found: dict[Dimension, list[int]] = {}
        for place, known in enumerate(self.problem.known):
            found.setdefault(known.dimension, []).append(place)
        return found

    @cached_property
    def kinship(self) -> Floats:
        """How much the names of known values share (0 to 1), (K + 1, K + 1); the last is the asked quantity."""
        of_known = [
            (*pieces, *indices(each.names)) for pieces, each in zip(self.pieces, self.problem.known, strict=True)
        ]
        named = [*of_known, (*self.asked, *indices(self.problem.asked))]
        counts = Counter(piece for pieces in named for piece in pieces)
        rarity = {piece: 1.0 / count for piece, count in counts.items()}
        return np.array([[kinship(one, other, rarity) for other in named] for one in named], np.float32)

    def score(self, known: int, place: Place) -> float:
        """Return how well a known value's names (those of the asked quantity at K) fit a variable."""
        key = (known, *place)
        if key not in self._scores:
            pieces = self.asked if known == len(self.pieces) else self.pieces[known]
            self._scores[key] = self.names.score(pieces, *place)
        return self._scores[key]

    def context(self, place: Place) -> float:
        """Return how well the names of everything in the problem fit a law solved for a variable."""
        if place not in self._contexts:
            words = dict.fromkeys(piece for pieces in (*self.pieces, self.asked) for piece in pieces)
            self._contexts[place] = self.usage.context_score(words, place, self.laws)
        return self._contexts[place]

    def relevance(self, masks_E: Masks) -> Floats:
        """Return the summed relevance of the known values in each mask, (E,)."""
        values_K = np.array([known.relevance for known in self.problem.known], np.float32)
        if not values_K.any():
            return np.zeros(len(masks_E), np.float32)
        shifts_K = np.arange(len(values_K), dtype=np.uint64)
        return np.asarray(((masks_E[:, None] >> shifts_K) & np.uint64(1)).astype(np.float32) @ values_K)


class Fillings:
    """The fillings for one open quantity, in the order of the collection."""

    def __init__(self, wordings: Wordings, dimensions: Mapping[Dimension, float]) -> None:
        self.wordings = wordings
        self._usage: dict[Place | None, tuple[Floats, Floats]] = {}
        is_asked = dimensions is wordings.problem.dimensions
        self.places = [
            (place, weight) for dim, weight in dimensions.items() for place in wordings.laws.giving.get(dim, [])
        ]
        rows = [(at, slots) for at, (place, _weight) in enumerate(self.places) for slots in _fillings(wordings, place)]
        width = max((len(law.variables) for law in wordings.laws.laws), default=0)
        self.at_E: Ints = np.array([at for at, _slots in rows], np.int64)
        self.slots_EV: Ints = np.full((len(rows), width), ABSENT, np.int64)
        for row, (_at, slots) in enumerate(rows):
            self.slots_EV[row, : len(slots)] = slots
        self._count()
        self._score(is_asked)

    def _count(self) -> None:
        laws = np.array([place for place, _weight in self.places], np.int64).reshape(-1, 2)
        self.law_E, self.solved_E = laws[self.at_E, 0], laws[self.at_E, 1]
        is_bound_EV = self.slots_EV >= 0
        self.num_bound_E = is_bound_EV.sum(axis=1)
        self.num_open_E = (self.slots_EV == OPEN).sum(axis=1)
        bit_EV = np.where(is_bound_EV, np.uint64(1) << np.maximum(self.slots_EV, 0).astype(np.uint64), np.uint64(0))
        self.mask_E: Masks = np.bitwise_or.reduce(bit_EV, axis=1) if bit_EV.size else np.zeros(len(bit_EV), np.uint64)
        fitting_LV = np.zeros((len(self.wordings.laws.laws), self.slots_EV.shape[1]), np.uint64)
        for at, law in enumerate(self.wordings.laws.laws):
            for index, variable in enumerate(law.variables):
                places = self.wordings.of_dimension.get(variable.dimension, [])
                fitting_LV[at, index] = sum(1 << place for place in places)
        self.fitting_EV: Masks = np.where(self.slots_EV == OPEN, fitting_LV[self.law_E], np.uint64(0))

    def _score(self, is_asked: bool) -> None:
        """Work out how well names fit: those of bound values, of the asked quantity, among one another."""
        num_known = len(self.wordings.problem.known)
        score_EV = np.zeros(self.slots_EV.shape, np.float32)
        for row, variable in zip(*np.nonzero(self.slots_EV >= 0), strict=True):
            place = (int(self.law_E[row]), int(variable))
            score_EV[row, variable] = self.wordings.score(int(self.slots_EV[row, variable]), place)
        self.names_E, self.worst_E = score_EV.sum(axis=1), score_EV.min(axis=1, initial=0.0)
        each = [(self.wordings.context(place), weight) for place, weight in self.places]
        self.context_E, self.weight_E = np.array(each, np.float32).reshape(-1, 2)[self.at_E].T
        asked = [self.wordings.score(num_known, place) if is_asked else 0.0 for place, _weight in self.places]
        self.asked_E = np.array(asked, np.float32)[self.at_E]
        self.kinship_E = self._kin(num_known, is_asked)

    def _kin(self, num_known: int, is_asked: bool) -> Floats:
        """Return the mean kinship of the pairs that a law brings together, (E,)."""
        slots_EW = np.pad(self.slots_EV, ((0, 0), (0, 1)), constant_values=num_known if is_asked else ABSENT)
        total_E, num_pairs_E = np.zeros(len(slots_EW), np.float32), np.zeros(len(slots_EW), np.float32)
        for one in range(slots_EW.shape[1]):
            for other in range(one + 1, slots_EW.shape[1]):
                is_pair = (slots_EW[:, one] >= 0) & (slots_EW[:, other] >= 0)
                kin = self.wordings.kinship[np.maximum(slots_EW[:, one], 0), np.maximum(slots_EW[:, other], 0)]
                total_E += np.where(is_pair, kin, 0.0)
                num_pairs_E += is_pair
        return np.asarray(total_E / np.maximum(num_pairs_E, 1), np.float32)

    def usage(self, parent: Place | None) -> tuple[Floats, Floats]:
        """Return the log-share of each filling's law among all laws here, in all and below a parent, 2 of (E,)."""
        if parent not in self._usage:
            shares = self.wordings.usage.log_shares([place for place, _weight in self.places], parent)
            first, second = (np.array(each, np.float32)[self.at_E] for each in shares)
            self._usage[parent] = (first, second)
        return self._usage[parent]


def bits(masks: Masks | np.uint64) -> Ints:
    """Return the number of bits set."""
    return np.bitwise_count(masks).astype(np.int64)


def _fillings(wordings: Wordings, place: Place) -> Iterator[tuple[int, ...]]:
    """Yield the fillings of a law solved for a variable; variables alike (terms of a sum) in one order only."""
    law, solved = wordings.laws.laws[place[0]], place[1]
    options = [
        [SOLVED] if index == solved else [*wordings.of_dimension.get(variable.dimension, []), OPEN]
        for index, variable in enumerate(law.variables)
    ]
    alike = _alike(law, solved)
    legal = (slots for slots in product(*options) if _is_proper(slots, alike))
    yield from islice(legal, MAX_FILLINGS_OF_LAW)


def _alike(law: Law, solved: int) -> list[tuple[int, int]]:
    """Return the pairs of variables that may change places without changing the law."""
    sorts = [(variable.dimension, variable.degree) for variable in law.variables]
    return [
        (one, other)
        for one in range(len(sorts))
        for other in range(one + 1, len(sorts))
        if solved not in (one, other) and sorts[one] == sorts[other] and law.form != "other"
    ]


def _is_proper(slots: tuple[int, ...], alike: list[tuple[int, int]]) -> bool:
    bound = [slot for slot in slots if slot >= 0]
    return len(set(bound)) == len(bound) and all(
        slots[other] == OPEN or slots[one] > slots[other] for one, other in alike
    )
