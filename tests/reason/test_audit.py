import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuili.errors import InputError, LimitError
from tuili.knowledge.graph import Graph
from tuili.knowledge.store import Store
from tuili.reason.audit import Audit, audit
from tuili.reason.audit_steps import MAX_STEPS, is_from_talk
from tuili.reason.solve import conclude_derivation
from tuili.reason.worlds.derivations import derive
from tuili.reasoner import Reasoner, ReasonerConfig

WARMING = "How much heat is needed to warm 2 kg of water from 20 °C to 80 °C?"
FALL = "A stone falls 20 m. At what speed does it land, and what is its momentum if its mass is 2 kg?"
SOLVED = (
    WARMING,
    FALL,
    "convert 25 °C to Fahrenheit",
    "boiling point of water",
    "A car accelerates from rest at 3 m/s² for 5 s. How far does it get?",
    "What is the kinetic energy of a 1500 kg car at 90 km/h?",
)


@pytest.fixture(scope="module")
def formulas(formulas_base: Path) -> Graph:
    return Graph(Store.open(formulas_base))


def solved(question: str, graph: Graph) -> dict[str, Any]:
    derivation = derive(question, graph)
    assert derivation is not None
    document: dict[str, Any] = json.loads(json.dumps(conclude_derivation(derivation, graph).to_json()))
    return document


@pytest.mark.parametrize("question", SOLVED)
def test_a_derivation_holds(formulas: Graph, question: str) -> None:
    document = solved(question, formulas)
    found = audit(document, formulas, None)
    assert not found.failed and [check.what for check in found.unproven] == ["the weights"]
    assert len(found.checks) > len(document["steps"]) + len(document["values"])


def first_input(document: dict[str, Any], how: str) -> dict[str, Any]:
    inputs = [each for step in document["steps"] for each in step["inputs"].values()]
    return next(each for each in inputs if each["how"] == how)


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda d: d["steps"][0].update(magnitude=d["steps"][0]["magnitude"] * 1.01), "its sides differ"),
        (lambda d: d["steps"][0].update(unit="second"), "can't be converted"),
        (lambda d: d["steps"][0].update(expr="Q = 2*m*c*T"), "the base has"),
        (lambda d: d["steps"][0].update(formula="formula:nothing"), "no such formula"),
        (lambda d: d["steps"][0].update(source="elsewhere"), "the base has it from"),
        (lambda d: d["steps"][0].update(quantity="nothing"), "no such quantity"),
        (lambda d: d["steps"][0].update(quantity="time"), "not time"),
        (lambda d: d["steps"][0]["inputs"].pop(next(iter(d["steps"][0]["inputs"]))), "its symbols are"),
        (lambda d: first_input(d, "given").update(magnitude=2.5), "the question's '2 kg' gives 2"),
        (lambda d: first_input(d, "given").update(texts=["3 kg"]), "gives nothing"),
        (lambda d: first_input(d, "given").update(quantity="time"), "stands for mass, not time"),
        (lambda d: first_input(d, "property").update(magnitude=4000), "the base's material:water gives 4186"),
        (lambda d: first_input(d, "property").update(stated_by="material:air"), "the base's material:air gives"),
        (lambda d: first_input(d, "property").update(how="guessed"), "can't be 'guessed'"),
        (lambda d: d["values"][0].update(magnitude=1.0), "no step gives it"),
        (lambda d: d["values"][0].update(unit="second"), "no step gives it"),
        (lambda d: d.update(question=WARMING.replace("2 kg", "4 kg")), "the question's '2 kg' gives nothing"),
    ],
)
def test_a_changed_derivation_fails(formulas: Graph, change: Callable[[dict[str, Any]], None], why: str) -> None:
    document = solved(WARMING, formulas)
    change(document)
    found = audit(document, formulas, None)
    assert any(why in check.detail for check in found.failed), found.failed


def test_a_later_step_needs_an_earlier_one(formulas: Graph) -> None:
    document = solved(FALL, formulas)
    document["steps"].reverse()
    assert any("what is said to be" in check.detail for check in audit(document, formulas, None).failed)


def test_what_a_conversation_told_is_unproven(formulas: Graph) -> None:
    document = solved(WARMING, formulas)
    assert not is_from_talk(document)
    first_input(document, "given").update(how="remembered")
    assert is_from_talk(document)
    found = audit(document, formulas, None)
    assert not found.failed and any("conversation" in check.detail for check in found.unproven)


# -- facts ---------------------------------------------------------------------------------------


@pytest.fixture
def ask(home: Path, tiny_base: Path) -> Callable[[], tuple[dict[str, Any], Reasoner]]:
    def answered() -> tuple[dict[str, Any], Reasoner]:
        reasoner = Reasoner(kb="films", config=ReasonerConfig(neural=False))
        answer = reasoner.ask("Which films are directed by Ridley Scott?")
        return json.loads(json.dumps(answer.to_json())), reasoner

    (home / "kb").mkdir(parents=True)
    (home / "kb" / "films.sqlite").write_bytes(tiny_base.read_bytes())
    return answered


def checked(document: dict[str, Any], reasoner: Reasoner) -> Audit:
    again = reasoner.ask(document["question"])
    return audit(document, reasoner.base("films").graph, again)


def test_an_answer_from_facts_holds(ask: Callable[[], Any]) -> None:
    document, reasoner = ask()
    found = checked(document, reasoner)
    assert len(document["paths"]) == 2 and not found.failed and not found.unproven
    assert found.to_json()["holds"] is True


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda d, e: e.update(stated=0.5), "the base gives it 1, the answer says 0.5"),
        (lambda d, e: e.update(source="films.tsv:99"), "the base has it from"),
        (lambda d, e: e.update(relation="written by"), "states no such fact"),
        (lambda d, e: e.update(relation="stars"), "states no such fact"),
        (lambda d, e: e.update(subject="Blade Runner"), "states no such fact"),
        (lambda d, e: e.update(keys=["nobody", "nothing"]), "states no such fact"),
        (lambda d, e: e.update(weight=0.3), "weight was 0.3, now it is 1"),
        (lambda d, e: e.update(parts={"prior": 0.2}), "parts was"),
        (lambda d, e: d.update(answer="Alien"), "it was 'Alien', now it is"),
        (lambda d, e: d.update(confidence=0.1), "probabilities differ"),
        (lambda d, e: d["entities"].pop(), "probabilities differ"),
    ],
)
def test_a_changed_answer_fails(ask: Callable[[], Any], change: Callable[..., None], why: str) -> None:
    document, reasoner = ask()
    change(document, document["paths"][0]["edges"][0])
    assert any(why in check.detail for check in checked(document, reasoner).failed)


@pytest.mark.parametrize(
    "sql", ["UPDATE edge SET weight = 0.7", "UPDATE edge SET source = 'other'", "DELETE FROM edge WHERE id = 1"]
)
def test_a_fact_that_the_base_no_longer_states_fails(home: Path, ask: Callable[[], Any], sql: str) -> None:
    document, _ = ask()
    with sqlite3.connect(home / "kb" / "films.sqlite") as connection:
        connection.execute(sql)
    _, reasoner = ask()
    assert checked(document, reasoner).failed


@pytest.mark.parametrize(
    "change, error",
    [
        ({"question": None}, "'question' must be a text"),
        ({"paths": [1]}, "'paths' must be a list of objects"),
        ({"paths": [{"edges": [{"subject": 1}]}]}, "'subject' must be a text"),
        (
            {"paths": [{"edges": [{"subject": "", "relation": "", "object": "", "keys": [1]}]}]},
            "keys must be two texts",
        ),
        ({"pruned": [{"edge": 3}]}, "an edge must be an object"),
        ({"steps": [{}]}, "'quantity' must be a text"),
        ({"steps": [{"quantity": "time", "inputs": 3}]}, "inputs must be an object"),
        ({"steps": [{"quantity": "time", "inputs": {"t": 3}}]}, "inputs must be an object"),
        ({"values": 7, "steps": [{"quantity": "x"}]}, "'values' must be a list"),
    ],
)
def test_documents_that_are_no_answers_are_refused(formulas: Graph, change: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        audit({"question": "?", **change}, formulas, None)


def test_too_many_steps_are_refused(formulas: Graph) -> None:
    with pytest.raises(LimitError, match=f"at most {MAX_STEPS}"):
        audit({"question": "?", "steps": [{}] * (MAX_STEPS + 1)}, formulas, None)
