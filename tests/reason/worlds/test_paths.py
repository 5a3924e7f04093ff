"""Walks over a base: what can be done where, what it brings, and that a policy learns the way that is known best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError, UsageError
from tuili.reason.policy import Policy
from tuili.reason.ppo import PPOConfig, train
from tuili.reason.priors.facts import Facts, Floats
from tuili.reason.priors.mixture import log_softmax
from tuili.reason.priors.rules import Rule, Rules
from tuili.reason.worlds.beam import following, search
from tuili.reason.worlds.paths import FEATURES, STOP, Paths, PathsConfig, PathsGraph, Queries

CALM = PathsConfig(dropout=0.0)


def chain() -> Facts:
    """a -x-> b -x-> c, and a -y-> c that is asked for; d hangs on a, e on nothing."""
    rows = np.array([(0, 0, 1), (1, 0, 2), (0, 1, 2), (0, 0, 3)])
    return Facts(rows, list("abcde"), list("xy"))


def asked(facts: Facts, edges: list[tuple[int, int, int]], prior: Floats | None = None) -> Queries:
    head, relation, answer = np.array(edges).T
    flat = log_softmax(np.zeros((len(edges), facts.num_entities), np.float32)) if prior is None else prior
    return Queries(head, relation, answer, {"propagation": flat}, flat)


def world(config: PathsConfig = CALM, rules: Rules | None = None, dropped: tuple[str, ...] = ()) -> Paths:
    facts = chain()
    return Paths(PathsGraph(facts, rules), asked(facts, [(0, 1, 2)]), config, dropped=dropped)


def moves(paths: Paths) -> list[tuple[int, int, int]]:
    current = paths.current
    return list(zip(current.state_E.tolist(), current.relation_E.tolist(), current.to_E.tolist(), strict=True))


def test_the_asked_edge_and_its_inverse_are_hidden() -> None:
    paths = world()
    paths.start(1, np.random.default_rng(0))
    assert moves(paths) == [(0, 0, 1), (0, 0, 3), (0, STOP, 0)]
    paths.step(np.array([0]))
    assert moves(paths) == [(0, 0, 2), (0, 2, 0), (0, STOP, 1)]
    paths.step(np.array([0]))
    assert moves(paths) == [(0, 2, 1), (0, STOP, 2)]


def test_a_hit_is_rewarded_a_miss_in_part_and_every_edge_costs() -> None:
    paths = world(replace(CALM, cost=0.1, soft=0.5))
    paths.start(1, np.random.default_rng(0))
    assert paths.step(np.array([0])).reward_S == pytest.approx(-0.1)
    assert paths.step(np.array([0])).reward_S == pytest.approx(-0.1)
    last = paths.step(np.array([1]))
    assert last.reward_S == pytest.approx(1)
    assert last.choices is None
    paths.start(1, np.random.default_rng(0))
    stopped = paths.step(np.array([2]))
    assert stopped.reward_S == pytest.approx(0.5 / 5)
    assert stopped.done_S.all()


def test_a_walk_ends_after_its_last_hop() -> None:
    paths = world(replace(CALM, max_hops=1))
    paths.start(3, np.random.default_rng(0))
    step = paths.step(np.array([0, 1, 2]))
    assert step.choices is None
    assert step.done_S.all()


def test_rules_say_where_a_path_may_begin_and_end() -> None:
    rules = Rules({1: (Rule(1, (0, 0), 3, 0.8),)}, {})
    paths = world(rules=rules)
    begins, ends = FEATURES.index("rule_begins"), FEATURES.index("rule_ends")
    first = paths.start(1, np.random.default_rng(0)).features_EF
    assert first[:, begins] == pytest.approx([0.8, 0.8, 0])
    assert first[:, ends] == pytest.approx([0, 0, 0])
    choices = paths.step(np.array([0])).choices
    assert choices is not None
    assert choices.features_EF[:, ends] == pytest.approx([0.8, 0, 0])


def test_dropped_features_are_zero_and_without_the_mixture_there_is_no_prior() -> None:
    choices = world(dropped=("mixture", "degree")).start(1, np.random.default_rng(0))
    assert not choices.prior_E.any()
    assert not choices.features_EF[:, FEATURES.index("degree")].any()
    with pytest.raises(UsageError, match="unknown features"):
        world(dropped=("colour",))


def test_an_entity_of_many_edges_shows_its_best() -> None:
    num = 1000
    facts = Facts(np.column_stack([np.zeros(num), np.zeros(num), np.arange(1, num + 1)]), ["e"] * (num + 1), ["x"])
    prior = log_softmax(np.arange(num + 1, dtype=np.float32)[None] / 10)
    paths = Paths(PathsGraph(facts, None), asked(facts, [(0, 0, -1)], prior), replace(CALM, max_actions=3))
    paths.start(1, np.random.default_rng(0))
    assert paths.current.to_E.tolist() == [num - 2, num - 1, num, 0]


def test_where_no_edge_leaves_a_walk_can_stop() -> None:
    facts = chain()
    paths = Paths(PathsGraph(facts, None), asked(facts, [(4, 0, -1)]), CALM)
    assert len(paths.start(1, np.random.default_rng(0)).prior_E) == 1
    assert paths.step(np.array([0])).choices is None


def test_an_empty_base_and_loops_are_walked() -> None:
    for rows in (np.zeros((0, 3), np.int64), np.array([(0, 0, 0)])):
        facts = Facts(rows, ["a", "b"], ["x"])
        paths = Paths(PathsGraph(facts, None), asked(facts, [(0, 0, 1)]), CALM)
        reached = search(paths, following(Policy.of_prior(FEATURES)), 100)
        assert reached.mass_QN[0].sum() == pytest.approx(1)


def test_a_prior_that_is_no_number_is_refused() -> None:
    facts = chain()
    with pytest.raises(InputError, match="not a number"):
        asked(facts, [(0, 0, 1)], np.full((1, 5), np.nan, np.float32))


def test_a_policy_learns_which_relations_lead_to_the_answer() -> None:
    """Every head has two ways, one of which a rule knows; the prior knows nothing, so
    that the untrained policy takes the first."""
    rows, edges = [], []
    for place in range(0, 80, 4):
        head, middle, answer, wrong = place, place + 1, place + 2, place + 3
        rows += [(head, 2, middle), (middle, 1, answer), (head, 0, wrong), (wrong, 0, middle)]
        edges.append((head, 3, answer))
    facts = Facts(np.array(rows), [f"e{i}" for i in range(80)], list("wxyz"))
    rules = Rules({3: (Rule(3, (2, 1), 20, 1.0),)}, {})
    flat = asked(facts, edges)
    paths = Paths(PathsGraph(facts, rules), flat, replace(CALM, max_hops=2, soft=0.0))
    config = PPOConfig(num_updates=40, num_walks=64, batch=128, learning_rate=1e-2, hidden=16)
    learned = search(paths, following(train(paths, config)), 1)
    untrained = search(paths, following(Policy.of_prior(FEATURES)), 1)
    hits = [(each.mass_QN.argmax(1) == flat.answer_Q).mean() for each in (learned, untrained)]
    assert hits[0] == 1
    assert hits[1] < 0.6


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_walks_agree_with_the_base(seed: int, max_hops: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.integers(5, size=12), rng.integers(2, size=12), rng.integers(5, size=12)])
    facts = Facts(rows, list("abcde"), list("xy"))
    edges = [tuple(row) for row in facts.triples_E3[:3].tolist()]
    paths = Paths(PathsGraph(facts, None), asked(facts, edges), replace(CALM, max_hops=max_hops, dropout=0.5))
    choices = paths.start(4, rng)
    while choices is not None:
        current, standing = paths.current, paths.standing
        at = standing.at_S[current.state_E]
        is_edge = current.relation_E != STOP
        assert facts.holds(at[is_edge], current.relation_E[is_edge], current.to_E[is_edge]).all()
        assert (current.to_E[~is_edge] == at[~is_edge]).all()
        assert np.isfinite(choices.features_EF).all()
        choices = paths.step(rng.integers(np.diff(choices.offsets))).choices
