"""Frontiers on arrays and on a knowledge base: the same nodes, counts and edges as plain sets give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError
from tuili.knowledge.graph import Graph
from tuili.knowledge.store import Store
from tuili.reason.worlds.hops import Action, ArrayHops, Frontier, GraphHops, follow, start_at

RELATIONS = ("likes", "owns")
Triples = list[tuple[int, int, int]]
triples = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(0, 5)), max_size=20)


def arrays(rows: Triples, num_nodes: int = 6) -> ArrayHops:
    return ArrayHops(np.array(rows, dtype=np.int64).reshape(-1, 3), RELATIONS, num_nodes)


def plain_step(rows: Triples, counts: dict[int, float], action: int) -> dict[int, float]:
    found: dict[int, float] = {}
    for subject, relation, object_ in set(rows):
        source, target = (object_, subject) if action % 2 else (subject, object_)
        if relation == action // 2 and source in counts:
            found[target] = found.get(target, 0) + counts[source]
    return found


def as_dict(frontier: Frontier) -> dict[int, float]:
    return dict(zip(frontier.nodes_V.tolist(), frontier.counts_V.tolist(), strict=True))


@given(triples, st.lists(st.integers(0, 3), min_size=1, max_size=3), st.sets(st.integers(0, 5), min_size=1))
def test_a_path_reaches_what_sets_reach_and_never_its_start(rows: Triples, path: list[int], start: set[int]) -> None:
    counts = dict.fromkeys(start, 1.0)
    for action in path:
        counts = {node: num for node, num in plain_step(rows, counts, action).items() if node not in start}
    assert as_dict(follow(arrays(rows), start_at(start), path)) == counts


@given(triples, st.sets(st.integers(0, 5), min_size=1))
def test_spreading_is_each_action_alone(rows: Triples, start: set[int]) -> None:
    hops, frontier = arrays(rows), start_at(start)
    leaving = hops.leaving(frontier.nodes_V)
    ends = hops.spread(frontier)
    assert sorted(ends) == np.flatnonzero(leaving).tolist()
    for action, end in ends.items():
        assert as_dict(end) == as_dict(hops.expand(frontier, action))
        assert end.num_edges == leaving[action] == hops.expand(frontier, action).num_edges


def test_edges_are_counted_once_each_and_a_budget_is_kept_to() -> None:
    hops = arrays([(0, 0, 1), (0, 0, 1), (0, 0, 2), (1, 1, 3), (2, 1, 3)])
    assert hops.num_edges == 8
    end = follow(hops, start_at([0]), [0, 2])
    assert as_dict(end) == {3: 2.0} and end.num_edges == 4 and not end.is_partial
    cut = follow(hops, start_at([0]), [0, 2], max_edges=3)
    assert as_dict(cut) == {3: 1.0} and cut.num_edges == 3 and cut.is_partial
    assert follow(hops, start_at([0]), [0], max_edges=0).num_edges == 0
    assert 0 not in hops.spread(start_at([0]), max_edges=1)


def test_a_hop_costs_its_own_edges_beside_a_node_with_a_million() -> None:
    num = 1_000_000
    hub = np.stack([np.zeros(num, np.int64), np.zeros(num, np.int64), np.arange(1, num + 1)], axis=1)
    hops = ArrayHops(np.concatenate([hub, [[0, 1, num + 1]]]), RELATIONS, num + 2)
    assert hops.leaving(np.array([0])).tolist() == [num, 0, 1, 0]
    assert hops.expand(start_at([0]), 0, max_edges=10).num_edges == 10
    assert list(hops.spread(start_at([0]), max_edges=10)) == [2]


def test_loops_cycles_and_nothing_at_all() -> None:
    assert not len(follow(arrays([(0, 0, 0)]), start_at([0]), [0]).nodes_V)
    assert follow(arrays([(0, 0, 1), (1, 0, 0)]), start_at([0]), [0, 0]).num_edges == 2
    empty = arrays([])
    assert empty.leaving(np.array([0, 1])).tolist() == [0] * 4 and empty.spread(start_at([0])) == {}
    assert not len(follow(empty, start_at([]), [0]).nodes_V)


@pytest.mark.parametrize("rows", [[(0, 2, 1)], [(0, 0, 6)], [(-1, 0, 1)]])
def test_triples_out_of_range_are_refused(rows: Triples) -> None:
    with pytest.raises(InputError, match="outside of 6 nodes and 2 relations"):
        arrays(rows)


def test_a_base_is_walked_as_its_facts_say(tiny_base: Path) -> None:
    graph = Graph(Store.open(tiny_base))
    hops = GraphHops(graph)
    alien, duel, scott = (graph.by_key(key) for key in ("film:alien", "film:duel", "person:scott"))
    assert alien is not None and duel is not None and scott is not None
    directed = hops.actions.index(Action("directed by"))
    assert hops.leaving(np.array([alien]))[directed] == 1
    assert as_dict(hops.expand(start_at([alien]), directed)) == {scott: 1.0}
    assert as_dict(follow(hops, start_at([alien]), [directed, directed + 1])) == {duel: 1.0}
    assert set(hops.spread(start_at([scott]))) == {directed + 1}
    assert str(hops.actions[directed + 1]) == "directed by⁻¹"
    assert hops.expand(start_at([scott]), directed + 1, max_edges=1).is_partial
