"""What is lacking: why a query has no answer, and what comes nearest to it."""

from __future__ import annotations

from dataclasses import replace

from tuili.knowledge.graph import Graph
from tuili.knowledge.query import Aggregate, Constraint, Query
from tuili.knowledge.records import normalise
from tuili.reason.search import Outcome, Search

MAX_ADJECTIVES = 12
MAX_NEAREST = 3
_MAX_CONSIDERED = 500


def lacking(graph: Graph, query: Query) -> str:
    """Name the entity, relation or fact that the base does not have."""
    if query.unexplained:
        return f"the base has no fact about {', '.join(query.unexplained)}"
    for constraint in query.constraints:
        if not constraint.negated and not _holds(graph, query, constraint):
            return _sentence(query, constraint)
    return f"nothing in the base satisfies: {query.describe()}"


def _holds(graph: Graph, query: Query, constraint: Constraint) -> bool:
    """Tell whether a constraint alone has any solution; one without named ends is taken to have."""
    subject, object_ = query.var(constraint.subject), query.var(constraint.object)
    start, inverse = (subject, False) if subject.is_constant else (object_, True)
    if not start.is_constant:
        return True
    other = object_ if start is subject else subject
    for number in start.ids:
        if constraint.closure:
            reached = graph.closure(number, constraint.relation, inverse=inverse).keys()
            holds = bool(reached & set(other.ids) if other.is_constant else reached)
        elif other.is_constant:
            holds = graph.meets(number, constraint.relation, set(other.ids), inverse=inverse)
        else:
            holds = bool(graph.step(number, constraint.relation, inverse=inverse, limit=1))
        if holds:
            return True
    return False


def _sentence(query: Query, constraint: Constraint) -> str:
    subject, object_ = query.var(constraint.subject), query.var(constraint.object)
    left = subject.label if subject.is_constant else f"any {' or '.join(subject.kinds)}"
    right = object_.label if object_.is_constant else f"any {' or '.join(object_.kinds)}"
    return f"the base has no fact “{left} – {constraint.relation} – {right}”"


def presupposed(graph: Graph, query: Query, outcome: Outcome) -> str:
    """Return what a yes/no or counting question takes for granted although the base does not have it.

    "Is verbose keyword-only in shutil.copyfile" is no No if copyfile has no parameter verbose.
    """
    if outcome.found or query.aggregate not in (Aggregate.ASK, Aggregate.COUNT):
        return ""
    plain = [constraint for constraint in query.constraints if not _is_predicate(graph, query, constraint)]
    ascribes = len(plain) < len(query.constraints)
    if not ascribes and not any(constraint.stated for constraint in plain) and query.aggregate == Aggregate.ASK:
        return ""
    silent = tuple(constraint for constraint in plain if ascribes or not constraint.stated)
    if not silent or (len(silent) == len(query.constraints) == 1 and query.aggregate == Aggregate.ASK):
        return ""
    rest = replace(query, constraints=silent, aggregate=Aggregate.ASK, targets=(silent[0].subject,))
    if Search(graph, rest, lambda text, ids: dict.fromkeys(ids, 1.0)).run().found:
        return ""
    return lacking(graph, rest)


def _is_predicate(graph: Graph, query: Query, constraint: Constraint) -> bool:
    """Tell whether a constraint ascribes one of a few fixed values, as an adjective does ("keyword-only").

    What the question says something more about is no such value.
    """
    if any(other.subject == constraint.object for other in query.constraints):
        return False
    return any(
        len(graph.members(kind, MAX_ADJECTIVES + 1)) <= MAX_ADJECTIVES for kind in query.var(constraint.object).kinds
    )


def nearest(graph: Graph, query: Query, outcome: Outcome) -> tuple[str, ...]:
    """Return the names that come nearest to what was asked: pruned candidates, or like-named entities close by."""
    pruned = sorted((item for item in outcome.pruned if item.weight > 0), key=lambda item: -item.weight)
    if pruned:
        return tuple(dict.fromkeys(item.entity for item in pruned))[:MAX_NEAREST]
    from rapidfuzz import fuzz, process

    for constraint in query.constraints:
        for known, wanted, inverse in (
            (constraint.subject, constraint.object, False),
            (constraint.object, constraint.subject, True),
        ):
            near, far = query.var(known), query.var(wanted)
            if near.is_constant and far.is_constant and not _holds(graph, query, constraint):
                names = {
                    graph.entity(fact.other(number)).name
                    for number in near.ids[:20]
                    for fact in graph.step(number, constraint.relation, inverse=inverse, limit=_MAX_CONSIDERED)[
                        :_MAX_CONSIDERED
                    ]
                }
                best = process.extract(normalise(far.label), sorted(names), scorer=fuzz.WRatio, limit=MAX_NEAREST)
                if best:
                    return tuple(name for name, _, _ in best)
    return ()
