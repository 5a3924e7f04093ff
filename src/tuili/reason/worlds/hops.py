"""Frontier walks: a set of entities moves along one relation at a time, in either direction, until it stops.

The walk counts every edge that it follows. `Hops` is what a walk needs of a graph; `ArrayHops` keeps a
whole graph in arrays, `GraphHops` reads a knowledge base entity by entity.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tuili.errors import InputError
from tuili.knowledge.graph import Fact, Graph
from tuili.knowledge.records import Relation

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
MAX_EDGES = 50_000
MAX_COUNTED = 2_000


@dataclass(frozen=True, order=True, slots=True)
class Action:
    """A relation followed from subject to object, or from object to subject if `inverse`."""

    relation: str
    inverse: bool = False

    def __str__(self) -> str:
        return f"{self.relation}{'⁻¹' if self.inverse else ''}"


@dataclass(frozen=True, slots=True)
class Frontier:
    """Where a walk stands: distinct nodes, ascending; how many walks end in each; edges followed for this hop.

    `is_partial`: the hop had more edges than it was allowed to follow.
    """

    nodes_V: IntArray
    counts_V: FloatArray
    num_edges: int = 0
    is_partial: bool = False

    def without(self, nodes: IntArray) -> Frontier:
        """Return the frontier without some nodes."""
        keep = self.nodes_V != nodes[0] if len(nodes) == 1 else ~np.isin(self.nodes_V, nodes)
        return Frontier(self.nodes_V[keep], self.counts_V[keep], self.num_edges, self.is_partial)


class Hops(Protocol):
    """A graph that frontiers walk on."""

    @property
    def actions(self) -> Sequence[Action]: ...

    @property
    def schema(self) -> Mapping[str, Relation]:
        """The relations' words, by name; a relation may lack."""
        ...

    def leaving(self, nodes_V: IntArray) -> IntArray:
        """Return how many edges of each action leave the nodes: int64 [A]."""
        ...

    def expand(self, frontier: Frontier, action: int, max_edges: int = MAX_EDGES) -> Frontier:
        """Follow one action from every node of a frontier."""
        ...

    def spread(self, frontier: Frontier, max_edges: int = MAX_EDGES) -> dict[int, Frontier]:
        """Follow every action alone; those with more edges are left out."""
        ...


def start_at(nodes: Iterable[int]) -> Frontier:
    """Return the frontier of the given nodes, one walk each."""
    nodes_V = np.unique(np.fromiter(nodes, dtype=np.int64))
    return Frontier(nodes_V, np.ones(len(nodes_V)))


def follow(hops: Hops, start: Frontier, path: Sequence[int], max_edges: int = MAX_EDGES) -> Frontier:
    """Follow a path of actions; the nodes it starts from are never come back to.

    `num_edges` of the result counts all hops; the hops together follow at most `max_edges`.
    """
    frontier, num_edges, is_partial = start, 0, False
    for action in path:
        frontier = hop(hops, frontier, action, start, max_edges - num_edges)
        num_edges += frontier.num_edges
        is_partial |= frontier.is_partial
    return Frontier(frontier.nodes_V, frontier.counts_V, num_edges, is_partial)


def hop(hops: Hops, frontier: Frontier, action: int, start: Frontier, max_edges: int = MAX_EDGES) -> Frontier:
    """Follow one action; what a question is about is no step on the way to its answer."""
    return hops.expand(frontier, action, max_edges).without(start.nodes_V)


class ArrayHops:
    """A graph in arrays: edges sorted by node and action, so a hop costs the edges it follows, whatever the graph.

    Memory: 8 bytes per edge and direction, and 24 per pair of node and action.

    Raises:
        InputError: a triple names a node or a relation out of range.
    """

    def __init__(
        self,
        triples_E3: IntArray,
        relations: Sequence[str],
        num_nodes: int,
        schema: Mapping[str, Relation] | None = None,
    ) -> None:
        self.schema = schema or {}
        _check_triples(triples_E3, len(relations), num_nodes)
        self.actions = tuple(Action(name, inverse) for name in relations for inverse in (False, True))
        self.num_nodes = num_nodes
        subject_E, relation_E, object_E = triples_E3.astype(np.int64).T
        source_E = np.concatenate([subject_E, object_E])
        action_E = np.concatenate([2 * relation_E, 2 * relation_E + 1])
        target_E = np.concatenate([object_E, subject_E])
        group_E, self._target_E = _distinct(source_E * len(self.actions) + action_E, target_E)
        first_G = _starts(group_E)
        self._edges_G = np.append(first_G, len(group_E))
        source_G, self._action_G = np.divmod(group_E[first_G], max(1, len(self.actions)))
        self._groups_V = np.searchsorted(source_G, np.arange(num_nodes + 1))

    @property
    def num_edges(self) -> int:
        """Edges, each counted in both directions."""
        return len(self._target_E)

    def leaving(self, nodes_V: IntArray) -> IntArray:
        """Return how many edges of each action leave the nodes: int64 [A]."""
        groups, _ = self._groups(nodes_V)
        sizes = self._edges_G[groups + 1] - self._edges_G[groups]
        return np.bincount(self._action_G[groups], weights=sizes, minlength=len(self.actions)).astype(np.int64)

    def expand(self, frontier: Frontier, action: int, max_edges: int = MAX_EDGES) -> Frontier:
        """Follow one action from every node of a frontier; at most `max_edges` edges, in the nodes' order."""
        groups, owner = self._groups(frontier.nodes_V)
        chosen = self._action_G[groups] == action
        groups, owner = groups[chosen], owner[chosen]
        edges, group = ranges(self._edges_G[groups], self._edges_G[groups + 1])
        is_partial = len(edges) > max_edges
        edges, group = edges[: max(0, max_edges)], group[: max(0, max_edges)]
        return gather(self._target_E[edges], frontier.counts_V[owner[group]], is_partial)

    def spread(self, frontier: Frontier, max_edges: int = MAX_EDGES) -> dict[int, Frontier]:
        """Follow every action alone, all in one pass; those with more than `max_edges` edges are left out."""
        groups, owner = self._groups(frontier.nodes_V)
        sizes = self._edges_G[groups + 1] - self._edges_G[groups]
        total_A = np.bincount(self._action_G[groups], weights=sizes, minlength=len(self.actions)).astype(np.int64)
        kept = (total_A <= max_edges)[self._action_G[groups]]
        groups, owner = groups[kept], owner[kept]
        edges, group = ranges(self._edges_G[groups], self._edges_G[groups + 1])
        keys = self._action_G[groups[group]] * self.num_nodes + self._target_E[edges]
        ends = gather(keys, frontier.counts_V[owner[group]], is_partial=False)
        action, nodes_V = np.divmod(ends.nodes_V, max(1, self.num_nodes))
        cuts = [*_starts(action).tolist(), len(action)]
        return {
            int(action[begin]): Frontier(nodes_V[begin:end], ends.counts_V[begin:end], int(total_A[action[begin]]))
            for begin, end in itertools.pairwise(cuts)
        }

    def _groups(self, nodes_V: IntArray) -> tuple[IntArray, IntArray]:
        """Return the groups of edges at the nodes, and each one's place in `nodes_V`."""
        return ranges(self._groups_V[nodes_V], self._groups_V[nodes_V + 1])


class GraphHops:
    """A knowledge base as frontiers walk on it: facts are read when a walk comes to their entity.

    The facts of an entity that has more than `MAX_COUNTED` of a relation are counted no further, so a hub costs no
    more than others. Counts are kept: after an overlay make a new object.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._leaving: dict[int, IntArray] = {}

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """Every relation in both directions, in the order of the schema."""
        return tuple(Action(name, inverse) for name in self.graph.relations for inverse in (False, True))

    @property
    def schema(self) -> Mapping[str, Relation]:
        """The relations' words, by name."""
        return self.graph.relations

    def leaving(self, nodes_V: IntArray) -> IntArray:
        """Return how many facts of each action leave the nodes: int64 [A]; O(facts * actions) for a node met first."""
        total = np.zeros(len(self.actions), dtype=np.int64)
        for node in nodes_V.tolist():
            if node not in self._leaving:
                self._leaving[node] = np.array([len(self._facts(node, one, MAX_COUNTED)) for one in self.actions])
            total += self._leaving[node]
        return total

    def _facts(self, node: int, action: Action, limit: int) -> list[Fact]:
        return self.graph.step(node, action.relation, inverse=action.inverse, limit=limit)[:limit]

    def expand(self, frontier: Frontier, action: int, max_edges: int = MAX_EDGES) -> Frontier:
        """Follow one action from every node of a frontier; at most `max_edges` facts, in order of entry."""
        wanted, allowed = self.actions[action], max(0, max_edges)
        targets: list[int] = []
        counts: list[float] = []
        for node, count in zip(frontier.nodes_V.tolist(), frontier.counts_V.tolist(), strict=True):
            facts = self._facts(node, wanted, allowed + 1 - len(targets))
            targets += [fact.other(node) for fact in facts]
            counts += [count] * len(facts)
            if len(targets) > allowed:
                break
        ends = np.array(targets[:allowed], dtype=np.int64)
        return gather(ends, np.array(counts[:allowed]), is_partial=len(targets) > allowed)

    def spread(self, frontier: Frontier, max_edges: int = MAX_EDGES) -> dict[int, Frontier]:
        """Follow every action alone; those with more than `max_edges` facts are left out."""
        leaving = self.leaving(frontier.nodes_V)
        possible = np.flatnonzero((leaving > 0) & (leaving <= max_edges)).tolist()
        return {action: self.expand(frontier, action, max_edges) for action in possible}


def gather(targets: IntArray, counts: FloatArray, is_partial: bool) -> Frontier:
    """Return the frontier that edges lead to; walks that meet in a node are added up."""
    nodes_V, place = np.unique(targets, return_inverse=True)
    counts_V = np.bincount(place, weights=counts, minlength=len(nodes_V)).astype(np.float64)
    return Frontier(nodes_V, counts_V, len(targets), is_partial)


def ranges(starts: IntArray, ends: IntArray) -> tuple[IntArray, IntArray]:
    """Return the numbers of all the ranges [start, end) one after another, and which range each is of."""
    sizes = ends - starts
    owner = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    before = np.cumsum(sizes) - sizes
    return np.arange(len(owner), dtype=np.int64) - before[owner] + starts[owner], owner


def _distinct(group_E: IntArray, target_E: IntArray) -> tuple[IntArray, IntArray]:
    """Return the distinct pairs, sorted."""
    order = np.lexsort((target_E, group_E))
    group_E, target_E = group_E[order], target_E[order]
    is_new = np.r_[True, (group_E[1:] != group_E[:-1]) | (target_E[1:] != target_E[:-1])] if len(order) else order
    return group_E[is_new], target_E[is_new]


def _starts(sorted_keys: IntArray) -> IntArray:
    """Return where a new key begins in a sorted array."""
    return np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]]) if len(sorted_keys) else sorted_keys


def _check_triples(triples_E3: IntArray, num_relations: int, num_nodes: int) -> None:
    if triples_E3.ndim != 2 or triples_E3.shape[1] != 3:
        raise InputError(f"triples have the shape {triples_E3.shape}, it must be (E, 3)")
    if not len(triples_E3):
        return
    limits = np.array([num_nodes, num_relations, num_nodes])
    if triples_E3.min() < 0 or (triples_E3.max(axis=0) >= limits).any():
        raise InputError(f"a triple lies outside of {num_nodes} nodes and {num_relations} relations")
