import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.reason.candidates import candidates
from tuili.reason.confidence import features, model, probability
from tuili.reason.weights import Weigher


@pytest.fixture
def evidence(garden):
    """Return a function that gives the features of a question's best reading."""
    base = garden.base("small")

    def find(question):
        weigher = Weigher(base.graph)
        found = candidates(question, base.graph, base.linker, weigher, 20_000)
        for var in found.tried[0].compiled.query.variables:
            if var.text:
                weigher.match(var.text, list(found.tried[0].outcome.found))
        return features(found, weigher)

    return find


@pytest.mark.parametrize(("question", "name", "expected"), [
    ("Which diseases affect the tomato?", "empty", 0.0),
    ("Which diseases affect the tomato?", "misspelt", 0.0),
    ("Which diseases affect the tomatto?", "misspelt", 1.0),
    ("Does late blight show drooping?", "ask", 1.0),
    ("Does late blight show drooping?", "empty", 1.0),
    ("How many diseases affect the tomato?", "count", 1.0),
    ("Which setting of the mower is about the height of the cut?", "described", 1.0),
])  # fmt: skip
def test_what_speaks_for_and_against_a_reading(evidence, question, name, expected):
    assert evidence(question)[name] == expected


def test_every_feature_has_a_fitted_weight_and_is_a_number(evidence):
    found = evidence("Which diseases of the tomato are treated with copper spray?")
    assert found.keys() == model("search").keys() - {"bias"}
    assert all(math.isfinite(value) for value in found.values())


def test_a_misspelt_name_is_less_sure(garden):
    sure, less = (garden.ask(f"Which diseases affect the {name}?") for name in ("tomato", "tomatto"))
    assert 0.5 <= less.confidence < sure.confidence <= 1


def test_words_that_nothing_explains_make_it_unsure(garden):
    assert garden.ask("Which zorbs frotz the tomato blorb?").confidence < 0.5


@given(st.sampled_from(["search", "derivation"]), st.dictionaries(st.text(max_size=9), st.floats(), max_size=4))
def test_a_probability_lies_between_0_and_1(name, values):
    known = dict(zip(model(name), values.values(), strict=False))
    assert 0 <= probability(name, known | values) <= 1


def test_a_feature_that_is_no_number_does_not_make_it_sure():
    assert probability("search", {"margin": math.nan}) == 0.0
