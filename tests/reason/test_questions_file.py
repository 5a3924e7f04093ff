from pathlib import Path

import pytest

from tuili.errors import LimitError, SourceError
from tuili.knowledge.graph import Graph
from tuili.knowledge.link import Linker
from tuili.knowledge.store import Store
from tuili.reason.questions_file import link, read_rows
from tuili.reason.walk_answer import find


def test_tab_separated_questions_name_their_topic_in_brackets(tmp_path: Path) -> None:
    path = tmp_path / "q.tsv"
    path.write_text("who directed [Alien (1979)] then\tRidley Scott|Somebody\tmovie_to_director\n\nplain\tx\n")
    first, second = read_rows(path)
    assert (first.question, first.start, first.answers) == (
        "who directed Alien (1979) then",
        ("Alien (1979)",),
        ("Ridley Scott", "Somebody"),
    )
    assert first.question[slice(*first.spans[0])] == "Alien (1979)"
    assert (second.line, second.start, second.spans) == (3, (), ())


def test_json_lines_may_say_what_they_start_from(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Who made alien?", "answers": ["Ridley Scott"], "start": ["Alien"], "id": 3}\n')
    (row,) = read_rows(path)
    assert row.question[slice(*row.spans[0])] == "alien" and row.start == ("Alien",)


@pytest.mark.parametrize(
    "name, content, why",
    [
        ("q.jsonl", "[]", "must be an object"),
        ("q.jsonl", '{"question": 3, "answers": ["a"]}', "'?\"question\"'? must be a text"),
        ("q.jsonl", '{"question": "who", "answers": "a"}', "list of names"),
        ("q.jsonl", '{"question": "who", "answers": [""]}', "list of names"),
        ("q.jsonl", '{"question": "who", "answers": []}', "has no answer"),
        ("q.jsonl", '{"question": "", "answers": ["a"]}', "question"),
        ("q.jsonl", "{", "line 1"),
        ("q.tsv", "only a question", "a tab"),
        ("q.tsv", "who\t|", "has no answer"),
    ],
)
def test_lines_that_are_no_questions_are_named(tmp_path: Path, name: str, content: str, why: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=why):
        list(read_rows(tmp_path / name))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuili.reason.questions_file.MAX_BYTES", 3)
    (tmp_path / "q.tsv").write_text("who\tanybody")
    with pytest.raises(LimitError, match="at most 3"):
        list(read_rows(tmp_path / "q.tsv"))


def test_questions_are_tied_to_entities_and_others_named(tmp_path: Path, tiny_base: Path) -> None:
    path = tmp_path / "q.tsv"
    path.write_text(
        "who directed [ALIEN]\tRidley Scott\nwho directed Alien?\tRidley Scott\n"
        "who directed [Nothing]\tRidley Scott\nwho directed [Alien]\tNobody\n"
    )
    with Store.open(tiny_base) as store:
        graph = Graph(store)
        linker = Linker(graph)
        linked = link(list(read_rows(path)), graph, lambda question: find(question, linker))
        assert {one.text for one in linked.questions} == {"who directed xyz", "who directed xyz ?"}
        for one in linked.questions:
            assert one.start.tolist() == [graph.by_key("film:alien")]
            assert one.answers.tolist() == [graph.by_key("person:scott")]
    assert linked.bad == (
        (3, "nothing that the question names is in the base"),
        (4, "the base knows none of the answers Nobody"),
    )
