import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.knowledge.build import build
from tuili.knowledge.graph import Fact, Graph
from tuili.knowledge.query import Constraint, Query, Var
from tuili.knowledge.records import Edge, Kind, Node, Relation
from tuili.knowledge.store import Store
from tuili.reason.worlds.inquiry import rank, share

SIGNS = ("cough", "fever", "rash", "skin change")
RELATIONS = (
    Kind("disease"),
    Kind("sign"),
    Relation("shows", ranked=True, object_through="is a"),
    Relation("is a", transitive=True),
)


@pytest.fixture(scope="session")
def ranking(tmp_path_factory):
    """Return a function that ranks diseases for signs, given (disease, sign, weight)."""

    def make(facts, signs, negated=()):
        path = tmp_path_factory.mktemp("inquiry") / "ills.sqlite"
        diseases = sorted({disease for disease, _, _ in facts})
        records = [
            *RELATIONS,
            *(Node(name, "disease", name) for name in diseases),
            *(Node(name, "sign", name) for name in SIGNS),
            Edge("rash", "is a", "skin change"),
            *(Edge(disease, "shows", sign, weight, f"{disease}:1") for disease, sign, weight in facts),
        ]
        build(path, records, origin="test")
        graph = Graph(Store.open(path))
        variables = [Var(sign, ("sign",), (graph.by_key(sign),)) for sign in (*signs, *negated)]
        constraints = [Constraint("x", "shows", var.name, var.name in negated) for var in variables]
        query = Query((Var("x", ("disease",)), *variables), tuple(constraints), ("x",))
        return [(graph.entity(item.entity).name, item) for item in rank(graph, query)]

    return make


def test_what_explains_more_comes_first(ranking):
    found = ranking([("flu", "cough", 0.9), ("flu", "fever", 0.9), ("cold", "cough", 0.9)], ["cough", "fever"])
    assert [name for name, _ in found] == ["flu", "cold"]
    assert len(found[0][1].facts) == 2 and len(found[1][1].contributions) == 1


def test_what_shows_a_sign_more_often_comes_first(ranking):
    found = ranking([("cold", "fever", 0.1), ("flu", "fever", 0.9)], ["fever"])
    assert [name for name, _ in found] == ["flu", "cold"]


def test_a_sign_counts_for_what_lies_above_it_but_not_below(ranking):
    facts = [("measles", "rash", 0.9), ("eczema", "skin change", 0.9)]
    assert {name for name, _ in ranking(facts, ["skin change"])} == {"measles", "eczema"}
    assert [name for name, _ in ranking(facts, ["rash"])] == ["measles"]


def test_negated_signs_are_no_evidence_and_without_evidence_nothing_is_ranked(ranking):
    facts = [("flu", "fever", 0.9), ("cold", "cough", 0.9)]
    assert [name for name, _ in ranking(facts, ["fever"], negated=["cough"])] == ["flu"]
    assert ranking(facts, [], negated=["cough"]) == []
    assert ranking(facts, ["rash"]) == []


def test_ties_are_broken_by_name(ranking):
    found = ranking([("b", "fever", 0.5), ("a", "fever", 0.5)], ["fever"])
    assert [name for name, _ in found] == ["a", "b"]
    assert [item.probability for _, item in found] == pytest.approx([0.5, 0.5])


FACTS = st.dictionaries(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(SIGNS)), st.floats(0, 1), min_size=1, max_size=10
)


@given(FACTS, st.lists(st.sampled_from(SIGNS), min_size=1, unique=True))
def test_probabilities_sum_to_one_in_order_whatever_the_order_of_the_signs(ranking, facts, signs):
    rows = [(disease, sign, weight) for (disease, sign), weight in facts.items()]
    found = ranking(rows, signs)
    probabilities = [item.probability for _, item in found]
    assert probabilities == sorted(probabilities, reverse=True)
    assert not found or sum(probabilities) == pytest.approx(1.0)
    other = ranking(rows, signs[::-1])
    assert {name: item.probability for name, item in other} == pytest.approx(
        {name: item.probability for name, item in found}
    )


@pytest.mark.parametrize(("few", "many"), [("1/1", "9/9"), ("9/9", "90/90")])
def test_small_samples_say_less(few, many):
    def shown(text):
        return share(Fact(1, 1, "shows", 2, 1.0, data={"frequency": {"text": text}}))

    assert shown(few) < shown(many) < 1


@pytest.mark.parametrize(
    "data", [{}, {"frequency": None}, {"frequency": {"text": "a/b"}}, {"frequency": {"text": "/"}}]
)
def test_odd_frequencies_count_as_unknown_ones(data):
    assert share(Fact(1, 1, "shows", 2, 0.5, data=data)) == share(Fact(1, 1, "shows", 2, 0.5))
