"""The world in which a policy learns which formula to expand next: walks that grow derivations.

A walk ends when nothing is open (reward 1 if the value is right) or nothing is legal (reward 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tuili.errors import InputError
from tuili.reason.policy import Choices, Ints, Step, join
from tuili.reason.worlds.expansions import FEATURES, Derivation, Expander

TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Exercise:
    """A problem to practise on; the expander is made when it is drawn. `gold`: the right value, SI base units."""

    expander: Callable[[], Expander]
    gold: float


@dataclass(slots=True)
class Walk:
    """A walk on its way: where it is, and the rows of the fillings that are legal there."""

    number: int
    expander: Expander
    gold: float
    state: Derivation
    rows: Ints


def is_right(value: float, gold: float) -> bool:
    """Tell whether a value is within 1 % of the right one."""
    return abs(value - gold) <= TOLERANCE * abs(gold)


class Expanding:
    """Many derivations grown at once over exercises drawn at random.

    Raises:
        InputError: there are no exercises.
    """

    feature_names = FEATURES

    def __init__(self, exercises: Sequence[Exercise]) -> None:
        if not exercises:
            raise InputError("there are 0 exercises; a policy needs at least one worked problem to learn from")
        self.exercises = exercises
        self._walks: list[Walk] = []

    def start(self, num_walks: int, rng: np.random.Generator) -> Choices:
        """Begin walks on exercises that have anything to try.

        Raises:
            InputError: no exercise of many drawn has.
        """
        self._walks = []
        for drawn in rng.integers(len(self.exercises), size=20 * num_walks):
            expander = self.exercises[drawn].expander()
            state = expander.start()
            rows = expander.legal(state)
            if len(rows):
                self._walks.append(Walk(len(self._walks), expander, self.exercises[drawn].gold, state, rows))
            if len(self._walks) == num_walks:
                return self._choices()
        raise InputError(
            f"only {len(self._walks)} of {20 * num_walks} exercises drawn can be begun with; check that the laws' "
            "dimensions are those of the problems"
        )

    def step(self, picked_S: Ints) -> Step:
        """Apply one expansion in every walk."""
        rewards = np.zeros(len(self._walks), np.float32)
        done = np.zeros(len(self._walks), bool)
        for at, (walk, picked) in enumerate(zip(self._walks, picked_S, strict=True)):
            expansion = walk.expander.expansion(walk.state, int(walk.rows[picked]))
            walk.state = walk.expander.apply(walk.state, expansion)
            if not walk.state.goals:
                values = walk.expander.values(walk.state)
                rewards[at], done[at] = float(values is not None and is_right(values[0], walk.gold)), True
                continue
            walk.rows = walk.expander.legal(walk.state)
            done[at] = len(walk.rows) == 0
        self._walks = [walk for walk, is_over in zip(self._walks, done, strict=True) if not is_over]
        return Step(rewards, done, self._choices() if self._walks else None)

    def _choices(self) -> Choices:
        return join([walk.expander.choices(walk.state, walk.rows, walk.number) for walk in self._walks])
