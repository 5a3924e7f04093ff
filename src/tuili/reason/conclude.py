"""Concluding: the best reading's outcome becomes an answer, or an abstention with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from tuili.knowledge.graph import Graph
from tuili.knowledge.query import Aggregate, Query
from tuili.reason.answer import Answer, Number, Scored
from tuili.reason.candidates import Candidates, Tried
from tuili.reason.explain import links, paths, wording
from tuili.reason.search import Outcome, Search
from tuili.reason.weights import Weigher

_IDENTIFIER = re.compile(r"[A-Za-z]+:\d+")
ABSTAINED = "no supported answer"


def conclude(question: str, graph: Graph, found: Candidates, weigher: Weigher) -> Answer:
    """Return the answer of the best reading."""
    if not found.tried:
        return Answer(question, f"{ABSTAINED}: {_unknown(found)}", graph.name, abstained=True, reason=_unknown(found))
    best = found.tried[0]
    query, outcome = best.compiled.query, best.outcome
    texts = [token.text for token in found.tokens]
    shared = {
        "query": query, "links": links(graph, texts, best.compiled.mentions, query),
        "pruned": tuple(outcome.pruned[:50]),
    }
    confidence = _confidence(best)
    reason = _presupposed(graph, query, outcome)
    if query.aggregate == Aggregate.QUALIFIER and outcome.found and not _qualifier_data(query, best):
        reason = f"the base states the fact without its {query.qualifier}"
    if not outcome.found and query.aggregate not in (Aggregate.ASK, Aggregate.COUNT) or confidence < 0.5 or reason:
        reason = reason or _missing(graph, best)
        return Answer(question, f"{ABSTAINED}: {reason}", graph.name, abstained=True, confidence=confidence,
                      reason=reason, **shared)  # type: ignore[arg-type]
    names = _names(graph, query, best)
    value = _value(graph, query, best, names)
    parts = {number: parts for (text, number), parts in weigher.parts.items()}
    entities = () if query.aggregate in (Aggregate.ASK, Aggregate.COUNT) else tuple(
        Scored(name, confidence) for name in names)
    return Answer(question, wording(graph, query, outcome, names, value), graph.name, entities, value,
                  confidence=confidence, paths=paths(graph, outcome.found, parts), **shared)  # type: ignore[arg-type]


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
    silent = tuple(constraint for constraint in query.constraints if not constraint.stated)
    if outcome.found or query.aggregate not in (Aggregate.ASK, Aggregate.COUNT) or not silent:
        return ""
    if len(silent) == len(query.constraints) and query.aggregate == Aggregate.ASK and len(silent) == 1:
        return ""
    rest = replace(query, constraints=silent, aggregate=Aggregate.ASK, targets=(silent[0].subject,))
    if Search(graph, rest, lambda text, ids: dict.fromkeys(ids, 1.0)).run().found:
        return ""
    return f"nothing in the base satisfies: {rest.describe()}"


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
        return Number(float(estimate)) if measured else None  # type: ignore[arg-type]
    if query.aggregate == Aggregate.LIST and len(best.outcome.found) == 1:
        value = graph.entity(next(iter(best.outcome.found))).data.get("value")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return Number(value)
    return None
