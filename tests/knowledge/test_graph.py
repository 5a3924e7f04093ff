"""The graph as the reasoner reads it, compared with plain sets; cycles, hubs, overlays."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError
from tuili.knowledge.build import build
from tuili.knowledge.graph import Graph
from tuili.knowledge.records import Edge, Kind, Record, Relation
from tuili.knowledge.store import Store

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)


def opened(path: Path, records: list[Record]) -> Iterator[Graph]:
    build(path, records, origin="x")
    with Store.open(path) as store:
        yield Graph(store)


@pytest.fixture
def films(tiny_base: Path) -> Iterator[Graph]:
    with Store.open(tiny_base) as store:
        yield Graph(store)


def number(graph: Graph, key: str) -> int:
    found = graph.by_key(key)
    assert found is not None
    return found


@given(pairs, st.integers(0, 9), st.booleans())
def test_the_closure_is_what_can_be_reached_by_shortest_ways(
    tmp_path_factory: pytest.TempPathFactory, some: list[tuple[int, int]], start: int, inverse: bool
):
    records: list[Record] = [Edge(f"n{a}", "r", f"n{b}") for a, b in some]
    steps = {(b, a) if inverse else (a, b) for a, b in some}
    distance = {start: 0}
    frontier = {start}
    while frontier:
        frontier = {b for a, b in steps if a in frontier} - distance.keys()
        distance |= dict.fromkeys(frontier, max(distance.values()) + 1)
    del distance[start]
    path = tmp_path_factory.mktemp("graph") / "a.sqlite"
    for graph in opened(path, [Edge(f"n{start}", "other", "x"), *records]):
        reached = graph.closure(number(graph, f"n{start}"), "r", inverse=inverse)
        assert {graph.entity(node).key: len(way) for node, way in reached.items()} == {
            f"n{node}": length for node, length in distance.items()
        }
        for node, way in reached.items():
            ends = [fact.subject if inverse else fact.object for fact in way]
            assert ends[-1] == node


@given(pairs)
def test_facts_are_read_from_both_ends(tmp_path_factory: pytest.TempPathFactory, some: list[tuple[int, int]]):
    path = tmp_path_factory.mktemp("graph") / "a.sqlite"
    for graph in opened(path, [Edge(f"n{a}", "r", f"n{b}") for a, b in some]):
        for node in range(10):
            found = graph.by_key(f"n{node}")
            subjects = {graph.entity(fact.object).key for fact in graph.facts(found or 0)}
            objects = {graph.entity(fact.subject).key for fact in graph.facts(found or 0, inverse=True)}
            assert subjects == {f"n{b}" for a, b in some if a == node}
            assert objects == {f"n{a}" for a, b in some if b == node}


def test_a_long_chain_is_followed_to_its_end(tmp_path: Path):
    for graph in opened(tmp_path / "a.sqlite", [Edge(f"n{i}", "r", f"n{i + 1}") for i in range(1500)]):
        reached = graph.closure(number(graph, "n0"), "r")
        assert len(reached[number(graph, "n1500")]) == 1500


def test_entities_keep_the_order_asked_for_beyond_one_chunk(tmp_path: Path):
    for graph in opened(tmp_path / "a.sqlite", [Edge(f"n{i}", "r", f"n{i + 1}") for i in range(1500)]):
        ids = [number(graph, f"n{i}") for i in range(1500, -1, -1)]
        assert [entity.key for entity in graph.entities(ids)] == [f"n{i}" for i in range(1500, -1, -1)]
        assert len(graph.by_label([f"n{i}" for i in range(1501)])) == 1501


def test_names_find_their_entities(films: Graph):
    alien = number(films, "film:alien")
    for text in ("alien", "alien 1979", "film:alien"):
        assert films.by_label([text]) == {text: [alien]}
    assert films.by_key("film:nothing") is None
    assert films.by_label(["nothing"]) == {}
    assert [film for film, _ in films.search("a strange crew")] == [alien]
    assert films.search("crew", kinds=["person"]) == []
    assert films.search("?!") == []
    assert {name for name, _ in films.labels_like("alien")} == {"alien", "alien 1979"}


@pytest.mark.parametrize("text", ['"', "'", "a OR b", "NEAR(a b)", "*", "name:alien", "alien\x00", "-alien", "(" * 99])
def test_full_text_search_takes_any_text_as_words(films: Graph, text: str):
    films.search(text)


@given(st.text())
def test_no_text_breaks_a_look_up(tmp_path_factory: pytest.TempPathFactory, text: str):
    path = tmp_path_factory.mktemp("graph") / "a.sqlite"
    for graph in opened(path, [Edge("a", "r", "b")]):
        try:
            graph.search(text)
            graph.by_key(text)
            graph.by_label([text])
        except InputError as error:
            assert "surrogate" in str(error)


def test_a_lone_surrogate_is_bad_input(films: Graph):
    with pytest.raises(InputError, match="lone surrogate"):
        films.by_key("\ud800")


def test_kinds_have_parents_and_undeclared_ones_are_known(tmp_path: Path):
    records: list[Record] = [Kind("a"), Kind("b", parent="a"), Kind("c", parent="b"), Kind("loop", parent="loop")]
    for graph in opened(tmp_path / "a.sqlite", [*records, Edge("x", "r", "y")]):
        assert graph.is_kind("c", "a")
        assert not graph.is_kind("a", "c")
        assert not graph.is_kind("loop", "a")
        assert set(graph.subkinds("a")) == {"a", "b", "c"}
        assert graph.kinds["entity"] == Kind("entity", words=("entity",))
        assert graph.members("entity", 10) == [1, 2]


def test_relations_come_back_as_they_were_declared(tmp_path: Path):
    relation = Relation(
        "has",
        inverse="of",
        domain=("a",),
        range=("b",),
        words=("has", "with"),
        transitive=True,
        qualifiers={"frequency": ("how often",)},
        object_through="is a",
        ranked=True,
    )
    for graph in opened(tmp_path / "a.sqlite", [relation]):
        assert graph.relations == {"has": relation}


def test_signatures_list_the_most_frequent_relation_first(films: Graph):
    assert films.signatures == {
        ("film", "person"): ("directed by",),
        ("film", "genre"): ("has genre",),
        ("genre", "genre"): ("is a",),
    }


def test_an_overlay_adds_facts_to_old_and_new_entities(films: Graph):
    alien = number(films, "film:alien")
    num_facts = len(films.facts(alien))
    score = Edge("Alien", "scored by", "Jerry Goldsmith", 0.9, "said")
    films.overlay([score, Edge("Jerry Goldsmith", "born in", "LA")])
    (fact,) = films.step(alien, "scored by")
    assert films.entity(fact.object).name == "Jerry Goldsmith"
    assert films.by_label(["jerry goldsmith"]) == {"jerry goldsmith": [fact.object]}
    assert films.by_key("Jerry Goldsmith") == fact.object
    assert [other.relation for other in films.facts(fact.object)] == ["born in"]
    assert films.facts(fact.object, inverse=True) == (fact,)
    assert len(films.facts(alien)) == num_facts + 1
    assert films.store.counts()["edge"] == 4, "the file is not touched"


@pytest.mark.parametrize("edge", [
    Edge("", "r", "o"), Edge("s", "\x00", "o"), Edge("s", "r", "\ud800"), Edge("s", "r", "o", float("nan")),
])  # fmt: skip
def test_an_overlay_refuses_what_the_store_refuses(films: Graph, edge: Edge):
    with pytest.raises(InputError):
        films.overlay([edge])


def test_overlay_names_of_signs_only_stay_apart(films: Graph):
    films.overlay([Edge("?", "r", "!")])
    assert films.entity(films.by_label(["?"])["?"][0]).name == "?"
    assert films.by_label(["?"]) != films.by_label(["!"])


def test_near_entities_stay_within_the_limit(tmp_path: Path):
    for graph in opened(tmp_path / "a.sqlite", [Edge("hub", "r", f"n{i}") for i in range(200)]):
        hub = number(graph, "hub")
        assert len(graph.near([hub], 2, 1000)) == 201
        assert graph.near([number(graph, "n7")], 1, 1000) == {hub, number(graph, "n7")}
        assert graph.near([hub], 3, 10) == {hub} | {number(graph, f"n{i}") for i in range(200)}


# -- entities with very many facts ---------------------------------------------------------------


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Graph]:
    """A base where 3,000 things like one thing, which is more than are kept in memory."""
    records: list[Record] = [Edge(f"thing {at}", "likes", "hub", 1.0, "crowd:1") for at in range(3000)]
    records += [Edge("hub", "likes", "hub"), Edge("hub", "owns", "thing 7"), Edge("thing 7", "owns", "hub")]
    yield from opened(tmp_path / "a.sqlite", records)


def test_a_hub_is_read_no_further_than_asked(crowd: Graph):
    hub = number(crowd, "hub")
    assert len(crowd.step(hub, "likes", inverse=True, limit=10)) == 10
    assert len(crowd.step(hub, "likes", inverse=True)) == 3001
    assert [fact.subject for fact in crowd.step(hub, "owns", inverse=True, limit=1)] == [number(crowd, "thing 7")]
    assert len(crowd.facts(hub, inverse=True)) == 3002 and len(crowd.facts(hub)) == 2
    assert crowd.step(hub, "nothing", inverse=True) == []


@pytest.mark.parametrize("warm", [False, True])
def test_a_single_fact_is_found_whatever_its_ends_have(crowd: Graph, warm: bool):
    hub, seven, eight = (number(crowd, key) for key in ("hub", "thing 7", "thing 8"))
    if warm:
        crowd.facts(hub), crowd.facts(seven)
    assert crowd.fact(seven, "likes", hub) == next(iter(crowd.step(seven, "likes")))
    assert crowd.fact(hub, "likes", seven) is None and crowd.fact(eight, "owns", hub) is None
    assert crowd.fact(hub, "no such relation", seven) is None
    assert crowd.meets(hub, "likes", {eight}, inverse=True) and crowd.meets(hub, "likes", {hub, eight})
    assert not crowd.meets(hub, "owns", {eight}, inverse=True) and not crowd.meets(eight, "owns", {hub})


def test_facts_of_an_overlay_join_those_of_a_hub(crowd: Graph):
    crowd.overlay([Edge("newcomer", "likes", "hub")])
    hub, newcomer = number(crowd, "hub"), number(crowd, "newcomer")
    assert newcomer in {fact.subject for fact in crowd.step(hub, "likes", inverse=True, limit=1)}
    assert crowd.fact(newcomer, "likes", hub) is not None and crowd.meets(hub, "likes", {newcomer}, inverse=True)


def test_a_common_word_does_not_hide_the_rare_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tuili.knowledge.graph.MAX_RANKED", 20)
    records: list[Record] = [Edge(f"film {word}", "r", "x") for word in [f"n{at}" for at in range(100)]]
    records += [Edge("film about whales", "r", "x"), Edge("whales", "r", "x")]
    for graph in opened(tmp_path / "a.sqlite", records):
        found = graph.search("films about whales film", limit=3)
        assert graph.entity(found[0][0]).name == "film about whales" and len(found) == 3
        assert [graph.entity(one).name for one, _ in found[:2]][1] == "whales"
        assert all(score > 0 for _, score in found)


def test_like_names_share_as_many_letters_as_it_takes(tmp_path: Path):
    records: list[Record] = [Edge(f"abc{at}", "r", "abd") for at in range(30)]
    for graph in opened(tmp_path / "a.sqlite", records):
        assert len(graph.labels_like("abdx", limit=40)) == 31
        assert graph.labels_like("abdx", limit=20) == [("abd", number(graph, "abd"))]
        assert len(graph.labels_like("ab", limit=20)) == 20
