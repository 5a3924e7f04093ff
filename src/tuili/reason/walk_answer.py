"""A learned walk's answer to a question: from names in the question to facts that lead from them to the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import numpy as np

from tuili.errors import ModelFileError
from tuili.knowledge.graph import Fact, Graph
from tuili.knowledge.lexicon import Mention, Role
from tuili.knowledge.link import Linker
from tuili.knowledge.text import Token, tokenise
from tuili.reason.answer import Answer, Link, Path, Pruned, Scored
from tuili.reason.explain import MAX_PATHS, path_edge
from tuili.reason.guide import log_probabilities
from tuili.reason.reading import EncoderReader, Reader, WordReader, masked
from tuili.reason.walk import ConditionedWalk, FoundPath, Walked
from tuili.reason.walk_file import Learned, Sureness, fingerprint, load
from tuili.reason.worlds.hops import Action, Frontier, GraphHops, hop, start_at

if TYPE_CHECKING:
    from tuili.model.encoder import Encoder

MAX_ANSWERS = 1_000
MAX_STARTS = 20
MAX_TRACED = 20_000
MAX_NOT_TAKEN = 4
NOTE = "answered by the walk that was learned for this base (tuili learn)"


class LearnedWalk:
    """A walk that was learned for a base, ready to answer."""

    def __init__(self, learned: Learned, graph: Graph, reader: Reader) -> None:
        hops = GraphHops(graph)
        self.graph = graph
        self.sureness = learned.sureness
        self.walk = ConditionedWalk(learned.conditioning, reader, hops, policy=learned.policy)

    @classmethod
    def load(cls, path: FilePath, graph: Graph, encoder: Callable[[], Encoder] | None) -> LearnedWalk:
        """Open a walk's file; `encoder` is called if the walk reads with it.

        Raises:
            ModelFileError: the file is damaged or of another base, or the encoder is not to be used.
        """
        learned = load(path, trained_for=fingerprint(graph))
        if learned.conditioning.reader_name == WordReader.name:
            return cls(learned, graph, WordReader())
        if encoder is None:
            raise ModelFileError(
                f"{path} reads questions with the encoder, which is not in use; learn with --words-only"
            )
        return cls(learned, graph, EncoderReader(encoder()))

    def answer(self, question: str, tokens: Sequence[Token], mentions: Sequence[Mention]) -> Answer | None:
        """Return the walk's answer; None if the question names nothing, or no walk leads anywhere."""
        spans, starts = longest(tokens, mentions)
        if not starts:
            return None
        text = masked(question, spans)
        walked = self.walk.ask(text, starts)
        if not walked.answers:
            return None
        link = Link(question[slice(*spans[0])], _names(self.graph, starts), "name", 1.0)
        answer = _answer(question, self.graph, starts, walked, self.sureness, link)
        return replace(answer, pruned=(*self._not_taken(text, starts, walked.paths[0]), *answer.pruned))

    def _not_taken(self, text: str, starts: Sequence[int], best: FoundPath) -> Iterator[Pruned]:
        """Yield, for each place on the best path, the likeliest relations that were not taken there, by one fact."""
        walk, start = self.walk, start_at(starts)
        frontier = start
        path: tuple[int, ...] = ()
        for taken in best.actions:
            leaving_A = walk.hops.leaving(frontier.nodes_V)
            situation = walk.guide.situation(text, path, leaving_A, len(frontier.nodes_V))
            chances = np.exp(log_probabilities(situation, walk.policy))
            order = [int(place) for place in np.argsort(-chances, kind="stable")[: MAX_NOT_TAKEN + 1]]
            for place in order:
                number = int(situation.actions_n[place])
                action = None if number == walk.guide.stop else walk.hops.actions[number]
                if action is not None and action != taken:
                    yield from self._seen(action, float(chances[place]), frontier)
            number = walk.hops.actions.index(taken)
            frontier, path = hop(walk.hops, frontier, number, start), (*path, number)

    def _seen(self, action: Action, chance: float, frontier: Frontier) -> Iterator[Pruned]:
        for node in frontier.nodes_V[:MAX_STARTS].tolist():
            for fact in self.graph.step(node, action.relation, inverse=action.inverse, limit=1)[:1]:
                name = self.graph.entity(fact.other(node)).name
                yield Pruned(name, chance, f"{action} fits the question less here", path_edge(self.graph, fact))
                return


def find(question: str, linker: Linker) -> tuple[list[tuple[int, int]], list[int]]:
    """Return the longest name in a question, the first of equals: its characters, and the entities that bear it."""
    tokens = tokenise(question)
    return longest(tokens, linker.mentions(question, tokens))


def longest(tokens: Sequence[Token], mentions: Sequence[Mention]) -> tuple[list[tuple[int, int]], list[int]]:
    """Return the same of a question whose mentions are known."""
    named = [one for one in mentions if one.role == Role.ENTITY and one.ids]
    if not named:
        return [], []
    best = max(named, key=lambda one: (one.end - one.start, one.score, -one.start))
    same = (one for one in named if (one.start, one.end) == (best.start, best.end))
    starts = list(dict.fromkeys(number for one in same for number in one.ids))
    return [(tokens[best.start].start, tokens[best.end - 1].end)], starts[:MAX_STARTS]


def _names(graph: Graph, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(graph.entity(one).name for one in ids))


def _answer(
    question: str, graph: Graph, starts: Sequence[int], walked: Walked, sureness: Sureness, link: Link
) -> Answer:
    best = walked.paths[0]
    confidence = sureness.of(walked.answers[0].score)
    chosen = set(best.end.nodes_V.tolist())
    ranked = [one for one in walked.answers if one.node in chosen][:MAX_ANSWERS]
    notes = [NOTE]
    if walked.is_partial:
        notes.append("the walk hit its budget of edges; the answer may be incomplete")
    if len(chosen) > MAX_ANSWERS:
        notes.append(f"{len(chosen)} answers, the first {MAX_ANSWERS} are shown")
    names = _names(graph, [one.node for one in ranked])
    return Answer(
        question,
        ", ".join(names),
        graph.name,
        tuple(Scored(name, confidence) for name in names),
        confidence=confidence,
        links=(link,),
        paths=tuple(_paths(graph, starts, best, [one.node for one in ranked[:MAX_PATHS]])),
        pruned=tuple(_pruned(walked)),
        notes=tuple(notes),
    )


def _paths(graph: Graph, starts: Sequence[int], best: FoundPath, nodes: Sequence[int]) -> list[Path]:
    """Return the facts that lead to each answer, by the best path."""
    proofs = trace(graph, starts, best.actions, nodes)
    return [Path(tuple(path_edge(graph, fact) for fact in facts), best.probability) for facts in proofs.values()]


def trace(
    graph: Graph, starts: Sequence[int], actions: Sequence[Action], ends: Sequence[int]
) -> dict[int, tuple[Fact, ...]]:
    """Return, for each end, facts along a path of actions from a start; what a budget leaves out is not there."""
    back: list[dict[int, Fact]] = []
    layer = list(dict.fromkeys(starts))
    for action in actions:
        came: dict[int, Fact] = {}
        for node in layer:
            for fact in graph.step(node, action.relation, inverse=action.inverse, limit=MAX_TRACED):
                other = fact.subject if action.inverse else fact.object
                if other not in starts:
                    came.setdefault(other, fact)
            if len(came) > MAX_TRACED:
                break
        back.append(came)
        layer = list(came)
    return {end: tuple(_chain(back, actions, end)) for end in ends if back and end in back[-1]}


def _chain(back: Sequence[dict[int, Fact]], actions: Sequence[Action], end: int) -> list[Fact]:
    facts = []
    for came, action in zip(reversed(back), reversed(actions), strict=True):
        fact = came[end]
        facts.append(fact)
        end = fact.object if action.inverse else fact.subject
    return facts[::-1]


def _pruned(walked: Walked) -> list[Pruned]:
    """Return the paths that were followed and not taken."""
    return [
        Pruned(" → ".join(map(str, path.actions)), path.probability, "another path fits the question better")
        for path in walked.paths[1:]
    ]
