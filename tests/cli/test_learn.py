import json

import pytest

from tuili.knowledge.build import build
from tuili.knowledge.records import Edge


@pytest.fixture
def people(home):
    """A base of forty people in five towns, each the pupil of another."""
    facts = [Edge(f"Person {at}", "lives in", f"Town {at % 5}", 1.0, f"people.tsv:{at}") for at in range(40)]
    facts += [Edge(f"Person {at}", "taught by", f"Person {at // 2}", 1.0, f"pupils.tsv:{at}") for at in range(2, 40)]
    build(home / "kb" / "people.sqlite", facts, origin="made")
    return home


@pytest.fixture
def questions(tmp_path):
    rows = [{"question": f"which town does Person {at} call home", "answers": [f"Town {at % 5}"]} for at in range(30)]
    rows += [
        {"question": f"whose lessons did Person {at} take", "answers": [f"Person {at // 2}"], "start": [f"Person {at}"]}
        for at in range(2, 40)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_learned_walk_answers_and_its_answer_can_be_verified(people, questions, tuili, tmp_path):
    curves = tmp_path / "c.svg"
    shown = tuili("learn", "people", "--questions", questions, "--words-only", "--updates", 3, "--curves", curves)
    assert shown.code == 0, shown.err
    assert "with PPO" in shown.out and "calibration error" in shown.out and "PPO, update 3 of 3" in shown.err
    assert curves.read_text().count("<path") > 20
    asked = tuili("ask", "--kb", "people", "--json", "which town does Person 33 call home")
    answer = asked.json
    assert answer["answer"] == "Town 3" and any("tuili learn" in note for note in answer["notes"])
    assert answer["sources"] == ["people.tsv:33"] and 0.5 < answer["confidence"] < 1
    (tmp_path / "a.json").write_text(asked.out)
    assert tuili("verify", tmp_path / "a.json").code == 0
    (tmp_path / "a.json").write_text(asked.out.replace("people.tsv:33", "people.tsv:3"))
    assert tuili("verify", tmp_path / "a.json").code == 1


def test_a_walk_that_learned_a_word_answers_before_a_guess_at_it(home, tuili, tmp_path):
    facts = [Edge(f"Person {at}", "lives in", f"Town {at % 5}", 1.0, f"people.tsv:{at}") for at in range(15)]
    facts += [Edge(f"Town {at}", "lies in", f"Land {at % 3}", 1.0, f"towns.tsv:{at}") for at in range(5)]
    build(home / "kb" / "people.sqlite", facts, origin="made")
    asked = ("ask", "--kb", "people", "--json", "in which land does Person 7 live")
    guessed = tuili(*asked).json
    assert guessed["answer"] == "Town 2" and any("does not know “land”" in note for note in guessed["notes"])
    rows = [
        {"question": f"{words} Person {at} {verb}", "answers": [answer]}
        for at in range(15)
        for words, verb, answer in (
            ("in which land does", "live", f"Land {at % 5 % 3}"),
            ("which town does", "call home", f"Town {at % 5}"),
        )
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shown = tuili("learn", "people", "--questions", tmp_path / "q.jsonl", "--words-only", "--updates", 1)
    assert shown.code == 0, shown.err
    assert tuili(*asked).json["answer"] == "Land 2"


def test_without_questions_the_base_s_own_relations_are_learned(people, tuili):
    found = tuili("learn", "people", "--words-only", "--updates", 1, "--json")
    assert found.code == 0 and "questions made from the base's relations" in found.err
    assert found.json["prior"]["hits1"] > 0.6 and found.json["out"].endswith("people.safetensors")


def test_questions_that_name_nothing_are_refused_or_left_out(people, questions, tuili):
    with questions.open("a") as file:
        file.write('\n{"question": "where does Nobody live", "answers": ["Town 1"], "start": ["Nobody"]}')
    shown = tuili("learn", "people", "--questions", questions, "--words-only", "--updates", 1)
    assert shown.code == 3 and "line 69: nothing that the question names" in shown.err and "--skip-bad" in shown.err
    left_out = tuili("learn", "people", "--questions", questions, "--words-only", "--updates", 1, "--skip-bad")
    assert left_out.code == 0 and "1 of 69 questions can't be used" in left_out.err


def test_a_damaged_walk_is_left_out_and_said(people, tuili):
    path = people / "walks" / "people.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"nothing")
    answer = tuili("ask", "--kb", "people", "--json", "Where does Person 3 live?").json
    assert any("learned walk is left out" in note for note in answer["notes"])


@pytest.mark.parametrize("name", ["c.gif", "c"])
def test_curves_are_drawn_as_svg_or_png_only(people, tuili, name):
    shown = tuili("learn", "people", "--curves", name)
    assert shown.code == 2 and ".svg or .png" in shown.err


def test_rules_of_the_base_are_mined_shown_and_infer(home, tuili, tmp_path):
    facts = [Edge(f"Person {at}", "works for", f"Firm {at}", 1.0, f"work.tsv:{at}") for at in range(30)]
    facts += [Edge(f"Firm {at}", "based in", f"Town {at}", 1.0, f"firms.tsv:{at}") for at in range(30)]
    facts += [Edge(f"Person {at}", "lives in", f"Town {at}", 1.0, f"people.tsv:{at}") for at in range(20)]
    build(home / "kb" / "people.sqlite", facts, origin="made")
    rule = "lives in(X,Y) ← works for(X,Z), based in(Z,Y)"
    shown = tuili("learn", "people", "--words-only", "--updates", 1)
    assert shown.code == 0, shown.err
    assert "6 rules of the base" in shown.out and "support 20 of 20, confidence 1.00" in shown.out
    assert rule in " ".join(tuili("learn", "people", "--words-only", "--updates", 1, "--json").json["rules"])
    (home / "walks" / "people.safetensors").unlink()
    question = "Which town does Person 25 live in?"
    explained = tuili("ask", "--kb", "people", "--explain", question)
    assert f"Town 25: {rule}  support 20 of 20, confidence 1.00" in explained.out
    assert "(inferred, not stated: the base has no fact" in explained.out
    asked = tuili("ask", "--kb", "people", "--json", question)
    assert asked.json["inferences"][0]["rule"] == rule and asked.json["sources"] == ["work.tsv:25", "firms.tsv:25"]
    (tmp_path / "a.json").write_text(asked.out, encoding="utf-8")
    assert tuili("verify", tmp_path / "a.json").code == 0
    (tmp_path / "a.json").write_text(asked.out.replace('"support": 20', '"support": 21'), encoding="utf-8")
    assert tuili("verify", tmp_path / "a.json").code != 0
