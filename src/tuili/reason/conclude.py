"""Concluding: the best reading's outcome becomes an answer, or an abstention with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tuili.knowledge.graph import Graph
from tuili.knowledge.query import Aggregate, Constraint, Query
from tuili.reason.answer import Answer, Number, Path, Scored
from tuili.reason.candidates import Candidates, Tried
from tuili.reason.explain import MAX_PATHS, links, path_edge, paths, wording
from tuili.reason.search import Outcome, Search
from tuili.reason.weights import Weigher
from tuili.reason.worlds.inquiry import Hypothesis, rank, share

_IDENTIFIER = re.compile(r"[A-Za-z]+:\d+")
ABSTAINED = "no supported answer"


def conclude(question: str, graph: Graph, found: Candidates, weigher: Weigher) -> Answer:
    """Return the answer of the best reading."""
    if not found.tried:
        return Answer(question, f"{ABSTAINED}: {_unknown(found)}", graph.name, abstained=True, reason=_unknown(found))
    best = found.tried[0]
    query, outcome = best.compiled.query, best.outcome
    texts = [token.text for token in found.tokens]
    shared: dict[str, Any] = {
        "query": query, "links": links(graph, texts, best.compiled.mentions, query),
        "pruned": tuple(outcome.pruned[:50]),
    }
    confidence = _confidence(best)
    if not outcome.found and is_ranked(graph, query) and confidence >= 0.5 and best.num_evidence > 1:
        return _ranked(question, graph, best, confidence, shared)
    reason = _presupposed(graph, query, outcome)
    if query.aggregate == Aggregate.QUALIFIER and outcome.found and not _qualifier_data(query, best):
        reason = f"the base states the fact without its {query.qualifier}"
    if not outcome.found and query.aggregate not in (Aggregate.ASK, Aggregate.COUNT) or confidence < 0.5 or reason:
        reason = reason or _missing(graph, best)
        return Answer(question, f"{ABSTAINED}: {reason}", graph.name, abstained=True, confidence=confidence,
                      reason=reason, **shared)
    if is_ranked(graph, query):
        return _ranked(question, graph, best, confidence, shared)
    names = _names(graph, query, best)
    value = _value(graph, query, best, names)
    parts = {number: parts for (text, number), parts in weigher.parts.items()}
    entities = () if query.aggregate in (Aggregate.ASK, Aggregate.COUNT) else tuple(
        Scored(name, confidence) for name in names)
    return Answer(question, wording(graph, query, outcome, names, value), graph.name, entities, value,
                  confidence=confidence, paths=paths(graph, outcome.found, parts), **shared)


NO_ADVICE = "ranked by the base's annotations; no medical advice"
MAX_PARTIAL = 5
MAX_ADJECTIVES = 12


def is_ranked(graph: Graph, query: Query) -> bool:
    """Tell whether the query asks which subjects explain findings."""
    return query.aggregate == Aggregate.LIST and bool(query.constraints) and any(
        graph.relations[constraint.relation].ranked and constraint.subject in query.targets and not constraint.negated
        and query.var(constraint.object).is_constant for constraint in query.constraints)


def _ranked(question: str, graph: Graph, best: Tried, confidence: float, shared: dict[str, Any]) -> Answer:
    """Order what was found by how well it explains the findings; near misses follow with their probability."""
    query, found = best.compiled.query, best.outcome.found
    hypotheses = rank(graph, query, limit=len(found) + 200)
    sure = [item for item in hypotheses if item.entity in found]
    open_ended = best.num_evidence > 1 and len(query.constraints) == best.num_evidence
    near = [item for item in hypotheses if item.entity not in found][:MAX_PARTIAL] if open_ended else []
    entities = [Scored(graph.entity(item.entity).name, confidence * (0.6 + 0.4 * item.probability)) for item in sure]
    ceiling = 1.0 if not sure else 0.49
    entities += [Scored(graph.entity(item.entity).name, ceiling * item.probability) for item in near]
    answered = [item for item, scored in zip([*sure, *near], entities, strict=True) if scored.probability >= 0.5]
    if not answered:
        reason = "no single entity explains the findings well enough"
        nearest = tuple(item.name for item in entities[:MAX_PARTIAL])
        return Answer(question, f"{ABSTAINED}: {reason}; nearest: {', '.join(nearest)}", graph.name, tuple(entities),
                      abstained=True, confidence=confidence, reason=reason, nearest=nearest, **shared)
    text = "; ".join(graph.entity(item.entity).name for item in answered)
    return Answer(question, text, graph.name, tuple(entities), confidence=confidence,
                  paths=tuple(_contributions(graph, item) for item in (answered + near)[:MAX_PATHS]),
                  notes=(NO_ADVICE,), **shared)


def _contributions(graph: Graph, item: Hypothesis) -> Path:
    """Return a hypothesis' facts, each with what it adds to the log-odds."""
    by_fact = dict(zip(item.facts, [part for part in item.contributions.values() if part > 0], strict=False))
    edges = tuple(path_edge(graph, fact, {"share": share(fact), "contribution": by_fact.get(fact, 0.0)}, share(fact))
                  for fact in item.facts)
    return Path(edges, item.probability)


def _unknown(found: Candidates) -> str:
    words = [token.text for token in found.tokens if not token.is_function_word]
    return f"nothing in this base is called any of: {', '.join(words)}"


def _missing(graph: Graph, best: Tried) -> str:
    query = best.compiled.query
    if query.unexplained:
        return f"the base has no fact about {', '.join(query.unexplained)}"
    if best.outcome.empty_at:
        return f"nothing in the base satisfies: {query.describe()}"
    return "the question's words don't fit any fact well enough"


def _presupposed(graph: Graph, query: Query, outcome: Outcome) -> str:
    """Return what a yes/no or counting question takes for granted although the base does not have it.

    "Is verbose keyword-only in shutil.copyfile" is no No if copyfile has no parameter verbose.
    """
    silent = tuple(constraint for constraint in query.constraints
                   if not constraint.stated and not _is_predicate(graph, query, constraint))
    if outcome.found or query.aggregate not in (Aggregate.ASK, Aggregate.COUNT) or not silent:
        return ""
    if len(silent) == len(query.constraints) and query.aggregate == Aggregate.ASK and len(silent) == 1:
        return ""
    rest = replace(query, constraints=silent, aggregate=Aggregate.ASK, targets=(silent[0].subject,))
    if Search(graph, rest, lambda text, ids: dict.fromkeys(ids, 1.0)).run().found:
        return ""
    return f"nothing in the base satisfies: {rest.describe()}"


def _is_predicate(graph: Graph, query: Query, constraint: Constraint) -> bool:
    """Tell whether a constraint ascribes one of a few fixed values, as an adjective does ("keyword-only")."""
    return any(len(graph.members(kind, MAX_ADJECTIVES + 1)) <= MAX_ADJECTIVES
               for kind in query.var(constraint.object).kinds)


def _confidence(best: Tried) -> float:
    query = best.compiled.query
    words = len(query.unexplained)
    fit = max((support.fit for support in best.outcome.found.values()), default=0.0)
    texts = any(var.text for var in query.variables)
    return max(0.0, min(1.0, 0.95 - (1.0 if _foreign(best) else 0.5 * words) - (0.9 * (1 - fit) ** 2 if texts else 0.0)))


def _foreign(best: Tried) -> bool:
    """Tell whether a word that is surely a name (dotted, with underscores or inner capitals) is not in the base."""
    words = [*best.compiled.query.unexplained, *(word for var in best.compiled.query.variables for word in var.text.split())]
    return any("." in word or "_" in word or any(char.isupper() for char in word[1:]) and word[-1:].islower()
               for word in words)


def _names(graph: Graph, query: Query, best: Tried) -> list[str]:
    found = best.outcome.found
    if query.aggregate == Aggregate.ALIASES:
        entity = graph.entity(next(iter(found)))
        return [alias for alias in entity.aliases if alias != entity.name and not _IDENTIFIER.fullmatch(alias)]
    if query.aggregate in (Aggregate.MOST, Aggregate.LEAST):
        pick = max if query.aggregate == Aggregate.MOST else min
        bound = pick(best.outcome.counts.values(), default=0)
        found = {number: support for number, support in found.items() if best.outcome.counts.get(number, 0) == bound}
    if query.aggregate == Aggregate.QUALIFIER:
        return _qualified(query, best)
    return list(dict.fromkeys(entity.name for entity in graph.entities(found)))


def _qualifier_data(query: Query, best: Tried) -> Mapping[str, object]:
    """Return what the fact tells about itself, empty if nobody stated it."""
    for support in best.outcome.found.values():
        for fact in support.facts:
            data = fact.data.get(query.qualifier)
            if isinstance(data, Mapping) and data.get("text"):
                return data
            if data and not isinstance(data, Mapping):
                return {"text": data}
    return {}


def _qualified(query: Query, best: Tried) -> list[str]:
    """Return the class that was stated; a count or a share is a value instead."""
    data = _qualifier_data(query, best)
    text = str(data.get("text", ""))
    if not text or _is_measured(text):
        return []
    return [str(data.get("class") or text)]


def _is_measured(text: str) -> bool:
    return text[:1].isdigit()


def _value(graph: Graph, query: Query, best: Tried, names: list[str]) -> Number | None:
    if query.aggregate == Aggregate.COUNT:
        return Number(len(names))
    if query.aggregate == Aggregate.QUALIFIER:
        data = _qualifier_data(query, best)
        estimate = data.get("estimate")
        measured = isinstance(estimate, (int, float)) and _is_measured(str(data.get("text", "")))
        return Number(float(estimate)) if measured else None
    if query.aggregate == Aggregate.LIST and len(best.outcome.found) == 1:
        value = graph.entity(next(iter(best.outcome.found))).data.get("value")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return Number(value)
    return None
