"""Which values are needed and what a gap is, learnt from a few questions."""

from __future__ import annotations

import numpy as np
import pytest

from tuili.reason.worlds.dimensions import read_dimension
from tuili.reason.worlds.givens import Given, read_question
from tuili.reason.worlds.relevance import GapDimensions, Relevance

KILOGRAM, SECOND = (read_dimension(unit)[1] for unit in ("kg", "s"))  # type: ignore[index]


def question(mass: int) -> str:
    return f"A stone of {mass} kg falls. The parameter voltage is 220 V. If we know the answer is 3 J, what is [X]?"


def test_distractors_are_told_from_what_is_needed() -> None:
    askings = [read_question(question(mass)) for mass in (2, 3, 5, 7)]
    needed = [["kg" in each.text or "J" in each.text for each in asking.givens] for asking in askings]
    relevance = Relevance(list(zip(askings, needed, strict=True)))
    asking = read_question(question(11))
    odds = dict(zip([each.text for each in asking.givens], relevance(asking), strict=True))
    assert odds["11 kg"] > 0 > odds["220 V"]
    assert odds["3 J"] == pytest.approx(6.0)
    assert relevance(read_question("no value")).shape == (0,)


def test_a_gap_is_known_by_its_words() -> None:
    examples = [
        ("a stone with a mass of", "", KILOGRAM, 1.0),
        ("sand with a mass of", "of sand", KILOGRAM, 1.0),
        ("it falls for a time of", "", SECOND, 1.0),
        ("the time taken is", "", SECOND, 1.0),
    ]
    dimensions = GapDimensions(examples)
    found = dimensions(Given(0.0, (), "a bag with a mass of", "", "[X]"), 2)
    assert found[KILOGRAM] > found[SECOND]
    assert np.logaddexp.reduce(list(found.values())) == pytest.approx(0.0, abs=1e-5)
    assert len(dimensions(Given(0.0, (), "", "", "[X]"), 1)) == 1
