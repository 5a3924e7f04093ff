"""Ranks of the right tail among all entities that are not known to be right too, and what is counted of them.

Of equals the rank is the mean of the best and the worst possible.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from runner import Result
from tuili.reason.priors.facts import Bools, Floats, Ints

METRICS = ("hits1", "hits3", "hits10", "mrr")


def ranks(scores_QN: Floats, answer_Q: Ints, known_QN: Bools) -> np.ndarray:
    """Return the filtered rank of each answer, from 1.

    Raises:
        ValueError: a score is not a number, which would look like a hit.
    """
    if np.isnan(scores_QN).any():
        raise ValueError("a score is not a number")
    gold_Q1 = scores_QN[np.arange(len(answer_Q)), answer_Q][:, None]
    rival_QN = ~known_QN
    better_Q = ((scores_QN > gold_Q1) & rival_QN).sum(1)
    equal_Q = ((scores_QN == gold_Q1) & rival_QN).sum(1) - 1
    return np.asarray(1 + better_Q + equal_Q / 2)


def measure(rank_Q: np.ndarray) -> dict[str, float]:
    """Return Hits@1, 3, 10 and the mean reciprocal rank."""
    hits = {f"hits{k}": float((rank_Q <= k).mean()) for k in (1, 3, 10)}
    return {**hits, "mrr": float((1 / rank_Q).mean())}


def rows(
    prefix: str,
    rank_SQ: Sequence[np.ndarray],
    *,
    metrics: Sequence[str] = METRICS,
    baseline: Mapping[str, Mapping[str, Any]] | None = None,
    targets: Mapping[str, float] | None = None,
) -> Iterator[Result]:
    """Yield the mean of each metric over seeds; the spread is the standard deviation, n the number of seeds."""
    each = [measure(rank_Q) for rank_Q in rank_SQ]
    for name in metrics:
        values = [one[name] for one in each]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        target, peer = (targets or {}).get(name), (baseline or {}).get(name)
        yield Result(f"{prefix}.{name}", float(np.mean(values)), "fraction", spread, len(values), peer, target)


def by_query(rank_SQ: Sequence[np.ndarray]) -> dict[tuple[int, int], float]:
    """Return a hit (1) or miss (0) at rank 1 for every (seed, query), to be compared in pairs."""
    return {(s, q): float(rank <= 1) for s, rank_Q in enumerate(rank_SQ) for q, rank in enumerate(rank_Q)}
