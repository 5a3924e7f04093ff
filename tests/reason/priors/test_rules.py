"""Rules: bodies, support and confidence as counted by hand; no fact supports itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import UsageError
from tuili.reason.priors.facts import Facts
from tuili.reason.priors.rules import Paths, Rules, RulesConfig, Walker, fit_logistic, mine

PARENT, GRAND, ODD = 0, 1, 2
NUM_FAMILIES = 12


def families() -> Facts:
    """Grandparents, parents, children; `grand` is parent of parent; `odd` follows nothing."""
    rows = []
    for family in range(NUM_FAMILIES):
        old, middle, young = 3 * family, 3 * family + 1, 3 * family + 2
        rows += [(old, PARENT, middle), (middle, PARENT, young), (old, GRAND, young)]
        rows.append((young, ODD, (7 * family + 5) % (3 * NUM_FAMILIES)))
    return Facts(np.array(rows), [f"p{i}" for i in range(3 * NUM_FAMILIES)], ["parent", "grand", "odd"])


@pytest.fixture(scope="module")
def mined() -> Rules:
    return mine(families(), RulesConfig(num_walks=200))


def test_the_rule_that_made_the_facts_is_the_first(mined: Rules) -> None:
    first = mined.of_relation[GRAND][0]
    assert first.body == (PARENT, PARENT)
    # A fold takes some of the parents away too, so that not every fact can be supported; none is predicted wrongly.
    assert 3 <= first.support <= NUM_FAMILIES
    assert first.confidence == 1.0


def test_a_rule_is_shown_readably(mined: Rules) -> None:
    first = mined.of_relation[GRAND][0]
    shown = first.show(families())
    assert shown == f"grand(X,Y) <- parent(X,Z), parent(Z,Y)  support {first.support}, confidence 1.00"


def test_a_held_out_fact_is_found_and_explained(mined: Rules) -> None:
    facts = families()
    held = np.flatnonzero((facts.triples_E3[:, 1] == GRAND) & (facts.triples_E3[:, 0] == 0))
    rest = facts.without(held)
    head, relation, tail = facts.triples_E3[held].T
    assert mined.scores(rest, head, relation).argmax(1) == tail
    assert mined.fired(rest, 0, GRAND, int(tail[0]))[0].body == (PARENT, PARENT)


def test_what_is_hidden_supports_nothing(mined: Rules) -> None:
    facts = families()
    parents = np.flatnonzero(facts.triples_E3[:, 1] == PARENT)
    rest = mined.scores(facts, np.array([0]), np.array([GRAND]), without_F=parents)
    whole = mined.scores(facts, np.array([0]), np.array([GRAND]))
    assert whole[0, 2] > rest[0, 2]


def test_no_body_is_the_fact_itself() -> None:
    one = Facts(np.array([(0, 0, 1), (2, 1, 3)]), list("abcd"), list("xy"))
    assert Walker(one).bodies(0, RulesConfig(), np.random.default_rng(0)) == []
    assert mine(one, RulesConfig(num_folds=2)).of_relation == {}


def test_a_relation_without_rules_scores_nothing() -> None:
    found = Rules({}, {}).scores(families(), np.array([0, 1]), np.array([ODD, GRAND]))
    assert found.shape == (2, 3 * NUM_FAMILIES)
    assert not found.any()


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=20),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
)
def test_bodies_lead_where_plain_walks_lead(triples: list[tuple[int, int, int]], body: list[int]) -> None:
    facts = Facts(np.array(triples), list("abcde"), list("xy"))
    fired = Paths(facts).fired(np.arange(5), [tuple(body)])[0]
    for head in range(5):
        at = {head}
        for relation in body:
            at = {int(t) for h, r, t in facts.edges_E3 if r == relation and int(h) in at}
        assert set(np.flatnonzero(fired[head]).tolist()) == at


def test_a_logistic_regression_is_at_its_optimum() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (200, 3)).astype(np.float32)
    y = (rng.random(200) < 1 / (1 + np.exp(-(2 * x[:, 0] - x[:, 1])))).astype(np.float32)
    weights = fit_logistic(x, y).astype(float)
    p = 1 / (1 + np.exp(-(x @ weights[:-1] + weights[-1])))
    np.testing.assert_allclose(x.T @ (p - y) + weights[:-1], 0, atol=1e-2)
    assert weights[0] > 1 > 0 > weights[1]


def test_a_regression_on_rare_answers_and_like_rules_stays_at_its_optimum() -> None:
    """A whole Newton step overshoots here: few answers, and rules that nearly repeat each other."""
    rng = np.random.default_rng(1)
    one = (rng.random(5000) < 0.02).astype(np.float32)
    x = np.column_stack([np.where(rng.random(5000) < 0.005, 1 - one, one) for _ in range(20)]).astype(np.float32)
    y = ((rng.random(5000) < 0.5) * one).astype(np.float32)
    weights = fit_logistic(x, y).astype(float)
    p = 1 / (1 + np.exp(-(x @ weights[:-1] + weights[-1])))
    np.testing.assert_allclose(x.T @ (p - y) + weights[:-1], 0, atol=0.05)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="1 to 3 hops"):
        RulesConfig(max_hops=4)
