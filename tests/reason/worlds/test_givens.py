"""Values of a question with the words that name them, the gap, and the answer that is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.reason.worlds.dimensions import read_dimension
from tuili.reason.worlds.givens import read_question

QUESTION = (
    "A stove heats 2 kg of water from an initial temperature of 20 °C to [X], burning 0.05 kg of wood. "
    "What is the efficiency of the stove? (The calorific value of wood is 1.2*10^7 J/kg) "
    "The value of the parameter voltage is 220 V. "
    "If we already know that the answer to the above question is 70%, what should the content of [X] be?"
)


def test_values_and_their_words() -> None:
    asking = read_question(QUESTION)
    by_text = {each.text: each for each in asking.givens if "implied" not in each.traits}
    assert list(by_text) == ["2 kg", "20 °C", "0.05 kg", "1.2*10^7 J/kg", "220 V", "70%"]
    assert "wood" in by_text["0.05 kg"].after
    assert "calorific value of wood" in by_text["1.2*10^7 J/kg"].before
    assert by_text["1.2*10^7 J/kg"].dimension == read_dimension("J/kg")[1]  # type: ignore[index]


def test_the_answer_is_named_by_the_question() -> None:
    answer = next(each for each in read_question(QUESTION).givens if each.text == "70%")
    assert answer.traits == {"answer"}
    assert answer.value == pytest.approx(0.7)
    assert "efficiency of the stove" in answer.before


def test_the_gap() -> None:
    asking = read_question(QUESTION)
    assert asking.gap is not None
    assert not asking.has_unit
    assert "final" in asking.gap.traits
    assert "temperature" in asking.gap.before


def test_a_unit_after_the_gap_is_its_dimension() -> None:
    asking = read_question("How much heat do [X] kilograms of coal give? If we know the answer is 3 MJ, what is [X]?")
    assert asking.has_unit
    assert asking.gap is not None
    assert asking.gap.dimension == read_dimension("kg")[1]  # type: ignore[index]


def test_a_distractor_is_marked() -> None:
    voltage = next(each for each in read_question(QUESTION).givens if each.text == "220 V")
    assert {"parameter", "last"} <= voltage.traits


def test_typesetting_is_read() -> None:
    asking = read_question(r"The density is \( 0.8 \times 10^3 \text{ kg/m}^3 \) and the mass is [X].")
    assert asking.givens[0].value == pytest.approx(800.0)


def test_labels_of_two_values() -> None:
    values = [each.value for each in read_question('A bulb labelled "6V2.4W" is at [X].').givens]
    assert values == [6.0, 2.4]


def test_what_is_left_unsaid() -> None:
    unsaid = {each.text: each.value for each in read_question(QUESTION).givens if "implied" in each.traits}
    assert unsaid["specific heat capacity of water"] == 4200.0
    told = read_question("The specific heat capacity of water is 4.0*10^3 J/(kg·℃); the water boils at [X].").givens
    assert [each.value for each in told if each.dimension == told[0].dimension] == [4000.0]
    assert 100.0 in [each.value for each in told]


@pytest.mark.parametrize("question", ["", "[X]", "no number at all?", "If we already know the answer is"])
def test_questions_without_values(question: str) -> None:
    asking = read_question(question)
    assert asking.givens == ()
    assert (asking.gap is not None) == (question == "[X]")


@given(st.text(max_size=120))
def test_any_text_is_read(text: str) -> None:
    asking = read_question(text)
    assert all(isinstance(each.value, float | int) for each in asking.givens)


@pytest.mark.parametrize(
    "question",
    [
        "If the heat released by the complete combustion of gasoline, [X], is used to drive the car, find the work.",
        "If [X] of the heat released by the gas is absorbed by the water, how much gas is needed?",
        "The heat released by the wood [X] is absorbed by the water, how much wood is needed?",
        "The efficiency of the electric water heater is [X], and the rated power is 2 kW. How long does it take?",
    ],
)
def test_a_gap_that_is_a_share_has_no_dimension(question: str) -> None:
    asking = read_question(question)
    assert asking.gap is not None and asking.has_unit
    assert (asking.gap.value, asking.gap.dimension) == (1.0, ()) and "share" in asking.gap.names[2]


@pytest.mark.parametrize(
    "question",
    [
        "If the mass of the water is [X], how much heat is absorbed?",
        "The efficiency is 60 %. The power is [X]. How long does it take?",
        "[X] of water is heated from 20 °C to 60 °C. What heat is absorbed?",
        "A stove uses [X] of gas. The heat is used to warm water.",
    ],
)
def test_other_gaps_are_no_shares(question: str) -> None:
    asking = read_question(question)
    assert asking.gap is not None and not asking.has_unit and "share" not in asking.gap.traits


def test_a_heading_gives_the_gap_its_unit() -> None:
    asking = read_question("Average speed (km/h) 36 Driving distance/km [X] The loss is negligible.")
    assert asking.gap is not None and asking.has_unit
    assert (asking.gap.value, asking.gap.dimension) == (1000.0, (("meter", 1.0),))
    assert asking.givens[0].value == 10.0


def test_a_gap_that_stands_for_something_is_named_by_it() -> None:
    asking = read_question("The mass of a certain substance, represented by [X], absorbs 2 J of heat. How warm is it?")
    assert asking.gap is not None and asking.gap.before == "The mass of a certain substance represented by"
