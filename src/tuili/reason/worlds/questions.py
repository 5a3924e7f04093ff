"""The world of walks conditioned on questions: reach the answers, follow few edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuili.errors import InputError
from tuili.reason.guide import FEATURES, Guide, Situation
from tuili.reason.policy import Choices, Ints, Step
from tuili.reason.supervision import f_score, num_shared
from tuili.reason.worlds.hops import Frontier, Hops, IntArray, hop, start_at


@dataclass(frozen=True, slots=True)
class Asked:
    """A masked question, the nodes that it names, and the nodes that answer it (ascending)."""

    text: str
    start: IntArray
    answers: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """What a walk earns: F1 and precision of its end, half each; minus `edge_cost` per doubling of edges followed.

    Precision is the chance that an answer drawn from the end is right, which is what Hits@1 asks.
    """

    edge_cost: float = 0.002
    max_edges: int = 20_000


@dataclass(slots=True)
class _Walking:
    asked: Asked
    frontier: Frontier
    path: tuple[int, ...]
    situation: Situation


class QuestionWorld:
    """Many walks at once, each on a question drawn at random.

    Raises:
        InputError: no question has a start with edges.
    """

    feature_names: tuple[str, ...] = FEATURES

    def __init__(self, guide: Guide, hops: Hops, questions: Sequence[Asked], reward: Reward | None = None) -> None:
        self.guide, self.hops, self.reward = guide, hops, reward or Reward()
        self.questions = [one for one in questions if len(one.start) and hops.leaving(one.start).any()]
        if not self.questions:
            raise InputError(f"none of {len(questions)} questions starts at a node that has edges")
        guide.prepare([one.text for one in self.questions])
        self._walks: list[_Walking] = []
        self._alive: Ints = np.empty(0, dtype=np.int64)

    def start(self, num_walks: int, rng: np.random.Generator) -> Choices:
        """Begin walks on questions drawn with replacement."""
        picked = rng.integers(len(self.questions), size=num_walks)
        self._walks = [self._begin(self.questions[place]) for place in picked]
        self._alive = np.arange(num_walks)
        return self._choices()

    def step(self, picked_S: Ints) -> Step:
        """Take one action in every walk that goes on."""
        rewards = np.zeros(len(self._alive), dtype=np.float32)
        done = np.zeros(len(self._alive), dtype=np.bool_)
        for place, (number, picked) in enumerate(zip(self._alive.tolist(), picked_S.tolist(), strict=True)):
            rewards[place], done[place] = self._act(self._walks[number], picked)
        self._alive = self._alive[~done]
        return Step(rewards, done, self._choices() if len(self._alive) else None)

    def _begin(self, asked: Asked) -> _Walking:
        start = start_at(asked.start.tolist())
        return _Walking(asked, start, (), self._look(asked, (), start))

    def _look(self, asked: Asked, path: tuple[int, ...], frontier: Frontier) -> Situation:
        leaving_A = self.hops.leaving(frontier.nodes_V)
        return self.guide.situation(asked.text, path, leaving_A, len(frontier.nodes_V))

    def _act(self, walk: _Walking, picked: int) -> tuple[float, bool]:
        """Return the reward of an action, and whether the walk is over."""
        action = int(walk.situation.actions_n[picked])
        if action == self.guide.stop:
            return self._earned(walk), True
        start = start_at(walk.asked.start.tolist())
        walk.frontier = hop(self.hops, walk.frontier, action, start, self.reward.max_edges)
        walk.path = (*walk.path, action)
        cost = self.reward.edge_cost * math.log2(1 + walk.frontier.num_edges)
        if not len(walk.frontier.nodes_V) or walk.frontier.is_partial:
            return -cost, True
        walk.situation = self._look(walk.asked, walk.path, walk.frontier)
        return -cost, False

    def _earned(self, walk: _Walking) -> float:
        found, answers = walk.frontier.nodes_V, walk.asked.answers
        precision = num_shared(found, answers) / max(1, len(found))
        return (precision + f_score(found, answers)) / 2

    def _choices(self) -> Choices:
        situations = [self._walks[number].situation for number in self._alive.tolist()]
        sizes = [len(one.actions_n) for one in situations]
        return Choices(
            np.concatenate([one.features_nF for one in situations]),
            np.concatenate([one.prior_n for one in situations]),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            self._alive.copy(),
        )
