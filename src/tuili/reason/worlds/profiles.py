"""What is known of each hypothesis: stated shares, described cases, and the same with sources left out.

A version is a hypothesis as it is known without some sources. Versions stand in rows behind the
hypotheses themselves, so that hundreds of walks, each without the sources of its own case, share the
same arrays: a walk masks the rows that are not its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuili.reason.worlds.findings import FloatArray, IntArray, Rows


@dataclass(frozen=True, slots=True)
class Statements:
    """S stated shares: `share` of `num_cases` cases of a hypothesis show a finding, says any of `sources`."""

    hypothesis: IntArray
    finding: IntArray
    share: FloatArray
    num_cases: FloatArray
    sources: Rows

    def take(self, rows: IntArray) -> Statements:
        """Return some statements."""
        return Statements(
            self.hypothesis[rows], self.finding[rows], self.share[rows], self.num_cases[rows], self.sources.take(rows)
        )


@dataclass(frozen=True, slots=True)
class Cases:
    """C described cases: their hypothesis, what was observed, what was excluded, their sources."""

    hypothesis: IntArray
    observed: Rows
    excluded: Rows
    sources: Rows

    def __len__(self) -> int:
        return len(self.hypothesis)

    def take(self, rows: IntArray) -> Cases:
        """Return some cases."""
        return Cases(self.hypothesis[rows], self.observed.take(rows), self.excluded.take(rows), self.sources.take(rows))


@dataclass(frozen=True, slots=True)
class Known:
    """H rows of statements and cases; `row_*` sort them into rows, `base` names each row's hypothesis.

    `group` is the number of the left-out set that a row is made for, -1 for a hypothesis with all sources.
    """

    statements: Statements
    statement_row: IntArray
    cases: Cases
    case_row: IntArray
    base: IntArray
    group: IntArray

    @classmethod
    def of(cls, statements: Statements, cases: Cases, num_hypotheses: int) -> Known:
        """Return what is known with all sources, one row for each hypothesis."""
        whole = np.full(num_hypotheses, -1, dtype=np.int64)
        return cls(statements, statements.hypothesis, cases, cases.hypothesis, np.arange(num_hypotheses), whole)

    def __len__(self) -> int:
        return len(self.base)

    def without(self, sources: Collection[int]) -> Known:
        """Return what stays known when no statement or case of these sources is; versions must not be there yet."""
        keep_statements = np.flatnonzero(~_cites(self.statements.sources, sources))
        keep_cases = np.flatnonzero(~_cites(self.cases.sources, sources))
        return Known.of(self.statements.take(keep_statements), self.cases.take(keep_cases), len(self))

    def with_versions(self, left_out: Sequence[Collection[int]]) -> Known:
        """Add, per set of left-out sources, a row for each hypothesis that they speak of; O(their facts)."""
        by_source = self.statements.sources.transposed(_bound(self.statements.sources, left_out))
        case_by_source = self.cases.sources.transposed(_bound(self.cases.sources, left_out))
        per_hypothesis = _by_number(self.statements.hypothesis, len(self))
        cases_per_hypothesis = _by_number(self.cases.hypothesis, len(self))
        kept: list[tuple[int, int, IntArray, IntArray]] = []
        for group, sources in enumerate(left_out):
            listed = np.fromiter(sources, dtype=np.int64)
            lost, lost_cases = by_source.take(listed).flat, case_by_source.take(listed).flat
            touched = {*self.statements.hypothesis[lost].tolist(), *self.cases.hypothesis[lost_cases].tolist()}
            for base in sorted(touched):
                stay = np.setdiff1d(per_hypothesis[base], lost)
                kept.append((base, group, stay, np.setdiff1d(cases_per_hypothesis[base], lost_cases)))
        return self._extended(kept)

    def _extended(self, kept: Sequence[tuple[int, int, IntArray, IntArray]]) -> Known:
        rows = len(self) + np.arange(len(kept))
        more = np.concatenate([np.zeros(0, np.int64), *(item[2] for item in kept)])
        more_cases = np.concatenate([np.zeros(0, np.int64), *(item[3] for item in kept)])
        all_statements = np.concatenate([np.arange(len(self.statements.share)), more])
        all_cases = np.concatenate([np.arange(len(self.cases)), more_cases])
        return replace(
            self,
            statements=self.statements.take(all_statements),
            statement_row=np.concatenate([self.statement_row, np.repeat(rows, [len(item[2]) for item in kept])]),
            cases=self.cases.take(all_cases),
            case_row=np.concatenate([self.case_row, np.repeat(rows, [len(item[3]) for item in kept])]),
            base=np.concatenate([self.base, np.array([item[0] for item in kept], dtype=np.int64)]),
            group=np.concatenate([self.group, np.array([item[1] for item in kept], dtype=np.int64)]),
        )

    def is_told(self) -> np.ndarray:
        """Tell, per row, whether anything is known of it."""
        told = np.zeros(len(self), dtype=bool)
        told[self.statement_row] = True
        told[self.case_row] = True
        return told

    def active(self, group: int) -> np.ndarray:
        """Return the mask (H,) of the rows in force when a left-out set is, each hypothesis once if known."""
        mine = self.group == group
        mask = (self.group == -1) | mine
        if group >= 0:
            mask[self.base[mine]] = False
        return mask & self.is_told()


def _cites(rows: Rows, sources: Collection[int]) -> np.ndarray:
    cites = np.zeros(len(rows), dtype=bool)
    cites[rows.owners[np.isin(rows.flat, np.fromiter(sources, dtype=np.int64))]] = True
    return cites


def _bound(rows: Rows, left_out: Iterable[Collection[int]]) -> int:
    return 1 + max([int(rows.flat.max(initial=0)), *(max(each, default=0) for each in left_out)])


def _by_number(numbers: IntArray, bound: int) -> Rows:
    return Rows(numbers, np.arange(len(numbers) + 1, dtype=np.int64)).transposed(bound)
