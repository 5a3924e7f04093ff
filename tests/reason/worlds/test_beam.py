"""Beam search: wide enough it is exact, its mass adds up, and what it keeps stays within its width."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tuili.errors import UsageError
from tuili.reason.policy import Policy
from tuili.reason.priors.facts import Facts
from tuili.reason.priors.mixture import log_softmax
from tuili.reason.worlds.beam import following, search
from tuili.reason.worlds.paths import FEATURES, Paths, PathsConfig, PathsGraph, Queries

PRIOR = following(Policy.of_prior(FEATURES))


def world(num_queries: int = 5, seed: int = 0) -> Paths:
    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.integers(8, size=20), rng.integers(2, size=20), rng.integers(8, size=20)])
    facts = Facts(rows, list("abcdefgh"), list("xy"))
    prior = log_softmax(rng.normal(size=(num_queries, 8)).astype(np.float32))
    head, relation = rng.integers(8, size=num_queries), rng.integers(4, size=num_queries)
    queries = Queries(head, relation, np.full(num_queries, -1), {"rules": prior}, prior)
    return Paths(PathsGraph(facts, None), queries, PathsConfig(dropout=0.0))


def plain_mass(paths: Paths, query: int) -> np.ndarray:
    """Follow every walk one by one."""
    mass = np.zeros(8)
    left = [(paths.begin(np.array([query])), 0, 1.0)]
    while left:
        walk, hop, probability = left.pop()
        if hop == paths.config.max_hops:
            mass[walk.at_S[0]] += probability
            continue
        actions = paths.actions(walk, hop, np.arange(1), None)
        log_p = PRIOR(walk, hop, actions)
        for place in range(len(log_p)):
            after, stopped = paths.follow(walk, actions, np.array([place]))
            left.append((after, paths.config.max_hops if stopped[0] else hop + 1, probability * np.exp(log_p[place])))
    return mass


def test_a_wide_beam_equals_all_walks() -> None:
    paths = world()
    reached = search(paths, PRIOR, 10_000)
    for query in range(len(paths.queries)):
        np.testing.assert_allclose(reached.mass_QN[query], plain_mass(paths, query), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("width", [1, 3])
def test_a_narrow_beam_keeps_its_width_at_most(width: int) -> None:
    paths = world()
    reached = search(paths, PRIOR, width)
    assert (reached.kept_Q <= width * paths.config.max_hops).all()
    assert ((reached.mass_QN > 0).sum(1) <= width).all()
    assert (reached.mass_QN.sum(1) <= 1 + 1e-5).all()


def test_chunks_change_nothing() -> None:
    one, many = (search(world(), PRIOR, 4, chunk=chunk) for chunk in (1, 64))
    np.testing.assert_allclose(one.mass_QN, many.mass_QN, rtol=1e-6)
    assert one.kept_Q.tolist() == many.kept_Q.tolist()


def test_a_width_of_zero_reaches_nothing_and_less_is_refused() -> None:
    reached = search(world(), PRIOR, 0)
    assert not reached.mass_QN.any()
    assert not reached.kept_Q.any()
    with pytest.raises(UsageError, match="not -1"):
        search(world(), PRIOR, -1)


def test_without_hops_left_nothing_more_is_taken() -> None:
    paths = world()
    paths.config = replace(paths.config, max_hops=1)
    assert (search(paths, PRIOR, 2).kept_Q <= 2).all()
