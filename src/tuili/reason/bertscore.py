"""BERTScore: how well two texts match, token by token, in the vectors of an encoder.

Source: Zhang et al., "BERTScore: Evaluating Text Generation with BERT", ICLR 2020, section 3.
Covered: greedy matching with idf weights. Not covered: rescaling with a baseline.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Embedded(Protocol):
    """A text's tokens without special ones, and their unit vectors [t, D]."""

    @property
    def tokens(self) -> Sequence[str]: ...

    @property
    def vectors(self) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class IdfWeights:
    """The weight of each token of a corpus, and the one of every other token."""

    weights: dict[str, float]
    unseen: float

    def of(self, tokens: Sequence[str]) -> np.ndarray:
        """Return one weight per token: float64 [t]."""
        return np.array([self.weights.get(token, self.unseen) for token in tokens])


@dataclass(frozen=True, slots=True)
class BertScore:
    """Precision, recall and their harmonic mean, each in -1 to 1 and for like texts near 1."""

    precision: float
    recall: float
    f1: float


def idf_weights(token_lists: Iterable[Sequence[str]]) -> IdfWeights:
    """Return the inverse document frequencies of a corpus, one list of tokens per text.

    A token in `df` of `M` texts weighs log((M + 1) / (df + 1)): 0 if every text has it,
    log(M + 1) if none has. Source: section 3, "Importance Weighting", with plus-one smoothing.
    """
    frequencies: Counter[str] = Counter()
    num_texts = 0
    for tokens in token_lists:
        frequencies.update(set(tokens))
        num_texts += 1
    weights = {token: math.log((num_texts + 1) / (df + 1)) for token, df in frequencies.items()}
    return IdfWeights(weights, math.log(num_texts + 1))


def score(candidate: Embedded, reference: Embedded, idf: IdfWeights) -> BertScore:
    """Match each token with the most similar one of the other text and average by idf; O(t * t' * D).

    Precision averages over the candidate's tokens, recall over the reference's. A text without
    tokens, or whose tokens all weigh 0, scores 0. Source: section 3, R_BERT, P_BERT and F_BERT.
    """
    if not len(candidate.tokens) or not len(reference.tokens):
        return BertScore(0.0, 0.0, 0.0)
    similarity = candidate.vectors @ reference.vectors.T
    precision = _weighted_mean(similarity.max(axis=1), idf.of(candidate.tokens))
    recall = _weighted_mean(similarity.max(axis=0), idf.of(reference.tokens))
    return BertScore(precision, recall, _harmonic_mean(precision, recall))


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    total = weights.sum()
    return float(values @ weights / total) if total > 0 else 0.0


def _harmonic_mean(precision: float, recall: float) -> float:
    """Return 2PR / (P + R), and 0 unless both are positive."""
    if precision <= 0 or recall <= 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)
