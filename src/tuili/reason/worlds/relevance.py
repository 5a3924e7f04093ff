"""Which values of a question are needed, and what dimension a gap has: learnt from questions with gold chains.

Logistic regression on what the place of a value tells; softmax regression on the words around a gap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tuili.reason.policy import Floats, Ints
from tuili.reason.worlds.dimensions import Dimension
from tuili.reason.worlds.givens import Asking, Given
from tuili.reason.worlds.namesakes import all_pieces

_RIDGE = 1.0
_STEPS = 25
_SOFT_RIDGE = 0.5
_SOFT_STEPS = 300
_POWER_STEPS = 20
_ARTICLES = frozenset("the a an its their this that".split())
_HEAD_LINKS = frozenset("of by is was from released absorbed generated for in across between when".split())
_MOST = 6.0


class Relevance:
    """Log-odds that a value of a question is needed; what is said to be the answer always is."""

    def __init__(self, examples: Sequence[tuple[Asking, Sequence[bool]]]) -> None:
        self.marks: dict[str, int] = {}
        rows = [self._marks(asking, given) for asking, _needed in examples for given in asking.givens]
        for row in rows:
            for mark in row:
                self.marks.setdefault(mark, len(self.marks))
        needed = np.array([each for _asking, needed in examples for each in needed], np.float64)
        self.weights = _logistic(self._matrix(rows), needed)

    def __call__(self, asking: Asking) -> Floats:
        """Return the log-odds of each value, within ±6."""
        matrix = self._matrix([self._marks(asking, given) for given in asking.givens])
        odds = np.clip(matrix @ self.weights, -_MOST, _MOST).astype(np.float32)
        return np.where(["answer" in given.traits for given in asking.givens], np.float32(_MOST), odds)

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
        counts = Counter(mark for row in rows for mark in row)
        self.marks = {mark: at for at, mark in enumerate(mark for mark, count in counts.items() if count > 1)}
        self.dimensions = list(dict.fromkeys(dimension for _before, _after, dimension, _weight in examples))
        marks_NL = self._padded(rows)
        place = {dimension: at for at, dimension in enumerate(self.dimensions)}
        wanted_N = np.array([place[dimension] for _before, _after, dimension, _weight in examples], np.int64)
        weight_N = np.array([weight for *_words, weight in examples], np.float32)
        self.weights_MD = _softmax_regression(marks_NL, wanted_N, weight_N, (len(self.marks) + 2, len(self.dimensions)))

    def __call__(self, gap: Given, most: int) -> dict[Dimension, float]:
        """Return the log-probabilities of the likeliest dimensions."""
        scores_D = self.weights_MD[self._padded([_beside(gap.before, gap.after)])[0]].sum(axis=0)
        log_D = scores_D - np.logaddexp.reduce(scores_D)
        return {self.dimensions[at]: float(log_D[at]) for at in np.argsort(-log_D, kind="stable")[:most]}

    def _padded(self, rows: Sequence[Sequence[str]]) -> Ints:
        """Return the places of each row's known marks, then of what all have, then of what is nothing, (N, L)."""
        bias, nothing = len(self.marks), len(self.marks) + 1
        found = [[*(self.marks[mark] for mark in row if mark in self.marks), bias] for row in rows]
        padded = np.full((len(rows), max(map(len, found), default=1)), nothing, np.int64)
        for at, row in enumerate(found):
            padded[at, : len(row)] = row
        return padded


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
