"""Walks over a knowledge base: from a query's head along edges to what may be its answer.

An action takes an edge out of the entity that a walk stands at, or stops there. What the priors think of the entity
that an edge leads to, and of the relations so far, are the edge's features. The edge that a query asks for and its
inverse can't be taken, so a walk finds other ways to what is known.

Legend: Q queries, N entities, W walks, S states (walks that go on), E actions.
Sources: Das et al. 2018, "Go for a Walk and Arrive at the Answer" (walks, STOP); Lin et al. 2018, "Multi-Hop Knowledge
Graph Reasoning with Reward Shaping" (soft reward, action dropout).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tuili.errors import InputError, UsageError
from tuili.reason.policy import Choices, Floats, Ints, Step
from tuili.reason.priors.facts import Facts
from tuili.reason.priors.mixture import Mixture
from tuili.reason.priors.rules import Rules

STOP = -1
ONWARDS = -1.0  # what an entity that is not itself the answer loses against one that is, in nats
FEATURES = (
    "stop",
    "hop",
    "propagation",
    "embedding",
    "rules",
    "mixture",
    "gap",
    "onwards",
    "rule_begins",
    "rule_ends",
    "degree",
    "at_head",
    "back",
)


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries (head, relation, ?) with the log-probabilities that each prior gives every entity, (Q, N).

    `answer_Q`: the tail whose own edge is hidden and that is rewarded; STOP (-1) where it isn't known.

    Raises:
        InputError: the shapes don't fit, or a log-probability is not a number.
    """

    head_Q: Ints
    relation_Q: Ints
    answer_Q: Ints
    priors: Mapping[str, Floats]
    mixture_QN: Floats

    def __post_init__(self) -> None:
        if not len(self.head_Q) == len(self.relation_Q) == len(self.answer_Q) == len(self.mixture_QN):
            raise InputError("heads, relations, answers and priors must be of one length")
        for name, each in {**self.priors, "mixture": self.mixture_QN}.items():
            if each.shape != self.mixture_QN.shape or np.isnan(each).any():
                raise InputError(f"the prior {name!r} has a wrong shape or what is not a number; mend its scorer")

    def __len__(self) -> int:
        return len(self.head_Q)


def queries_of(edges_Q3: Ints, priors: Mapping[str, Floats], mixture: Mixture) -> Queries:
    """Return the queries whose answers are the tails of edges; the mixture of the priors orders their walks."""
    head, relation, tail = edges_Q3.T
    return Queries(head, relation, tail, priors, mixture.scores(priors))


@dataclass(frozen=True, kw_only=True, slots=True)
class PathsConfig:
    """`max_hops`: edges a walk takes at most. `cost`: reward lost with every edge. `soft`: reward for a miss, times
    what the mixture gives the entity. `dropout`: the share of actions that a training walk can't see. `max_actions`:
    edges looked at of an entity, the best by the prior.

    Raises:
        UsageError: a value is out of its bounds.
    """

    max_hops: int = 3
    cost: float = 0.02
    soft: float = 0.3
    dropout: float = 0.3
    max_actions: int = 256

    def __post_init__(self) -> None:
        if self.max_hops < 1 or self.max_actions < 1:
            raise UsageError(f"max_hops and max_actions must be at least 1, not {self.max_hops}, {self.max_actions}")
        if not (0 <= self.dropout < 1 and 0 <= self.cost <= 1 and 0 <= self.soft <= 1):
            raise UsageError(f"dropout, cost and soft lie between 0 and 1: {self}")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where S walks stand: query, entity, last entity and relation (-1 at the start), the code of the relations."""

    query_S: Ints
    at_S: Ints
    last_S: Ints
    by_S: Ints
    code_S: Ints

    def __len__(self) -> int:
        return len(self.query_S)

    def take(self, states: Ints | NDArray[np.bool_]) -> Standing:
        """Return some of the walks."""
        return Standing(*(getattr(self, name)[states] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Actions:
    """What can be done: the state, relation (-1 to stop), where it leads, and the code of the relations then."""

    state_E: Ints
    relation_E: Ints
    to_E: Ints
    code_E: Ints
    choices: Choices


class PathsGraph:
    """A base as compressed rows, with what its rules say of relations in a row."""

    def __init__(self, facts: Facts, rules: Rules | None) -> None:
        self.num_entities, self.num_relations = facts.num_entities, facts.num_relations
        order = np.argsort(facts.edges_E3[:, 0], kind="stable")
        head, self.relation, self.to = facts.edges_E3[order].T
        self.begins = np.searchsorted(head, np.arange(facts.num_entities + 1))
        self.log_degree = np.log1p(np.diff(self.begins)).astype(np.float32)
        self.begin_codes, self.begin_values = self._table(rules, whole=False)
        self.end_codes, self.end_values = self._table(rules, whole=True)

    def _table(self, rules: Rules | None, *, whole: bool) -> tuple[Ints, Floats]:
        """Return codes of relation sequences and the best confidence of a rule that begins so, or is so."""
        best: dict[int, float] = {STOP: 0.0}
        for relation, many in (rules.of_relation if rules else {}).items():
            for rule in many:
                code: int = relation
                for length, step in enumerate(rule.body, 1):
                    code = int(self.longer(code, step))
                    if not whole or length == len(rule.body):
                        best[code] = max(best.get(code, 0.0), rule.confidence)
        codes = np.array(sorted(best), np.int64)
        return codes, np.array([best[code] for code in codes.tolist()], np.float32)

    def longer(self, code: Ints | int, relation: Ints | int) -> Ints | int:
        """Return the code of a sequence with one relation more."""
        return code * (self.num_relations + 1) + relation + 1

    def begun(self, code_E: Ints) -> Floats:
        """Return the confidence of the best rule that begins with the relations, 0 if none."""
        return _looked_up(self.begin_codes, self.begin_values, code_E)

    def ended(self, code_E: Ints) -> Floats:
        """Return the confidence of the best rule that these relations are the body of, 0 if none."""
        return _looked_up(self.end_codes, self.end_values, code_E)

    def best_next(self, scores_QN: Floats) -> Floats:
        """Return the best score among each entity's neighbours, (Q, N). O(Q E)."""
        found = np.full_like(scores_QN, scores_QN.min() if scores_QN.size else 0)
        has_any = np.flatnonzero(np.diff(self.begins))
        if len(has_any):
            for row, scores in enumerate(scores_QN):
                found[row, has_any] = np.maximum.reduceat(scores[self.to], self.begins[has_any])
        return found


def _looked_up(codes: Ints, values: Floats, wanted: Ints) -> Floats:
    place = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where(codes[place] == wanted, values[place], 0).astype(np.float32)


class Paths:
    """The walks of a set of queries over a graph; a world for a policy (`policy.World`).

    `dropped`: features that are held at 0, as an ablation; without "mixture" the order of actions has no prior.

    Raises:
        UsageError: a dropped feature is unknown.
    """

    feature_names = FEATURES

    def __init__(
        self, graph: PathsGraph, queries: Queries, config: PathsConfig, *, dropped: Sequence[str] = ()
    ) -> None:
        if unknown := set(dropped) - set(FEATURES):
            raise UsageError(f"unknown features {', '.join(sorted(unknown))}; choose among: {', '.join(FEATURES)}")
        self.graph, self.queries, self.config = graph, queries, config
        self.dropped = [FEATURES.index(name) for name in dropped]
        self.onwards_QN = graph.best_next(queries.mixture_QN)
        self.best_Q = queries.mixture_QN.max(1)
        self._rng = np.random.default_rng(0)
        self.hop = 0

    # -- a world for training --------------------------------------------------------------------

    def start(self, num_walks: int, rng: np.random.Generator) -> Choices:
        """Begin walks of randomly drawn queries."""
        self._rng, self.hop = rng, 0
        self.walk_S = np.arange(num_walks)
        self.standing = self.begin(rng.integers(len(self.queries), size=num_walks))
        self.current = self.actions(self.standing, 0, self.walk_S, rng)
        return self.current.choices

    def step(self, picked_S: Ints) -> Step:
        """Follow one edge of each walk, or stop; the reward comes at the end, the cost at once."""
        actions, before = self.current, self.standing
        after, stopped_S = self.follow(before, actions, actions.choices.offsets[:-1] + picked_S)
        self.hop += 1
        done_S = stopped_S | (self.hop == self.config.max_hops)
        reward_S = np.where(done_S, self.reward(after), 0) - np.where(stopped_S, 0, self.config.cost)
        self.standing, self.walk_S = after.take(~done_S), self.walk_S[~done_S]
        if not len(self.standing):
            return Step(reward_S.astype(np.float32), done_S, None)
        self.current = self.actions(self.standing, self.hop, self.walk_S, self._rng)
        return Step(reward_S.astype(np.float32), done_S, self.current.choices)

    def reward(self, standing: Standing) -> Floats:
        """Return 1 at the answer, else a share of what the mixture thinks of the entity."""
        query, at = standing.query_S, standing.at_S
        soft = self.config.soft * np.exp(self.queries.mixture_QN[query, at])
        return np.where(at == self.queries.answer_Q[query], 1, soft).astype(np.float32)

    # -- moves, for training and search --------------------------------------------------------

    def begin(self, query_W: Ints) -> Standing:
        """Return walks at the heads of queries."""
        nowhere = np.full(len(query_W), STOP)
        relation = self.queries.relation_Q[query_W]
        return Standing(query_W, self.queries.head_Q[query_W], nowhere, nowhere, relation)

    def follow(self, standing: Standing, actions: Actions, taken: Ints) -> tuple[Standing, NDArray[np.bool_]]:
        """Return where walks stand after the actions, and which of them stopped."""
        before = standing.take(actions.state_E[taken])
        after = replace(
            before,
            at_S=actions.to_E[taken],
            last_S=before.at_S,
            by_S=actions.relation_E[taken],
            code_S=actions.code_E[taken],
        )
        return after, actions.relation_E[taken] == STOP

    def actions(self, standing: Standing, hop: int, walk_S: Ints, rng: np.random.Generator | None) -> Actions:
        """Return every walk's actions, STOP last; `rng` drops some edges of a training walk."""
        state, edge = self._edges_of(standing.at_S)
        relation, to = self.graph.relation[edge], self.graph.to[edge]
        keep = ~self._is_own(standing, state, relation, to)
        if rng is not None and self.config.dropout:
            keep &= rng.random(len(keep)) >= self.config.dropout
        state, relation, to = state[keep], relation[keep], to[keep]
        if len(state) and np.bincount(state).max() > self.config.max_actions:
            best = self._best(standing, hop, state, to)
            state, relation, to = state[best], relation[best], to[best]
        num = len(standing)
        state = np.concatenate([state, np.arange(num)])
        order = np.argsort(state, kind="stable")
        relation = np.concatenate([relation, np.full(num, STOP)])[order]
        to, state = np.concatenate([to, standing.at_S])[order], state[order]
        code = np.where(relation == STOP, standing.code_S[state], self.graph.longer(standing.code_S[state], relation))
        offsets = np.searchsorted(state, np.arange(num + 1))
        features, prior = self._features(standing, hop, (state, relation, to, np.asarray(code)))
        return Actions(state, relation, to, np.asarray(code), Choices(features, prior, offsets, walk_S))

    def _edges_of(self, at_S: Ints) -> tuple[Ints, Ints]:
        begin, size = self.graph.begins[at_S], self.graph.begins[at_S + 1] - self.graph.begins[at_S]
        state = np.repeat(np.arange(len(at_S)), size)
        return state, np.arange(size.sum()) + np.repeat(begin - np.cumsum(size) + size, size)

    def _is_own(self, standing: Standing, state: Ints, relation: Ints, to: Ints) -> NDArray[np.bool_]:
        """Tell which edges are the one asked for, or its inverse."""
        query, at = standing.query_S[state], standing.at_S[state]
        head, asked, answer = self.queries.head_Q[query], self.queries.relation_Q[query], self.queries.answer_Q[query]
        back = (asked + self.graph.num_relations // 2) % self.graph.num_relations
        there = (at == head) & (relation == asked) & (to == answer)
        return np.asarray(there | ((at == answer) & (relation == back) & (to == head)))

    def _prior(self, query: Ints, to: Ints, hop: int) -> Floats:
        """Return the mixture's view of where an edge leads, or, while hops are left, of what lies behind it."""
        here = self.queries.mixture_QN[query, to]
        if hop + 1 >= self.config.max_hops:
            return here
        return np.logaddexp(here, self.onwards_QN[query, to] + ONWARDS)

    def _best(self, standing: Standing, hop: int, state: Ints, to: Ints) -> Ints:
        """Return the places of each state's `max_actions` best edges, in their order."""
        prior = self._prior(standing.query_S[state], to, hop)
        order = np.lexsort((-prior, state))
        rank = np.arange(len(state)) - np.searchsorted(state, state[order])
        return np.sort(order[rank < self.config.max_actions])

    def _features(self, standing: Standing, hop: int, many: tuple[Ints, Ints, Ints, Ints]) -> tuple[Floats, Floats]:
        """Return the features of actions (state, relation, to, code), in the order of `FEATURES`, and their prior."""
        state, relation, to, code = many
        query, graph, is_stop = standing.query_S[state], self.graph, relation == STOP
        nothing = np.zeros(len(state), np.float32)
        mixture = self.queries.mixture_QN[query, to]
        priors = self.queries.priors
        columns = (
            is_stop,
            np.full(len(state), hop / self.config.max_hops),
            *(priors[name][query, to] if name in priors else nothing for name in ("propagation", "embedding", "rules")),
            mixture,
            mixture - self.best_Q[query],
            self.onwards_QN[query, to],
            np.where(is_stop, 0, graph.begun(code)),
            graph.ended(code),
            graph.log_degree[to],
            to == self.queries.head_Q[query],
            to == standing.last_S[state],
        )
        features = np.stack(columns, axis=1).astype(np.float32)
        features[:, self.dropped] = 0
        if FEATURES.index("mixture") in self.dropped:
            return features, nothing
        return features, np.where(is_stop, mixture, self._prior(query, to, hop)).astype(np.float32)
