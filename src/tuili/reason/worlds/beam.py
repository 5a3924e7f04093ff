"""Beam search over walks: the best few of each query under a policy, and the probability mass that they bring.

The mass of all kept walks that end at an entity is added up, where MINERVA takes the best walk's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuili.errors import UsageError
from tuili.reason.policy import Floats, Ints, Policy
from tuili.reason.worlds.paths import STOP, Actions, Paths, Standing

CHUNK = 64

# Gives the log-probability of every action within its state, for walks at a hop.
Judge = Callable[[Standing, int, Actions], Floats]


def following(policy: Policy) -> Judge:
    """Return what judges actions as a policy does."""
    return lambda walks, hop, actions: policy.log_probabilities(actions.choices)


@dataclass(frozen=True, slots=True)
class Reached:
    """What a beam reached: mass (Q, N), and how many distinct edges it kept for each query (Q,)."""

    mass_QN: Floats
    kept_Q: Ints


def search(world: Paths, judge: Judge, width: int, chunk: int = CHUNK) -> Reached:
    """Search every query of the world with a beam of `width` walks.

    O(Q hops width degree F). A width of 0 keeps nothing and reaches nothing.

    Raises:
        UsageError: the width is negative.
    """
    if width < 0:
        raise UsageError(f"a beam keeps 0 walks or more, not {width}")
    num = len(world.queries)
    reached = Reached(np.zeros_like(world.queries.mixture_QN), np.zeros(num, np.int64))
    for begin in range(0, num if width else 0, chunk):
        _search(world, judge, width, np.arange(begin, min(num, begin + chunk)), reached)
    return reached


def _search(world: Paths, judge: Judge, width: int, query_W: Ints, reached: Reached) -> None:
    """Search some queries and write down what they reach."""
    walks, scores = world.begin(query_W), np.zeros(len(query_W), np.float32)
    ended: list[tuple[Standing, Floats]] = []
    kept: list[Ints] = []
    for hop in range(world.config.max_hops):
        actions = world.actions(walks, hop, np.arange(len(walks)), None)
        total_E = scores[actions.state_E] + judge(walks, hop, actions)
        taken = best_with(ended, walks.query_S[actions.state_E], total_E, width)
        kept.append(_edges(world, walks, actions, taken))
        after, stopped = world.follow(walks, actions, taken)
        ended.append((after.take(stopped), total_E[taken][stopped]))
        walks, scores = after.take(~stopped), total_E[taken][~stopped]
        if not len(walks):
            break
    for standing, total in (*ended, (walks, scores)):
        np.add.at(reached.mass_QN, (standing.query_S, standing.at_S), np.exp(total))
    query_K = np.unique(np.concatenate(kept), axis=0)[:, 0]
    reached.kept_Q[:] += np.bincount(query_K, minlength=len(reached.kept_Q))


def best_with(ended: list[tuple[Standing, Floats]], query_E: Ints, total_E: Floats, width: int) -> Ints:
    """Return the actions among each query's `width` best; walks that stopped before keep their places."""
    used = np.zeros(int(query_E.max()) + 1, np.int64)
    for standing, _ in ended:
        used += np.bincount(standing.query_S, minlength=len(used))[: len(used)]
    order = np.lexsort((-total_E, query_E))
    ordered = query_E[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < np.maximum(width - used[ordered], 0)])


def _edges(world: Paths, walks: Standing, actions: Actions, taken: Ints) -> Ints:
    """Return the edges taken as (query, from, relation, to)."""
    state, relation, to = actions.state_E[taken], actions.relation_E[taken], actions.to_E[taken]
    edges = np.column_stack([walks.query_S[state], walks.at_S[state], relation, to])
    return edges[relation != STOP]
