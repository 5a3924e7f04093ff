"""Queries on small graphs, against what is written beside them and against a naive twin."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.knowledge.build import build
from tuili.knowledge.graph import Graph
from tuili.knowledge.query import Aggregate, Constraint, Query, Var
from tuili.knowledge.records import Edge, Kind, Node, Relation
from tuili.knowledge.store import Store
from tuili.reason.search import Search

GOAL = Var("x", ("disease",))


def fits_all(text, ids):
    return dict.fromkeys(ids, 1.0)


@pytest.fixture
def graph(garden):
    return garden.base("small").graph


@pytest.fixture
def named(graph):
    """Return a function that makes a variable of entities' keys."""

    def make(name, *keys):
        ids = tuple(graph.by_key(key) for key in keys)
        return Var(name, tuple({key.partition(":")[0] for key in keys}), ids, ", ".join(keys))

    return make


@pytest.fixture
def names(graph):
    """Return a function that evaluates a query and returns the names found."""

    def run(variables, *constraints, match=fits_all, max_nodes=20_000):
        query = Query(tuple(variables), constraints, (variables[0].name,))
        found = Search(graph, query, match, max_nodes).run().found
        return sorted(graph.entity(number).name for number in found)

    return run


def test_constraints_are_intersected(names, named):
    tomato, curl = named("a", "plant:tomato"), named("b", "sign:curl")
    both = Constraint("x", "affects", "a"), Constraint("x", "shows", "b")
    assert names([GOAL, tomato, curl], *both) == ["Fusarium wilt", "Late blight"]
    assert names([GOAL, tomato, named("b", "sign:orange")], *both) == []


def test_one_of_several_constants_is_enough(names, named):
    either = named("a", "plant:rose", "plant:potato")
    found = names([GOAL, either], Constraint("x", "affects", "a"))
    assert found == ["Late blight", "Mosaic virus disease", "Rose rust"]


def test_a_negated_constraint_excludes(names, named):
    negated = Constraint("x", "affects", "a", negated=True)
    assert names([GOAL, named("a", "plant:tomato")], negated) == ["Mosaic virus disease", "Rose rust"]


def test_facts_hold_for_what_lies_above_their_object(names, named):
    shows = Constraint("x", "shows", "a")
    assert names([GOAL, named("a", "sign:spot")], shows) == ["Late blight", "Rose rust"]
    assert names([GOAL, named("a", "sign:brown")], shows) == ["Late blight"]


def test_closure_goes_to_any_depth_and_a_plain_constraint_one_step(names, named):
    above = [Var("x", ("sign",)), named("a", "sign:brown")]
    assert names(above, Constraint("a", "is a", "x")) == ["Leaf spot"]
    assert names(above, Constraint("a", "is a", "x", closure=True)) == ["Leaf change", "Leaf spot"]


def test_of_shared_ancestors_the_most_specific_are_kept(names, named):
    above = Constraint("a", "is a", "x", closure=True), Constraint("b", "is a", "x", closure=True)
    goal = Var("x", ("sign",))
    assert names([goal, named("a", "sign:brown"), named("b", "sign:orange")], *above) == ["Leaf spot"]
    assert names([goal, named("a", "sign:brown"), named("b", "sign:curl")], *above) == ["Leaf change"]
    assert names([goal, named("a", "sign:brown"), named("b", "sign:droop")], *above) == []


def test_only_a_question_with_yes_or_no_inherits(graph, named):
    robot, depth = named("a", "tool:mini"), named("b", "setting:mower.depth")
    query = Query((robot, depth), (Constraint("a", "has setting", "b"),), ("a",), Aggregate.ASK)
    assert Search(graph, query, fits_all).run().found
    assert not Search(graph, replace(query, aggregate=Aggregate.LIST), fits_all).run().found
    trimmer = replace(query, variables=(named("a", "tool:trimmer"), depth))
    assert not Search(graph, trimmer, fits_all).run().found


def test_entities_of_a_by_name_kind_meet_by_name(names, named):
    takes = Constraint("a", "has setting", "x"), Constraint("b", "has setting", "x")
    tools = named("a", "tool:mower"), named("b", "tool:trimmer")
    assert names([Var("x", ("setting",)), *tools], *takes) == ["speed"]
    without = takes[0], replace(takes[1], negated=True)
    assert names([Var("x", ("setting",)), *tools], *without) == ["depth", "noise"]


def test_what_a_fact_tells_can_be_asked_for(names, named):
    often = Constraint("a", "shows", "x", where=("frequency", "Very frequent"))
    variables = [Var("x", ("sign",)), named("a", "disease:late")]
    assert names(variables, often) == ["Brown spot", "Leaf curl"]
    assert names(variables, replace(often, where=("frequency", "Rare"))) == []


@pytest.mark.parametrize(("ordinal", "expected"), [(1, ["speed"]), (2, ["depth"]), (-1, ["noise"]), (4, []), (-4, [])])
def test_ordinals_count_by_position(names, named, ordinal, expected):
    variables = [Var("x", ("setting",), ordinal=ordinal), named("a", "tool:mower")]
    assert names(variables, Constraint("a", "has setting", "x")) == expected


def test_a_free_end_must_exist_with_all_that_is_said_of_it(names, named):
    middle, end = Var("y", ("setting",)), Var("z", ("number",))
    has = Constraint("x", "has setting", "y"), Constraint("y", "default", "z")
    assert names([Var("x", ("tool",)), middle, end], *has) == ["Mower", "Trimmer"]
    assert names([Var("x", ("tool",)), middle], has[0]) == ["Mower", "Robot mower", "Trimmer"]
    assert names([Var("x", ("tool",)), middle], replace(has[0], negated=True)) == ["Mini robot mower"]


def test_goals_that_nothing_leads_to_are_not_found(names, named):
    assert names([Var("x", ("plant",)), named("a", "tool:mower")], Constraint("a", "has setting", "x")) == []


@pytest.mark.parametrize(("aggregate", "tool", "expected"), [
    (Aggregate.MOST, "tool:trimmer", {"Mower": 3, "Trimmer": 2}),
    (Aggregate.LEAST, "tool:mini", {"Mower": 3, "Mini robot mower": 0}),
])  # fmt: skip
def test_what_is_compared_is_counted_nothing_included(graph, named, aggregate, tool, expected):
    tools = named("x", "tool:mower", tool)
    query = Query((tools, Var("y", ("setting",))), (Constraint("x", "has setting", "y"),), ("x",), aggregate, "y")
    counts = Search(graph, query, fits_all).run().counts
    assert {graph.entity(number).name: count for number, count in counts.items()} == expected


def test_counting_goes_over_an_entity_between(graph, named):
    tools, between, numbers = named("x", "tool:mower", "tool:robot"), Var("y", ("setting",)), Var("z", ("number",))
    path = Constraint("x", "has setting", "y"), Constraint("y", "default", "z")
    counts = Search(graph, Query((tools, between, numbers), path, ("x",), Aggregate.MOST, "z"), fits_all).run().counts
    assert [counts[number] for number in tools.ids] == [1, 0]


# -- descriptions ------------------------------------------------------------------------------


def fits_only(**fits):
    return lambda text, ids: {number: fits.get(f"n{place}", 0.1) for place, number in enumerate(ids)}


def test_of_a_plural_all_that_fit_about_as_well_are_kept(names):
    match = fits_only(n0=0.9, n1=0.88)
    variables = [Var("x", ("remedy",), text="blue yellow", plural=True)]
    assert names(variables, match=match) == ["Copper spray", "Sulphur dust"]
    assert len(names([replace(variables[0], plural=False)], match=match)) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_scorer_that_returns_no_number_does_not_win(graph, bad):
    query = Query((Var("x", ("remedy",), text="blue yellow"),), (), ("x",))
    found = Search(graph, query, fits_only(n0=bad, n1=0.5)).run().found
    assert [support.fit for support in found.values()] == [0.5]
    assert not Search(graph, query, fits_only(n0=bad, n1=bad)).run().found


def test_all_candidates_can_be_pruned_and_each_tells_why(graph):
    query = Query((Var("x", ("remedy",), text="blue yellow"),), (), ("x",))
    outcome = Search(graph, query, fits_only(n0=0.2, n1=0.3), min_fit=0.5).run()
    assert not outcome.found and outcome.empty_at == "x"
    assert {item.entity for item in outcome.pruned} == {"Copper spray", "Sulphur dust"}
    assert all("blue yellow" in item.reason for item in outcome.pruned)


# -- budget ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_nodes", "is_partial"), [(1, True), (3, True), (4, False)])
def test_a_budget_that_is_hit_is_told(graph, named, max_nodes, is_partial):
    query = Query((GOAL, named("a", "plant:tomato")), (Constraint("x", "affects", "a", negated=True),), ("x",))
    outcome = Search(graph, query, fits_all, max_nodes).run()
    assert outcome.is_partial == is_partial and len(outcome.found) <= max_nodes


def test_a_hub_stops_at_the_budget(tmp_path):
    build(tmp_path / "hub.sqlite", (Edge(f"leaf {n}", "near", "hub") for n in range(500)), origin="test")
    graph = Graph(Store.open(tmp_path / "hub.sqlite"))
    hub = Var("a", ("entity",), (graph.by_key("hub"),))
    query = Query((Var("x", ("entity",)), hub), (Constraint("x", "near", "a"),), ("x",))
    outcome = Search(graph, query, fits_all, 100).run()
    assert outcome.is_partial and 100 <= len(outcome.found) < 200


# -- a naive twin ------------------------------------------------------------------------------

KINDS, RELATIONS = ("a", "b"), ("r", "s")
EDGES = st.sets(st.tuples(st.integers(0, 5), st.sampled_from(RELATIONS), st.integers(0, 5)), max_size=14)


@st.composite
def queries(draw):
    """A tree of up to four variables, some of them constants, some constraints negated, at most one closed."""
    num = draw(st.integers(1, 4))
    variables = []
    for place in range(num):
        ids = draw(st.lists(st.integers(1, 6), max_size=2, unique=True)) if place else []
        kinds = KINDS if ids else draw(st.sampled_from([("a",), ("b",), KINDS]))
        variables.append(Var(f"x{place}", kinds, tuple(ids)))
    constraints = []
    for place in range(1, num):
        ends = [f"x{place}", f"x{draw(st.integers(0, place - 1))}"]
        subject, object_ = ends if draw(st.booleans()) else reversed(ends)
        constraints.append(Constraint(subject, draw(st.sampled_from(RELATIONS)), object_, draw(st.booleans())))
    return Query(tuple(variables), tuple(constraints), ("x0",))


def twin(edges, kinds, query):
    """Return what the target can be: everything that is tried for every variable, branch by branch."""

    def holds(name, number, visited):
        var = query.var(name)
        if kinds[number] not in var.kinds or (var.ids and number not in var.ids):
            return False
        for one in query.constraints:
            other = {one.subject: one.object, one.object: one.subject}.get(name)
            if other is None or other in visited:
                continue
            pairs = ((place, (number, place) if one.subject == name else (place, number)) for place in kinds)
            is_met = any(
                (left, one.relation, right) in edges and holds(other, place, visited | {other})
                for place, (left, right) in pairs
            )
            if is_met == one.negated:
                return False
        return True

    return {number for number in kinds if holds("x0", number, {"x0"})}


@given(EDGES, st.lists(st.sampled_from(KINDS), min_size=6, max_size=6), queries())
def test_search_finds_what_the_twin_finds(tmp_path_factory, edges, kinds, query):
    path = tmp_path_factory.mktemp("twin") / "twin.sqlite"
    records = itertools.chain(
        map(Kind, KINDS),
        map(Relation, RELATIONS),
        (Node(str(place), kind, f"name {place}") for place, kind in enumerate(kinds)),
        (Edge(str(left), relation, str(right)) for left, relation, right in sorted(edges)),
    )
    build(path, records, origin="test")
    with Store.open(path) as store:
        found = Search(Graph(store), query, fits_all).run().found
    numbered = {(left + 1, relation, right + 1) for left, relation, right in edges}
    assert set(found) == twin(numbered, dict(enumerate(kinds, 1)), query)


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_cycles_end_and_of_a_cycle_all_are_kept(tmp_path_factory, edges):
    path = tmp_path_factory.mktemp("cycle") / "cycle.sqlite"
    build(
        path,
        [*(Node(str(n), "a", f"name {n}") for n in range(6)), *(Edge(str(l), "r", str(r)) for l, r in sorted(edges))],  # noqa: E741
        origin="test",
    )
    with Store.open(path) as store:
        graph = Graph(store)
        if "r" not in graph.relations:
            return
        above = {n: set(graph.closure(n, "r")) for n in range(1, 7)}
        query = Query(
            (Var("x", ("a",)), Var("y", ("a",), (1,)), Var("z", ("a",), (2,))),
            (Constraint("y", "r", "x", closure=True), Constraint("z", "r", "x", closure=True)),
            ("x",),
        )
        found = set(Search(graph, query, fits_all).run().found)
    shared = above[1] & above[2]
    assert found == {n for n in shared if not any(n in above[m] and m not in above[n] for m in shared)}
    assert bool(found) == bool(shared)


# -- hubs, loops, islands, budgets, time ----------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A base where most things like one thing, with a loop, a cycle and an island."""
    records = [Node(f"t{at}", "thing", f"Thing {at}") for at in range(5000)] + [Node("hub", "thing", "Hub")]
    records += [Edge(f"t{at}", "likes", "hub") for at in range(5000)]
    records += [Edge(f"t{at}", "knows", "t7") for at in (3, 4, 7)] + [Edge("t7", "knows", "t3")]
    records += [Edge("t7", "part of", "t8"), Edge("t8", "part of", "t7")]
    records += [Relation("part of", transitive=True), Kind("thing")]
    path = tmp_path_factory.mktemp("crowd") / "crowd.sqlite"
    build(path, records, origin="x")
    with Store.open(path) as store:
        yield Graph(store)


def asked(graph, *constraints, max_nodes=20_000, deadline=math.inf):
    """Search for ?x in constraints such as ("x", "likes", "hub")."""
    names = dict.fromkeys(name for one in constraints for name in (one[0], one[2]))
    variables = tuple(Var(name, ("thing",), () if len(name) == 1 else (graph.by_key(name),)) for name in names)
    query = Query(variables, tuple(Constraint(*one) for one in constraints), ("x",))
    outcome = Search(graph, query, fits_all, max_nodes, deadline=deadline).run()
    return {graph.entity(one).key for one in outcome.found}, outcome


def test_what_a_hub_has_is_tested_rather_than_followed(crowd):
    found, outcome = asked(crowd, ("x", "likes", "hub"), ("x", "knows", "t7"), max_nodes=1000)
    assert found == {"t3", "t4", "t7"} and not outcome.is_partial and outcome.num_expanded < 100
    assert all(len(support.facts) == 2 for support in outcome.found.values())
    assert asked(crowd, ("x", "likes", "hub"), ("x", "knows", "t9"))[0] == set()


def test_a_hub_alone_is_followed_to_the_budget(crowd):
    assert len(asked(crowd, ("x", "likes", "hub"))[0]) == 5000
    found, outcome = asked(crowd, ("x", "likes", "hub"), max_nodes=100)
    assert 100 <= len(found) <= 101 and outcome.is_partial


def test_loops_and_cycles_end(crowd):
    assert asked(crowd, ("x", "knows", "t7"), ("t7", "knows", "x"))[0] == {"t3", "t7"}
    query = Query(
        (Var("x", ("thing",)), Var("t7", ("thing",), (crowd.by_key("t7"),))),
        (Constraint("x", "part of", "t7", closure=True),),
        ("x",),
    )
    found = Search(crowd, query, fits_all).run().found
    assert {crowd.entity(one).key for one in found} == {"t8"}


def test_goals_that_nothing_joins(crowd):
    found, outcome = asked(crowd, ("x", "knows", "t9"), ("x", "part of", "hub"))
    assert found == set() and outcome.empty_at == "x" and not outcome.is_partial


def test_a_budget_of_one(crowd):
    found, outcome = asked(crowd, ("x", "knows", "t7"), max_nodes=1)
    assert len(found) <= 2 and outcome.is_partial


def test_no_time_gives_what_was_found_so_far(crowd):
    found, outcome = asked(crowd, ("x", "likes", "hub"), deadline=-math.inf)
    assert 0 < len(found) < 5000 and outcome.is_partial
