"""Questions answered by a walk: the most probable paths under the question, and what lies at their ends.

Paths are followed best first, and a hop's edges only once its path is the most probable one left, so a question that
is plain costs the edges of one path. Where facts are missing, the next paths stand in: what the question asks for and
the base lacks takes its share of the probability with it, so that a dead end's only way out is no likely path. Source:
Lafferty, McCallum and Pereira, "Conditional Random Fields", 2001, section 2 (the label bias of local shares).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tuili.errors import InputError
from tuili.reason.conditioning import Conditioning
from tuili.reason.guide import FEATURES, Guide, log_probabilities
from tuili.reason.policy import Policy
from tuili.reason.reading import Reader
from tuili.reason.worlds.hops import MAX_EDGES, Action, Frontier, Hops, IntArray, hop, start_at

# How much the number of walks that end in an answer tells among the answers of one path.
COUNT_SHARE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class WalkConfig:
    """When a walk ends.

    `num_paths`: finished paths at most. `enough`: the share of probability after which no further path is followed.
    `least`: a path less probable than this share of the best is dropped. `max_edges`: edges followed in all.
    """

    num_paths: int = 8
    enough: float = 0.9
    least: float = 0.02
    max_edges: int = MAX_EDGES

    def __post_init__(self) -> None:
        if self.num_paths < 1 or self.max_edges < 0 or not 0 <= self.least <= 1 or not 0 < self.enough <= 1:
            raise InputError(f"a walk needs one path or more, 0 edges or more and shares from 0 to 1, not {self}")


@dataclass(frozen=True, slots=True)
class FoundPath:
    """A finished path, its probability and where it ends; `num_edges` of its last hop."""

    actions: tuple[Action, ...]
    probability: float
    end: Frontier


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """A node, the summed probability of the paths that end there, and their places among the paths."""

    node: int
    score: float
    paths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Walked:
    """Answers, best first; paths, most probable first. `is_partial`: a budget ended the walk."""

    answers: tuple[RankedAnswer, ...] = ()
    paths: tuple[FoundPath, ...] = ()
    num_edges: int = 0
    is_partial: bool = False

    @property
    def answer_set(self) -> IntArray:
        """The end of the most probable path."""
        return self.paths[0].end.nodes_V if self.paths else np.empty(0, dtype=np.int64)


@dataclass(order=True, slots=True)
class _Open:
    """A path to go on with; `end` is None while its last hop is not followed."""

    cost: float
    path: tuple[int, ...]
    before: Frontier = field(compare=False)
    is_stopped: bool = field(compare=False, default=False)


class ConditionedWalk:
    """Walks on one graph, conditioned on questions; without a policy they follow the question's own word.

    >>> walk = learn(GraphHops(graph), questions)        # doctest: +SKIP
    >>> walk.ask("who directed xyz", [graph.by_key("film:alien")]).answers[0].node    # doctest: +SKIP
    """

    def __init__(
        self,
        conditioning: Conditioning,
        reader: Reader,
        hops: Hops,
        *,
        policy: Policy | None = None,
        config: WalkConfig | None = None,
    ) -> None:
        if policy is not None and policy.feature_names != FEATURES:
            raise InputError("the policy was trained in another world than walks on questions; learn anew")
        self.guide = Guide(conditioning, reader, hops)
        self.hops = hops
        self.policy = policy
        self.config = config or WalkConfig()

    def ask(self, question: str, start: Sequence[int], config: WalkConfig | None = None) -> Walked:
        """Answer a masked question (`reading.masked`) from the nodes that it names.

        Raises:
            InputError: the question has no word.
        """
        config = config or self.config
        walk = _Walk(self, question, start_at(start), config)
        paths = tuple(walk.run()) if len(start) else ()
        return Walked(_rank(paths), paths, walk.num_edges, walk.is_partial)

    def attention(self, question: str, path: Sequence[int]) -> list[tuple[str, float]]:
        """Return each word of a masked question with the attention it gets after a path, for explanations."""
        opinion, _ = self.guide.opinion(question, tuple(path))
        words = self.guide.reader.read([question])[0].words
        return list(zip(words, opinion.attention_T.tolist(), strict=True))


class _Walk:
    """One question's search, best first."""

    def __init__(self, walk: ConditionedWalk, question: str, start: Frontier, config: WalkConfig) -> None:
        self.walk, self.question, self.start, self.config = walk, question, start, config
        self.num_edges = 0
        self.is_partial = False
        self.queue: list[_Open] = []

    def run(self) -> Iterator[FoundPath]:
        """Yield finished paths that lead somewhere, most probable first."""
        self._push(0.0, (), self.start)
        mass, best, num_found = 0.0, 0.0, 0
        while self.queue and num_found < self.config.num_paths and mass < self.config.enough:
            one = heapq.heappop(self.queue)
            probability = math.exp(-one.cost)
            if probability < self.config.least * best:
                return
            if one.is_stopped:
                mass, best, num_found = mass + probability, max(best, probability), num_found + 1
                actions = tuple(self.walk.guide.menu.actions[place] for place in one.path)
                yield FoundPath(actions, probability, one.before)
            elif (end := self._follow(one)) is not None:
                self._push(one.cost, one.path, end)

    def _follow(self, one: _Open) -> Frontier | None:
        """Follow a path's last hop; None if it leads back to the start only, or the budget is spent."""
        left = self.config.max_edges - self.num_edges
        if left <= 0:
            self.is_partial = True
            return None
        end = hop(self.walk.hops, one.before, one.path[-1], self.start, left)
        self.num_edges += end.num_edges
        self.is_partial |= end.is_partial
        return end if len(end.nodes_V) else None

    def _push(self, cost: float, path: tuple[int, ...], end: Frontier) -> None:
        """Queue everything that can be done at the end of a path."""
        guide = self.walk.guide
        leaving_A = self.walk.hops.leaving(end.nodes_V)
        situation = guide.situation(self.question, path, leaving_A, len(end.nodes_V))
        if not len(situation.actions_n):
            return
        log_probs = log_probabilities(situation, self.walk.policy) + situation.log_share
        for action, log_prob in zip(situation.actions_n.tolist(), log_probs.tolist(), strict=True):
            if action == guide.stop:
                heapq.heappush(self.queue, _Open(cost - log_prob, path, end, is_stopped=True))
            else:
                heapq.heappush(self.queue, _Open(cost - log_prob, (*path, action), end))


def _rank(paths: Sequence[FoundPath]) -> tuple[RankedAnswer, ...]:
    """Return every end by summed probability; among the ends of one path, those of more walks first."""
    scores: dict[int, float] = {}
    places: dict[int, list[int]] = {}
    for place, path in enumerate(paths):
        share_V = path.end.counts_V / path.end.counts_V.max(initial=1.0)
        score_V = path.probability * (1 - COUNT_SHARE + COUNT_SHARE * share_V)
        for node, score in zip(path.end.nodes_V.tolist(), score_V.tolist(), strict=True):
            scores[node] = scores.get(node, 0.0) + score
            places.setdefault(node, []).append(place)
    ranked = sorted(scores, key=lambda node: (-scores[node], node))
    return tuple(RankedAnswer(node, scores[node], tuple(places[node])) for node in ranked)
