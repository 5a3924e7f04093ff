"""A belief over hypotheses: a softmax of weighted evidence, its weights fitted on cases with known answers."""

from __future__ import annotations

import numpy as np

from tuili.errors import InputError
from tuili.reason.worlds.findings import FloatArray, IntArray

MAX_STEPS = 30
TOLERANCE = 1e-6


def fit_weights(features_SNF: FloatArray, truth_S: IntArray, ridge: float = 1.0) -> FloatArray:
    """Fit a conditional logit: choose 1 of N candidates by F features, S times; returns F weights.

    Features are scaled by their spread before the ridge (in units of one state's log-likelihood)
    applies. Newton's method with halving; O(steps * S N F^2). Source: McFadden, "Conditional logit
    analysis of qualitative choice behavior", 1974, eq. 12 and 18.

    Raises:
        InputError: the shapes don't fit or a feature is not finite.
    """
    if features_SNF.ndim != 3 or len(truth_S) != len(features_SNF) or not len(truth_S):
        raise InputError(f"features of shape {features_SNF.shape} don't fit {len(truth_S)} answers; give S x N x F")
    if not np.isfinite(features_SNF).all():
        raise InputError("a feature is not finite; mend the evidence before fitting")
    centred = features_SNF.astype(np.float64) - features_SNF.mean(axis=1, keepdims=True)
    scale = np.maximum(centred.std(axis=(0, 1)), 1e-6)
    x_SNF = centred / scale
    weights = np.zeros(x_SNF.shape[2])
    loss = _loss(x_SNF, truth_S, weights, ridge)
    for _ in range(MAX_STEPS):
        step = _newton_step(x_SNF, truth_S, weights, ridge)
        size = 1.0
        while size > 1e-3 and _loss(x_SNF, truth_S, weights + size * step, ridge) > loss:
            size /= 2
        new = _loss(x_SNF, truth_S, weights + size * step, ridge)
        if loss - new < TOLERANCE * abs(loss):
            break
        weights, loss = weights + size * step, new
    return (weights / scale).astype(np.float32)


def _loss(x_SNF: np.ndarray, truth_S: IntArray, weights: np.ndarray, ridge: float) -> float:
    logits = x_SNF @ weights
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float((total - logits[np.arange(len(logits)), truth_S]).sum() + ridge / 2 * weights @ weights)


def _newton_step(x_SNF: np.ndarray, truth_S: IntArray, weights: np.ndarray, ridge: float) -> np.ndarray:
    share_SN = softmax(x_SNF @ weights)
    mean_SF = np.matmul(share_SN[:, None, :], x_SNF)[:, 0]
    gradient = (x_SNF[np.arange(len(x_SNF)), truth_S] - mean_SF).sum(axis=0) - ridge * weights
    rooted = (x_SNF * np.sqrt(share_SN)[..., None]).reshape(-1, len(weights))
    hessian = rooted.T @ rooted - mean_SF.T @ mean_SF + ridge * np.eye(len(weights))
    return np.linalg.solve(hessian, gradient)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis; -inf is a probability of 0."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
