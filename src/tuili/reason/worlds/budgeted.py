"""Searching for a derivation within a budget of expansions, counted alike for every way of searching.

One expansion is one formula instantiated at a node: a law solved for a variable with its other variables
taken from known values or left open, applied to a partial derivation. Making a list of what could be
applied costs nothing; applying one of the list costs one, in every search below.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from tuili.errors import UsageError
from tuili.reason.policy import Floats, Ints, Policy
from tuili.reason.worlds.expansions import FEATURES, MAX_STEPS, Derivation, Expander

PRIOR = Policy.of_prior(FEATURES)
"""The policy that follows the heuristic."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found: the derivation with its value in SI base units, or the best so far as partial.

    `reason`: "" if found, else what ended the search: budget, time, or exhausted (nothing is left to try).
    """

    value: float | None
    derivation: Derivation | None
    num_expanded: int
    reason: str = ""

    @property
    def is_partial(self) -> bool:
        """Whether the search ended before it found a derivation."""
        return self.reason != ""


class Budget:
    """Counts expansions and watches the clock.

    Raises:
        UsageError: the budget or the time limit is negative.
    """

    def __init__(self, most: int, time_limit_s: float | None = None) -> None:
        if most < 0 or (time_limit_s is not None and time_limit_s < 0):
            raise UsageError(f"a budget of {most} expansions in {time_limit_s} s; neither may be negative")
        self.most, self.spent = most, 0
        self.end = None if time_limit_s is None else time.monotonic() + time_limit_s

    @property
    def ended(self) -> str:
        """What is used up: budget, time or ""."""
        if self.spent >= self.most:
            return "budget"
        return "time" if self.end is not None and time.monotonic() >= self.end else ""


class Search:
    """One search: applies expansions, keeps the furthest derivation."""

    def __init__(self, expander: Expander, budget: Budget) -> None:
        self.expander, self.budget = expander, budget
        self.best: Derivation | None = None

    def apply(self, state: Derivation, row: int) -> Derivation:
        """Apply a row of the state's fillings and count it."""
        self.budget.spent += 1
        following = self.expander.apply(state, self.expander.expansion(state, row))
        if self.best is None or self._reach(following) > self._reach(self.best):
            self.best = following
        return following

    def accepted(self, state: Derivation) -> float | None:
        """Return the value of a derivation that answers the problem, else None."""
        values = None if state.goals else self.expander.values(state)
        return values[0] if values else None

    def found(self, state: Derivation, value: float) -> Outcome:
        """Return a success."""
        return Outcome(value, state, self.budget.spent)

    def ended(self, reason: str) -> Outcome:
        """Return the best so far; it has no value, for something is still open or has no solution."""
        return Outcome(None, self.best, self.budget.spent, reason)

    @staticmethod
    def _reach(state: Derivation) -> tuple[int, int]:
        return state.used.bit_count(), -len(state.goals)


def enumerate_chains(expander: Expander, most: int, time_limit_s: float | None = None) -> Outcome:
    """Try expansions in the order of the collection, chains of one law first, then of two, and so on.

    Source: Korf, "Depth-first iterative-deepening", 1985; what is tried anew at each depth is counted anew.
    """
    search = Search(expander, Budget(most, time_limit_s))
    for depth in range(1, MAX_STEPS + 1):
        deeper = False
        for state, is_cut in _within(search, expander.start(), depth):
            deeper = deeper or is_cut
            value = None if is_cut else search.accepted(state)
            if value is not None:
                return search.found(state, value)
            if search.budget.ended:
                return search.ended(search.budget.ended)
        if not deeper:
            break
    return search.ended(search.budget.ended or "exhausted")


def _within(search: Search, state: Derivation, depth: int) -> Iterator[tuple[Derivation, bool]]:
    """Yield derivations of at most `depth` steps, depth first; True where more steps would be needed."""
    for row in search.expander.legal(state):
        if search.budget.ended:
            return
        following = search.apply(state, int(row))
        is_cut = len(following.steps) + len(following.goals) > depth
        yield following, is_cut
        if following.goals and not is_cut:
            yield from _within(search, following, depth)


def best_first(expander: Expander, most: int, policy: Policy = PRIOR, time_limit_s: float | None = None) -> Outcome:
    """Apply the expansion on the likeliest path under the policy first; the prior alone is the heuristic.

    Source: Orseau et al., "Single-Agent Policy Tree Search With Guarantees", 2018 (LevinTS without its
    factor for depth): nodes are taken by the product of the probabilities on their path. A complete
    derivation with unusual values waits until what is left is less likely still.
    """
    search = Search(expander, Budget(most, time_limit_s))
    queue = Queue(expander, policy)
    queue.add(expander.start(), 0.0)
    while queue.entries:
        entry = queue.pop()
        if entry.value is not None:
            return search.found(entry.state, entry.value)
        if search.budget.ended:
            continue
        following = search.apply(entry.state, int(entry.rows[entry.at]))
        queue.push(entry, entry.at + 1)
        if following.goals:
            queue.add(following, entry.cost)
        elif values := expander.values(following):
            queue.push_found(following, values, entry.cost)
    return search.ended(search.budget.ended or "exhausted")


def all_found(expander: Expander, most: int, wanted: int = 100, policy: Policy = PRIOR) -> list[Entry]:
    """Return up to `wanted` complete derivations that a budget finds, the likeliest under the policy first."""
    search = Search(expander, Budget(most))
    queue = Queue(expander, policy)
    queue.add(expander.start(), 0.0)
    found: list[Entry] = []
    while queue.entries and len(found) < wanted and not search.budget.ended:
        entry = queue.pop()
        following = search.apply(entry.state, int(entry.rows[entry.at]))
        queue.push(entry, entry.at + 1)
        if following.goals:
            queue.add(following, entry.cost)
        elif values := expander.values(following):
            found.append(replace(entry, state=following, value=values[0], num_expanded=search.budget.spent))
    return found


@dataclass(frozen=True, slots=True)
class Entry:
    """What waits in a queue: the next best expansion of a state, or a complete derivation with its value.

    `rows`: the expansions, the likeliest first; `costs`: of the paths through them; `num_expanded`: how many
    expansions had been applied when a complete derivation was found.
    """

    state: Derivation
    cost: float
    rows: Ints
    costs: Floats
    at: int = 0
    value: float | None = None
    num_expanded: int = 0


class Queue:
    """States with what may be done next, the cheapest first; the first in of equals."""

    def __init__(self, expander: Expander, policy: Policy) -> None:
        self.expander, self.policy = expander, policy
        self.entries: list[tuple[float, int, Entry]] = []
        self._order = count()

    def push(self, entry: Entry, at: int) -> None:
        """Put in an entry again with its expansion at a place, if there is one."""
        if at < len(entry.rows):
            cost = float(entry.costs[at])
            heapq.heappush(self.entries, (cost, next(self._order), replace(entry, at=at, cost=cost)))

    def push_found(self, state: Derivation, values: list[float], cost: float) -> None:
        """Put in a complete derivation; what speaks against it costs."""
        cost += self.expander.penalty(state, values)
        none = np.zeros(0, np.int64)
        entry = Entry(state, cost, none, none.astype(np.float32), value=values[0])
        heapq.heappush(self.entries, (cost, next(self._order), entry))

    def pop(self) -> Entry:
        """Take out the cheapest."""
        return heapq.heappop(self.entries)[2]

    def add(self, state: Derivation, cost: float) -> None:
        """Put in the expansions of a state with the costs of their paths, -log of the policy's probability."""
        rows = self.expander.legal(state)
        if len(rows):
            costs = cost - self.policy.log_probabilities(self.expander.choices(state, rows))
            order = np.argsort(costs, kind="stable")
            self.push(Entry(state, cost, rows[order], costs[order]), 0)
