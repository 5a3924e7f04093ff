"""A hierarchy of findings as arrays: what a finding implies when it is there and when it is not.

True-path rule: an observed finding implies everything above it, an excluded one excludes everything
below it. Source: Köhler et al., "The Human Phenotype Ontology in 2021", NAR 49, 2021.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tuili.errors import InputError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rows:
    """Ragged rows of numbers: row i is `flat[offsets[i]:offsets[i + 1]]`."""

    flat: IntArray
    offsets: IntArray

    @classmethod
    def of(cls, rows: Iterable[Iterable[int]]) -> Rows:
        """Pack rows."""
        listed = [np.fromiter(row, dtype=np.int64) for row in rows]
        lengths = np.array([len(row) for row in listed], dtype=np.int64)
        flat = np.concatenate(listed) if listed else np.zeros(0, dtype=np.int64)
        return cls(flat.astype(np.int64), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> IntArray:
        return self.flat[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> IntArray:
        """The number of entries of each row."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> IntArray:
        """The row of each entry of `flat`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: IntArray) -> Rows:
        """Return some rows, in the order given; O(entries taken)."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Rows(self.flat[places], offsets)

    def transposed(self, num_columns: int) -> Rows:
        """Return, per number below `num_columns`, the rows that hold it, in rising order."""
        order = np.argsort(self.flat, kind="stable")
        counts = np.bincount(self.flat, minlength=num_columns)
        return Rows(self.owners[order], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


@dataclass(frozen=True)
class Hierarchy:
    """Findings, parents before children; `above[t]` holds t and all its ancestors, in rising order."""

    keys: tuple[str, ...]
    parents: Rows
    above: Rows

    @classmethod
    def of(cls, parents: Mapping[str, Sequence[str]]) -> Hierarchy:
        """Build from every finding's parents; a parent that is no key is left out.

        Raises:
            InputError: a finding is its own ancestor.
        """
        keys = _parents_first({key: [up for up in ups if up in parents] for key, ups in parents.items()})
        number = {key: place for place, key in enumerate(keys)}
        rows = [sorted({number[up] for up in parents[key] if up in number}) for key in keys]
        above: list[set[int]] = []
        for place, ups in enumerate(rows):
            above.append({place}.union(*(above[up] for up in ups)))
        return cls(tuple(keys), Rows.of(rows), Rows.of(sorted(row) for row in above))

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of each key."""
        return {key: place for place, key in enumerate(self.keys)}

    @cached_property
    def below(self) -> Rows:
        """The finding itself and everything it is an ancestor of, in rising order."""
        return self.above.transposed(len(self))

    @cached_property
    def depth(self) -> IntArray:
        """Steps from the farthest root, along the longest way."""
        depth = np.zeros(len(self), dtype=np.int64)
        for place in range(len(self)):
            if len(self.parents[place]):
                depth[place] = 1 + depth[self.parents[place]].max()
        return depth

    def implied(self, findings: Iterable[int]) -> IntArray:
        """Return the observed findings with all that lies above them, in rising order."""
        return _union(self.above, findings)

    def ruled_out(self, findings: Iterable[int]) -> IntArray:
        """Return the excluded findings with all that lies below them, in rising order."""
        return _union(self.below, findings)


def _union(rows: Rows, picked: Iterable[int]) -> IntArray:
    return np.unique(rows.take(np.fromiter(picked, dtype=np.int64)).flat)


def _parents_first(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Order keys so that parents come first, by levels and then by name (Kahn, 1962)."""
    missing = {key: len(set(ups)) for key, ups in parents.items()}
    children: dict[str, list[str]] = {key: [] for key in parents}
    for key, ups in parents.items():
        for up in set(ups):
            children[up].append(key)
    order = sorted(key for key, count in missing.items() if not count)
    for key in order:
        for child in sorted(children[key]):
            missing[child] -= 1
            if not missing[child]:
                order.append(child)
    if len(order) < len(parents):
        stuck = sorted(key for key, count in missing.items() if count)[0]
        raise InputError(f"{stuck} lies on or below a cycle of findings; a finding can't be its own ancestor")
    return order
