"""The rules by which an answer is right, the peers, and what is computed from right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asking.accuracy import accuracy, best_peer, slug
from asking.answers import Asked
from asking.calibration import bin_of, brier, calibration, confidences, ece, probabilities
from asking.descriptions import reciprocal_rank
from asking.peers import Bm25, peer_answer
from asking.questions import FOLDER, Question, development, few_of_each, held_out, question
from asking.scoring import is_right, says
from tuili.knowledge.graph import Graph
from tuili.knowledge.store import Store
from tuili.reason.answer import Answer, Number, Scored


def asked_for(**gold: object) -> Question:
    return question({"id": "q", "kb": "python", "question": "?", "kind": "a kind", **gold})


def named(*entities: tuple[str, float], text: str = "", abstained: bool = False) -> Answer:
    scored = tuple(Scored(name, probability) for name, probability in entities)
    return Answer("?", text, "python", scored, abstained=abstained, confidence=0.8)


def number(magnitude: float, unit: str = "") -> Answer:
    return Answer("?", "", "formulas", value=Number(magnitude, unit))


@pytest.mark.parametrize(
    ("entities", "right"),
    [
        ([("a", 0.9), ("b", 0.5)], True),
        ([("b", 0.9), ("a", 0.9), ("c", 0.49)], True),
        ([("a", 0.9)], False),
        ([("a", 0.9), ("b", 0.9), ("c", 0.5)], False),
        ([("a", 0.9), ("b", 0.4)], False),
        ([("A", 0.9), ("b", 0.9)], False),
        ([], False),
    ],
)
def test_the_names_from_one_half_up_must_be_the_right_set(entities: Sequence[tuple[str, float]], right: bool) -> None:
    assert is_right(asked_for(entities=["a", "b"]), named(*entities)) is right


@pytest.mark.parametrize(
    ("magnitude", "unit", "gold_unit", "right"),
    [
        (100.0, "meter", "meter", True),
        (101.9, "meter", "meter", True),
        (102.1, "meter", "meter", False),
        (0.1, "kilometer", "meter", True),
        (100.0, "second", "meter", False),
        (100.0, "", "meter", False),
        (100.0, "no unit at all", "meter", False),
        (100.0, "", "", True),
        (10000.0, "percent", "", True),
        (100.0, "newton * meter", "joule", True),
    ],
)
def test_a_number_is_right_within_two_percent_in_a_compatible_unit(
    magnitude: float, unit: str, gold_unit: str, right: bool
) -> None:
    gold = asked_for(value={"magnitude": 100.0, "unit": gold_unit})
    assert is_right(gold, number(magnitude, unit)) is right


@pytest.mark.parametrize(
    ("magnitude", "unit", "right"),
    [
        (25.0, "degree_Celsius", True),
        (25.4, "degree_Celsius", True),
        (20.0, "degree_Celsius", False),
        (298.15, "kelvin", True),
        (77.0, "degree_Fahrenheit", True),
        (25.0, "kelvin", False),
    ],
)
def test_temperatures_are_compared_on_the_right_answers_scale(magnitude: float, unit: str, right: bool) -> None:
    gold = asked_for(value={"magnitude": 25.0, "unit": "degree_Celsius"})
    assert is_right(gold, number(magnitude, unit)) is right


def test_a_right_zero_is_zero() -> None:
    gold = asked_for(value={"magnitude": 0.0, "unit": "meter"})
    assert is_right(gold, number(0.0, "millimeter")) and not is_right(gold, number(0.001, "meter"))


def test_of_several_values_the_last_one_counts() -> None:
    gold = asked_for(value={"magnitude": 2.0, "unit": ""}, values=[{"magnitude": 1.0, "unit": ""}])
    answer = replace(number(2.0), values=(Number(1.0), Number(2.0)))
    assert is_right(gold, answer)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes, it is.", True),
        ("no: nothing", False),
        ("“No”", False),
        ("None", None),
        ("It is so. Yes", None),
        ("", None),
    ],
)
def test_yes_and_no_are_the_first_word(text: str, said: bool | None) -> None:
    assert says(text) is said
    assert is_right(asked_for(yes=True), named(text=text)) is (said is True)
    assert is_right(asked_for(yes=False), named(text=text)) is (said is False)


def test_the_first_must_lead_and_be_part_of_the_answer() -> None:
    gold = asked_for(first="a")
    assert is_right(gold, named(("a", 0.9), ("b", 0.8)))
    assert not is_right(gold, named(("b", 0.9), ("a", 0.8)))
    assert not is_right(gold, named(("a", 0.4)))


def test_an_unanswerable_question_must_be_left_and_an_answerable_one_must_not() -> None:
    unanswerable = asked_for(answerable=False)
    assert is_right(unanswerable, named(abstained=True)) and not is_right(unanswerable, named(("a", 0.9)))
    assert not is_right(asked_for(entities=["a"]), named(("a", 0.9), abstained=True))


def test_every_question_of_the_sets_can_be_scored() -> None:
    for one in [*development(), *held_out()]:
        golds = (one.entities, one.value, one.yes, one.first)
        assert sum(gold is not None for gold in golds) == one.answerable, one.id
    ids = [one.id for one in [*development(), *held_out()]]
    assert len(set(ids)) == len(ids) and list(FOLDER.glob("*_dev.jsonl"))


def test_every_right_number_is_right_by_its_own_rule() -> None:
    for one in [*development(), *held_out()]:
        if one.value is not None:
            assert is_right(one, number(one.value.magnitude, one.value.unit)), one.id


def asked(one: Question, answer: Answer, wording: int = 0, **peers: bool) -> Asked:
    return Asked(one, wording, answer, peers=peers)


def test_accuracy_counts_answerable_questions_and_the_drop_is_paired() -> None:
    first = replace(asked_for(entities=["a"], wordings=["x", "y"]), id="1")
    second = replace(asked_for(entities=["a"]), id="2")
    third = replace(asked_for(answerable=False), id="3")
    right, wrong, silent = named(("a", 0.9)), named(("b", 0.9)), named(abstained=True)
    rows = [
        asked(first, right, bm25=False), asked(first, right, 1), asked(first, wrong, 2),
        asked(second, silent, bm25=True), asked(third, silent), asked(third, wrong, 1),
    ]  # fmt: skip
    found = {row.name: row for row in accuracy("ask", rows)}
    assert found["ask.python.accuracy"].value == 0.5
    assert found["ask.python.accuracy"].baseline == {"name": "bm25", "value": 0.5}
    assert found["ask.python.wordings.accuracy"].value == 0.5
    assert found["ask.python.wordings.drop"].value == 0.5
    assert found["ask.python.unanswerable.abstained"].value == 1.0
    assert found["ask.python.wordings.unanswerable.abstained"].value == 0.0
    assert found["ask.python.answerable.abstained"].value == 0.5
    assert found["ask.python.kind.a-kind.accuracy"].n == 2


def test_an_error_is_a_wrong_answer_and_is_counted() -> None:
    one = Asked(asked_for(answerable=False), 0, named(abstained=True), error="ValueError: no")
    assert not one.right
    assert next(row.value for row in accuracy("ask", [one]) if row.name == "ask.errors") == 1


def test_a_peer_that_cannot_answer_a_question_is_wrong_there() -> None:
    rows = [asked(asked_for(entities=["a"]), named(), bm25=True), asked(asked_for(entities=["a"]), named())]
    assert best_peer(rows) == {"name": "bm25", "value": 0.5}
    assert best_peer(rows[1:]) is None


def test_a_kind_becomes_part_of_a_name() -> None:
    assert slug("takes it, yes or no") == "takes-it-yes-or-no"


def test_the_calibration_error_of_a_known_case() -> None:
    confidence, right = np.array([0.95, 0.95, 0.15, 0.15]), np.array([1.0, 0.0, 0.0, 0.0])
    assert ece(confidence, right, np.ones(4)) == pytest.approx((2 * 0.45 + 2 * 0.15) / 4)
    assert ece(confidence, right, np.array([0.0, 1.0, 0.0, 0.0])) == pytest.approx(0.95)
    assert brier(confidence, right, np.ones(4)) == pytest.approx((0.05**2 + 0.95**2 + 2 * 0.15**2) / 4)
    assert [bin_of(value) for value in (0.0, 0.1, 0.3, 0.69, 0.7, 1.0)] == [0, 1, 3, 6, 7, 9]


def test_an_abstention_is_no_right_answer() -> None:
    rows = [
        asked(asked_for(answerable=False), named(abstained=True)),
        asked(asked_for(entities=["a"]), named(("a", 0.9))),
    ]
    assert confidences(rows) == [(0.8, False, 1.0), (0.8, True, 1.0)]
    assert {row.name for row in calibration("c", rows)} >= {"c.ece", "c.brier", "c.bin.80-90.right", "c.entities.ece"}


def test_only_entities_that_somebody_knows_about_are_judged() -> None:
    ranked = asked(asked_for(first="a"), named(("a", 0.9), ("b", 0.6)))
    whole = asked(asked_for(entities=["a"]), named(("a", 0.9), ("b", 0.6)))
    counted = asked(asked_for(value={"magnitude": 1, "unit": ""}), named(("a", 0.9)))
    assert probabilities([ranked, counted]) == [(0.9, True, 1.0)]
    assert probabilities([whole]) == [(0.9, True, 0.5), (0.6, False, 0.5)]


def test_of_equal_weights_the_wrong_one_is_taken_for_first() -> None:
    assert reciprocal_rank({1: 0.5, 2: 0.5, 3: 0.1}, frozenset({2})) == 0.5
    assert reciprocal_rank({1: 0.5, 2: 0.6}, frozenset({2, 1})) == 1.0
    assert reciprocal_rank({1: 0.5}, frozenset()) == 0.0


def test_retrieval_answers_with_as_many_names_as_are_right(tiny_base: Path) -> None:
    with Store.open(tiny_base) as store:
        graph = Graph(store)
        answer = peer_answer(Bm25(), asked_for(entities=["Alien"]), "What is Alien about?", graph)
        assert is_right(asked_for(entities=["Alien"]), answer)
        assert peer_answer(Bm25(), asked_for(entities=["Alien"]), "xyzzy", graph).abstained


def test_a_smoke_run_takes_the_first_of_each_kind() -> None:
    rows = [replace(asked_for(entities=["a"]), id=str(place), kind="xy"[place % 2]) for place in range(6)]
    assert [one.id for one in few_of_each(rows, 2)] == ["0", "1", "2", "3"]
