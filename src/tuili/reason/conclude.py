"""Concluding: the best reading's outcome becomes an answer, or an abstention with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tuili.knowledge.graph import Graph
from tuili.knowledge.lexicon import Role
from tuili.knowledge.link import UNDECLARED_KIND
from tuili.knowledge.query import Aggregate, Query
from tuili.knowledge.text import NEGATIONS, Token
from tuili.reason.answer import Answer, Number, Scored
from tuili.reason.candidates import Candidates, Tried
from tuili.reason.confidence import features, guessed_kinds, probability
from tuili.reason.explain import links, paths, wording
from tuili.reason.lacking import lacking, nearest, presupposed
from tuili.reason.ranking import is_ranked, ranked_answer
from tuili.reason.search import Outcome
from tuili.reason.weights import Weigher

_IDENTIFIER = re.compile(r"[A-Za-z]+:\d+")
_COUNTING = (Aggregate.COUNT, Aggregate.MOST, Aggregate.LEAST)
_WITHOUT_ENTITIES = (Aggregate.ASK, Aggregate.COUNT)
MAX_PRUNED = 50
MAX_NAMED = 4
# Answers less likely to be right than this are withheld.
CERTAIN = 0.5


def conclude(question: str, graph: Graph, found: Candidates, weigher: Weigher) -> Answer:
    """Return the answer of the best reading."""
    if not found.tried:
        return _abstain(question, graph, _not_understood(found), (), {})
    best = found.tried[0]
    query, outcome = best.compiled.query, best.outcome
    evidence = features(found, weigher)
    shared: dict[str, Any] = {
        "query": query,
        "links": links(graph, [token.text for token in found.tokens], best.compiled.mentions, query),
        "pruned": tuple(outcome.pruned[:MAX_PRUNED]),
        "features": evidence,
        "confidence": probability("search", evidence),
        "notes": _notes(found, outcome, weigher),
    }
    reason = _lost_noun(found.tokens, query) or _objection(graph, best, shared["confidence"])
    if reason:
        refused = shared if shared["confidence"] < CERTAIN else shared | {"confidence": 0.0}
        return _abstain(question, graph, reason, nearest(graph, query, outcome), refused)
    if is_ranked(graph, query):
        return ranked_answer(question, graph, best, shared)
    names = _names(graph, query, best)
    value = _value(graph, query, best, names)
    texts = {var.text for var in query.variables}
    parts = {number: parts for (text, number), parts in weigher.parts.items() if text in texts}
    entities = (
        () if query.aggregate in _WITHOUT_ENTITIES else tuple(Scored(name, shared["confidence"]) for name in names)
    )
    return Answer(
        question,
        wording(graph, query, outcome, names, value),
        graph.name,
        entities,
        value,
        paths=paths(graph, outcome.found, parts),
        **shared,
    )


def _notes(found: Candidates, outcome: Outcome, weigher: Weigher) -> tuple[str, ...]:
    """Tell what was guessed, what the decoder did not read, and what cut the search short."""
    unknown = guessed_kinds(found)
    notes = [f"the base does not know “{word}”; what the fact leads to is taken for it" for word in unknown]
    described = [var.text for var in found.tried[0].compiled.query.variables if var.text in weigher.num_cut]
    notes += [
        f"the decoder read the {weigher.mix.max_read} candidates for “{text}” that share most words, not the other "
        f"{weigher.num_cut[text]}"
        for text in dict.fromkeys(described)
    ]
    if found.is_late:
        notes.append("the time limit ended the search; this is the best so far and may be incomplete")
    elif outcome.is_partial:
        notes.append("the search hit its budget; the answer may be incomplete")
    return tuple(notes)


def _not_understood(found: Candidates) -> str:
    """Return which words stand for nothing, or that nothing is asked of what they stand for."""
    named = {at for one in found.mentions if one.role == Role.ENTITY for at in range(one.start, one.end)}
    words = [token for token in enumerate(found.tokens) if not token[1].is_function_word]
    unknown = [token.text for at, token in words if at not in named]
    if not words:
        return "the question names nothing; ask, for example, “default of maxsize in functools.lru_cache”"
    if unknown:
        return f"nothing in this base is called any of: {', '.join(unknown)}"
    return f"the question does not say what is asked about {', '.join(token.text for _, token in words)}"


def _abstain(question: str, graph: Graph, reason: str, near: tuple[str, ...], shared: dict[str, Any]) -> Answer:
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return Answer(
        question,
        f"no supported answer: {reason}{hint}",
        graph.name,
        abstained=True,
        reason=reason,
        nearest=near,
        **shared,
    )


def _objection(graph: Graph, best: Tried, confidence: float) -> str:
    """Return why the best reading is no answer, or nothing."""
    query, outcome = best.compiled.query, best.outcome
    if outcome.is_partial and query.aggregate in _COUNTING:
        return "too much is to be counted for the search's budget (max_nodes, time_limit_s); ask about a part of it"
    if not outcome.found and query.aggregate not in _WITHOUT_ENTITIES:
        weighable = is_ranked(graph, query) and best.num_evidence > 1
        return "" if weighable and confidence >= CERTAIN else lacking(graph, query)
    if missing := presupposed(graph, query, outcome):
        return missing
    if query.aggregate == Aggregate.QUALIFIER and not _qualifier_data(query, best):
        return f"the base states the fact without its {query.qualifier}"
    if guessed := _guessed_relations(graph, query):
        return f"the question does not say by which relation, here {' or '.join(guessed)}"
    if lost := [word for word in query.unexplained if word.casefold() in NEGATIONS]:
        return f"what “{lost[0]}” excludes does not become clear; say it as in “which … but not …”"
    if confidence < CERTAIN:
        return _misfit(query)
    return ""


def _lost_noun(tokens: Sequence[Token], query: Query) -> str:
    """Name what the question asks of an entity although the base knows no such thing ("the sequel of")."""
    for token, following in pairwise(tokens):
        if token.text in query.unexplained and following.text.casefold() == "of":
            return f"the base has no fact about “{token.text} of”"
    return ""


def _guessed_relations(graph: Graph, query: Query) -> list[str]:
    """Return the relations that may be meant where no word and no kind tells which one leads to the target."""
    around = [one for one in query.constraints if query.targets and query.targets[0] in (one.subject, one.object)]
    if query.aggregate != Aggregate.LIST or not around or any(one.stated for one in around):
        return []
    kinds = {kind for one in around for name in (one.subject, one.object) for kind in query.var(name).kinds}
    possible = sorted(graph.relations)
    return possible[:MAX_NAMED] if kinds == {UNDECLARED_KIND} and len(possible) > 1 else []


def _misfit(query: Query) -> str:
    """Name the words of the question that nothing in the base fits."""
    if query.unexplained:
        return f"the base has no fact about {', '.join(query.unexplained)}"
    described = next((var for var in query.variables if var.text), None)
    if described is not None:
        return f"no {' or '.join(described.kinds) or 'entity'} in question fits “{described.text}” well enough"
    return f"the question's words don't fit any fact well enough (best: {query.describe()})"


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
    return [] if _is_measured(text) else [str(data.get("class") or text)]


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
