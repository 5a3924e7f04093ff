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
