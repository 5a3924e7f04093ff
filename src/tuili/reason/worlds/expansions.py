"""The and-or search over a collection of laws: a derivation grows backwards from the asked quantity.

A state is a partial derivation: laws applied so far and the quantities still open, the first of them next.
An action solves one law for the open quantity and takes each of the law's other quantities from what is
known or leaves it open (`fillings.py`). What is illegal for one way of searching is illegal for all: units
must fit, and no more quantities may stay open than known values are left for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tuili.errors import LimitError
from tuili.reason.policy import Choices, Floats, Ints
from tuili.reason.verify import solve
from tuili.reason.worlds.dimensions import Dimension
from tuili.reason.worlds.fillings import OPEN, SOLVED, Fillings, Problem, Wordings, bits
from tuili.reason.worlds.laws import Laws
from tuili.reason.worlds.namesakes import Namesakes
from tuili.reason.worlds.usage import Place, Usage

MAX_STEPS = 8
MAX_OPEN = 4
MAX_KNOWN = 60
FEATURES = (
    "usage",
    "usage_after",
    "context",
    "goal_name",
    "bound_names",
    "worst_name",
    "kinship",
    "relevance",
    "num_bound",
    "num_open",
    "num_goals",
    "num_unused",
    "slack",
    "closes",
    "reused",
    "could_bind",
    "depth",
)
UNSEEN = 2.0
"""What a chain of laws costs that was never seen as a whole, in nats."""

_HEURISTIC = {
    "usage_after": 1.0,
    "context": 1.0,
    "goal_name": 1.0,
    "bound_names": 1.5,
    "kinship": 2.0,
    "relevance": 1.0,
    "could_bind": -1.0,
    "num_open": -1.0,
    "reused": -2.0,
}
WEIGHTS = np.array([_HEURISTIC.get(name, 0.0) for name in FEATURES], np.float32)
"""The heuristic's weights; set by hand, not learnt."""


@dataclass(frozen=True, slots=True)
class Goal:
    """An open quantity: its dimension, and the step and variable that wait for it (-1: it is the asked one)."""

    dimension: Dimension
    step: int = -1
    variable: int = -1


@dataclass(frozen=True, slots=True)
class Expansion:
    """A law solved for one variable; `slots` has for each variable a known value's place, OPEN or SOLVED."""

    law: int
    solved: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Derivation:
    """A partial derivation; `used` has bit i set if known value i plays a part.

    `fills`: for each step the step and variable that it was done for.
    """

    goals: tuple[Goal, ...]
    steps: tuple[Expansion, ...] = ()
    fills: tuple[tuple[int, int], ...] = ()
    used: int = 0

    @property
    def parent(self) -> Place | None:
        """The law and variable that wait for the first open quantity."""
        goal = self.goals[0]
        return None if goal.step < 0 else (self.steps[goal.step].law, goal.variable)


class Expander:
    """The legal expansions of the derivations of one problem, with their features and log-priors.

    Raises:
        LimitError: the problem has more than `MAX_KNOWN` known values.
    """

    def __init__(self, laws: Laws, names: Namesakes, usage: Usage, problem: Problem) -> None:
        if len(problem.known) > MAX_KNOWN:
            raise LimitError(f"{len(problem.known)} known values; a derivation takes up to {MAX_KNOWN}, give fewer")
        self.laws, self.usage, self.problem = laws, usage, problem
        self.wordings = Wordings(laws, names, usage, problem)
        self._fillings: dict[Dimension | None, Fillings] = {}

    def start(self) -> Derivation:
        """Return the derivation that has only the asked quantity open."""
        return Derivation((Goal(()),))

    def fillings(self, state: Derivation) -> Fillings:
        """Return every way to get the first open quantity, legal in this state or not."""
        goal = state.goals[0]
        key = None if goal.step < 0 else goal.dimension
        if key not in self._fillings:
            dimensions = self.problem.dimensions if key is None else {key: 0.0}
            self._fillings[key] = Fillings(self.wordings, dimensions)
        return self._fillings[key]

    def legal(self, state: Derivation) -> Ints:
        """Return the rows of the fillings that are legal, in the order of the collection."""
        table = self.fillings(state)
        unused = self._all & ~np.uint64(state.used)
        num_unused = bits(unused)
        new_E = bits(table.mask_E & unused)
        goals_E = len(state.goals) - 1 + table.num_open_E
        is_legal = goals_E <= np.minimum(MAX_OPEN, num_unused - new_E)
        is_legal &= len(state.steps) + 1 + goals_E <= MAX_STEPS
        is_legal &= (new_E > 0) | (table.num_open_E > 0)
        if state.parent is not None:  # the same law again with nothing new would only undo its parent
            is_legal &= (new_E > 0) | (table.law_E != state.parent[0])
        if self.problem.needs_all:
            is_legal &= (goals_E > 0) | (new_E == num_unused)
        return np.flatnonzero(is_legal)

    @cached_property
    def _all(self) -> np.uint64:
        return np.uint64((1 << len(self.problem.known)) - 1)

    def expansion(self, state: Derivation, row: int) -> Expansion:
        """Return a row of the fillings as an expansion."""
        table = self.fillings(state)
        law = int(table.law_E[row])
        slots = tuple(int(slot) for slot in table.slots_EV[row, : len(self.laws.laws[law].variables)])
        return Expansion(law, int(table.solved_E[row]), slots)

    def apply(self, state: Derivation, expansion: Expansion) -> Derivation:
        """Return the derivation with one more step."""
        goal, step = state.goals[0], len(state.steps)
        variables = self.laws.laws[expansion.law].variables
        opened = tuple(
            Goal(variables[index].dimension, step, index) for index, slot in enumerate(expansion.slots) if slot == OPEN
        )
        used = state.used
        for slot in expansion.slots:
            used |= 1 << slot if slot >= 0 else 0
        fills = (*state.fills, (goal.step, goal.variable))
        return Derivation(opened + state.goals[1:], (*state.steps, expansion), fills, used)

    def values(self, state: Derivation) -> list[float] | None:
        """Return what each step of a complete derivation gives, in SI base units; the first is the asked quantity.

        None where a law has no real solution.
        """
        return self.values_at(state, [known.value for known in self.problem.known])

    def values_at(self, state: Derivation, known: Sequence[float]) -> list[float] | None:
        """Return what each step would give if the known quantities had other values."""
        found: dict[tuple[int, int], float] = {}
        for step in reversed(range(len(state.steps))):
            expansion = state.steps[step]
            values = {
                f"v{index}": known[slot] if slot >= 0 else found[step, index]
                for index, slot in enumerate(expansion.slots)
                if slot != SOLVED
            }
            result = solve(self.laws.laws[expansion.law].expr, f"v{expansion.solved}", values)
            if result is None:
                return None
            found[state.fills[step]] = result
        return [found[fill] for fill in state.fills]

    def chain(self, state: Derivation) -> list[tuple[Place, Place | None]]:
        """Return what each step solved, below which variable of which law."""
        parents = [None if step < 0 else (state.steps[step].law, variable) for step, variable in state.fills]
        return [((each.law, each.solved), parent) for each, parent in zip(state.steps, parents, strict=True)]

    def penalty(self, state: Derivation, values: list[float]) -> float:
        """Return what speaks against a complete derivation, 0 or more.

        Unusual values (an efficiency of 12, water of 8,000 °C), known values left out that seem needed, and a whole
        chain that no worked problem has.
        """
        unseen = UNSEEN if self.usage.patterns and not self.usage.pattern_weight(self.chain(state)) else 0.0
        surprise = sum(
            self.usage.surprise((each.law, each.solved), value) for each, value in zip(state.steps, values, strict=True)
        )
        left_out = [known.relevance for place, known in enumerate(self.problem.known) if not state.used >> place & 1]
        return unseen + surprise + sum(float(np.logaddexp(0.0, relevance)) for relevance in left_out)

    # -- features ------------------------------------------------------------------------------------

    def choices(self, state: Derivation, rows: Ints, walk: int = 0) -> Choices:
        """Return some rows of a state's fillings as the actions of a policy, features after `FEATURES`."""
        features = self.features(state, rows)
        return Choices(features, features @ WEIGHTS, np.array([0, len(rows)]), np.array([walk]))

    def features(self, state: Derivation, rows: Ints) -> Floats:
        """Return the features of rows of a state's fillings, (E, F)."""
        table = self.fillings(state)
        unused = self._all & ~np.uint64(state.used)
        usage_E, after_E = table.usage(state.parent)
        new_E = table.mask_E[rows] & unused
        num_new_E, num_open_E = bits(new_E), table.num_open_E[rows]
        num_goals_E = len(state.goals) - 1 + num_open_E
        num_left_E = bits(unused) - num_new_E
        left_E1 = (unused & ~table.mask_E[rows])[:, None]
        columns = (
            usage_E[rows],
            after_E[rows] + table.weight_E[rows],
            table.context_E[rows],
            table.asked_E[rows],
            table.names_E[rows],
            table.worst_E[rows],
            table.kinship_E[rows],
            self.wordings.relevance(new_E),
            table.num_bound_E[rows],
            num_open_E,
            num_goals_E,
            num_left_E,
            num_left_E - num_goals_E,
            num_goals_E == 0,
            table.num_bound_E[rows] - num_new_E,
            ((table.fitting_EV[rows] & left_E1) != 0).sum(axis=1),
            np.full(len(rows), len(state.steps)),
        )
        return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)
