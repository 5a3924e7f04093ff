"""Facts as arrays: edges there and back, look-ups equal to a plain set's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError
from tuili.reason.priors.facts import Facts, folds, inverse

NUM_ENTITIES, NUM_RELATIONS = 5, 3
TRIPLES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 4)), max_size=30)


def facts_of(triples: list[tuple[int, int, int]]) -> Facts:
    return Facts(np.array(triples, np.int64).reshape(-1, 3), list("abcde"), list("xyz"))


@given(TRIPLES)
def test_look_ups_agree_with_a_plain_set(triples: list[tuple[int, int, int]]) -> None:
    facts = facts_of(triples)
    plain = {*triples, *((t, r + NUM_RELATIONS, h) for h, r, t in triples)}
    every = np.array([(h, r, t) for h in range(5) for r in range(6) for t in range(5)])
    assert facts.holds(*every.T).tolist() == [tuple(row) in plain for row in every.tolist()]
    pairs = np.array([(h, r) for h in range(5) for r in range(6)])
    wanted = [[(h, r, t) in plain for t in range(5)] for h, r in pairs.tolist()]
    assert facts.tails(*pairs.T).tolist() == wanted


@given(TRIPLES)
def test_an_edge_and_its_inverse_are_one_fact(triples: list[tuple[int, int, int]]) -> None:
    facts = facts_of(triples)
    num = len(facts.triples_E3)
    assert num == len(set(triples))
    there, back = facts.edges_E3[:num], facts.edges_E3[num:]
    assert (back[:, [2, 0]] == there[:, [0, 2]]).all()
    assert (inverse(there[:, 1], facts.num_relations) == back[:, 1]).all()
    assert (inverse(back[:, 1], facts.num_relations) == there[:, 1]).all()


def test_without_takes_facts_out_in_both_directions() -> None:
    facts = facts_of([(0, 0, 1), (1, 1, 2)])
    rest = facts.without(np.array([0]))
    assert not rest.holds(np.array([0, 1]), np.array([0, 3]), np.array([1, 0])).any()
    assert rest.holds(np.array([1, 2]), np.array([1, 4]), np.array([2, 1])).all()


def test_folds_share_out_every_fact_once() -> None:
    parts = list(folds(11, 3, np.random.default_rng(0)))
    assert sorted(np.concatenate(parts).tolist()) == list(range(11))


@pytest.mark.parametrize("triple", [(5, 0, 0), (0, 3, 0), (0, 0, -1)])
def test_an_index_beyond_its_names_is_refused(triple: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="beyond 5 and 3"):
        facts_of([triple])
