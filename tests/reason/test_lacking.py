import pytest

from tuili.knowledge.query import Aggregate, Constraint, Query, Var
from tuili.reason.lacking import lacking, nearest, presupposed
from tuili.reason.search import Outcome, Search


@pytest.fixture
def graph(garden):
    return garden.base("small").graph


@pytest.fixture
def named(graph):
    def make(name, key, label):
        return Var(name, (key.partition(":")[0],), (graph.by_key(key),), label)

    return make


@pytest.fixture
def mower(named):
    return named("m", "tool:mower", "the mower")


def test_the_fact_that_is_not_there_is_named(graph, named, mower):
    length = named("l", "setting:trimmer.length", "length")
    has = Constraint("m", "has setting", "l")
    assert (
        lacking(graph, Query((mower, length), (has,), ("m",)))
        == "the base has no fact “the mower – has setting – length”"
    )
    goal, noise = Var("x", ("number",)), named("n", "setting:mower.noise", "noise")
    constraints = Constraint("m", "has setting", "n"), Constraint("n", "default", "x")
    assert "“noise – default – any number”" in lacking(graph, Query((goal, noise, mower), constraints, ("x",)))


def test_words_without_a_meaning_come_before_facts(graph, mower):
    assert lacking(graph, Query((mower,), (), ("m",), unexplained=("zorbit",))) == "the base has no fact about zorbit"


def test_if_each_fact_is_there_alone_the_query_is_named(graph, named):
    variables = Var("x", ("disease",)), named("a", "plant:rose", "rose"), named("b", "sign:curl", "leaf curl")
    query = Query(variables, (Constraint("x", "affects", "a"), Constraint("x", "shows", "b")), ("x",))
    assert query.describe() in lacking(graph, query)


def ask(*variables, constraints, aggregate=Aggregate.ASK):
    return Query(variables, tuple(constraints), (variables[0].name,), aggregate)


def outcome(graph, query):
    return Search(graph, query, lambda text, ids: dict.fromkeys(ids, 1.0)).run()


def test_what_is_ascribed_to_something_that_is_not_there_is_no_no(graph, named):
    """Is 5 the default of the trimmer's depth? It has no depth: neither yes nor no."""
    has, five = Constraint("t", "has setting", "s", stated=False), Constraint("s", "default", "v")
    trimmer, value = named("t", "tool:trimmer", "the trimmer"), named("v", "number:5", "5")
    absent = ask(trimmer, named("s", "setting:mower.depth", "depth"), value, constraints=(has, five))
    assert "the trimmer – has setting – depth" in presupposed(graph, absent, outcome(graph, absent))
    there = ask(trimmer, named("s", "setting:trimmer.speed", "speed"), value, constraints=(has, five))
    assert presupposed(graph, there, outcome(graph, there)) == ""


def test_a_plain_no_presupposes_nothing(graph, named, mower):
    query = ask(
        mower, named("l", "setting:trimmer.length", "length"), constraints=[Constraint("m", "has setting", "l")]
    )
    assert presupposed(graph, query, outcome(graph, query)) == ""


@pytest.mark.parametrize(("question", "verdict"), [
    ("Is 3 the default of the speed of the mower?", "No"),
    ("Is 5 the default of the speed of the mower?", "Yes"),
    ("Is 5 the default of the depth of the trimmer?", "no supported answer"),
])  # fmt: skip
def test_yes_no_or_neither(garden, question, verdict):
    assert garden.ask(question).text.partition(":")[0] == verdict


def test_the_nearest_are_like_named_entities_beside_what_is_named(graph, named, mower):
    length = named("l", "setting:trimmer.length", "length")
    query = Query((mower, length), (Constraint("m", "has setting", "l"),), ("m",))
    assert set(nearest(graph, query, Outcome())) == {"speed", "depth", "noise"}


def test_pruned_candidates_are_nearer(graph):
    text = Var("x", ("remedy",), text="blue yellow")
    found = Search(graph, Query((text,), (), ("x",)), lambda text, ids: {n: 0.1 * n for n in ids}, min_fit=99).run()
    assert nearest(graph, Query((text,), (), ("x",)), found) == ("Sulphur dust", "Copper spray")


def test_without_anything_near_nothing_is_named(graph, mower):
    assert nearest(graph, Query((mower,), (), ("m",)), Outcome()) == ()
