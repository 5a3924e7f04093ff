import json
import re

import pytest

from tuili.cli import explanation
from tuili.reason.answer import Answer, Path, PathEdge

KEYS = {"answer", "entities", "value", "abstained", "kb", "paths", "pruned", "sources", "timings_ms"}


@pytest.fixture
def on_films(films, tuili):
    return lambda *args: tuili("ask", "--kb", "films", *args)


def test_piped_output_is_the_answer_alone(on_films):
    shown = on_films("Which films are directed by Ridley Scott?")
    assert shown.code == 0 and shown.err == ""
    assert set(shown.out.strip().split(", ")) == {"Alien", "The Duellists"}


def test_json_is_one_object_of_the_contract(on_films):
    shown = on_films("Which films are directed by Ridley Scott?", "--json")
    answer = shown.json
    assert shown.out.count("\n") == 1 and answer.keys() >= KEYS
    assert {item["name"] for item in answer["entities"]} == {"Alien", "The Duellists"}
    assert all(0.5 <= item["probability"] <= 1 for item in answer["entities"])
    assert answer["kb"] == "films" and answer["abstained"] is False
    assert "films.tsv:1" in answer["sources"]
    edge = {"subject", "relation", "object", "weight", "parts", "source", "keys", "stated"}
    assert answer["paths"][0]["edges"][0].keys() == edge


def test_explanation_follows_the_answer(on_films):
    shown = on_films("Which films are directed by Ridley Scott?", "--explain")
    first, rest = shown.out.split("\n", 1)
    assert "Alien" in first
    for part in ("path", "directed by", "films.tsv:1", "links", "query", " ms", "base films"):
        assert part in rest


def test_what_the_base_lacks_is_no_answer(on_films):
    shown = on_films("Which zorbitosis does the frobnicator have?", "--json")
    assert shown.code == 0 and shown.json["abstained"] is True and shown.json["reason"]
    assert shown.json["answer"].startswith("no supported answer")


@pytest.mark.parametrize("question", ["", "   ", "???", "a\x01b", "\udcff", "x" * 5000, "x " * 1990 + "?" * 100])
def test_bad_questions_are_refused(on_films, question):
    shown = on_films(question)
    assert shown.code == 3 and shown.err.startswith("error: ") and shown.out == ""


@pytest.mark.parametrize(
    "question",
    [
        "x " * 1900,
        "'); DROP TABLE node; --",
        '"* OR NEAR(',
        "العربية؟ 推理 🎬",
        "a\u0301\u200b b",
        "who " + "and not " * 200,
        "\n\nAlien\t?\n",
    ],
)
def test_strange_questions_get_an_answer(on_films, question):
    shown = on_films(question, "--json")
    assert shown.code == 0 and shown.json["kb"] == "films"


@pytest.mark.parametrize(
    ("args", "code", "hint"),
    [
        (["x", "--kb", "flims"], 4, "did you mean 'films'"),
        (["x", "--kb", "../films"], 3, "can't name"),
        (["x", "--max-nodes", "0"], 2, "x>=1"),
        (["x", "--graph", "g.pdf"], 2, ".svg"),
        (["x", "--json", "--explain"], 2, "no effect"),
        (["x", "--file", "/nowhere.jsonl"], 2, "does not exist"),
        ([], 2, "QUESTION"),
        (["who", "directed", "Alien"], 2, 'into quotes: tuili ask "who directed Alien"'),
    ],
)
def test_wrong_options_are_told(films, tuili, args, code, hint):
    shown = tuili("ask", *args)
    assert shown.code == code and hint in shown.err and shown.out == ""


def test_a_budget_of_one_ends(on_films):
    assert on_films("Which films are directed by Ridley Scott?", "--max-nodes", "1", "--json").code == 0


def test_notes_go_to_stderr_where_no_explanation_shows_them(on_films, monkeypatch):
    from tuili.reasoner import Reasoner

    answer = Answer("x", "Alien", "films", notes=("the search hit its budget",))
    monkeypatch.setattr(Reasoner, "ask", lambda self, question, **options: answer)
    shown = on_films("x")
    assert (shown.out, shown.err) == ("Alien\n", "(the search hit its budget)\n")
    assert on_films("x", "--quiet").err == "" and on_films("x", "--json").err == ""
    shown = on_films("x", "--explain")
    assert "notes   the search hit its budget" in shown.out and shown.err == ""


def test_long_lines_of_an_explanation_go_on_below_their_start(capsys, monkeypatch):
    monkeypatch.setattr(explanation, "WIDTH", 40)
    explanation.print_explanation(Answer("x", "y", "films", notes=("one two three four five six seven eight nine",)))
    assert "notes   one two three four five six\n        seven eight nine\n" in capsys.readouterr().out


def test_paths_of_a_count_stand_without_empty_heads(capsys):
    paths = tuple(Path((PathEdge("hub", "has", name),)) for name in ("a", "b"))
    explanation.print_explanation(Answer("x", "2", "films", paths=paths))
    assert "├── hub ─ has → a  1.00\n└── hub ─ has → b  1.00\n" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["html", "svg", "png"])
def test_graph_is_drawn_beside_the_answer(on_films, tmp_path, suffix):
    path = tmp_path / f"a graph ü.{suffix}"
    assert on_films("Which films are directed by Ridley Scott?", "--graph", path).code == 0
    assert path.stat().st_size > 1000


def test_a_graph_that_can_not_be_written_is_told(on_films, tmp_path):
    (tmp_path / "file").write_text("")
    shown = on_films("Which films are directed by Ridley Scott?", "--graph", tmp_path / "file" / "g.html")
    assert shown.code == 4 and "Traceback" not in shown.err


def write(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_of_questions_gets_a_line_each(films, tuili, tmp_path):
    path = write(
        tmp_path / "questions.jsonl",
        {"id": "a", "question": "Which films are directed by Ridley Scott?", "kb": "films", "more": 1},
        "\n",
        {"id": 7, "question": "Who directed Alien?", "kb": "films"},
    )
    shown = tuili("ask", "--json", "--file", path)
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert shown.code == 0 and [row["id"] for row in rows] == ["a", 7]
    assert all(row.keys() >= KEYS | {"id"} for row in rows)
    plain = tuili("ask", "--file", path).out.splitlines()
    assert re.match(r"a\t(Alien|The Duellists)", plain[0])


def test_a_bad_line_does_not_end_the_run(films, tuili, tmp_path):
    path = write(
        tmp_path / "questions.jsonl",
        "no json\n",
        {"id": "no question"},
        {"id": 3, "question": ""},
        "[1]\n",
        {"id": 5, "question": "x", "kb": "nowhere"},
        {"id": 6, "question": "x", "kb": 1},
        "[" * 5000 + "\n",
        {"id": "fine", "question": "Which films are directed by Ridley Scott?", "kb": "films"},
    )
    shown = tuili("ask", "--json", "--file", path)
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert shown.code == 3 and "7 questions" in shown.err
    assert [row["id"] for row in rows] == [1, "no question", 3, 4, 5, 6, 7, "fine"]
    assert [row["error"]["type"] for row in rows[:-1]] == ["InputError"] * 4 + ["StoreError"] + ["InputError"] * 2
    assert all(row["error"]["message"] for row in rows[:-1]) and "error" not in rows[-1]
    assert 'no "question"' in rows[1]["error"]["message"] and '"kb" must be a text' in rows[5]["error"]["message"]


def test_an_empty_file_of_questions(films, tuili, tmp_path):
    assert tuili("ask", "--json", "--file", write(tmp_path / "none.jsonl")).out == ""


def test_a_defect_met_by_one_question_stays_with_it(films, tuili, tmp_path, monkeypatch):
    from tuili.reasoner import Reasoner

    def broken(self, question, **options):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Reasoner, "ask", broken)
    shown = tuili("ask", "--json", "--file", write(tmp_path / "one.jsonl", {"id": 1, "question": "x"}))
    assert shown.code == 3 and json.loads(shown.out)["error"]["type"] == "ZeroDivisionError"


def test_built_in_bases_are_found_by_themselves(monkeypatch, tuili, python_base, formulas_base, hpo_base, models):
    monkeypatch.setenv("TUILI_HOME", str(python_base.parent.parent))
    asked = {
        "Which parameter of json.dumps controls indentation?": ("python", "indent"),
        "What is the kinetic energy of a 1500 kg car at 90 km/h?": ("formulas", "468.8 kilojoule"),
        "Is arthritis a kind of gout?": ("hpo", "No"),
    }
    for question, (kb, text) in asked.items():
        answer = tuili("ask", question, "--json").json
        assert answer["kb"] == kb and text in answer["answer"]


def test_a_missing_encoder_is_noted_and_words_alone_decide(films, tuili, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr("tuili.model.packaged.resolve", _no_model)
    shown = tuili("ask", "--kb", "films", "Which films are about a crew that meets strange things?", "--json")
    assert shown.code == 0
    assert not shown.json["notes"] or "words alone" in shown.json["notes"][-1]


def _no_model(name, on_progress=None):
    from tuili.errors import ModelFileError

    raise ModelFileError(f"the model {name} can't be brought")
