"""The store: what goes in comes out, all or nothing; what can't go in is refused."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError, LimitError, StoreError
from tuili.knowledge import locks, store
from tuili.knowledge.build import build
from tuili.knowledge.graph import Entity, Fact, Graph
from tuili.knowledge.records import Edge, Node, normalise
from tuili.knowledge.store import MAX_NAME, MAX_TEXT, Store, base_names, base_path

UNSAFE = ["\x00", "\x07", "\x1b[31m", "\x7f", "\x9b", "\r", "\ud800", "\udfff"]
HOSTILE = [
    "Robert'); DROP TABLE node;--",
    '" OR 1=1 --',
    "%_*?",
    "a\nb",
    "推理",
    "🧠" * 20,
    "‮right to left",
    "name" * 250,
    "NULL",
    "0",
    "'",
]
clean_text = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t"), max_size=40
)  # fmt: skip
names = clean_text.filter(lambda text: bool(text.strip()))
aliases = names.filter(lambda text: "\n" not in text)
scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | clean_text
data = st.dictionaries(clean_text, scalars | st.lists(scalars, max_size=3), max_size=3)
nodes = st.builds(
    Node,
    key=names,
    kind=names,
    name=names,
    description=clean_text,
    aliases=st.lists(aliases, max_size=3).map(tuple),
    data=data,
)
weights = st.floats(0, 1e12)
edges = st.builds(Edge, subject=names, relation=names, object=names, weight=weights, source=clean_text, data=data)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    yield from fresh(tmp_path / "empty.sqlite")


def fresh(path: Path) -> Iterator[Store]:
    build(path, [], origin="nothing")
    with Store.open(path, writable=True) as opened:
        yield opened


def facts(opened: Store) -> dict[tuple[str, str, str], Fact]:
    """Return every fact of a base by its keys."""
    graph = Graph(opened)
    ids = [row[0] for row in opened.connection.execute("SELECT id FROM node")]
    key = {number: graph.entity(number).key for number in ids}
    return {
        (key[fact.subject], fact.relation, key[fact.object]): fact for number in ids for fact in graph.facts(number)
    }


def entity(opened: Store, key: str) -> Entity:
    graph = Graph(opened)
    number = graph.by_key(key)
    assert number is not None
    return graph.entity(number)


def signatures(opened: Store) -> dict[tuple[str, str, str], int]:
    rows = opened.connection.execute(
        "SELECT subject_kind, name, object_kind, num FROM signature s JOIN relation r ON r.id = s.relation"
    )
    return {row[:3]: row[3] for row in rows}


@given(st.lists(edges, max_size=8), st.lists(nodes, max_size=4))
def test_what_is_added_comes_out(tmp_path_factory: pytest.TempPathFactory, some: list[Edge], more: list[Node]):
    for opened in fresh(tmp_path_factory.mktemp("store") / "a.sqlite"):
        assert opened.add_facts(some) == len(some)
        opened.add_nodes(more)
        expected = {(edge.subject, edge.relation, edge.object): edge for edge in some}
        found = facts(opened)
        assert found.keys() == expected.keys()
        for triple, edge in expected.items():
            fact = found[triple]
            assert (fact.weight, fact.source, fact.data) == (edge.weight, edge.source, edge.data)
        for node in {node.key: node for node in more}.values():
            known = entity(opened, node.key)
            assert (known.kind, known.name, known.description) == (node.kind, node.name, node.description)
            assert (known.aliases, known.data) == (node.aliases, node.data)
            graph = Graph(opened)
            for label in (node.key, node.name, *node.aliases):
                if norm := normalise(label):
                    assert known.id in graph.by_label([norm])[norm]
        assert not [problem for problem in opened.check() if "is its own" not in problem and "empty" not in problem]


@given(st.lists(edges, min_size=1, max_size=8), st.data())
def test_a_fact_taken_back_is_gone_and_the_others_stay(
    tmp_path_factory: pytest.TempPathFactory, some: list[Edge], draw: st.DataObject
):
    for opened in fresh(tmp_path_factory.mktemp("store") / "a.sqlite"):
        opened.add_facts(some)
        before = facts(opened)
        gone = draw.draw(st.sampled_from(some))
        opened.retract(gone.subject, gone.relation, gone.object)
        after = facts(opened)
        assert before.keys() - after.keys() == {(gone.subject, gone.relation, gone.object)}
        with pytest.raises(InputError, match="has no fact"):
            opened.retract(gone.subject, gone.relation, gone.object)
        counts = opened.connection.execute("SELECT sum(num) FROM signature").fetchone()[0]
        assert (counts or 0) == len(after)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_visible_name_is_kept_as_it_is(empty: Store, name: str):
    empty.add_facts([Edge(name, name, "object", 1.0, name, {name: name})])
    assert facts(empty) == {(name, name, "object"): next(iter(facts(empty).values()))}
    assert next(iter(facts(empty).values())).data == {name: name}
    Graph(empty).search(name)
    empty.retract(name, name, "object")
    assert empty.check() == []


@pytest.mark.parametrize("bad", UNSAFE)
@pytest.mark.parametrize("place", ["subject", "relation", "object", "source"])
def test_a_control_character_or_surrogate_in_a_fact_is_refused(empty: Store, place: str, bad: str):
    texts = {"subject": "s", "relation": "r", "object": "o", "source": "x"} | {place: f"a{bad}b"}
    with pytest.raises(InputError, match="control character or a lone surrogate"):
        empty.add_facts([Edge(**texts)])
    assert empty.counts()["edge"] == 0


@pytest.mark.parametrize(
    "node",
    [
        Node("", "k", "n"),
        Node("k", "k", " \n"),
        Node("k", "", "n"),
        Node("k", "k", "n", "a\x00b"),
        Node("k", "k", "n", "\ud800"),
        Node("k", "k", "n", aliases=("a\nb",)),
        Node("k", "k", "n", aliases=("",)),
        Node("k", "k", "n", aliases=("\x1b",)),
        Node("k", "k", "n", data={"a": "\ud800"}),
        Node("k", "k", "n", data={"a": object()}),
        Node("k", "k", "n", data={"a": {1, 2}}),
        Node("k" * (MAX_NAME + 1), "k", "n"),
        Node("k", "k", "n", "d" * (MAX_TEXT + 1)),
    ],
)
def test_a_node_that_can_not_be_kept_is_refused_by_store_and_import(empty: Store, tmp_path: Path, node: Node):
    with pytest.raises(InputError):
        empty.add_nodes([node])
    with pytest.raises(InputError, match="Nothing was imported"):
        build(tmp_path / "b.sqlite", [node], origin="x")
    assert empty.counts()["node"] == 0
    assert not (tmp_path / "b.sqlite").exists()


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), float("-inf"), -0.1])
def test_a_weight_that_is_no_number_from_zero_is_refused(empty: Store, weight: float):
    with pytest.raises(InputError, match="not a finite number from 0"):
        empty.add_facts([Edge("a", "b", "c", weight)])


def test_the_limits_are_inclusive(empty: Store):
    name = "n" * MAX_NAME
    empty.add_nodes([Node(name, name, name, "d" * MAX_TEXT)])
    assert entity(empty, name).description == "d" * MAX_TEXT
    with pytest.raises(LimitError, match=f"{MAX_NAME + 1} characters, the limit is {MAX_NAME}"):
        empty.add_facts([Edge(name + "n", "r", "o")])


def test_all_or_none_are_added(empty: Store):
    good = [Edge(f"s{i}", "r", "o") for i in range(50)]
    with pytest.raises(InputError):
        empty.add_facts([*good, Edge("", "r", "o")])
    assert empty.counts() == {"node": 0, "edge": 0, "relation": 0, "kind": 0}

    def breaks() -> Iterator[Edge]:
        yield good[0]
        raise KeyError("the source broke")

    with pytest.raises(KeyError, match="broke"):
        empty.add_facts(breaks())
    assert empty.counts()["edge"] == 0
    assert empty.add_facts(good) == 50


def test_a_fact_given_again_takes_the_new_weight_and_source(empty: Store):
    empty.add_facts([Edge("a", "r", "b", 0.5, "old", {"n": 1})])
    empty.add_facts([Edge("a", "r", "b", 0.2, "new")])
    (fact,) = facts(empty).values()
    assert (fact.weight, fact.source, fact.data) == (0.2, "new", {})


def test_a_node_given_again_keeps_its_facts_and_loses_its_old_names(empty: Store):
    empty.add_facts([Edge("a", "r", "b")])
    empty.add_nodes([Node("a", "letter", "First letter", aliases=("alpha",))])
    empty.add_nodes([Node("a", "letter", "The first letter")])
    graph = Graph(empty)
    assert graph.by_label(["alpha", "first letter", "the first letter", "a"]).keys() == {"the first letter", "a"}
    assert facts(empty).keys() == {("a", "r", "b")}
    assert [number for number, _ in graph.search("letter")] == [graph.by_key("a")]
    assert graph.search("alpha") == []


def test_signatures_follow_kinds_and_facts(empty: Store):
    empty.add_facts([Edge("a", "r", "b"), Edge("c", "r", "b")])
    assert signatures(empty) == {("entity", "r", "entity"): 2}
    empty.add_nodes([Node("a", "letter", "a")])
    assert signatures(empty) == {("entity", "r", "entity"): 1, ("letter", "r", "entity"): 1}
    empty.retract("a", "r", "b")
    assert signatures(empty) == {("entity", "r", "entity"): 1}


def test_self_loops_are_kept_and_reported_where_they_make_no_sense(tiny_base: Path):
    with Store.open(tiny_base, writable=True) as opened:
        opened.add_facts([Edge("film:alien", "has genre", "film:alien"), Edge("genre:horror", "is a", "genre:horror")])
        assert opened.check() == ["'genre:horror' is its own 'is a'"]


def test_an_empty_base_says_so(empty: Store):
    assert empty.check() == ["the base is empty"]
    assert empty.meta()["origin"] == "nothing"


def test_a_missing_base_is_named_with_those_that_are_there(home: Path):
    build(base_path("films"), [Edge("a", "b", "c")], origin="x")
    assert base_names() == ["films"]
    with pytest.raises(StoreError, match=r"no knowledge base 'novels' \(built: films\)"):
        Store.open(base_path("novels"))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "-a", ".a", "a b", "a\n", "n" * 101, "\ud800"])
def test_a_name_that_could_leave_the_folder_is_refused(home: Path, name: str):
    with pytest.raises(InputError, match="can't name a knowledge base"):
        base_path(name)


def test_reading_does_not_write(tiny_base: Path):
    with Store.open(tiny_base) as opened, pytest.raises(StoreError, match="readonly"):
        opened.add_facts([Edge("a", "b", "c")])


def test_a_second_writer_is_told_that_the_base_is_locked(tiny_base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "BUSY_TIMEOUT_S", 0.05)
    with Store.open(tiny_base, writable=True) as first, Store.open(tiny_base, writable=True) as second:
        with first.transaction(), pytest.raises(StoreError, match="another process is writing"):
            second.add_facts([Edge("a", "b", "c")])
        assert second.add_facts([Edge("a", "b", "c")]) == 1


def test_readers_see_what_was_there_when_they_asked(tiny_base: Path):
    with Store.open(tiny_base) as reader, Store.open(tiny_base, writable=True) as writer:
        before = reader.counts()["edge"]
        with writer.transaction() as connection:
            connection.execute("DELETE FROM edge")
            assert reader.counts()["edge"] == before
        assert reader.counts()["edge"] == 0


def test_a_base_is_not_replaced_under_a_writer(tiny_base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks, "LOCK_TIMEOUT_S", 0.05)
    with Store.open(tiny_base, writable=True) as writer:
        with pytest.raises(StoreError, match="in use by another process that writes to it"):
            build(tiny_base, [Edge("a", "b", "c")], origin="x")
        writer.add_facts([Edge("film:alien", "seen by", "me")])
    build(tiny_base, [Edge("a", "b", "c")], origin="x")
    with Store.open(tiny_base) as opened:
        assert facts(opened).keys() == {("a", "b", "c")}


def test_a_closed_store_is_a_defect_of_the_caller(tiny_base: Path):
    opened = Store.open(tiny_base)
    opened.close()
    with pytest.raises(sqlite3.ProgrammingError):
        opened.counts()
