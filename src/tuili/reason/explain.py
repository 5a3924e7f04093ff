"""Explaining: from what a search found to an answer in words, with its paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tuili.knowledge.graph import Fact, Graph
from tuili.knowledge.lexicon import Mention, Role
from tuili.knowledge.query import Aggregate, Query
from tuili.reason.answer import Link, Number, Path, PathEdge
from tuili.reason.search import Found, Outcome

MAX_PATHS = 25


def path_edge(
    graph: Graph, fact: Fact, parts: Mapping[str, float] | None = None, weight: float | None = None
) -> PathEdge:
    """Return a fact as an explanation shows it."""
    subject, object_ = graph.entities((fact.subject, fact.object))
    return PathEdge(
        subject.name,
        fact.relation,
        object_.name,
        fact.weight if weight is None else weight,
        parts or {"prior": fact.weight},
        fact.source,
        (subject.key, object_.key),
        fact.weight,
    )


def paths(graph: Graph, found: Found, parts: Mapping[int, Mapping[str, float]]) -> tuple[Path, ...]:
    """Return one path per answer entity: the facts that support it, weighted."""
    shown = []
    for support in list(found.values())[:MAX_PATHS]:
        edges = tuple(_weighted(graph, fact, parts, support.fit) for fact in dict.fromkeys(support.facts))
        if edges:
            shown.append(Path(edges, support.fit))
    return tuple(shown)


def _weighted(graph: Graph, fact: Fact, parts: Mapping[int, Mapping[str, float]], fit: float) -> PathEdge:
    for end in (fact.object, fact.subject):
        if end in parts:
            return path_edge(graph, fact, parts[end], fit)
    return path_edge(graph, fact)


def links(graph: Graph, tokens_text: Sequence[str], mentions: Iterable[Mention], query: Query) -> tuple[Link, ...]:
    """Return the mentions of entities that the query uses."""
    used = {number for var in query.variables for number in var.ids}
    shown = []
    for mention in mentions:
        if mention.role == Role.ENTITY and used & set(mention.ids):
            names = [entity.name for entity in graph.entities(mention.ids[:5])]
            text = " ".join(tokens_text[mention.start : mention.end])
            shown.append(Link(text, tuple(dict.fromkeys(names)), mention.how, min(mention.score, 1.0)))
    return tuple(shown)


def wording(graph: Graph, query: Query, outcome: Outcome, names: Sequence[str], value: Number | None) -> str:
    """Return the answer in words, from templates only: the same result always reads the same."""
    if query.aggregate == Aggregate.ASK:
        return _yes_no(graph, outcome)
    if query.aggregate == Aggregate.COUNT:
        return _number(value) if value else "0"
    if query.aggregate == Aggregate.QUALIFIER and value is not None:
        stated = _stated(query, outcome)
        return f"{value.magnitude:.4g}" + (f" ({stated})" if stated else "")
    if query.aggregate == Aggregate.DESCRIBE:
        entity = graph.entity(next(iter(outcome.found)))
        return f"{entity.name}: {entity.description}" if entity.description else entity.name
    if query.aggregate in (Aggregate.MOST, Aggregate.LEAST):
        counts = "; ".join(f"{graph.entity(number).name}: {count}" for number, count in outcome.counts.items())
        return f"{', '.join(names)} ({counts})"
    return ", ".join(names)


def _stated(query: Query, outcome: Outcome) -> str:
    """Return what the fact itself says, as it was stated ("124/197")."""
    facts = (fact for support in outcome.found.values() for fact in support.facts)
    data = next((fact.data[query.qualifier] for fact in facts if fact.data.get(query.qualifier)), "")
    return str(data.get("text", "")) if isinstance(data, Mapping) else str(data)


def _yes_no(graph: Graph, outcome: Outcome) -> str:
    if not outcome.found:
        return "No"
    facts = next(iter(outcome.found.values())).facts
    shown = "; ".join(_sentence(graph, fact) for fact in dict.fromkeys(facts))
    return f"Yes: {shown}" if shown else "Yes"


def _sentence(graph: Graph, fact: Fact) -> str:
    subject, object_ = graph.entities((fact.subject, fact.object))
    return f"{subject.name} – {fact.relation} – {object_.name}"


def _number(value: Number) -> str:
    text = f"{value.magnitude:g}" if value.magnitude != int(value.magnitude) else f"{int(value.magnitude)}"
    return f"{text} {value.unit}".strip()
