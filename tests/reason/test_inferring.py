import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuili.errors import InputError
from tuili.files import rules_path
from tuili.knowledge.build import build
from tuili.knowledge.graph import Graph
from tuili.knowledge.query import Constraint, Query, Var
from tuili.knowledge.records import Edge
from tuili.knowledge.store import Store
from tuili.reason import inferring
from tuili.reason.audit import audit
from tuili.reason.inferring import Asked, asked, follow
from tuili.reason.rulebook import mine_base, save_rules
from tuili.reason.worlds.hops import Action
from tuili.reasoner import Reasoner, ReasonerConfig

NUM, NUM_STATED = 30, 20
ASKED = "Which town does Person 25 live in?"


def facts() -> list[Edge]:
    rows = [(f"Person {at}", "works for", f"Firm {at}") for at in range(NUM)]
    rows += [(f"Firm {at}", "based in", f"Town {at}") for at in range(NUM)]
    rows += [(f"Person {at}", "lives in", f"Town {at}") for at in range(NUM_STATED)]
    rows += [("Hermit", "knows", "Person 3"), ("Hermit", "works for", "Nobody")]
    return [Edge(*row, 1.0, f"people.tsv:{at}") for at, row in enumerate(rows)]


@pytest.fixture
def people(home: Path) -> Path:
    """People, their firms and towns; of ten people the town is not stated. Its rules are mined."""
    path = home / "kb" / "people.sqlite"
    build(path, facts(), origin="made")
    save_rules(mine_base(Graph(Store.open(path))), rules_path("people"))
    return path


@pytest.fixture
def ask(people: Path) -> Callable[..., Any]:
    def asking(question: str, **config: Any) -> Any:
        return Reasoner("people", config=ReasonerConfig(neural=False, **config)).ask(question)

    return asking


def checked(document: dict[str, Any], path: Path) -> Any:
    return audit(document, Graph(Store.open(path)), None)


def test_what_is_not_stated_is_inferred_and_said_to_be(ask: Callable[..., Any]) -> None:
    answer = ask(ASKED)
    assert [one.name for one in answer.entities] == ["Town 25"] and not answer.abstained
    assert "inferred, not stated" in answer.text and any("no source states it" in note for note in answer.notes)
    (inference,) = answer.inferences
    assert inference.rule == "lives in(X,Y) ← works for(X,Z), based in(Z,Y)"
    assert (inference.counted["support"], inference.counted["num_cases"]) == (20, 20) and inference.confidence == 1
    assert 0.8 < answer.confidence < 0.9
    assert [edge.source for edge in answer.paths[0].edges] == ["people.tsv:25", "people.tsv:55"]


def test_what_is_stated_is_never_inferred(ask: Callable[..., Any]) -> None:
    answer = ask("Where does Person 3 live?")
    assert [one.name for one in answer.entities] == ["Town 3"] and not answer.inferences


@pytest.mark.parametrize("question", ["Where does Hermit live?", "Where is Nobody based?"])
def test_where_no_rule_leads_anywhere_there_is_no_answer(ask: Callable[..., Any], question: str) -> None:
    answer = ask(question)
    assert answer.abstained and not answer.inferences


def test_rules_infer_in_the_other_direction_too(ask: Callable[..., Any]) -> None:
    answer = ask("Who lives in Town 26?")
    assert [one.name for one in answer.entities] == ["Person 26"]
    assert answer.inferences[0].rule == "lives in(Y,X) ← based in(Z,X), works for(Y,Z)"


def test_rules_can_be_left_out(ask: Callable[..., Any]) -> None:
    assert ask(ASKED, learned=False).abstained


def test_after_the_time_limit_nothing_is_inferred(ask: Callable[..., Any]) -> None:
    assert ask(ASKED, time_limit_s=0).abstained


def test_a_base_without_rules_abstains_as_before(ask: Callable[..., Any]) -> None:
    rules_path("people").unlink()
    assert ask(ASKED).abstained


def test_damaged_rules_are_left_out_and_said(ask: Callable[..., Any]) -> None:
    rules_path("people").write_text("nothing")
    answer = ask(ASKED)
    assert answer.abstained and any("rules are left out" in note for note in answer.notes)


def test_paths_beyond_the_budget_are_not_followed(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inferring, "MAX_FOLLOWED", 1)
    assert ask(ASKED).abstained


def test_follow_visits_no_entity_twice(people: Path) -> None:
    graph = Graph(Store.open(people))
    start, firm = (graph.by_label([name])[name][0] for name in ("person 0", "firm 0"))
    there_and_back = follow(graph, start, (Action("works for"), Action("works for", inverse=True)))
    assert there_and_back == {}
    assert list(follow(graph, start, (Action("works for"),)) or ()) == [firm]


def test_only_one_stated_relation_from_a_name_is_inferred() -> None:
    child, target = Var("x", ids=(7,), label="Child"), Var("y", kinds=("person",))
    one = Constraint("x", "parent", "y")
    assert asked(Query((child, target), (one,), ("y",))) == Asked((7,), Action("parent"), frozenset({"person"}))
    turned = Constraint("y", "parent", "x")
    assert asked(Query((child, target), (turned,), ("y",))) == Asked(
        (7,), Action("parent", inverse=True), frozenset({"person"})
    )
    assert asked(Query((child, target), (one,), ("y",), unexplained=("famous",))) is None
    assert asked(Query((child, target), (one, turned), ("y",))) is None
    assert asked(Query((child, target), (Constraint("x", "parent", "y", negated=True),), ("y",))) is None
    assert asked(Query((child, target), (Constraint("x", "parent", "y", stated=False),), ("y",))) is None
    assert asked(Query((child, Var("y", text="the old one")), (one,), ("y",))) is None
    assert asked(Query((child, target), (one,), ("x",))) is None


# -- checking it again ---------------------------------------------------------------------------


def test_an_inference_holds(ask: Callable[..., Any], people: Path) -> None:
    document = json.loads(json.dumps(ask(ASKED).to_json()))
    found = checked(document, people)
    assert not found.failed
    assert any(check.what.startswith("support and confidence") for check in found.checks)


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda d: d["inferences"][0].update(support=19), "the base gives 20 of 20"),
        (lambda d: d["inferences"][0].update(confidence=0.9), "it is 1.0000"),
        (lambda d: d["inferences"][0].update(entity="Town 3"), "no such entities"),
        (lambda d: d["inferences"][0].update(rule="lives in(X,Y) ← works for(X,Y)"), "its head and body say"),
        (lambda d: d["inferences"][0]["body"].pop(), "its head and body say"),
        (lambda d: d["inferences"].clear() or d["inferences"].append({**d["spare"], "entity": "x"}), "no rule"),
        (lambda d: d["inferences"][0]["keys"].reverse(), "no such entities"),
        (lambda d: d["paths"][0]["edges"][0].update(object="Firm 3"), "states no such fact"),
    ],
)
def test_a_changed_inference_fails(
    ask: Callable[..., Any], people: Path, change: Callable[[dict[str, Any]], Any], why: str
) -> None:
    document = json.loads(json.dumps(ask(ASKED).to_json()))
    document["spare"] = dict(document["inferences"][0])
    change(document)
    assert any(why in check.detail for check in checked(document, people).failed)


@pytest.mark.parametrize(
    "more, why",
    [
        (Edge("Person 25", "lives in", "Town 25"), "so nothing is inferred"),
        (Edge("Person 24", "lives in", "Town 3"), "the base gives 20 of 21"),
    ],
)
def test_an_inference_fails_on_a_changed_base(ask: Callable[..., Any], people: Path, more: Edge, why: str) -> None:
    document = json.loads(json.dumps(ask(ASKED).to_json()))
    people.unlink()
    build(people, [*facts(), more], origin="made")
    assert any(why in check.detail for check in checked(document, people).failed)


@pytest.mark.parametrize("rows", [3, [3], [{}], [{"head": {}, "body": []}]])
def test_inferences_that_are_none_are_refused(ask: Callable[..., Any], people: Path, rows: Any) -> None:
    document = {**ask(ASKED).to_json(), "inferences": rows}
    with pytest.raises(InputError):
        checked(document, people)


def test_rules_are_the_same_when_asked_again(ask: Callable[..., Any], people: Path) -> None:
    first, second = ask(ASKED).to_json(), ask(ASKED)
    found = audit(first, Graph(Store.open(people)), second)
    assert not found.failed and math.isclose(first["confidence"], second.confidence, abs_tol=1e-3)
