"""Which values of a question are needed, and what dimension a gap has: learnt from questions with gold chains.

Logistic regression on what the place of a value tells; softmax regression on the words around a gap. Which
values belong together is learnt from their dimensions alone, so that worked problems in any language teach it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from tuili.reason.policy import Floats, Ints
from tuili.reason.worlds.dimensions import Dimension
from tuili.reason.worlds.givens import Asking, Given
from tuili.reason.worlds.namesakes import all_pieces

_RIDGE = 2.0
_STEPS = 25
_SOFT_RIDGE = 0.5
_SOFT_STEPS = 300
_POWER_STEPS = 20
_ARTICLES = frozenset("the a an its their this that".split())
_HEAD_LINKS = frozenset("of by is was from released absorbed generated for in across between when".split())
_MOST = 6.0
_LEAST_TOGETHER = 5


Kind: TypeAlias = tuple[Dimension, bool]
"""The dimension of a value, and whether it is a bare number such as the 9 of "9 units"."""


class _Marks:
    """Numbers the marks that are seen often enough."""

    def __init__(self, rows: Sequence[Sequence[str]], least: int) -> None:
        counts = Counter(mark for row in rows for mark in row)
        self.places = {mark: at for at, mark in enumerate(mark for mark, count in counts.items() if count >= least)}

    @property
    def num_rows(self) -> int:
        """How many rows weights need: one for each mark, for what all have, and for what is nothing."""
        return len(self.places) + 2

    def padded(self, rows: Sequence[Sequence[str]]) -> Ints:
        """Return the places of each row's known marks, then of what all have, then of what is nothing, (N, L)."""
        bias, nothing = len(self.places), len(self.places) + 1
        found = [[*(self.places[mark] for mark in row if mark in self.places), bias] for row in rows]
        padded = np.full((len(rows), max(map(len, found), default=1)), nothing, np.int64)
        for at, row in enumerate(found):
            padded[at, : len(row)] = row
        return padded


class Company:
    """Log-odds that a value is needed, by its kind, those of the values beside it and the result's dimension."""

    def __init__(self, examples: Sequence[tuple[Sequence[Kind], Dimension | None, Sequence[bool]]]) -> None:
        """Learn from problems: the kinds of the values in order, the dimension of the result, what is needed."""
        rows = [_together(values, at, result) for values, result, _needed in examples for at in range(len(values))]
        needed = np.array([each for _values, _result, needed in examples for each in needed], np.int64)
        self.marks = _Marks(rows, _LEAST_TOGETHER)
        shape = (self.marks.num_rows, 2)
        self.weights_MD = _softmax_regression(self.marks.padded(rows), needed, np.ones(len(rows), np.float32), shape)

    def __call__(self, values: Sequence[Kind], result: Dimension | None) -> Floats:
        """Return the log-odds of each value, in order."""
        rows = [_together(values, at, result) for at in range(len(values))]
        scores_ND = self.weights_MD[self.marks.padded(rows)].sum(axis=1)
        return np.asarray(scores_ND[:, 1] - scores_ND[:, 0], np.float32)


def _kind(given: Given) -> Kind:
    return given.dimension, "bare" in given.traits


def _together(values: Sequence[Kind], at: int, result: Dimension | None) -> list[str]:
    """Return marks of a value by what there is beside it; the first of several alike differs from the second."""
    own = values[at]
    others = dict.fromkeys(each for place, each in enumerate(values) if place != at)
    num_alike, nth = min(list(values).count(own), 3), min(list(values[:at]).count(own), 2)
    return [
        f"of {own}",
        f"of {own} for {result}",
        *(f"of {own} with {other}" for other in others),
        f"of {own}, {num_alike} alike",
        f"of {own}, {nth} of {num_alike} alike",
        f"result given: {(result, False) in others}",
    ]


class Relevance:
    """Log-odds that a value of a question is needed; what is said to be the answer always is."""

    def __init__(self, examples: Sequence[tuple[Asking, Sequence[bool]]], company: Company | None = None) -> None:
        """Learn from questions and which of their values are needed; `company` was learnt before, elsewhere."""
        self.company = company
        self.marks: dict[str, int] = {}
        rows = [self._marks(asking, given) for asking, _needed in examples for given in asking.givens]
        for row in rows:
            for mark in row:
                self.marks.setdefault(mark, len(self.marks))
        needed = np.array([each for _asking, needed in examples for each in needed], np.float64)
        together = np.concatenate([self._together(asking) for asking, _needed in examples])
        self.weights = _logistic(np.column_stack([together, self._matrix(rows)]), needed)

    def __call__(self, asking: Asking) -> Floats:
        """Return the log-odds of each value, within ±6."""
        marks = self._matrix([self._marks(asking, given) for given in asking.givens])
        matrix = np.column_stack([self._together(asking), marks])
        odds = np.clip(matrix @ self.weights, -_MOST, _MOST).astype(np.float32)
        return np.where(["answer" in given.traits for given in asking.givens], np.float32(_MOST), odds)

    def _together(self, asking: Asking) -> Floats:
        """Return for each value the log-odds by what is said beside it; the gap is a value of the problem too."""
        odds = np.zeros(len(asking.givens), np.float32)
        if self.company is None:
            return odds
        answer = next((given.dimension for given in asking.givens if "answer" in given.traits), None)
        beside = [] if asking.gap is None or not asking.has_unit else [(asking.gap.dimension, False)]
        said = [at for at, given in enumerate(asking.givens) if not {"answer", "implied", "last"} & given.traits]
        for at, given in enumerate(asking.givens):
            if "answer" not in given.traits:
                places = sorted({*said, at})
                values = [*(_kind(asking.givens[place]) for place in places), *beside]
                odds[at] = self.company(values, answer)[places.index(at)]
        return odds

    def _marks(self, asking: Asking, given: Given) -> list[str]:
        same = sum(other.dimension == given.dimension for other in asking.givens)
        is_repeated = any(
            other is not given and other.dimension == given.dimension and math.isclose(other.value, given.value)
            for other in asking.givens
        )
        return [
            *given.traits,
            *(f"word {piece}" for piece in all_pieces([given.before])[-4:]),
            *(f"then {piece}" for piece in all_pieces([given.after])[:2]),
            f"of {given.dimension}",
            f"{min(same, 3)} alike",
            "repeated" if is_repeated else "once",
            "last of parameter" if {"last", "parameter"} <= given.traits else "",
            "last only" if {"last", "only"} <= given.traits else "",
            "last supplement" if {"last", "supplement"} <= given.traits else "",
        ]

    def _matrix(self, rows: Sequence[Sequence[str]]) -> np.ndarray:
        matrix = np.zeros((len(rows), len(self.marks) + 1))
        matrix[:, -1] = 1.0
        for at, row in enumerate(rows):
            matrix[at, [self.marks[mark] for mark in row if mark in self.marks]] = 1.0
        return matrix


def _logistic(matrix: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Fit a ridge logistic regression by Newton's steps. Source: Hastie et al., ESL, 2009, eq. 4.26."""
    weights = np.zeros(matrix.shape[1])
    penalty = _RIDGE * np.eye(matrix.shape[1])
    penalty[-1, -1] = 1e-3
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(-np.clip(matrix @ weights, -30, 30)))
        gradient = matrix.T @ (share - needed) + penalty @ weights
        hessian = (matrix * (share * (1 - share))[:, None]).T @ matrix + penalty
        weights -= np.linalg.solve(hessian, gradient)
    return weights


class GapDimensions:
    """The log-probabilities of the dimensions that a gap may have, by the words beside it.

    Softmax regression on marks of the words, ridge-penalised, by accelerated gradient descent.
    Source: Hastie et al., ESL, 2009, section 4.4.
    """

    def __init__(self, examples: Sequence[tuple[str, str, Dimension, float]]) -> None:
        """Learn from examples: words before, words after, dimension, weight."""
        rows = [_beside(before, after) for before, after, _dimension, _weight in examples]
        self.marks = _Marks(rows, 2)
        self.dimensions = list(dict.fromkeys(dimension for _before, _after, dimension, _weight in examples))
        marks_NL = self.marks.padded(rows)
        place = {dimension: at for at, dimension in enumerate(self.dimensions)}
        wanted_N = np.array([place[dimension] for _before, _after, dimension, _weight in examples], np.int64)
        weight_N = np.array([weight for *_words, weight in examples], np.float32)
        self.weights_MD = _softmax_regression(marks_NL, wanted_N, weight_N, (self.marks.num_rows, len(self.dimensions)))

    def __call__(self, gap: Given, most: int) -> dict[Dimension, float]:
        """Return the log-probabilities of the likeliest dimensions."""
        scores_D = self.weights_MD[self.marks.padded([_beside(gap.before, gap.after)])[0]].sum(axis=0)
        log_D = scores_D - np.logaddexp.reduce(scores_D)
        return {self.dimensions[at]: float(log_D[at]) for at in np.argsort(-log_D, kind="stable")[:most]}


def _softmax_regression(marks_NL: Ints, wanted_N: Ints, weight_N: Floats, shape: tuple[int, int]) -> Floats:
    """Return the weights of a softmax regression, (M, D); the last row, of what is nothing, stays zero.

    Source: Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm", 2009, eq. 4.1 to 4.3.
    """
    weights = np.zeros(shape, np.float32)
    ahead = weights.copy()
    rate = 1.0 / (0.5 * _largest_eigenvalue(marks_NL, weight_N, shape[0]) + _SOFT_RIDGE)
    for step in range(_SOFT_STEPS):
        scores_ND = ahead[marks_NL].sum(axis=1)
        share_ND = np.exp(scores_ND - scores_ND.max(axis=1, keepdims=True))
        share_ND /= share_ND.sum(axis=1, keepdims=True)
        share_ND[np.arange(len(wanted_N)), wanted_N] -= 1.0
        gradient = _SOFT_RIDGE * ahead
        np.add.at(gradient, marks_NL, (share_ND * weight_N[:, None])[:, None, :])
        gradient[-1] = 0.0
        following = ahead - rate * gradient
        ahead = following + step / (step + 3) * (following - weights)
        weights = following
    return weights


def _largest_eigenvalue(marks_NL: Ints, weight_N: Floats, num_marks: int) -> float:
    """Return the largest eigenvalue of the weighted co-occurrences of marks, by power iteration."""
    vector = np.ones(num_marks)
    vector[-1] = 0.0
    size = 1.0
    for _ in range(_POWER_STEPS):
        product = np.zeros(num_marks)
        np.add.at(product, marks_NL, (vector[marks_NL].sum(axis=1) * weight_N)[:, None])
        product[-1] = 0.0
        size = float(np.linalg.norm(product))
        if size == 0.0:
            return 0.0
        vector = product / size
    return size


def _beside(before: str, after: str) -> list[str]:
    """Return marks of the words near a place: which there are, which are next to it, which is the head."""
    words = [word for word in before.casefold().split() if word not in _ARTICLES]
    pieces = list(all_pieces([before]))
    first_after = after.casefold().split()[:1]
    return list(
        dict.fromkeys(
            [
                *(f"has {piece}" for piece in pieces),
                *(f"near {piece}" for piece in pieces[-3:]),
                *(f"next {piece}" for piece in pieces[-1:]),
                *(f"first {piece}" for piece in pieces[:1]),
                *(f"head {piece}" for piece in _heads(words)),
                *(f"after {piece}" for piece in all_pieces([after])[:3]),
                f"link {' '.join(words[-1:])} X {' '.join(first_after)}",
                f"before {' '.join(words[-1:])}",
                f"before {' '.join(words[-2:])}",
                f"then {' '.join(first_after)}",
            ]
        )
    )


def _heads(words: Sequence[str]) -> list[str]:
    """Return the pieces of the words before each "of", "by" or "is": heads of the phrases."""
    heads = [first for first, second in pairwise(words) if second in _HEAD_LINKS]
    return list(all_pieces(heads))
