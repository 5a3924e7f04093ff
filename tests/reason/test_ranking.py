import pytest

from tuili.knowledge.query import Constraint, Query, Var
from tuili.reason.ranking import NO_ADVICE, is_ranked


@pytest.fixture
def graph(garden):
    return garden.base("small").graph


@pytest.mark.parametrize(("constraint", "expected"), [
    (Constraint("x", "shows", "a"), True),
    (Constraint("x", "shows", "a", negated=True), False),
    (Constraint("x", "affects", "a"), False),
    (Constraint("y", "shows", "a"), False),
])  # fmt: skip
def test_only_what_explains_named_things_is_ranked(graph, constraint, expected):
    variables = Var("x", ("disease",)), Var("y", ("disease",)), Var("a", ("sign",), (graph.by_key("sign:curl"),))
    assert is_ranked(graph, Query(variables, (constraint,), ("x",))) == expected


def test_what_shows_a_finding_more_often_comes_first(garden):
    answer = garden.ask("Which diseases show leaf curl?")
    assert [item.name for item in answer.entities] == ["Late blight", "Mosaic virus disease", "Fusarium wilt"]
    assert all(item.probability >= 0.5 for item in answer.entities)


def test_near_misses_follow_below_one_half(garden):
    answer = garden.ask("Which diseases show leaf curl, brown spot and fruit rot?")
    first, *near = answer.entities
    assert first.name == "Late blight" and first.probability >= 0.5
    assert near and all(item.probability < 0.5 for item in near)
    assert answer.text == "Late blight"


def test_each_finding_s_contribution_is_shown(garden):
    path = garden.ask("Which diseases show leaf curl, brown spot and fruit rot?").paths[0]
    assert {edge.object for edge in path.edges} == {"Leaf curl", "Brown spot", "Fruit rot"}
    assert all(edge.parts["contribution"] > 0 for edge in path.edges)


def test_it_is_said_that_it_is_no_advice(garden):
    assert NO_ADVICE in garden.ask("Which diseases show leaf curl?").notes
    assert NO_ADVICE not in garden.ask("Which diseases affect the tomato?").notes


def test_findings_that_nothing_explains_together_abstain_with_the_nearest(garden):
    answer = garden.ask("Which diseases show orange spot, drooping and fruit rot?")
    assert answer.abstained == (not [item for item in answer.entities if item.probability >= 0.5])
    assert {item.name for item in answer.entities} <= {"Rose rust", "Fusarium wilt", "Late blight"}
    assert answer.nearest if answer.abstained else answer.text


def test_a_finding_below_the_one_asked_about_is_led_up_to_it(garden):
    path = garden.ask("Which diseases show leaf spot and fruit rot?").paths[0]
    assert [(edge.subject, edge.relation, edge.object) for edge in path.edges] == [
        ("Late blight", "shows", "Brown spot"),
        ("Brown spot", "is a", "Leaf spot"),
        ("Late blight", "shows", "Fruit rot"),
    ]
