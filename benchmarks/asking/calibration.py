"""Calibration: whether what is said with confidence 0.8 is right eight times of ten.

The event is "an answer was given and is right". An abstention is no right answer, so its confidence
should be low, whether the question could have been answered or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from asking.answers import Asked
from runner import Result
from tuili.reason.calibration import NUM_BINS, bin_of, ece

NUM_RESAMPLES = 500

Judged = Sequence[tuple[float, bool, float]]
"""What was said to be how likely, whether it was so, and how much it counts."""


def calibration(prefix: str, asked: Sequence[Asked]) -> Iterator[Result]:
    """Yield reliability tables, expected calibration errors and Brier scores."""
    asked = [one for one in asked if not one.error]
    yield from reliability(prefix, confidences(asked))
    yield from errors(f"{prefix}.answered", confidences([one for one in asked if not one.answer.abstained]))
    for base in dict.fromkeys(one.question.kb for one in asked):
        yield from errors(f"{prefix}.{base}", confidences([one for one in asked if one.question.kb == base]))
    yield from reliability(f"{prefix}.entities", probabilities(asked))


def confidences(asked: Sequence[Asked]) -> Judged:
    """Return each answer's confidence and whether it was given and is right."""
    return [(one.answer.confidence, one.right and not one.answer.abstained, 1.0) for one in asked]


def probabilities(asked: Sequence[Asked]) -> Judged:
    """Return each named entity's probability and whether it belongs to the answer; an answer counts 1 in all.

    Where only the best ranked name is known to be right, the others are left out, as nobody knows.
    """
    judged: list[tuple[float, bool, float]] = []
    for one in asked:
        known = one.question.entities
        if one.question.first is not None:
            judged += [(item.probability, item.name == one.question.first, 1.0) for item in one.answer.entities[:1]]
        elif known is not None or not one.question.answerable:
            named = one.answer.entities
            judged += [(item.probability, item.name in (known or ()), 1 / len(named)) for item in named]
    return judged


def reliability(prefix: str, judged: Judged) -> Iterator[Result]:
    """Yield the errors, and for each filled bin the mean confidence and the share that is right."""
    yield from errors(prefix, judged)
    for place in range(NUM_BINS):
        inside = [one for one in judged if bin_of(one[0]) == place]
        name = f"{prefix}.bin.{100 * place // NUM_BINS}-{100 * (place + 1) // NUM_BINS}"
        if inside:
            yield _measured(f"{name}.confidence", inside, lambda said, _, weight: np.average(said, weights=weight))
            yield _measured(f"{name}.right", inside, lambda _, right, weight: np.average(right, weights=weight))


def errors(prefix: str, judged: Judged) -> Iterator[Result]:
    """Yield ECE and Brier score; the latter beside that of always saying the share that is right."""
    if judged:
        yield _measured(f"{prefix}.ece", judged, ece)
        constant = {"name": "base rate", "value": float(brier_of_base_rate(*_columns(judged)))}
        yield _measured(f"{prefix}.brier", judged, brier, constant)


def brier(said: np.ndarray, right: np.ndarray, weight: np.ndarray) -> float:
    """Return the mean squared distance between what was said and what was so."""
    return float(np.average((said - right) ** 2, weights=weight))


def brier_of_base_rate(said: np.ndarray, right: np.ndarray, weight: np.ndarray) -> float:
    """Return the Brier score of always saying the share that is right."""
    return brier(np.full_like(said, np.average(right, weights=weight)), right, weight)


def _measured(
    name: str, judged: Judged, statistic: Callable[..., float], baseline: dict[str, object] | None = None
) -> Result:
    """Return a statistic with half its 95 % percentile bootstrap interval; n is what was judged."""
    columns = _columns(judged)
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(judged), size=len(judged)) for _ in range(NUM_RESAMPLES))
    values = [statistic(*(column[rows] for column in columns)) for rows in draws]
    low, high = np.quantile(values, (0.025, 0.975))
    spread = float(high - low) / 2 if len(judged) > 1 else None
    return Result(name, float(statistic(*columns)), "fraction", spread, len(judged), baseline)


def _columns(judged: Judged) -> list[np.ndarray]:
    return [np.array(column, dtype=float) for column in zip(*judged, strict=True)]
