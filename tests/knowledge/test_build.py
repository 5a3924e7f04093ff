"""Building a base: whole or not at all; wrong rows refused or reported."""

import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError, StoreError
from tuili.knowledge import build as module
from tuili.knowledge.build import MAX_SOURCES, build
from tuili.knowledge.graph import Graph
from tuili.knowledge.records import BadRow, Edge, Kind, Node, Record, Relation
from tuili.knowledge.store import Store

letters = st.sampled_from("abcdef")
edges = st.builds(Edge, subject=letters, relation=st.sampled_from("rs"), object=letters, weight=st.floats(0, 9))


def triples(path: Path) -> dict[tuple[str, str, str], tuple[float, str]]:
    with Store.open(path) as opened:
        rows = opened.connection.execute(
            "SELECT s.key, r.name, o.key, e.weight, e.source FROM edge e JOIN node s ON s.id = e.subject"
            " JOIN node o ON o.id = e.object JOIN relation r ON r.id = e.relation"
        ).fetchall()
    return {row[:3]: row[3:] for row in rows}


@given(st.permutations([Node("a", "letter", "A"), Node("b", "letter", "B"), Kind("letter")]), st.lists(edges))
def test_the_order_of_nodes_and_facts_is_free(
    tmp_path_factory: pytest.TempPathFactory, first: list[Record], some: list[Edge]
):
    path = tmp_path_factory.mktemp("build") / "a.sqlite"
    half = len(some) // 2
    report = build(path, [*some[:half], *first, *some[half:]], origin="x")
    expected: dict[tuple[str, str, str], float] = {}
    for edge in some:
        triple = (edge.subject, edge.relation, edge.object)
        expected[triple] = max(edge.weight, expected.get(triple, 0.0))
    assert {triple: weight for triple, (weight, _) in triples(path).items()} == expected
    assert report.num_edges == len(expected)
    with Store.open(path) as opened:
        assert not [problem for problem in opened.check() if "is its own" not in problem]
        assert opened.counts()["node"] == report.num_nodes
        assert Graph(opened).entities([Graph(opened).by_key("a") or 0])[0].name == "A"


def test_batches_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    some = [Edge(f"n{i % 7}", f"r{i % 3}", f"n{i % 5}", i / 10, f"f:{i}") for i in range(100)]
    build(tmp_path / "a.sqlite", some, origin="x")
    monkeypatch.setattr(module, "BATCH", 1)
    build(tmp_path / "b.sqlite", some, origin="x")
    assert triples(tmp_path / "a.sqlite") == triples(tmp_path / "b.sqlite")


@pytest.mark.parametrize("bad", [
    BadRow(7, "two columns", "a\tb"), Edge("", "r", "o"), Edge("s", "r", "o", float("nan")), Edge("s", "\x00", "o"),
    Edge("s", "r", "o", 1.0, "\ud800"), Edge("s", "r", "o", data={"a": object()}), Node("a", "k", ""), Relation(""),
])  # fmt: skip
def test_a_wrong_row_is_refused_or_left_out_with_its_reason(tmp_path: Path, bad: Record):
    good = [Edge("a", "r", "b"), Edge("b", "r", "c")]
    path = tmp_path / "a.sqlite"
    with pytest.raises(InputError, match=r"Nothing was imported.*--skip-bad"):
        build(path, [good[0], bad, good[1]], origin="x")
    assert list(tmp_path.iterdir()) == []
    report = build(path, [good[0], bad, good[1]], origin="x", skip_bad=True)
    assert len(report.bad_rows) == 1
    assert report.bad_rows[0].reason
    assert report.bad_rows[0].line == (7 if isinstance(bad, BadRow) else 0)
    assert triples(path).keys() == {("a", "r", "b"), ("b", "r", "c")}
    assert report.num_nodes == 3


def test_the_line_of_a_wrong_row_is_in_the_message(tmp_path: Path):
    with pytest.raises(InputError, match=r"^line 7: two columns: 'a b'"):
        build(tmp_path / "a.sqlite", [BadRow(7, "two columns", "a b")], origin="x")


def test_a_key_given_to_two_entities_is_a_wrong_row(tmp_path: Path):
    twice = [Node("a", "k", "A"), Edge("a", "r", "b"), Node("a", "k", "Another")]
    with pytest.raises(InputError, match="'a' is given to two entities"):
        build(tmp_path / "a.sqlite", twice, origin="x")
    report = build(tmp_path / "a.sqlite", twice, origin="x", skip_bad=True)
    assert "two entities" in report.bad_rows[0].reason


def test_a_fact_of_several_rows_keeps_each_source_once(tmp_path: Path):
    sources = ["f:1", "f:12", "f:1", "", "g:2"]
    build(tmp_path / "a.sqlite", [Edge("a", "r", "b", 0.5, source) for source in sources], origin="x")
    assert triples(tmp_path / "a.sqlite") == {("a", "r", "b"): (0.5, "f:1; f:12; g:2")}


def test_a_fact_of_very_many_rows_stays_small_and_is_fast(tmp_path: Path):
    build(tmp_path / "a.sqlite", (Edge("a", "r", "b", 1.0, f"file:{i}") for i in range(50_000)), origin="x")
    ((_, source),) = triples(tmp_path / "a.sqlite").values()
    assert MAX_SOURCES <= len(source) < MAX_SOURCES + 20


def test_one_node_with_very_many_facts_is_built_and_read(tmp_path: Path):
    num = 100_000
    build(tmp_path / "a.sqlite", (Edge("hub", "r", f"n{i}") for i in range(num)), origin="x")
    with Store.open(tmp_path / "a.sqlite") as opened:
        graph = Graph(opened)
        hub = graph.by_key("hub")
        assert hub is not None
        assert len(graph.facts(hub)) == num
        assert len(graph.closure(hub, "r")) == num
        assert len(graph.facts(graph.by_key("n99") or 0, inverse=True)) == 1


@pytest.mark.parametrize("records", [[], [Node("a", "k", "A")], [Edge("a", "r", "a")]])
def test_the_smallest_bases_can_be_read(tmp_path: Path, records: list[Record]):
    build(tmp_path / "a.sqlite", records, origin="x")
    with Store.open(tmp_path / "a.sqlite") as opened:
        graph = Graph(opened)
        assert len(graph.search("a")) == len(records)
        assert graph.by_label(["a"]).keys() == ({"a"} if records else set())
        assert graph.relations.keys() == ({"r"} if isinstance(records[-1:], Edge) else graph.relations.keys())


def test_a_failed_build_leaves_the_older_base_and_no_other_file(tiny_base: Path):
    before = triples(tiny_base)

    def breaks() -> Iterator[Record]:
        yield Edge("a", "b", "c")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tiny_base, breaks(), origin="x")
    assert triples(tiny_base) == before
    assert not list(tiny_base.parent.glob("*.tmp*"))


def test_facts_added_to_the_older_base_do_not_show_in_the_new_one(tiny_base: Path):
    """The log of the older base must not be read as part of the new one."""
    with Store.open(tiny_base) as reader:
        with Store.open(tiny_base, writable=True) as writer:
            writer.add_facts(Edge(f"n{i}", "r", f"n{i + 1}") for i in range(500))
        assert tiny_base.with_name(tiny_base.name + "-wal").stat().st_size
        build(tiny_base, [Edge("a", "b", "c")], origin="new")
        assert triples(tiny_base).keys() == {("a", "b", "c")}
        assert reader.counts()["edge"] == 504, "who had the older base open goes on reading that"
    with Store.open(tiny_base, writable=True) as opened:
        assert opened.check() == []
        opened.add_facts([Edge("d", "b", "c")])
    assert triples(tiny_base).keys() == {("a", "b", "c"), ("d", "b", "c")}


def test_a_log_without_its_base_is_not_read(tmp_path: Path, tiny_base: Path):
    path = tmp_path / "new.sqlite"
    with Store.open(tiny_base, writable=True) as writer:
        writer.add_facts([Edge("x", "y", "z")])
        log = tiny_base.with_name(tiny_base.name + "-wal").read_bytes()
        path.with_name("new.sqlite-wal").write_bytes(log)
    build(path, [Edge("a", "b", "c")], origin="x")
    assert triples(path).keys() == {("a", "b", "c")}


def test_a_reader_in_the_middle_of_reading_is_waited_for(tiny_base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.05)
    with Store.open(tiny_base) as reader:
        with Store.open(tiny_base, writable=True) as writer:
            writer.add_facts([Edge("x", "y", "z")])
            list(islice(reader.connection.execute("BEGIN"), 1))
            assert reader.counts()["edge"] == 5
            writer.add_facts([Edge("x", "y", "zz")])
        with pytest.raises(StoreError, match="can't be replaced, another process uses it"):
            build(tiny_base, [Edge("a", "b", "c")], origin="x")
        reader.connection.execute("COMMIT")
        assert reader.counts()["edge"] == 6


def test_a_damaged_older_base_is_replaced(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"no base at all" * 1000)
    path.with_name("a.sqlite-wal").write_bytes(b"rubbish" * 1000)
    build(path, [Edge("a", "b", "c")], origin="x")
    assert triples(path).keys() == {("a", "b", "c")}


def test_the_built_file_has_a_log_and_no_leftovers(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    build(path, [Edge("a", "b", "c")], origin="x")
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert {each.name for each in tmp_path.iterdir()} == {"a.sqlite", ".a.sqlite.use"}


def test_progress_is_told(tmp_path: Path):
    told: list[tuple[str, int]] = []
    some = [Edge(f"a{i}", "b", "c") for i in range(10)]
    build(tmp_path / "a.sqlite", some, origin="x", on_progress=lambda stage, done: told.append((stage, done)))
    assert told[-1] == ("indexing", 10)
    assert ("reading", 10) in told
