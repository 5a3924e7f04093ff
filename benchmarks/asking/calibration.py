"""Calibration: whether what is said with confidence 0.8 is right eight times of ten.

The event is "an answer was given and is right". An abstention is no right answer, so its confidence
should be low, whether the question could have been answered or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from asking.answers import Asked
from runner import Result, share

NUM_BINS = 10
NUM_RESAMPLES = 500

Pairs = Sequence[tuple[float, bool]]


def calibration(prefix: str, asked: Sequence[Asked]) -> Iterator[Result]:
    """Yield reliability tables, expected calibration errors and Brier scores."""
    asked = [one for one in asked if not one.error]
    yield from reliability(prefix, confidences(asked))
    yield from errors(f"{prefix}.answered", confidences([one for one in asked if not one.answer.abstained]))
    for base in dict.fromkeys(one.question.kb for one in asked):
        yield from errors(f"{prefix}.{base}", confidences([one for one in asked if one.question.kb == base]))
    yield from reliability(f"{prefix}.entities", probabilities(asked))


def confidences(asked: Sequence[Asked]) -> Pairs:
    """Return each answer's confidence and whether it was given and is right."""
    return [(one.answer.confidence, one.right and not one.answer.abstained) for one in asked]


def probabilities(asked: Sequence[Asked]) -> Pairs:
    """Return each named entity's probability and whether it belongs to the answer.

    Where only the best ranked name is known to be right, the others are left out, as nobody knows.
    """
    pairs: list[tuple[float, bool]] = []
    for one in asked:
        known = one.question.entities
        if one.question.first is not None:
            pairs += [(item.probability, item.name == one.question.first) for item in one.answer.entities[:1]]
        elif known is not None or not one.question.answerable:
            pairs += [(item.probability, item.name in (known or ())) for item in one.answer.entities]
    return pairs


def reliability(prefix: str, pairs: Pairs) -> Iterator[Result]:
    """Yield the errors, and for each filled bin the mean confidence and the share that is right."""
    yield from errors(prefix, pairs)
    for place in range(NUM_BINS):
        inside = [pair for pair in pairs if bin_of(pair[0]) == place]
        name = f"{prefix}.bin.{100 * place // NUM_BINS}-{100 * (place + 1) // NUM_BINS}"
        if inside:
            mean = float(np.mean([confidence for confidence, _ in inside]))
            yield Result(f"{name}.confidence", mean, "fraction", None, len(inside))
            yield share(f"{name}.right", [float(right) for _, right in inside])


def errors(prefix: str, pairs: Pairs) -> Iterator[Result]:
    """Yield ECE and Brier score; the latter beside that of always saying the share that is right."""
    if not pairs:
        return
    confidence, right = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    yield Result(f"{prefix}.ece", ece(confidence, right), "fraction", _ece_spread(confidence, right), len(pairs))
    constant = float(np.mean((right.mean() - right) ** 2))
    squares = [float(value) for value in (confidence - right) ** 2]
    yield share(f"{prefix}.brier", squares, baseline={"name": "base rate", "value": constant})


def bin_of(confidence: float) -> int:
    """Return the bin of a confidence: [0, 0.1), ..., [0.9, 1]."""
    return min(int(confidence * NUM_BINS + 1e-9), NUM_BINS - 1)


def ece(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error over ten bins of equal width.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    bins = np.array([bin_of(value) for value in confidence])
    gaps = np.bincount(bins, weights=confidence - right, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(bins))


def _ece_spread(confidence: np.ndarray, right: np.ndarray) -> float:
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(right), size=len(right)) for _ in range(NUM_RESAMPLES))
    low, high = np.quantile([ece(confidence[rows], right[rows]) for rows in draws], (0.025, 0.975))
    return float(high - low) / 2
