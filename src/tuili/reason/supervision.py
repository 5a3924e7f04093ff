"""Which paths lead to known answers: the training signal where nobody wrote the path down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuili.reason.worlds.hops import Frontier, Hops, IntArray, start_at

# A path's reward leans to precision: a base that lacks facts still leads to some of the answers.
BETA = 0.5


@dataclass(frozen=True, slots=True)
class Budget:
    """How far a search for paths goes: hops, hops tried in all, edges that one hop may follow."""

    max_hops: int = 3
    max_tried: int = 600
    max_edges: int = 5_000


@dataclass(frozen=True, slots=True)
class Lead:
    """A path from a question's start, how well its end fits the answers (0 to 1), and where it could have gone.

    `available_KA`: for each of the path's states, its end included, which actions had edges.
    """

    path: tuple[int, ...]
    reward: float
    available_KA: NDArray[np.bool_]


def f_score(found: IntArray, answers: IntArray, beta: float = 1.0) -> float:
    """Return F of two ascending sets of nodes; beta < 1 leans to precision. Source: van Rijsbergen 1979, chapter 7."""
    num_right = num_shared(found, answers)
    total = len(found) + beta * beta * len(answers)
    return (1 + beta * beta) * num_right / total if total else 0.0


def num_shared(left: IntArray, right: IntArray) -> int:
    """Return how many nodes two ascending sets share."""
    if not len(left) or not len(right):
        return 0
    place = np.minimum(np.searchsorted(right, left), len(right) - 1)
    return int((right[place] == left).sum())


def leads(hops: Hops, start: IntArray, answers: IntArray, budget: Budget, keep: int = 6) -> list[Lead]:
    """Return the paths whose ends fit the answers best, best first, shorter ones first among equals.

    Breadth first, hops with few edges first; hops over the budget are not taken.
    """
    found = sorted(_walks(hops, start_at(start.tolist()), answers, budget), key=lambda one: one.order)
    return [_lead(hops, one, budget.max_hops) for one in found[:keep]]


@dataclass(frozen=True, slots=True)
class _Walk:
    """A path, where it ends, what left each of its states, and its reward."""

    path: tuple[int, ...]
    end: Frontier
    leaving: tuple[IntArray, ...] = ()
    reward: float = 0.0

    @property
    def order(self) -> tuple[float, int, tuple[int, ...]]:
        return -self.reward, len(self.path), self.path


def _walks(hops: Hops, start: Frontier, answers: IntArray, budget: Budget) -> Iterator[_Walk]:
    """Yield the walks within the budget that reach an answer."""
    answers, num_tried = np.unique(answers), 0
    layer = [_Walk((), start)]
    for _ in range(budget.max_hops):
        following: list[_Walk] = []
        for walk in layer:
            leaving = hops.leaving(walk.end.nodes_V)
            ends = sorted(hops.spread(walk.end, budget.max_edges).items(), key=lambda one: one[1].num_edges)
            for action, reached in ends[: max(0, budget.max_tried - num_tried)]:
                num_tried += 1
                end = reached.without(start.nodes_V)
                reward = f_score(end.nodes_V, answers, BETA)
                following.append(_Walk((*walk.path, action), end, (*walk.leaving, leaving), reward))
        yield from (one for one in following if one.reward > 0)
        layer = [one for one in following if len(one.end.nodes_V)]


def _lead(hops: Hops, walk: _Walk, max_hops: int) -> Lead:
    """Return a walk as a lead; after the last hop nothing but to stop is left."""
    at_end = hops.leaving(walk.end.nodes_V) if len(walk.path) < max_hops else np.zeros_like(walk.leaving[0])
    return Lead(walk.path, walk.reward, np.array([*walk.leaving, at_end]) > 0)
