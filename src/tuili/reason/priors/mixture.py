"""One calibrated distribution over answers from several scorers; weights fitted on validation queries only.

    p(v) = softmax over candidates of sum_m weight_m * log p_m(v)

A product of experts: `weight_m` is 0 where a scorer adds nothing. Known answers are no candidates.
Source: Hinton 2002, "Training Products of Experts by Minimizing Contrastive Divergence", eq. 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tuili.errors import InputError
from tuili.reason.priors.facts import Bools, Floats, Ints

LEAST_MASS = 1e-6
NUM_STEPS = 300
RATE = 0.05
PENALTY = 1e-3


@dataclass(frozen=True, slots=True)
class Mixture:
    """A weight, not negative, for each scorer by name."""

    weights: Mapping[str, float]

    def scores(self, parts: Mapping[str, Floats]) -> Floats:
        """Return the log-probability of every candidate, (B, N), from each scorer's own.

        Raises:
            InputError: a scorer is missing, or gave what is not a number.
        """
        if missing := [name for name in self.weights if name not in parts]:
            raise InputError(f"the mixture needs {', '.join(missing)} too; fit it anew without")
        if bad := [name for name in self.weights if np.isnan(parts[name]).any()]:
            raise InputError(f"{', '.join(bad)} gave what is not a number; mend the scorer")
        stack_MBN = np.stack([parts[name] for name in self.weights])
        weight_M = np.array(list(self.weights.values()), np.float32)
        return log_softmax(np.tensordot(weight_M, stack_MBN, 1))


def log_softmax(scores_BN: Floats, banned_BN: Bools | None = None) -> Floats:
    """Return log-probabilities within each row; what is banned gets that of `LEAST_MASS`, or less."""
    if banned_BN is not None:
        scores_BN = np.where(banned_BN, -np.inf, scores_BN)
    best_B1 = scores_BN.max(1, keepdims=True)
    best_B1[~np.isfinite(best_B1)] = 0
    total_B1 = np.exp(scores_BN - best_B1).sum(1, keepdims=True)
    logs = scores_BN - best_B1 - np.log(np.maximum(total_B1, np.finfo(np.float32).tiny))
    return np.asarray(np.maximum(logs, 2 * np.log(LEAST_MASS)), np.float32)


def log_mass(mass_BN: Floats) -> Floats:
    """Return the logarithm of a beam's mass, smoothed for what it didn't reach."""
    return np.asarray(np.log(mass_BN + LEAST_MASS), np.float32)


def fit_mixture(parts: Mapping[str, Floats], answer_B: Ints, banned_BN: Bools | None = None) -> Mixture:
    """Return the weights with the least cross-entropy of the answers, by Adam on their logarithms from equal ones.

    `banned_BN`: answers known otherwise, which are no candidates. O(steps * scorers * B * N).
    """
    stack_MBN = np.stack(list(parts.values())).astype(np.float64)
    theta = np.full(len(stack_MBN), -np.log(len(stack_MBN)))
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    rows = np.arange(len(answer_B))
    right_MB = stack_MBN[:, rows, answer_B]
    for step in range(1, NUM_STEPS + 1):
        p_BN = np.exp(log_softmax(np.tensordot(np.exp(theta), stack_MBN, 1), banned_BN))
        wanted_M = np.einsum("bn,mbn->m", p_BN, stack_MBN) / len(rows) - right_MB.mean(1)
        gradient = np.exp(theta) * (wanted_M + PENALTY * np.exp(theta))
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        theta -= RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
    return Mixture(dict(zip(parts, np.exp(theta).tolist(), strict=True)))
