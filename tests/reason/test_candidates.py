import pytest

from tuili.errors import InputError, LimitError
from tuili.knowledge.build import build
from tuili.knowledge.graph import Graph
from tuili.knowledge.link import Linker
from tuili.knowledge.query import Aggregate
from tuili.knowledge.store import Store
from tuili.reason.candidates import candidates
from tuili.reason.weights import Weigher


@pytest.fixture
def tried(garden):
    """Return a function that gives what is tried for a question."""
    base = garden.base("small")

    def find(question, max_nodes=20_000):
        return candidates(question, base.graph, base.linker, Weigher(base.graph), max_nodes).tried

    return find


def test_readings_are_tried_best_first_and_each_query_once(tried):
    found = tried("Which diseases of the tomato are treated with copper spray?")
    scores = [one.score for one in found]
    assert len(found) > 1 and scores == sorted(scores, reverse=True)
    assert len({one.compiled.query for one in found}) == len(found)


def test_the_reading_that_the_graph_bears_out_wins(tried):
    best = tried("Which diseases affect the potato but not the tomato?")[0]
    assert best.compiled.query.aggregate == Aggregate.LIST and best.outcome.found


@pytest.mark.parametrize(("question", "num"), [
    ("Which diseases show leaf curl, brown spot and fruit rot?", 3),
    ("Which diseases show leaf curl but not drooping?", 1),
    ("Which signs does late blight show?", 0),
])  # fmt: skip
def test_evidence_is_what_is_said_of_the_target(tried, question, num):
    assert tried(question)[0].num_evidence == num


@pytest.mark.parametrize("question", ["the of and", "Welche Krankheiten befallen die Rose?", "🍅 推理"])
def test_nothing_is_tried_where_nothing_is_understood(tried, question):
    assert tried(question) == []


def test_a_base_without_facts_answers_nothing(tmp_path):
    build(tmp_path / "empty.sqlite", [], origin="test")
    graph = Graph(Store.open(tmp_path / "empty.sqlite"))
    assert candidates("Which films star Al Pacino?", graph, Linker(graph), Weigher(graph), 100).tried == []


@pytest.mark.parametrize(("question", "error"), [("", InputError), ("?", InputError), ("word " * 4000, LimitError)])
def test_what_is_no_question_is_refused(tried, question, error):
    with pytest.raises(error):
        tried(question)


def test_a_small_budget_marks_what_is_tried_as_partial(tried):
    question = "Which diseases show leaf curl but not drooping?"
    assert tried(question, 1)[0].outcome.is_partial and not tried(question)[0].outcome.is_partial
