import json
from pathlib import Path

import pytest

QUESTION = "Which films are directed by Ridley Scott?"


@pytest.fixture
def answer(films, tuili, tmp_path: Path) -> Path:
    path = tmp_path / "answer.json"
    path.write_text(tuili("ask", "--kb", "films", "--json", QUESTION).out)
    return path


def test_a_true_answer_holds(answer, tuili):
    shown = tuili("verify", answer)
    assert shown.code == 0 and shown.out.startswith(f"holds: {QUESTION} (")
    found = tuili("verify", answer, "--json").json
    assert found["holds"] and found["num_checks"] > 5 and found["failed"] == []


def test_a_changed_answer_fails_loudly(answer, tuili):
    document = json.loads(answer.read_text())
    document["paths"][0]["edges"][0]["source"] = "films.tsv:99"
    answer.write_text(json.dumps(document, indent=1))
    shown = tuili("verify", answer)
    assert shown.code == 1 and "1 of 1 answers don't hold" in shown.err
    assert "does NOT hold" in shown.out and "wrong: Alien – directed by – Ridley Scott" in shown.out
    assert tuili("verify", answer, "--json").json["holds"] is False


def test_a_file_of_answers_is_checked_line_by_line(answer, tuili):
    line = answer.read_text()
    answer.write_text(line + "\n" + line.replace('"confidence": ', '"confidence": 1'))
    shown = tuili("verify", answer)
    assert shown.code == 1 and "1 of 2 answers" in shown.err and shown.out.count("holds: ") == 1


@pytest.mark.parametrize("content, error", [("", "is empty"), ("[1]", "no JSON object"), ("{", "is no JSON")])
def test_files_that_are_no_answers_are_refused(films, tuili, tmp_path, content, error):
    path = tmp_path / "a.json"
    path.write_text(content)
    shown = tuili("verify", path)
    assert shown.code == 3 and error in shown.err


def test_an_answer_of_a_base_that_is_missing(answer, tuili):
    answer.write_text(answer.read_text().replace('"kb": "films"', '"kb": "elsewhere"'))
    assert tuili("verify", answer).code == 4
