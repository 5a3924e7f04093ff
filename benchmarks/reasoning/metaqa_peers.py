"""Peers on MetaQA: a memory of templates, a classifier of paths, exhaustive expansion with matching words.

All of them learn from the same paths that search found for the walk.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from reasoning.metaqa_data import Base, Question
from reasoning.metaqa_scores import Reply
from tuili.knowledge.text import FUNCTION_WORDS, stem
from tuili.reason.conditioning_fit import Example
from tuili.reason.reading import MASK, phrases, words_of
from tuili.reason.worlds.hops import ArrayHops, Frontier, IntArray, follow, hop, start_at

MAX_EXPANDED = 5_000_000
Path = tuple[int, ...]


def reply(frontier: Frontier, num_edges: int) -> Reply:
    """Answer with a frontier; best is the node that most walks lead to."""
    best = int(frontier.nodes_V[frontier.counts_V.argmax()]) if len(frontier.nodes_V) else -1
    return Reply(best, frontier.nodes_V, num_edges)


def along(hops: ArrayHops, start: IntArray, paths: Iterable[Path]) -> Reply:
    """Follow the first of some paths that leads somewhere."""
    num_edges = 0
    for path in paths:
        end = follow(hops, start_at(start.tolist()), path)
        num_edges += end.num_edges
        if len(end.nodes_V):
            return reply(end, num_edges)
    return Reply(-1, np.empty(0, dtype=np.int64), num_edges)


class GoldPath:
    """The path that the data set's authors wrote down, followed on this base: what a perfect reader would get."""

    name = "annotated path"

    def __init__(self, base: Base, hops: ArrayHops, relations: dict[str, str]) -> None:
        self.base, self.hops, self.relations = base, hops, relations

    def answer(self, question: Question) -> Reply:
        """Follow `movie_to_actor_to_movie` and its like."""
        kinds = question.path.split("_to_")
        path = []
        for here, there in itertools.pairwise(kinds):
            is_inverse = there == "movie"
            place = self.base.relations.index(self.relations[here if is_inverse else there])
            path.append(2 * place + is_inverse)
        return along(self.hops, self.base.start(question), [tuple(path)])


class TemplateMemory:
    """The paths of the nearest training template (most words in common), the most rewarded first."""

    name = "template memory"

    def __init__(self, base: Base, hops: ArrayHops, examples: Sequence[Example]) -> None:
        self.base, self.hops = base, hops
        self.paths = rewarded(examples)
        self.words = {text: frozenset(words_of(text)) for text in self.paths}
        self._nearest = lru_cache(maxsize=None)(self._find)

    def answer(self, question: Question) -> Reply:
        """Follow the nearest template's paths."""
        paths = [path for path, _ in self.paths[self._nearest(question.template)].most_common(3)]
        return along(self.hops, self.base.start(question), paths)

    def _find(self, text: str) -> str:
        asked = frozenset(words_of(text))
        return max(self.words, key=lambda one: len(asked & self.words[one]) / len(asked | self.words[one]))


class PathClassifier:
    """Naive Bayes from words and pairs of words to whole paths."""

    name = "path classifier"

    def __init__(self, base: Base, hops: ArrayHops, examples: Sequence[Example]) -> None:
        self.base, self.hops = base, hops
        self.prior: Counter[Path] = Counter()
        self.counts: defaultdict[Path, Counter[str]] = defaultdict(Counter)
        for text, paths in rewarded(examples).items():
            path, _ = paths.most_common(1)[0]
            self.prior[path] += 1
            self.counts[path].update(grams(text))
        self.num_grams = len({gram for counts in self.counts.values() for gram in counts})
        self._ranked = lru_cache(maxsize=None)(self._rank)

    def answer(self, question: Question) -> Reply:
        """Follow the most probable paths."""
        return along(self.hops, self.base.start(question), self._ranked(question.template)[:3])

    def _rank(self, text: str) -> list[Path]:
        def log_probability(path: Path) -> float:
            counts = self.counts[path]
            total = counts.total() + self.num_grams
            likelihood = sum(math.log((counts[gram] + 1) / total) for gram in grams(text))
            return likelihood + math.log(self.prior[path])

        return sorted(self.prior, key=log_probability, reverse=True)


class Exhaustive:
    """Expands every edge to the question's number of hops, which it is told, and takes the path whose words match.

    A path scores the share of its relations whose names have a word in the question, then the question's content
    words that it matches, then the number of walks.
    """

    name = "exhaustive expansion with matching words"

    def __init__(self, base: Base, hops: ArrayHops) -> None:
        self.base, self.hops = base, hops
        self.stems = [frozenset(map(stem, words_of(" ".join(phrases(one, None))))) for one in hops.actions]

    def answer(self, question: Question) -> Reply:
        """Expand everything, then choose."""
        start = start_at(self.base.start(question).tolist())
        words = words_of(question.template)
        asked = {stem(word) for word in words if word not in FUNCTION_WORDS and word != MASK}
        layer: list[tuple[Path, Frontier]] = [((), start)]
        for _ in range(question.num_hops):
            layer = [
                ((*path, action), hop(self.hops, frontier, action, start, MAX_EXPANDED))
                for path, frontier in layer
                for action in np.flatnonzero(self.hops.leaving(frontier.nodes_V)).tolist()
            ]
        ends = [one for one in layer if len(one[1].nodes_V)]
        if not ends:
            return Reply(-1, np.empty(0, dtype=np.int64))
        _, best = max(ends, key=lambda one: self._fit(asked, one))
        return reply(best, edges_within(self.hops, start, question.num_hops))

    def _fit(self, asked: set[str], one: tuple[Path, Frontier]) -> tuple[float, float, float]:
        path, frontier = one
        share = sum(bool(self.stems[action] & asked) for action in path) / len(path)
        matched = len({word for action in path for word in self.stems[action] & asked})
        return share, float(matched), float(frontier.counts_V.sum())


def edges_within(hops: ArrayHops, start: Frontier, num_hops: int) -> int:
    """Return the edges that breadth-first expansion of every relation touches, each reached node expanded once."""
    seen = frontier = start.nodes_V
    num_edges = 0
    for _ in range(num_hops):
        leaving = hops.leaving(frontier)
        num_edges += int(leaving.sum())
        here = Frontier(frontier, np.ones(len(frontier)))
        ends = [hops.expand(here, int(one), MAX_EXPANDED).nodes_V for one in np.flatnonzero(leaving)]
        reached = np.unique(np.concatenate([seen[:0], *ends]))
        frontier = np.setdiff1d(reached, seen, assume_unique=True)
        seen = np.union1d(seen, frontier)
    return num_edges


def rewarded(examples: Sequence[Example]) -> dict[str, Counter[Path]]:
    """Return, per template, the summed reward of each path that answered its questions."""
    found: dict[str, Counter[Path]] = {}
    for example in examples:
        for lead in example.leads:
            found.setdefault(example.text, Counter())[lead.path] += lead.reward  # type: ignore[assignment]
    return found


def grams(text: str) -> list[str]:
    """Return the stems of a text and its pairs of neighbours."""
    stems = [stem(word) for word in words_of(text)]
    return stems + [f"{left} {right}" for left, right in itertools.pairwise(stems)]
