"""Which values are needed and what a gap is, learnt from a few questions."""

from __future__ import annotations

import numpy as np
import pytest

from tuili.reason.worlds.dimensions import read_dimension
from tuili.reason.worlds.givens import Given, read_question
from tuili.reason.worlds.relevance import Company, GapDimensions, Relevance

KILOGRAM, SECOND, VOLT, JOULE = (read_dimension(unit)[1] for unit in ("kg", "s", "V", "J"))  # type: ignore[index]


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


def test_what_belongs_together_is_learnt_from_dimensions_alone() -> None:
    examples = [([(KILOGRAM, False), (VOLT, False)], JOULE, [True, False])] * 6
    examples += [([(VOLT, False), (SECOND, False)], JOULE, [True, True])] * 6
    company = Company(examples)
    mass, volt = company([(KILOGRAM, False), (VOLT, False)], JOULE)
    assert mass > 0 > volt
    assert min(company([(VOLT, False), (SECOND, False)], JOULE)) > 0
    assert company([], JOULE).shape == (0,)

    askings = [read_question(question(mass)) for mass in (2, 3, 5, 7)]
    needed = [["kg" in each.text or "J" in each.text for each in asking.givens] for asking in askings]
    learnt = list(zip(askings, needed, strict=True))
    asking = read_question(
        "A stone of 4 kg is struck. A lamp of 12 V shines. If we know the answer is 3 J, what is [X]?"
    )
    odds, alone = Relevance(learnt, company)(asking), Relevance(learnt)(asking)
    assert odds[0] - odds[1] > alone[0] - alone[1]
    assert odds[2] == pytest.approx(6.0)


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
