"""Answers that rank hypotheses: which diseases explain the findings, each with its contributions."""

from __future__ import annotations

from typing import Any

from tuili.knowledge.graph import Graph
from tuili.knowledge.query import Aggregate, Query
from tuili.reason.answer import Answer, Path, PathEdge, Scored
from tuili.reason.candidates import Tried
from tuili.reason.explain import MAX_PATHS, path_edge
from tuili.reason.worlds.inquiry import Hypothesis, rank, share

NO_ADVICE = "ranked by the base's annotations; no medical advice"
MAX_PARTIAL = 5
_NUM_CONSIDERED = 200


def is_ranked(graph: Graph, query: Query) -> bool:
    """Tell whether the query asks which subjects explain findings."""
    return query.aggregate == Aggregate.LIST and any(
        graph.relations[constraint.relation].ranked
        and constraint.subject in query.targets
        and not constraint.negated
        and query.var(constraint.object).is_constant
        for constraint in query.constraints
    )


def ranked_answer(question: str, graph: Graph, best: Tried, shared: dict[str, Any]) -> Answer:
    """Order what was found by how well it explains the findings; near misses follow with their probability.

    What shows every finding is part of the answer; where nothing does, the likeliest is, if it is
    likelier than all others together.
    """
    query, found, confidence = best.compiled.query, best.outcome.found, shared["confidence"]
    hypotheses = rank(graph, query, limit=len(found) + _NUM_CONSIDERED)
    sure = [item for item in hypotheses if item.entity in found]
    is_open = best.num_evidence > 1 and len(query.constraints) == best.num_evidence
    near = [item for item in hypotheses if item.entity not in found][:MAX_PARTIAL] if is_open else []
    ceiling = 0.49 if sure else 1.0
    scored = [(item, max(0.5, confidence * (0.6 + 0.4 * item.probability))) for item in sure]
    scored += [(item, ceiling * item.probability) for item in near]
    answered = [item for item, probability in scored if probability >= 0.5]
    entities = tuple(Scored(graph.entity(item.entity).name, probability) for item, probability in scored)
    shown = tuple(_contributions(graph, item) for item, _ in scored[:MAX_PATHS])
    shared = shared | {"notes": (*shared["notes"], NO_ADVICE), "paths": shown}
    if not answered:
        names = tuple(entity.name for entity in entities[:MAX_PARTIAL])
        reason = "nothing explains all findings, and no single hypothesis is likelier than the rest"
        return Answer(
            question,
            f"no supported answer: {reason}; nearest: {'; '.join(names)}",
            graph.name,
            entities,
            abstained=True,
            reason=reason,
            nearest=names,
            **shared,
        )
    text = "; ".join(graph.entity(item.entity).name for item in answered)
    return Answer(question, text, graph.name, entities, **shared)


def _contributions(graph: Graph, item: Hypothesis) -> Path:
    """Return a hypothesis' facts, each with what it adds to the log-odds and what leads to the finding asked about."""
    edges: list[PathEdge] = []
    for fact, contribution, steps in zip(item.facts, item.contributions, item.steps, strict=True):
        edges.append(path_edge(graph, fact, {"share": share(fact), "contribution": contribution}, share(fact)))
        edges.extend(path_edge(graph, step) for step in steps)
    return Path(tuple(edges), item.probability)
