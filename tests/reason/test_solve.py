import pytest

from tuili.knowledge.graph import Graph
from tuili.knowledge.store import Store
from tuili.reason.answer import Number
from tuili.reason.solve import conclude_derivation, show
from tuili.reason.worlds.derivations import derive


@pytest.fixture(scope="module")
def solve(formulas_base):
    """Return a function that answers a question over the built-in formulas."""
    graph = Graph(Store.open(formulas_base))
    return lambda question: conclude_derivation(derive(question, graph), graph)


def test_a_value_with_its_chain_of_formulas(solve):
    answer = solve("What is the kinetic energy of a 1500 kg car at 90 km/h?")
    assert not answer.abstained and answer.confidence >= 0.5
    assert answer.value.magnitude == pytest.approx(468.75) and answer.value.unit == "kilojoule"
    assert answer.text == "kinetic energy = 468.8 kilojoule"
    assert answer.paths and answer.sources


def test_several_targets_have_a_value_each_and_the_last_one_is_the_value(solve):
    answer = solve("A stone falls 20 m: at what speed does it land, and what is its momentum at 2 kg?")
    assert len(answer.values) == 2 and answer.value == answer.values[-1]
    assert answer.text.count(" = ") == 2


def test_what_is_missing_is_named(solve):
    answer = solve("What is the kinetic energy of a car at 90 km/h?")
    assert answer.abstained and "mass" in answer.reason and answer.value is None
    assert answer.text.startswith("no supported answer: ") and answer.confidence < 0.5


def test_numbers_that_play_no_part_are_noted(solve):
    answer = solve("What is the kinetic energy of a 1500 kg car of 3 m length at 90 km/h?")
    assert answer.value.magnitude == pytest.approx(468.75)
    assert any("3 m" in note for note in answer.notes if note.startswith("not used"))


@pytest.mark.parametrize(("value", "expected"), [
    (Number(36.0, "watt"), "36 watt"),
    (Number(468.75, "kilojoule"), "468.8 kilojoule"),
    (Number(123456.7, "meter"), "123457 meter"),
    (Number(1.5e12, "joule"), "1.5e+12 joule"),
    (Number(0.00002, "meter"), "2e-05 meter"),
    (Number(-3, ""), "-3"),
    (Number(0, "meter"), "0 meter"),
])  # fmt: skip
def test_values_are_shown_with_four_digits_and_their_unit(value, expected):
    assert show(value) == expected
