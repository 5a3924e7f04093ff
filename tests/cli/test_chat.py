import contextlib
import io
import json

import pytest

from tuili.cli import chat as module


@pytest.fixture
def chat(films, tuili, monkeypatch):
    """Pipe lines into a conversation over the films."""

    def run(*lines, options=("--kb", "films")):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return tuili("chat", *options)

    return run


def test_piped_lines_are_answered_one_by_one(chat):
    shown = chat("Which films are directed by Ridley Scott?", "", "Which genre does Alien have?")
    assert shown.code == 0
    first, second = shown.out.splitlines()
    assert set(first.split(", ")) == {"Alien", "The Duellists"} and second == "Science fiction horror"


def test_later_turns_refer_to_earlier_ones(chat):
    shown = chat("Which genre does Alien have?", "What is it a kind of?")
    assert shown.out.splitlines() == ["Science fiction horror", "Horror"] and "read as: What is" in shown.err


def test_facts_are_told_listed_and_forgotten(chat):
    shown = chat(
        "fact: Blade Runner | directed by | Ridley Scott",
        "/facts",
        "Which films are directed by Ridley Scott?",
        "Duel\tdirected by\tSteven Spielberg",
        "/facts",
        "/forget",
        "/facts",
    )
    lines = shown.out.splitlines()
    assert lines[0] == "noted: Blade Runner | directed by | Ridley Scott"
    assert "Duel | directed by | Steven Spielberg" in lines
    assert lines[-2:] == ["forgotten", "no facts were told"]


def test_told_facts_leave_the_file_alone(chat, films):
    before = (films / "kb" / "films.sqlite").read_bytes()
    chat("fact: Blade Runner | directed by | Ridley Scott", "Which films are directed by Ridley Scott?")
    assert (films / "kb" / "films.sqlite").read_bytes() == before


@pytest.mark.parametrize("line", ["fact: only two | fields", "fact: a | | b", "a\t\tb", "fact:", "fact: a | r\x01 | b"])
def test_bad_facts_are_told_and_the_conversation_goes_on(chat, line):
    shown = chat(line, "Which genre does Alien have?")
    assert shown.code == 0 and "error: " in shown.out and shown.out.splitlines()[-1] == "Science fiction horror"


def test_json_prints_an_object_for_each_line(chat):
    shown = chat(
        "Which genre does Alien have?",
        "fact: a | r | b",
        "/facts",
        "???",
        "/nope",
        "/kb nowhere",
        "/forget",
        options=("--kb", "films", "--json"),
    )
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert rows[0]["entities"][0]["name"] == "Science fiction horror"
    assert rows[1] == {"fact": {"subject": "a", "relation": "r", "object": "b"}}
    assert rows[2] == {"facts": [["a", "r", "b"]]}
    assert [row["error"]["type"] for row in rows[3:6]] == ["InputError", "UsageError", "StoreError"]
    assert rows[6] == {"forgotten": True}


def test_commands(chat):
    shown = chat("/help", "/json", "/json", "/kb films", "/quit", "never reached")
    assert "/forget" in shown.out and "using films" in shown.out and "never" not in shown.out


def test_help_fits_a_narrow_terminal():
    assert max(map(len, module.HELP.splitlines())) < 80


def test_each_line_has_a_progress_of_its_own(chat, monkeypatch):
    seen = []

    @contextlib.contextmanager
    def progress():
        seen.append("begin")
        yield lambda stage, done, total: None
        seen.append("end")

    monkeypatch.setattr(module, "progress", progress)
    monkeypatch.setattr("tuili.cli.ask.show", lambda answer, **options: seen.append("answer"))
    chat("Which genre does Alien have?", "fact: a | r | b")
    assert seen == ["begin", "end", "begin", "end", "answer", "begin", "end"]


def test_an_empty_input_ends_at_once(chat):
    shown = chat()
    assert (shown.code, shown.out) == (0, "")


def test_an_unknown_base_is_told(chat):
    shown = chat("x", options=("--kb", "nowhere"))
    assert shown.code == 4 and "nowhere" in shown.err


def test_a_terminal_gets_a_prompt_and_ends_with_the_end_of_input(films, tuili, monkeypatch):
    asked = []

    def answer(prompt):
        asked.append(prompt)
        if len(asked) > 1:
            raise EOFError
        return "Which genre does Alien have?"

    monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    monkeypatch.setattr("builtins.input", answer)
    shown = tuili("chat", "--kb", "films")
    assert asked == [module.PROMPT] * 2 and "Science fiction horror" in shown.out
