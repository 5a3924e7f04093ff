"""Ranking hypotheses by evidence: which subjects explain several findings best.

A naive Bayes model over the facts' weights (the share of cases that show the finding). A finding
counts for everything above it in the hierarchy; one that a hypothesis does not have may still come
with it by chance. Small samples are shrunk: "1 of 1" is weaker than "90 of 100".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuili.knowledge.graph import Fact, Graph
from tuili.knowledge.query import Constraint, Query

# A finding that a hypothesis is not known to have shows up in this share of its cases.
BACKGROUND = 0.003
# How many cases a stated share is worth before shrinking towards PRIOR_SHARE.
PRIOR_CASES = 2.0
PRIOR_SHARE = 0.4
UNKNOWN_CASES = 10.0
MAX_RANKED = 25


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A ranked subject: its probability among all, and per explained finding the fact and its log-odds.

    `steps` lead from a fact's finding to the one that was asked about, if it lies above it.
    """

    entity: int
    probability: float
    facts: tuple[Fact, ...]
    contributions: tuple[float, ...]
    steps: tuple[tuple[Fact, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class _Support:
    fact: Fact
    steps: tuple[Fact, ...]


def rank(graph: Graph, query: Query, limit: int = MAX_RANKED) -> list[Hypothesis]:
    """Rank the query's target by its positive constraints, best first; O(facts of the findings)."""
    evidence = [
        constraint
        for constraint in query.constraints
        if not constraint.negated
        and graph.relations[constraint.relation].ranked
        and constraint.subject in query.targets
    ]
    support = {index: _support(graph, query, constraint) for index, constraint in enumerate(evidence)}
    kinds = set(query.var(query.targets[0]).kinds)
    entities = {number for facts in support.values() for number in facts if graph.entity(number).kind in kinds}
    scored = [_score(graph, number, support) for number in sorted(entities)]
    total = _log_sum([score for score, *_ in scored])
    ranked = sorted(scored, key=lambda item: (-item[0], graph.entity(item[1]).name))
    return [
        Hypothesis(
            number,
            math.exp(score - total),
            tuple(item.fact for item in found),
            parts,
            tuple(item.steps for item in found),
        )
        for score, number, found, parts in ranked[:limit]
    ]


def _support(graph: Graph, query: Query, constraint: Constraint) -> dict[int, _Support]:
    """Return, per hypothesis, the strongest fact that it shows the finding or a special case of it."""
    relation = graph.relations[constraint.relation]
    best: dict[int, _Support] = {}
    for number in query.var(constraint.object).ids:
        below = graph.closure(number, relation.object_through, inverse=True) if relation.object_through else {}
        for place, steps in {number: (), **below}.items():
            for fact in graph.step(place, relation.name, inverse=True):
                known = best.get(fact.subject)
                if known is None or share(fact) > share(known.fact):
                    best[fact.subject] = _Support(fact, tuple(reversed(steps)))
    return best


def share(fact: Fact) -> float:
    """Return the shrunk share of cases that show the finding."""
    data = fact.data.get("frequency")
    text = str(data.get("text", "")) if isinstance(data, Mapping) else ""
    cases = float(text.split("/")[1]) if "/" in text and text.split("/")[1].isdigit() else UNKNOWN_CASES
    return (fact.weight * cases + PRIOR_SHARE * PRIOR_CASES) / (cases + PRIOR_CASES)


def _score(
    graph: Graph, number: int, support: Mapping[int, Mapping[int, _Support]]
) -> tuple[float, int, tuple[_Support, ...], tuple[float, ...]]:
    found = tuple(by_entity[number] for by_entity in support.values() if number in by_entity)
    parts = tuple(math.log(share(item.fact) + BACKGROUND) - math.log(BACKGROUND) for item in found)
    return math.log1p(_documented(graph, number)) + sum(parts), number, found, parts


def _documented(graph: Graph, number: int) -> float:
    """Return how many sources speak of a hypothesis: what is reported often is likelier to be met."""
    return float(len({source for fact in graph.facts(number) for source in fact.source.split("; ") if source}))


def _log_sum(scores: Sequence[float]) -> float:
    top = max(scores, default=0.0)
    return top + math.log(sum(math.exp(score - top) for score in scores)) if scores else 0.0
