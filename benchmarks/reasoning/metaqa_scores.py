"""How right an answer to a question of MetaQA is, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from reasoning.metaqa_data import Base, Question
from runner import Result, share, watched
from tuili.reason.walk import ConditionedWalk
from tuili.reason.worlds.hops import IntArray


@dataclass(frozen=True, slots=True)
class Reply:
    """The best answer's node (-1 for none), the set of answers (ascending), and the edges followed."""

    best: int
    nodes: IntArray
    num_edges: int = 0


class Answerer(Protocol):
    """Something that answers questions over a base."""

    name: str

    def answer(self, question: Question) -> Reply: ...


@dataclass(frozen=True, slots=True)
class Score:
    """Whether the best answer is right (0 or 1), whether the set is, the set's F1, and the edges followed."""

    hit: float
    exact: float
    f1: float
    num_edges: int


@dataclass(frozen=True)
class Walker:
    """A learned walk as an answerer."""

    walk: ConditionedWalk
    base: Base
    name: str = "walk"

    def answer(self, question: Question) -> Reply:
        """Walk from the topic."""
        found = self.walk.ask(question.template, self.base.start(question).tolist())
        best = found.answers[0].node if found.answers else -1
        return Reply(best, found.answer_set, found.num_edges)


def score(reply: Reply, question: Question, base: Base) -> Score:
    """Compare with the right answers by name; answers that the base lacks count as missed."""
    names = {base.names[node] for node in reply.nodes.tolist()}
    right = len(names & question.answers)
    f1 = 2 * right / (len(names) + len(question.answers))
    hit = reply.best >= 0 and base.names[reply.best] in question.answers
    return Score(float(hit), float(names == question.answers), f1, reply.num_edges)


def score_all(who: Answerer, questions: Sequence[Question], base: Base) -> list[Score]:
    """Ask every question."""
    return [score(who.answer(one), one, base) for one in watched(questions, who.name)]


def rows(
    prefix: str,
    scores: Sequence[Score],
    *,
    baseline: Mapping[str, Any] | None = None,
    groups: Sequence[str] | None = None,
    only_hits: bool = False,
) -> Iterator[Result]:
    """Yield Hits@1, and of the answer sets how many are exact and their F1."""
    yield share(f"{prefix}.hits1", [one.hit for one in scores], groups=groups, baseline=baseline)
    if not only_hits:
        yield share(f"{prefix}.exact", [one.exact for one in scores], groups=groups)
        yield share(f"{prefix}.f1", [one.f1 for one in scores], groups=groups)


def mean_hits(scores: Sequence[Score]) -> float:
    """Return Hits@1."""
    return float(np.mean([one.hit for one in scores])) if scores else float("nan")


__all__ = ["Answerer", "Reply", "Score", "Walker", "mean_hits", "rows", "score", "score_all"]
