import pytest

from tuili.knowledge.graph import Fact
from tuili.knowledge.lexicon import Mention, Role
from tuili.knowledge.query import Aggregate, Query, Var
from tuili.reason.answer import Number
from tuili.reason.explain import MAX_PATHS, links, path_edge, paths, wording
from tuili.reason.search import Outcome, Support


@pytest.fixture
def graph(garden):
    return garden.base("small").graph


@pytest.fixture
def fact(graph):
    """Return the fact that late blight shows brown spot."""
    return next(one for one in graph.facts(graph.by_key("disease:late")) if one.relation == "shows")


def test_an_edge_has_names_weight_parts_and_source(graph, fact):
    edge = path_edge(graph, fact)
    assert (edge.subject, edge.relation, edge.object) == ("Late blight", "shows", "Brown spot")
    assert (edge.weight, edge.parts) == (0.9, {"prior": 0.9})
    assert edge.source.startswith("garden.jsonl:")
    assert path_edge(graph, fact, {"bertscore": 0.5}, 0.4).parts == {"bertscore": 0.5}


def test_each_answer_has_one_path_and_each_fact_is_shown_once(graph, fact):
    found = {fact.object: Support((fact, fact), 0.8), graph.by_key("plant:tomato"): Support()}
    (path,) = paths(graph, found, {fact.object: {"prior": 0.7}})
    assert path.weight == 0.8 and [edge.parts for edge in path.edges] == [{"prior": 0.7}]


def test_of_many_answers_the_first_paths_are_shown(graph, fact):
    found = {number: Support((fact,)) for number in range(100)}
    assert len(paths(graph, found, {})) == MAX_PATHS


def test_only_links_that_the_query_uses_are_shown(graph):
    late, tomato = graph.by_key("disease:late"), graph.by_key("plant:tomato")
    mentions = [
        Mention(0, 2, Role.ENTITY, "late blight", 1.7, "name", (late,)),
        Mention(3, 4, Role.ENTITY, "tomato", 1.0, "name", (tomato,)),
        Mention(2, 3, Role.RELATION, "affects", 0.7),
    ]
    query = Query((Var("x", ids=(late,)),), (), ("x",))
    (link,) = links(graph, ["Late", "blight", "affects", "tomato"], mentions, query)
    assert (link.text, link.entities, link.how, link.score) == ("Late blight", ("Late blight",), "name", 1.0)


@pytest.mark.parametrize(("aggregate", "names", "value", "expected"), [
    (Aggregate.LIST, ["a", "b"], None, "a, b"),
    (Aggregate.COUNT, ["a", "b"], Number(2), "2"),
    (Aggregate.QUALIFIER, ["Rare"], None, "Rare"),
    (Aggregate.ALIASES, ["c"], None, "c"),
])  # fmt: skip
def test_answers_in_words(graph, aggregate, names, value, expected):
    assert wording(graph, Query((), (), (), aggregate), Outcome(), names, value) == expected


def test_yes_with_its_facts_and_no(graph, fact):
    query = Query((), (), (), Aggregate.ASK)
    found = Outcome({fact.subject: Support((fact, fact))})
    assert wording(graph, query, found, [], None) == "Yes: Late blight – shows – Brown spot"
    assert wording(graph, query, Outcome({1: Support()}), [], None) == "Yes"
    assert wording(graph, query, Outcome(), [], None) == "No"


def test_a_comparison_gives_its_counts_and_a_description_its_text(graph):
    mower, copper = graph.by_key("tool:mower"), graph.by_key("remedy:copper")
    most = Query((), (), (), Aggregate.MOST)
    assert wording(graph, most, Outcome(counts={mower: 3}), ["Mower"], None) == "Mower (Mower: 3)"
    described = Outcome({copper: Support()})
    text = wording(graph, Query((), (), (), Aggregate.DESCRIBE), described, [], None)
    assert text == "Copper spray: A blue liquid that kills fungi."
    assert wording(graph, Query((), (), (), Aggregate.DESCRIBE), Outcome({mower: Support()}), [], None) == "Mower"


def test_a_fact_of_an_overlay_is_shown_like_any_other(reasoner_over):
    from tuili.knowledge.records import Edge

    graph = reasoner_over([Edge("a", "knows", "b")]).base("small").graph
    graph.overlay([Edge("a", "likes", "Ümit <x>", 0.5, "told")])
    (fact,) = [one for one in graph.facts(graph.by_key("a")) if one.relation == "likes"]
    assert isinstance(fact, Fact)
    assert path_edge(graph, fact).object == "Ümit <x>"
