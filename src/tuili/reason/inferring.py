"""Inferring by rules where a base states nothing: (head, relation, ?) from the facts of a rule's body.

What is inferred is never given as stated: the answer says so, names the rule, its support and confidence, and shows the
facts that the rule's body follows. Where no rule holds surely enough, there is no answer, as before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tuili.knowledge.graph import Fact, Graph
from tuili.knowledge.query import Aggregate, Query, Var
from tuili.reason.answer import Answer, Inference, Path, Scored
from tuili.reason.explain import path_edge
from tuili.reason.rulebook import BaseRule, Rulebook, rule_json
from tuili.reason.worlds.hops import Action

MAX_STARTS = 20
MAX_ANSWERS = 25
MAX_FOLLOWED = 20_000
NOTE = "inferred by a rule that was mined from this base (tuili learn); no source states it"
CUT = "a rule was left out: its paths from here are too many"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a query with one relation asks: from `starts` by `action` to entities of these kinds (any if empty)."""

    starts: tuple[int, ...]
    action: Action
    kinds: frozenset[str]


def asked(query: Query) -> Asked | None:
    """Return what a query asks if that is one relation that the question names, from what it names; None if not."""
    if query.aggregate != Aggregate.LIST or len(query.constraints) != 1 or len(query.targets) != 1 or query.unexplained:
        return None
    only = query.constraints[0]
    if only.negated or only.where[0] or not only.stated or only.subject == only.object:
        return None
    inverse = query.targets[0] == only.subject
    start, target = query.var(only.object if inverse else only.subject), query.var(query.targets[0])
    if query.targets[0] not in (only.subject, only.object) or not start.is_constant or not _is_open(target):
        return None
    return Asked(start.ids[:MAX_STARTS], Action(only.relation, inverse), frozenset(target.kinds))


def _is_open(var: Var) -> bool:
    return not (var.is_constant or var.text or var.ordinal or var.value)


def infer(answer: Answer, graph: Graph, book: Rulebook, deadline: float) -> Answer | None:
    """Return what rules infer where `answer` found nothing; None if no rule applies."""
    wanted = asked(answer.query) if answer.query else None
    if wanted is None:
        return None
    found: dict[int, tuple[int, BaseRule, tuple[Fact, ...]]] = {}
    notes = [NOTE]
    for rule in book.of(wanted.action):
        for start in wanted.starts:
            if time.monotonic() > deadline or stated(graph, start, wanted.action):
                continue
            reached = follow(graph, start, rule.body)
            if reached is None:
                notes += [] if CUT in notes else [CUT]
                continue
            for end, facts in reached.items():
                if end not in wanted.starts and _is_of(graph, end, wanted.kinds):
                    found.setdefault(end, (start, rule, facts))
    return _answer(answer, graph, found, notes) if found else None


def stated(graph: Graph, start: int, action: Action) -> bool:
    """Tell whether the base states any fact of a relation at an entity; then rules say nothing of it."""
    return bool(graph.step(start, action.relation, inverse=action.inverse, limit=1))


def _is_of(graph: Graph, number: int, kinds: frozenset[str]) -> bool:
    return not kinds or graph.entity(number).kind in kinds


def follow(graph: Graph, start: int, body: Sequence[Action]) -> dict[int, tuple[Fact, ...]] | None:
    """Return what a body leads to, each with the facts of the first path there, over distinct entities.

    None if more than `MAX_FOLLOWED` facts would have to be followed.
    """
    paths: list[tuple[tuple[int, ...], tuple[Fact, ...]]] = [((start,), ())]
    num_left = MAX_FOLLOWED
    for action in body:
        longer = []
        for nodes, facts in paths:
            here = graph.step(nodes[-1], action.relation, inverse=action.inverse, limit=num_left + 1)
            num_left -= len(here)
            if num_left < 0:
                return None
            grown = (((*nodes, fact.other(nodes[-1])), (*facts, fact)) for fact in here)
            longer += [path for path in grown if path[0][-1] not in nodes]
        paths = longer
    ends: dict[int, tuple[Fact, ...]] = {}
    for nodes, facts in paths:
        ends.setdefault(nodes[-1], facts)
    return ends


def _answer(
    answer: Answer, graph: Graph, found: dict[int, tuple[int, BaseRule, tuple[Fact, ...]]], notes: Sequence[str]
) -> Answer:
    ends = sorted(found, key=lambda end: -found[end][1].sure)[:MAX_ANSWERS]
    names = list(dict.fromkeys(graph.entity(end).name for end in ends))
    scored: dict[str, float] = {}
    for end in ends:
        scored.setdefault(graph.entity(end).name, found[end][1].sure)
    more = [f"{len(found)} answers, the first {MAX_ANSWERS} are shown"] if len(found) > MAX_ANSWERS else []
    return replace(
        answer,
        text=f"{', '.join(names)} (inferred, not stated: {answer.reason})",
        entities=tuple(Scored(name, sure) for name, sure in scored.items()),
        abstained=False,
        confidence=max(scored.values()),
        reason="",
        nearest=(),
        paths=tuple(_path(graph, *found[end][1:]) for end in ends),
        inferences=tuple(_inferences(graph, ends, found)),
        notes=(*answer.notes, *notes, *more),
    )


def _path(graph: Graph, rule: BaseRule, facts: Sequence[Fact]) -> Path:
    return Path(tuple(path_edge(graph, fact) for fact in facts), rule.sure)


def _inferences(
    graph: Graph, ends: Sequence[int], found: dict[int, tuple[int, BaseRule, tuple[Fact, ...]]]
) -> Iterator[Inference]:
    for end in ends:
        start, rule, _ = found[end]
        first, last = graph.entities((start, end))
        yield Inference(last.name, (first.key, last.key), rule.show(), rule_json(rule), rule.confidence)
