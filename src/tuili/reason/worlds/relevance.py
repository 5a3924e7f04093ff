"""Which values of a question are needed, and what dimension a gap has: learnt from questions with gold chains.

Logistic regression on what the place of a value tells; naive Bayes on the words around a gap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tuili.reason.policy import Floats
from tuili.reason.worlds.dimensions import Dimension
from tuili.reason.worlds.givens import Asking, Given
from tuili.reason.worlds.namesakes import all_pieces

_RIDGE = 1.0
_STEPS = 25
_SMOOTHING = 0.5
_FEW = 0.5
_WEIGHTS = {"all": 1.0, "near": 1.0, "next": 1.0, "after": 0.7, "link": 0.7, "before": 0.5, "pair": 0.7}
"""How much each kind of words counts for a gap's dimension."""
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
    """The log-weights of the dimensions that a gap may have, by the words beside it."""

    def __init__(self, examples: Iterable[tuple[str, str, Dimension]], priors: Iterable[Dimension]) -> None:
        self.words: dict[str, dict[Dimension, Counter[str]]] = {}
        self.priors = Counter(priors)
        for before, after, dimension in examples:
            for kind, words in _beside(before, after).items():
                self.words.setdefault(kind, {}).setdefault(dimension, Counter()).update(words)
        self.known = {dimension for counts in self.words.values() for dimension in counts}

    def __call__(self, gap: Given, most: int) -> dict[Dimension, float]:
        """Return the log-probabilities of the likeliest dimensions."""
        total = sum(self.priors.values()) + _FEW * len(self.known)
        scores = {dimension: math.log((self.priors[dimension] + _FEW) / total) for dimension in self.known}
        for kind, words in _beside(gap.before, gap.after).items():
            each = self._log_likelihoods(kind, words)
            for dimension in scores:
                scores[dimension] += _WEIGHTS[kind] * each.get(dimension, 0.0)
        if not scores:
            return {}
        best = max(scores.values())
        log_total = best + math.log(sum(math.exp(score - best) for score in scores.values()))
        ranked = sorted(scores.items(), key=lambda item: -item[1])[:most]
        return {dimension: score - log_total for dimension, score in ranked}

    def _log_likelihoods(self, kind: str, words: list[str]) -> dict[Dimension, float]:
        """Return the mean log-likelihood ratio of words of one kind for each dimension, against all dimensions."""
        by_dimension = self.words.get(kind, {})
        every: Counter[str] = Counter()
        for counts in by_dimension.values():
            every.update(counts)
        total = sum(every.values())
        found = {}
        for dimension in self.known:
            counts = by_dimension.get(dimension, Counter())
            size = sum(counts.values())
            ratios = [
                math.log((counts[word] + _SMOOTHING) / (every[word] * size / total + _SMOOTHING))
                for word in words
                if every[word]
            ]
            found[dimension] = sum(ratios) / len(ratios) if ratios else 0.0
        return found


def _beside(before: str, after: str) -> dict[str, list[str]]:
    """Return the pieces near a place by kind: all before, those next to it, the first word after, links."""
    pieces, links = all_pieces([before]), before.casefold().split()
    return {
        "all": list(pieces),
        "near": list(pieces[-3:]),
        "next": list(pieces[-1:]),
        "after": list(all_pieces([after])[:3]),
        "link": [" ".join(links[-1:]) + " X " + " ".join(after.casefold().split()[:1])],
        "before": links[-1:],
        "pair": [" ".join(links[-2:])],
    }
