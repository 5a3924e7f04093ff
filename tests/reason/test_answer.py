import json

import pytest

from tuili.knowledge.query import Query, Var
from tuili.reason.answer import Answer, Link, Number, Path, PathEdge, Pruned, Scored

KEYS = {"steps", "inferences",
    "question", "answer", "entities", "value", "values", "abstained", "confidence", "reason", "nearest", "kb", "query",
    "links", "paths", "pruned", "notes", "sources", "timings_ms",
}  # fmt: skip
EDGE = PathEdge("a", "knows", "b", 0.123456, {"prior": 0.654321}, "people:1")


@pytest.fixture
def answer():
    return Answer(
        "Whom does a know?",
        "b",
        "people",
        (Scored("b", 0.98765), Scored("c", 0.2)),
        Number(2, "kilogram"),
        confidence=0.98765,
        query=Query((Var("x", ("person",)),), (), ("x",)),
        links=(Link("a", ("a",), "name", 1.0),),
        paths=(Path((EDGE, EDGE), 0.5), Path((PathEdge("b", "knows", "c", source="people:2"),))),
        pruned=(Pruned("d", 0.1, "fits less"), Pruned("e", 0.0, "excluded", EDGE)),
        values=(Number(2, "kilogram"),),
        timings_ms={"total": 1.23456},
    )


def test_the_contract_of_json(answer):
    found = json.loads(json.dumps(answer.to_json(), allow_nan=False))
    assert found.keys() == KEYS
    assert found["answer"] == "b" and found["kb"] == "people" and found["abstained"] is False
    assert found["entities"] == [{"name": "b", "probability": 0.9877}, {"name": "c", "probability": 0.2}]
    assert found["value"] == {"magnitude": 2, "unit": "kilogram"} and found["values"] == [found["value"]]
    assert found["timings_ms"] == {"total": 1.23}
    assert found["query"] == "list ?person"


def test_paths_and_pruned_hold_edges(answer):
    found = answer.to_json()
    edge = {"subject": "a", "relation": "knows", "object": "b", "weight": 0.1235, "parts": {"prior": 0.6543},
            "source": "people:1"}  # fmt: skip
    assert found["paths"][0] == {"weight": 0.5, "edges": [edge, edge]}
    assert found["pruned"] == [
        {"entity": "d", "weight": 0.1, "reason": "fits less"},
        {"entity": "e", "weight": 0.0, "reason": "excluded", "edge": edge},
    ]


def test_sources_are_named_once_in_order_of_use(answer):
    assert answer.sources == answer.to_json()["sources"] == ["people:1", "people:2"]


def test_an_answer_of_nothing_is_json_too():
    found = Answer("?", "", "base").to_json()
    assert found["value"] is None and found["entities"] == found["paths"] == found["values"] == []
    assert found["query"] == "" and found.keys() == KEYS


@pytest.mark.parametrize(("question", "verdict"), [
    ("Does late blight show brown spot?", "Yes"), ("Does late blight show drooping?", "No"),
    ("How many diseases affect the tomato?", "2"), ("Which diseases affect the tomato?", "Late blight"),
    ("How frequent is brown spot in late blight?", "0.9"), ("Which diseases affect the zorbit?", "no supported answer"),
    ("Which diseases show leaf curl, brown spot and fruit rot?", "Late blight"),
])  # fmt: skip
def test_real_answers_keep_the_contract(garden, question, verdict):
    found = json.loads(json.dumps(garden.ask(question).to_json(), allow_nan=False))
    assert found.keys() == KEYS and found["answer"].startswith(verdict)
    probabilities = [item["probability"] for item in found["entities"]]
    assert probabilities == sorted(probabilities, reverse=True) and all(0 <= one <= 1 for one in probabilities)
    assert found["abstained"] == bool(found["reason"])
    if found["value"]:
        assert isinstance(found["value"]["magnitude"], (int, float)) and found["value"]["unit"] == ""
    edges = [edge for path in found["paths"] for edge in path["edges"]]
    assert all(edge["source"] in found["sources"] for edge in edges)
