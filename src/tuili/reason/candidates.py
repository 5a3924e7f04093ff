"""Candidates: the readings of a question, each tried on the graph, the best supported first."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tuili.errors import LimitError
from tuili.knowledge.compile import Compiled, Compiler
from tuili.knowledge.graph import Graph
from tuili.knowledge.lexicon import Mention, Role
from tuili.knowledge.link import Linker
from tuili.knowledge.query import Aggregate
from tuili.knowledge.segment import readings
from tuili.knowledge.text import Token, tokenise
from tuili.reason.search import Outcome, Search
from tuili.reason.weights import Weigher

NUM_READINGS = 48
NUM_TRIED = 12
NUM_TRIED_CLAUSES = 5
NUM_LAST_TRIES = 40
MAX_THINGS = 60


@dataclass
class Tried:
    """A compiled reading with what it found by words alone."""

    compiled: Compiled
    outcome: Outcome
    score: float

    @property
    def num_evidence(self) -> int:
        """How many positive constraints speak of the target."""
        query = self.compiled.query
        return sum(
            not one.negated and one.subject in query.targets and query.var(one.object).is_constant
            for one in query.constraints
        )


@dataclass
class Candidates:
    """Everything that was considered for one question on one base; `is_late`: the time ended before all was tried."""

    tokens: list[Token]
    mentions: list[Mention]
    tried: list[Tried]
    is_late: bool = False


def candidates(
    question: str, graph: Graph, linker: Linker, weigher: Weigher, max_nodes: int, deadline: float = math.inf
) -> Candidates:
    """Link, compile and try a question; `tried` is sorted, best first. `deadline` is a time of `time.monotonic`.

    Raises:
        InputError: the question holds no word.
        LimitError: it is too long, or speaks of more than `MAX_THINGS` things.
    """
    tokens = tokenise(question)
    mentions = linker.mentions(question, tokens)
    _check_number(mentions)
    compiler = Compiler(graph, tokens)
    compiled: dict[object, Compiled] = {}
    for reading in readings(tokens, mentions, NUM_READINGS):
        for one in compiler.compile(reading):
            known = compiled.get(one.query)
            if known is None or one.score > known.score:
                compiled[one.query] = one
    ranked = sorted(compiled.values(), key=lambda one: -one.score)
    first, later = ranked[:NUM_TRIED], ranked[NUM_TRIED:]
    with_text = [at for at, one in enumerate(later) if any(mention.role == Role.TEXT for mention in one.mentions)]
    clauses = set(with_text[:NUM_TRIED_CLAUSES])
    first += [one for at, one in enumerate(later) if at in clauses]
    last = [one for at, one in enumerate(later) if at not in clauses]
    tried: list[Tried] = []
    for at, one in enumerate((*first, *last[:NUM_LAST_TRIES])):
        is_over = tried and time.monotonic() > deadline
        if is_over or (at >= len(first) and any(each.outcome.found for each in tried)):
            break
        tried.append(_try(graph, one, weigher, max_nodes, deadline))
    return Candidates(
        tokens, mentions, sorted(tried, key=lambda one: -one.score), bool(tried) and time.monotonic() > deadline
    )


def _check_number(mentions: Sequence[Mention]) -> None:
    """Refuse a question whose readings would take too long: the time grows with the square of what it names."""
    number = len({one.start for one in mentions if one.role in (Role.ENTITY, Role.KIND)})
    if number > MAX_THINGS:
        raise LimitError(f"the question speaks of {number} things, the limit is {MAX_THINGS}; ask in parts")


def _try(graph: Graph, compiled: Compiled, weigher: Weigher, max_nodes: int, deadline: float) -> Tried:
    outcome = Search(graph, compiled.query, weigher.lexical, max_nodes, deadline=deadline).run()
    return Tried(compiled, outcome, compiled.score + _evidence(compiled, outcome))


def _evidence(compiled: Compiled, outcome: Outcome) -> float:
    """Return what the graph says for a reading: something was found, and descriptions fit."""
    query = compiled.query
    texts = any(var.text for var in query.variables)
    fit = max((support.fit for support in outcome.found.values()), default=0.0)
    misfit = fit - 1.0 if texts else 0.0
    if query.aggregate == Aggregate.ASK:
        return misfit + 0.5
    if not outcome.found:
        return -0.9
    return 0.4 + 0.3 * any(support.facts for support in outcome.found.values()) + misfit
