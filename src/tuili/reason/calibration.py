"""Probabilities that mean what they say: fitting them on judged answers, and how far off they are."""

from __future__ import annotations

import numpy as np

from tuili.reason.walk_file import Sureness, logit

NUM_BINS = 10
# Slope and bias of shares that mean what they say, and how strongly a fit is held to them.
IDENTITY, HELD = np.array([1.0, 0.0]), np.array([10.0, 0.0])


def calibrate(said: np.ndarray, right: np.ndarray, num_steps: int = 50) -> Sureness:
    """Fit slope and bias by Newton's method, targets smoothed. Source: Platt 1999, section 2.2.

    A share is a probability already, so the slope is held near 1: questions that are answered nearly all alike, with
    large shares, tell nothing of small ones, which would else be called sure as well.
    """
    if not len(said):
        return Sureness()
    x = np.stack([logit(said), np.ones(len(said))], axis=1)
    num_right = right.sum()
    target = np.where(right > 0, (num_right + 1) / (num_right + 2), 1 / (len(right) - num_right + 2))
    weights = IDENTITY
    for _ in range(num_steps):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - target) + HELD * (weights - IDENTITY)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(HELD) + 1e-6 * np.eye(2)
        weights = _descend(x, target, weights, np.linalg.solve(hessian, gradient))
    return Sureness(*weights.tolist())


def _descend(x: np.ndarray, target: np.ndarray, weights: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the weights after a step, halved until the loss falls; the same where none does."""

    def loss(at: np.ndarray) -> float:
        z = x @ at
        return float((np.logaddexp(0, z) - target * z).sum() + (HELD * (at - IDENTITY) ** 2).sum() / 2)

    for halvings in range(30):
        moved = weights - step * 0.5**halvings
        if loss(moved) < loss(weights):
            return moved
    return weights


def bin_of(confidence: float) -> int:
    """Return the bin of a confidence: [0, 0.1), ..., [0.9, 1]."""
    return min(int(confidence * NUM_BINS + 1e-9), NUM_BINS - 1)


def ece(said: np.ndarray, right: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the expected calibration error over ten bins of equal width, 0 of nothing; `weight`: all alike by default.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    weight = np.ones(len(said)) if weight is None else weight
    if not len(said):
        return 0.0
    bins = np.array([bin_of(value) for value in said])
    gaps = np.bincount(bins, weights=weight * (said - right), minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / weight.sum())
