"""Rules: closed relation paths of up to three hops that tend to go along with a relation. NumPy only.

Facts are split into folds; a fold's facts are asked for in the graph without them, so no fact supports itself, and
neither does its inverse. Support and confidence are counted so, and each rule's weight is fitted so.

Legend: B queries, N entities, L rules of one relation.
Sources: Lao et al. 2011, "Random Walk Inference and Learning in a Large Scale Knowledge Base" (paths as features of a
logistic regression); Galárraga et al. 2013, "AMIE" (support, confidence of rules).
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuili.errors import UsageError
from tuili.reason.priors.facts import Facts, Floats, Ints, folds

VARIABLES = "XZWY"
RIDGE = 1.0
NUM_STEPS = 12
NUM_HALVINGS = 20
LARGEST = 30.0


@dataclass(frozen=True, slots=True)
class Rule:
    """`body` leads from X to Y where `head` holds: that often (`support`), and in that share of cases."""

    head: int
    body: tuple[int, ...]
    support: int
    confidence: float

    def show(self, facts: Facts) -> str:
        """Return the rule for people: r(X,Y) <- a(X,Z), b(Z,Y)."""
        names = (*VARIABLES[: len(self.body)], VARIABLES[-1])
        steps = (f"{facts.name(r)}({names[i]},{names[i + 1]})" for i, r in enumerate(self.body))
        says = f"support {self.support}, confidence {self.confidence:.2f}"
        return f"{facts.name(self.head)}(X,Y) <- {', '.join(steps)}  {says}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RulesConfig:
    """How rules are mined. `num_samples`: facts of a relation looked at; `num_walks`: walks from each of them for
    bodies of one length; `num_rules`: rules kept of a relation; `num_heads`: entities of a relation that count;
    `max_s`: seconds after which no further relation is begun.

    Raises:
        UsageError: a value is out of its bounds.
    """

    num_samples: int = 60
    num_walks: int = 100
    num_rules: int = 40
    num_heads: int = 128
    num_folds: int = 5
    max_hops: int = 3
    max_s: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.max_hops <= 3 or self.num_folds < 2:
            raise UsageError(f"rules have 1 to 3 hops and need 2 folds or more: {self}")
        if min(self.num_samples, self.num_walks, self.num_rules, self.num_heads) < 1 or self.max_s <= 0:
            raise UsageError(f"sizes and max_s must be positive: {self}")


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of every relation, the strongest first, with a weight each, and a bias last."""

    of_relation: Mapping[int, tuple[Rule, ...]]
    weights: Mapping[int, Floats]

    def scores(self, facts: Facts, head_B: Ints, relation_B: Ints, without_F: Ints | None = None) -> Floats:
        """Return the logit of every entity as the tail, (B, N); a relation without rules has zeros.

        `without_F`: rows of facts that bodies may not use. O(B * rules * hops * edges of a relation).
        """
        found = np.zeros((len(head_B), facts.num_entities), np.float32)
        paths = Paths(facts if without_F is None else facts.without(without_F))
        for relation in np.unique(relation_B):
            rules = self.of_relation.get(int(relation), ())
            rows = np.flatnonzero(relation_B == relation)
            if rules:
                heads, place = np.unique(head_B[rows], return_inverse=True)
                fired_LHN = paths.fired(heads, [rule.body for rule in rules])
                weights = self.weights[int(relation)]
                found[rows] = (np.tensordot(weights[:-1], fired_LHN, 1) + weights[-1])[place]
        return found

    def fired(self, facts: Facts, head: int, relation: int, tail: int) -> list[Rule]:
        """Return the rules whose bodies lead from the head to the tail."""
        rules = self.of_relation.get(relation, ())
        fired_LHN = Paths(facts).fired(np.array([head]), [rule.body for rule in rules])
        return [rule for rule, hits_HN in zip(rules, fired_LHN, strict=True) if hits_HN[0, tail]]


class Paths:
    """Follows bodies over a graph: relation by relation, for many heads at once."""

    def __init__(self, facts: Facts) -> None:
        self.num_entities = facts.num_entities
        edges = facts.edges_E3[np.lexsort((facts.edges_E3[:, 2], facts.edges_E3[:, 1]))]
        cuts = np.searchsorted(edges[:, 1], np.arange(facts.num_relations + 1))
        self.of_relation = [edges[a:b, [0, 2]] for a, b in itertools.pairwise(cuts)]

    def fired(self, head_H: Ints, bodies: Sequence[tuple[int, ...]]) -> Floats:
        """Return 1 where a body leads from the head to the entity, else 0: (bodies, H, N)."""
        found = np.zeros((len(bodies), len(head_H), self.num_entities), np.float32)
        begun: dict[tuple[int, ...], Floats] = {(): np.zeros(found.shape[1:], np.float32)}
        begun[()][np.arange(len(head_H)), head_H] = 1
        for place, body in enumerate(bodies):
            found[place] = self._reached(body, begun)
        return found

    def _reached(self, body: tuple[int, ...], begun: dict[tuple[int, ...], Floats]) -> Floats:
        """Return where a body leads, from where it leads without its last relation."""
        if body not in begun:
            before_HN = self._reached(body[:-1], begun)
            head, tail = self.of_relation[body[-1]].T
            after_HN = np.zeros_like(before_HN)
            if len(tail):
                begins = np.flatnonzero(np.r_[True, tail[1:] != tail[:-1]])
                after_HN[:, tail[begins]] = np.maximum.reduceat(before_HN[:, head], begins, axis=1)
            begun[body] = after_HN
        return begun[body]


# -- mining --------------------------------------------------------------------------------------


def mine(facts: Facts, config: RulesConfig) -> Rules:
    """Return weighted rules for every relation and its inverse; relations beyond `max_s` have none."""
    rng, begun = np.random.default_rng(config.seed), time.monotonic()
    walker = Walker(facts)
    parts = [(fold, Paths(facts.without(fold))) for fold in folds(len(facts.triples_E3), config.num_folds, rng)]
    rules: dict[int, tuple[Rule, ...]] = {}
    weights: dict[int, Floats] = {}
    for relation in np.unique(facts.edges_E3[:, 1]):
        if time.monotonic() - begun > config.max_s:
            break
        bodies = walker.bodies(int(relation), config, rng)
        if bodies:
            rules[int(relation)], weights[int(relation)] = _weigh(facts, int(relation), bodies, parts, config, rng)
    return Rules(rules, weights)


class Walker:
    """Finds bodies: short random walks from a fact's head that an edge closes at its tail."""

    def __init__(self, facts: Facts) -> None:
        self.edges_E3, self.num_relations = facts.edges_E3, facts.num_relations
        self.num_facts, self.num_entities = len(facts.triples_E3), facts.num_entities
        self.by_head = np.argsort(self.edges_E3[:, 0], kind="stable")
        self.begins = np.searchsorted(self.edges_E3[self.by_head, 0], np.arange(self.num_entities + 1))
        code = self.edges_E3[:, 0] * self.num_entities + self.edges_E3[:, 2]
        self.by_pair = np.argsort(code, kind="stable")
        self.pair_codes = code[self.by_pair]

    def bodies(self, relation: int, config: RulesConfig, rng: np.random.Generator) -> list[tuple[int, ...]]:
        """Return the bodies that most of the sampled facts have; short ones count a little more."""
        edges = np.flatnonzero(self.edges_E3[:, 1] == relation)
        edges = rng.permutation(edges)[: config.num_samples]
        votes: Counter[tuple[int, ...]] = Counter()
        for hops in range(1, config.max_hops + 1):
            own = np.repeat(edges, config.num_walks if hops > 1 else 1)
            for body, num in self._closed(own, hops, rng).items():
                votes[body] += num
        return [body for body, num in votes.most_common(config.num_rules) if num > 1]

    def _closed(self, own_W: Ints, hops: int, rng: np.random.Generator) -> Counter[tuple[int, ...]]:
        """Walk hops - 1 steps from the head of each edge and close the walk at its tail, never over the edge itself."""
        at_W, bodies = self.edges_E3[own_W, 0], np.zeros((len(own_W), 0), np.int64)
        for _ in range(hops - 1):
            size = self.begins[at_W + 1] - self.begins[at_W]
            edge_W = self.by_head[self.begins[at_W] + (rng.random(len(at_W)) * size).astype(np.int64)]
            allowed = (edge_W - own_W) % self.num_facts != 0
            own_W, edge_W, bodies = own_W[allowed], edge_W[allowed], bodies[allowed]
            at_W = self.edges_E3[edge_W, 2]
            bodies = np.column_stack([bodies, self.edges_E3[edge_W, 1]])
        code = at_W * self.num_entities + self.edges_E3[own_W, 2]
        first, last = (np.searchsorted(self.pair_codes, code, side=side) for side in ("left", "right"))
        walk = np.repeat(np.arange(len(code)), last - first)
        edge = self.by_pair[np.arange(len(walk)) - np.repeat(np.cumsum(last - first) - last, last - first)]
        allowed = (edge - own_W[walk]) % self.num_facts != 0
        closed = np.column_stack([own_W[walk], bodies[walk], self.edges_E3[edge, 1]])[allowed]
        # Each fact counts once for a body, however many of its walks found it.
        return Counter(map(tuple, np.unique(closed, axis=0)[:, 1:].tolist()))


def _weigh(
    facts: Facts,
    relation: int,
    bodies: list[tuple[int, ...]],
    parts: list[tuple[Ints, Paths]],
    config: RulesConfig,
    rng: np.random.Generator,
) -> tuple[tuple[Rule, ...], Floats]:
    """Count a relation's rules on every fold and fit their weights."""
    fired_LC, label_C = _cases(facts, relation, bodies, parts, config, rng)
    support_L, all_L = fired_LC @ label_C, fired_LC.sum(1)
    confidence_L = support_L / np.maximum(all_L, 1)
    order = np.lexsort((-support_L, -confidence_L))
    weights = fit_logistic(fired_LC[order].T, label_C)
    rules = (Rule(relation, bodies[i], int(support_L[i]), float(confidence_L[i])) for i in order)
    return tuple(rules), weights


def _cases(
    facts: Facts,
    relation: int,
    bodies: list[tuple[int, ...]],
    parts: list[tuple[Ints, Paths]],
    config: RulesConfig,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Return which rules fire in each case (L, C) and whether the relation holds there (C,); known answers of the
    other folds are no cases.
    """
    num = len(facts.relations)
    fired, labels = [], []
    for fold, paths in parts:
        triples = facts.triples_E3[fold]
        triples = triples[triples[:, 1] == relation % num]
        head, tail = (triples[:, 0], triples[:, 2]) if relation < num else (triples[:, 2], triples[:, 0])
        heads = rng.permutation(np.unique(head))[: max(1, config.num_heads // len(parts))]
        if not len(heads):
            continue
        is_asked = np.zeros((len(heads), facts.num_entities), bool)
        rows = np.searchsorted(np.sort(heads), head)
        heads = np.sort(heads)
        is_in = heads[np.minimum(rows, len(heads) - 1)] == head
        is_asked[rows[is_in], tail[is_in]] = True
        is_case = is_asked | ~facts.tails(heads, np.full_like(heads, relation))
        fired.append(paths.fired(heads, bodies)[:, is_case])
        labels.append(is_asked[is_case])
    return np.concatenate(fired, axis=1), np.concatenate(labels).astype(np.float32)


def fit_logistic(x_CL: Floats, y_C: Floats, ridge: float = RIDGE) -> Floats:
    """Return the weights of a logistic regression, the bias last; `ridge` holds all but the bias.

    Newton's method with halved steps: a whole step from afar can lead away for good.
    Source: Boyd and Vandenberghe 2004, "Convex Optimization", algorithm 9.5.
    """
    x = np.column_stack([x_CL, np.ones(len(x_CL))]).astype(np.float64)
    mean = np.clip(y_C.mean(), 1e-6, 1 - 1e-6)
    weights = np.zeros(x.shape[1])
    weights[-1] = np.log(mean / (1 - mean))
    penalty = np.full(len(weights), ridge)
    penalty[-1] = 1e-3

    def loss(at: NDArray[np.float64]) -> float:
        logits = x @ at
        return float((np.logaddexp(0, logits) - y_C * logits).sum() + 0.5 * penalty @ at**2)

    for _ in range(NUM_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -LARGEST, LARGEST)))
        gradient = x.T @ (p - y_C) + penalty * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step, before = np.linalg.solve(hessian, gradient), loss(weights)
        halvings = next((n for n in range(NUM_HALVINGS) if loss(weights - step / 2**n) <= before), NUM_HALVINGS)
        weights -= step / 2**halvings
        if np.abs(step).max() < 1e-4 or halvings == NUM_HALVINGS:
            break
    return np.asarray(weights, np.float32)


__all__ = ["Paths", "Rule", "Rules", "RulesConfig", "fit_logistic", "mine"]
