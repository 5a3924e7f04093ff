"""Which paths lead to known answers: the training signal where nobody wrote the path down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuili.reason.worlds.hops import Frontier, Hops, IntArray, hop, start_at

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
    """Return F of two sets of distinct nodes; beta < 1 leans to precision. Source: van Rijsbergen 1979, chapter 7."""
    num_right = len(np.intersect1d(found, answers, assume_unique=True))
    total = len(found) + beta * beta * len(answers)
    return (1 + beta * beta) * num_right / total if total else 0.0


def leads(hops: Hops, start: IntArray, answers: IntArray, budget: Budget, keep: int = 6) -> list[Lead]:
    """Return the paths whose ends fit the answers best, best first, shorter ones first among equals.

    Breadth first, hops with few edges first; hops over the budget are not taken.
    """
    found = [lead for lead in _walks(hops, start_at(start.tolist()), answers, budget) if lead.reward > 0]
    found.sort(key=lambda lead: (-lead.reward, len(lead.path), lead.path))
    return found[:keep]


def _walks(hops: Hops, start: Frontier, answers: IntArray, budget: Budget) -> Iterator[Lead]:
    answers = np.unique(answers)
    layer: list[tuple[tuple[int, ...], Frontier, list[IntArray]]] = [((), start, [])]
    num_tried = 0
    for depth in range(budget.max_hops):
        following = []
        for path, frontier, history in layer:
            leaving = hops.leaving(frontier.nodes_V)
            for action in _by_size(leaving, budget.max_edges):
                if num_tried >= budget.max_tried:
                    return
                num_tried += 1
                reached = hop(hops, frontier, action, start)
                if not len(reached.nodes_V):
                    continue
                one = ((*path, action), reached, [*history, leaving])
                reward = f_score(reached.nodes_V, answers, BETA)
                if reward > 0:
                    yield _lead(hops, one, reward)
                if depth + 1 < budget.max_hops:
                    following.append(one)
        layer = following


def _by_size(leaving: IntArray, max_edges: int) -> list[int]:
    """Return the actions that can be taken within the budget, those with few edges first."""
    possible = np.flatnonzero((leaving > 0) & (leaving <= max_edges))
    return possible[np.argsort(leaving[possible], kind="stable")].tolist()


def _lead(hops: Hops, walk: tuple[tuple[int, ...], Frontier, list[IntArray]], reward: float) -> Lead:
    path, reached, history = walk
    return Lead(path, reward, np.array([*history, hops.leaving(reached.nodes_V)]) > 0)
