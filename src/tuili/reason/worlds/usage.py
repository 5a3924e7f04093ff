"""What worked problems tell of the laws of a collection: how often each is used, for what, with what values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from tuili.reason.worlds.dimensions import Dimension
from tuili.reason.worlds.laws import Laws

Place: TypeAlias = tuple[int, int]
"""A law and one of its variables."""

Pattern: TypeAlias = tuple[tuple[Place, Place | None], ...]
"""The steps of a chain, sorted: what was solved for what, below which variable."""

_PSEUDO = 0.5
_MIXED = 4.0
_BOUND = 3.0
_LEAST_SPREAD = 0.3
_MOST_SURPRISE = 8.0


@dataclass
class Usage:
    """Counts of laws solved for a variable: in all, below a law's variable, by the words of the problem."""

    count: Counter[Place] = field(default_factory=Counter)
    after: dict[Place, Counter[Place]] = field(default_factory=dict)
    words: dict[Place, Counter[str]] = field(default_factory=dict)
    sizes: dict[Place, list[float]] = field(default_factory=dict)
    patterns: Counter[Pattern] = field(default_factory=Counter)
    together: Counter[tuple[int, ...]] = field(default_factory=Counter)
    _seen: dict[Dimension, tuple[int, Counter[str]]] = field(default_factory=dict, repr=False)

    def add(self, place: Place, parent: Place | None, words: Iterable[str] = (), value: float | None = None) -> None:
        """Count a law solved for a variable.

        `parent`: the variable that waited for it; `words`: pieces of all names of the problem; `value`: what it gave.
        """
        self._seen.clear()
        self.count[place] += 1
        self.words.setdefault(place, Counter()).update(words)
        if parent is not None:
            self.after.setdefault(parent, Counter())[place] += 1
        if value is not None and value > 0:
            self.sizes.setdefault(place, []).append(math.log10(value))

    def add_pattern(self, steps: Iterable[tuple[Place, Place | None]]) -> None:
        """Count a whole chain, and its laws whatever was solved for what."""
        whole = pattern(steps)
        self.patterns[whole] += 1
        self.together[tuple(sorted(place[0] for place, _parent in whole))] += 1

    def pattern_weight(self, steps: Iterable[tuple[Place, Place | None]]) -> float:
        """Return the logarithm of one more than how often a whole chain was seen."""
        return math.log1p(self.patterns[pattern(steps)])

    def laws_weight(self, laws: Iterable[int]) -> float:
        """Return the logarithm of one more than how often a chain of just these laws was seen."""
        return math.log1p(self.together[tuple(sorted(laws))])

    def num_new_links(self, steps: Iterable[tuple[Place, Place | None]]) -> int:
        """Return how many steps of a chain were never seen below the variable that waits for them."""
        return sum(parent is not None and not self.after.get(parent, Counter())[place] for place, parent in steps)

    def log_shares(self, places: list[Place], parent: Place | None) -> tuple[list[float], list[float]]:
        """Return the log-share of each of some places among them: in all, and below the parent (smoothed)."""
        total = sum(self.count[place] for place in places) + _PSEUDO * len(places)
        shares = [(self.count[place] + _PSEUDO) / total for place in places]
        after = self.after.get(parent, Counter()) if parent is not None else Counter()
        below = sum(after[place] for place in places)
        mixed = [
            (after[place] + _MIXED * share) / (below + _MIXED) for place, share in zip(places, shares, strict=True)
        ]
        return [math.log(share) for share in shares], [math.log(share) for share in mixed]

    def context_score(self, words: Iterable[str], place: Place, laws: Laws) -> float:
        """Return how well words fit a place, against the other ways to get a quantity of its dimension (±3)."""
        total, seen = self._rivals(laws.laws[place[0]].variables[place[1]].dimension, laws)
        own = self.words.get(place)
        if not own or not total:
            return 0.0
        share = self.count[place] / total
        ratios = []
        for word in words:
            if seen[word]:
                ratio = math.log((own[word] + _PSEUDO) / (seen[word] * share + _PSEUDO))
                ratios.append(max(-_BOUND, min(_BOUND, ratio)))
        return sum(ratios) / len(ratios) if ratios else 0.0

    def _rivals(self, dimension: Dimension, laws: Laws) -> tuple[int, Counter[str]]:
        """Return how often laws gave a quantity of a dimension, and the words of the problems in which they did."""
        if dimension not in self._seen:
            places = laws.giving[dimension]
            words: Counter[str] = Counter()
            for place in places:
                words.update(self.words.get(place, {}))
            self._seen[dimension] = (sum(self.count[place] for place in places), words)
        return self._seen[dimension]

    def surprise(self, place: Place, value: float) -> float:
        """Return how unusual a value is for a place, 0 to 8: half the squared distance of the logarithms beyond 2."""
        sizes = self.sizes.get(place, [])
        if value <= 0:
            return _MOST_SURPRISE
        if len(sizes) < 5:
            return 0.0
        mean = sum(sizes) / len(sizes)
        spread = math.sqrt(sum((size - mean) ** 2 for size in sizes) / len(sizes)) + _LEAST_SPREAD
        return max(0.0, min(_MOST_SURPRISE, 0.5 * ((math.log10(value) - mean) / spread) ** 2 - 2.0))


def pattern(steps: Iterable[tuple[Place, Place | None]]) -> Pattern:
    """Return steps in an order that doesn't depend on how they were found."""
    return tuple(sorted(steps, key=lambda step: (step[0], step[1] or (-1, -1))))
