"""Choosing among complete derivations."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_formulas import expander, known

from tuili.reason.worlds.budgeted import all_found
from tuili.reason.worlds.choosing import FACTS, Candidate, Chooser, candidates, num_digits
from tuili.reason.worlds.expansions import Derivation


@pytest.mark.parametrize(
    ("value", "digits"), [(20.0, 1), (0.4, 1), (0.36, 2), (2000.0, 1), (0.0, 5), (float("nan"), 5)]
)
def test_digits_a_person_needs(value: float, digits: int) -> None:
    assert num_digits(value) == digits


def test_other_units_may_need_fewer_digits() -> None:
    assert num_digits(50 / 3.6) == 1
    assert num_digits(0.3871237) >= 4


def test_facts_of_candidates() -> None:
    given = (known("mass of fuel", 2.0, "kg", 2.0), known("calorific value", 3e7, "J/kg", 6.0))
    problem = expander("heat released", "J", *given, needs_all=False)
    found = candidates(problem, all_found(problem, 50))
    assert found
    assert all(each.facts.shape == (len(FACTS),) and np.isfinite(each.facts).all() for each in found)
    right = next(each for each in found if each.value == pytest.approx(6e7))
    assert right.facts[FACTS.index("num_steps")] == 1.0
    assert right.facts[FACTS.index("uses_surest")] == 1.0
    assert right.facts[FACTS.index("repeated")] == right.facts[FACTS.index("num_not_positive")] == 0.0
    counts = [each.num_expanded for each in found]
    assert counts == sorted(counts)
    assert counts[0] > 0


def candidate(value: float, **facts: float) -> Candidate:
    return Candidate(Derivation(()), value, np.array([facts.get(name, 0.0) for name in FACTS], np.float32))


def test_a_chooser_learns_what_tells_the_right_one() -> None:
    examples = [
        (np.array([candidate(1.0, digits=1.0).facts, candidate(2.0, digits=4.0).facts]), [True, False])
        for _ in range(8)
    ]
    chooser = Chooser.learn(examples)
    assert chooser.weights[FACTS.index("digits")] < 0
    best = chooser.best([candidate(3.0, digits=4.0), candidate(5.0, digits=1.0)])
    assert best is not None
    assert best.value == 5.0
    assert chooser.best([]) is None


def test_candidates_of_one_value_support_one_another() -> None:
    chooser = Chooser(np.zeros(len(FACTS), np.float32))
    best = chooser.best([candidate(1.0), candidate(2.0), candidate(2.0)])
    assert best is not None
    assert best.value == 2.0
