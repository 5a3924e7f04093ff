"""Paths to known answers: found by search, judged by F, within a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.reason.supervision import Budget, f_score, leads, num_shared
from tuili.reason.worlds.hops import follow, start_at

if TYPE_CHECKING:
    from conftest import Family

sets = st.sets(st.integers(0, 9))


@given(sets, sets)
def test_shared_nodes_are_counted_as_sets_do(left: set[int], right: set[int]) -> None:
    arrays = [np.array(sorted(one), dtype=np.int64) for one in (left, right)]
    assert num_shared(*arrays) == len(left & right)


def test_f_is_one_for_equal_sets_and_leans_to_precision_below_one() -> None:
    whole = np.arange(4)
    assert f_score(whole, whole) == f_score(whole, whole, 0.5) == 1
    part, more = np.arange(2), np.arange(8)
    assert f_score(part, whole) == f_score(more, whole) == pytest.approx(2 / 3)
    assert f_score(part, whole, 0.5) == pytest.approx(5 / 6)
    assert f_score(more, whole, 0.5) == pytest.approx(5 / 9)
    assert f_score(np.array([], np.int64), np.array([], np.int64)) == 0


def test_the_best_lead_is_a_path_to_exactly_the_answers(family: Family) -> None:
    for one in family.asked[::9]:
        found = leads(family.hops, one.start, one.answers, Budget())
        assert found[0].reward == 1
        end = follow(family.hops, start_at(one.start.tolist()), found[0].path)
        assert end.nodes_V.tolist() == one.answers.tolist()
        assert [lead.reward for lead in found] == sorted((lead.reward for lead in found), reverse=True)
        assert all(lead.available_KA.shape == (len(lead.path) + 1, 6) for lead in found)
        assert all(lead.available_KA[step, action] for lead in found for step, action in enumerate(lead.path))


def test_budgets_bound_hops_and_paths(family: Family) -> None:
    one = next(asked for asked in family.asked if "city does the parent" in asked.text)
    assert all(len(lead.path) == 1 for lead in leads(family.hops, one.start, one.answers, Budget(max_hops=1)))
    assert not leads(family.hops, one.start, one.answers, Budget(max_tried=0))
    assert not leads(family.hops, one.start, one.answers, Budget(max_edges=0))
    assert not leads(family.hops, np.array([], np.int64), one.answers, Budget())
