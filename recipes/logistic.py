"""Logistic regression, small and without a library: of labels, and of choices among candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_FOLDS = 5
MAX_STEPS = 200
TOLERANCE = 1e-9


def fit_labels(features_ND: np.ndarray, labels_N: np.ndarray, l2: float = 1.0) -> np.ndarray:
    """Return weights [D + 1], the bias last, that maximise the penalised likelihood of labels 0 and 1.

    Features are scaled to unit variance inside, so that the penalty treats them alike; the weights are
    those of the features as given. The bias is not penalised. Newton's method, O(steps * N * D²).
    """
    scale_D = np.where(features_ND.std(axis=0) > 0, features_ND.std(axis=0), 1.0)
    design = np.hstack([features_ND / scale_D, np.ones((len(features_ND), 1))])
    penalty = np.full(design.shape[1], l2)
    penalty[-1] = 1e-6
    weights = np.zeros(design.shape[1])
    for _ in range(MAX_STEPS):
        probability_N = sigmoid(design @ weights)
        gradient = design.T @ (labels_N - probability_N) - penalty * weights
        curvature = (design * (probability_N * (1 - probability_N))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weights += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < TOLERANCE:
            break
    return np.append(weights[:-1] / scale_D, weights[-1])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-logits)) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def fit_choices(
    candidates: Sequence[np.ndarray], right: Sequence[np.ndarray], importance: Sequence[float], l2: float = 0.01
) -> np.ndarray:
    """Return weights [D], none negative, under which the right candidates of each item are likeliest.

    `candidates` holds one [C, D] per item, `right` one boolean [C]. The probability that a right one is
    chosen is the softmax over the item's candidates. Gradient ascent with halved steps, projected.
    Source: McFadden, "Conditional Logit Analysis of Qualitative Choice Behavior", 1974.
    """
    weights = np.ones(candidates[0].shape[1])
    value, gradient = _choice_likelihood(weights, candidates, right, importance, l2)
    step = 1.0
    for _ in range(MAX_STEPS * 10):
        trial = np.maximum(weights + step * gradient, 0.0)
        trial_value, trial_gradient = _choice_likelihood(trial, candidates, right, importance, l2)
        if trial_value < value:
            step /= 2
            if step < TOLERANCE:
                break
            continue
        is_done = np.abs(trial - weights).max() < TOLERANCE
        weights, value, gradient, step = trial, trial_value, trial_gradient, step * 1.5
        if is_done:
            break
    return weights


def _choice_likelihood(
    weights: np.ndarray,
    candidates: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    importance: Sequence[float],
    l2: float,
) -> tuple[float, np.ndarray]:
    """Return the penalised log-likelihood per item and its gradient."""
    total = sum(importance)
    value, gradient = -0.5 * l2 * float(weights @ weights), -l2 * weights
    for features_CD, right_C, share in zip(candidates, right, importance, strict=True):
        scores = features_CD @ weights
        all_C = np.exp(scores - scores.max())
        among_right = np.where(right_C, all_C, 0.0)
        value += share / total * float(np.log(among_right.sum() / all_C.sum()))
        expected = among_right / among_right.sum() - all_C / all_C.sum()
        gradient = gradient + share / total * (expected @ features_CD)
    return value, gradient


def folds(ids: Sequence[str]) -> np.ndarray:
    """Return a fold for each item; items of one id fall into one fold, whatever their order."""
    place = {name: number % NUM_FOLDS for number, name in enumerate(sorted(set(ids)))}
    return np.array([place[name] for name in ids])
