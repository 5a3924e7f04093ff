"""Facts as arrays: what the priors learn from and walks move over.

Legend: N entities, R relations, E facts; every fact gives two edges, there (relation r) and back (relation r + R).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tuili.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Facts:
    """Distinct facts `triples_E3` (head, relation, tail) over named entities and relations.

    `edges_E3` lists the facts and then, in the same order, their inverses; `rows` is the number of its rows. Edge e and
    edge (e + E) mod 2E are one fact.

    Raises:
        InputError: an index is out of its bounds, or the array is no (E, 3).
    """

    triples_E3: Ints
    entities: Sequence[str]
    relations: Sequence[str]
    edges_E3: Ints = field(init=False, repr=False)
    _codes: Ints = field(init=False, repr=False)

    def __post_init__(self) -> None:
        triples = np.asarray(self.triples_E3, np.int64).reshape(-1, 3)
        bounds = np.array([len(self.entities), len(self.relations), len(self.entities)])
        if len(triples) and (triples.min() < 0 or (triples >= bounds).any()):
            raise InputError(f"a fact names an entity or relation beyond {bounds[0]} and {bounds[1]}; number them anew")
        triples = np.unique(triples, axis=0)
        inverse = triples[:, [2, 1, 0]] + np.array([0, len(self.relations), 0])
        object.__setattr__(self, "triples_E3", triples)
        object.__setattr__(self, "edges_E3", np.concatenate([triples, inverse]))
        object.__setattr__(self, "_codes", np.sort(self._code(*self.edges_E3.T)))

    @property
    def num_entities(self) -> int:
        """N."""
        return len(self.entities)

    @property
    def num_relations(self) -> int:
        """2 R: the relations and their inverses."""
        return 2 * len(self.relations)

    def _code(self, head: Ints, relation: Ints, tail: Ints) -> Ints:
        return np.asarray((head * self.num_relations + relation) * self.num_entities + tail, np.int64)

    def holds(self, head: Ints, relation: Ints, tail: Ints) -> Bools:
        """Tell of every edge whether it is known."""
        code = self._code(head, relation, tail)
        if not len(self._codes):
            return np.zeros(code.shape, bool)
        place = np.minimum(np.searchsorted(self._codes, code), len(self._codes) - 1)
        return np.asarray(self._codes[place] == code)

    def tails(self, head_B: Ints, relation_B: Ints) -> Bools:
        """Return a mask (B, N) of the known tails of each query. O(B (log E + answers) + B N)."""
        found = np.zeros((len(head_B), self.num_entities), bool)
        begin = self._code(head_B, relation_B, np.zeros_like(head_B))
        first, last = np.searchsorted(self._codes, begin), np.searchsorted(self._codes, begin + self.num_entities)
        sizes = last - first
        rows = np.repeat(np.arange(len(head_B)), sizes)
        places = np.arange(sizes.sum()) + np.repeat(first - np.cumsum(sizes) + sizes, sizes)
        found[rows, self._codes[places] % max(1, self.num_entities)] = True
        return found

    def without(self, fact_F: Ints) -> Facts:
        """Return the facts without those of the given rows of `triples_E3`."""
        return Facts(np.delete(self.triples_E3, fact_F, axis=0), self.entities, self.relations)

    def name(self, relation: int) -> str:
        """Return the relation's name; an inverse carries a ⁻."""
        num = len(self.relations)
        return f"{self.relations[relation % num]}{'⁻' if relation >= num else ''}"


def inverse(relation: Ints, num_relations: int) -> Ints:
    """Return the relation that leads back; `num_relations` counts inverses too."""
    return np.asarray((relation + num_relations // 2) % num_relations, np.int64)


def folds(num_facts: int, num_folds: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Yield the rows of each of several random parts."""
    yield from np.array_split(rng.permutation(num_facts), num_folds)
