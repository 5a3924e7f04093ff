import json
import math

import pytest

from tuili.knowledge.records import Edge, Kind, Node, Relation
from tuili.reason.candidates import candidates
from tuili.reason.conclude import conclude
from tuili.reason.search import Search
from tuili.reason.weights import Mix, Weigher

QUESTION = "Which setting of the mower is about the racket?"


def names(answer):
    return [item.name for item in answer.entities]


def test_an_answer_has_its_path_its_sources_and_its_links(garden):
    answer = garden.ask("Is brown spot a kind of leaf change?")
    (path,) = answer.paths
    assert {(edge.subject, edge.relation, edge.object) for edge in path.edges} == {
        ("Brown spot", "is a", "Leaf spot"),
        ("Leaf spot", "is a", "Leaf change"),
    }
    assert sorted(answer.sources) == ["signs:1", "signs:3"]
    assert {link.entities for link in answer.links} == {("Brown spot",), ("Leaf change",)}


def test_how_a_name_was_found_is_told(garden):
    how = {
        name: garden.ask(f"Which diseases affect the {name}?").links[0].how
        for name in ("tomato", "love apple", "tomatto")
    }
    assert how == {"tomato": "name", "love apple": "alias", "tomatto": "spelling"}


def test_a_value_comes_with_a_single_number(garden):
    answer = garden.ask("What is the default of the speed of the mower?")
    assert names(answer) == ["5"] and answer.value.magnitude == 5 and answer.value.unit == ""
    assert garden.ask("Which diseases affect the rose?").value is None


def test_what_ties_is_answered_together(garden):
    assert set(names(garden.ask("What is the default of speed?"))) == {"5", "3"}
    tools = garden.ask("Which has more diseases, the tomato or the potato?")
    assert set(names(tools)) == {"Tomato", "Potato"}


def test_what_was_left_out_tells_why(garden):
    pruned = garden.ask("Which diseases show leaf curl but not drooping?").pruned
    assert [(item.entity, item.reason) for item in pruned] == [("Fusarium wilt", "excluded: shows")]


@pytest.mark.parametrize(("question", "reason"), [
    ("Welche Krankheiten befallen die Rose?", "called any of: Welche"),
    ("tomato 🍅?", "what is asked about tomato"),
    ("What is the default of the noise of the mower?", "no fact “noise – default"),
    ("How frequent is drooping in Fusarium wilt?", "without its frequency"),
    ("Is Zorbitis treated with copper spray?", "Zorbitis"),
])  # fmt: skip
def test_an_abstention_names_its_reason(garden, question, reason):
    answer = garden.ask(question)
    assert answer.abstained and reason in answer.reason
    assert answer.text.startswith(f"no supported answer: {answer.reason}")


def test_an_abstention_names_the_nearest_candidates(reasoner_over):
    kinds = [Kind("tool"), Kind("part"), Relation("has part", words=("has",))]
    parts = [Node(f"p{n}", "part", f"{name} blade") for n, name in enumerate(("steel", "round", "long"))]
    facts = [Edge("mower", "has part", f"p{n}") for n in range(2)]
    reasoner = reasoner_over([*kinds, Node("mower", "tool", "mower"), *parts, *facts])
    answer = reasoner.ask("Which part of the mower is the long blade?")
    assert "long blade" not in names(answer)


def test_a_noun_that_the_base_does_not_know_is_noted(reasoner_over):
    reasoner = reasoner_over([Edge("Ann", "lives in", "Lima"), Edge("Lima", "lies in", "Peru")])
    answer = reasoner.ask("Which country does Ann live in?")
    assert names(answer) == ["Lima"] and any("does not know “country”" in note for note in answer.notes)
    assert names(reasoner.ask("Where does Ann live?")) == ["Lima"] and not reasoner.ask("Where does Ann live?").notes


def test_a_partial_search_is_noted(reasoner_over):
    records = [Kind("film"), Kind("actor"), Relation("stars", words=("stars",))]
    records += [Node("ann", "actor", "Ann Arbor"), *(Node(f"f{n}", "film", f"Film {n:02}") for n in range(40))]
    records += [Edge(f"f{n}", "stars", "ann") for n in range(40)]
    whole = reasoner_over(records).ask("Which films star Ann Arbor?")
    assert len(names(whole)) == 40 and not whole.notes
    for budget in (1, 5):
        part = reasoner_over(records, max_nodes=budget).ask("Which films star Ann Arbor?")
        assert any("budget" in note for note in part.notes) and len(part.entities) < 40


def test_candidates_that_the_decoder_did_not_read_are_noted(garden, monkeypatch):
    equal = {"bertscore": 0.5, "attention": 0.5}
    monkeypatch.setattr("tuili.reason.neural.neural_parts", lambda encoder, text, facts: [equal] * len(facts))
    monkeypatch.setattr("tuili.reason.decoder.decoder_part", lambda reader, text, facts: [0.5] * len(facts))
    graph, linker = garden.base("small").graph, garden.base("small").linker
    notes = []
    for max_read in (2, 128):
        weigher = Weigher(graph, object, Mix(decoder=0.5, max_read=max_read), object)
        found = candidates(QUESTION, graph, linker, weigher, 1000)
        Search(graph, found.tried[0].compiled.query, weigher.match).run()
        notes.append([note for note in conclude(QUESTION, graph, found, weigher).notes if "decoder" in note])
    words = "the decoder read the 2 candidates for “racket” that share most words, not the other "
    assert notes[1] == [] and len(notes[0]) == 1 and notes[0][0].startswith(words)


def test_facts_of_an_overlay_are_answered_and_forgotten(reasoner_over):
    reasoner = reasoner_over([Edge("Ann", "knows", "Bob", source="people:1")])
    base = reasoner.base("small")
    base.overlay([Edge("Bob", "repairs", "Radio", source="told")])
    answer = reasoner.ask("Does Bob repair the radio?")
    assert answer.text.startswith("Yes") and answer.sources == ["told"]
    assert names(reasoner.ask("What does Bob repair?")) == ["Radio"]
    assert not reasoner.ask("Does Bob repair Ann?").text.startswith("Yes")


@pytest.mark.parametrize("records", [[], [Node("a", "thing", "Anvil")]])
def test_a_base_of_nothing_or_of_one_node_answers_nothing(reasoner_over, records):
    reasoner = reasoner_over(records)
    for question in (
        "Which films star Al Pacino?",
        "What is an anvil made of?",
        "How many anvils are there?",
        "Is it?",
    ):
        answer = reasoner.ask(question)
        assert answer.abstained or answer.value is not None
    assert reasoner.ask("Which films star Al Pacino?").abstained


def test_a_scorer_that_fails_does_not_win(reasoner_over, request, monkeypatch):
    from tuili.knowledge.sources.triples import read_jsonl

    def broken(encoder, text, candidates):
        return [{"bertscore": math.nan, "attention": math.nan} for _ in candidates]

    monkeypatch.setattr("tuili.reason.neural.neural_parts", broken)
    monkeypatch.setattr("tuili.reasoner.Reasoner.encoder", property(lambda self: None))
    reasoner = reasoner_over(read_jsonl(request.config.rootpath / "tests" / "garden.jsonl"), neural=True)
    question = "Which setting of the mower is about the height of the cut?"
    answer = reasoner.ask(question)
    assert names(answer) == ["depth"]
    json.dumps(answer.to_json(), allow_nan=False)
    assert reasoner.ask("Which setting of the mower is about a racket?").abstained
