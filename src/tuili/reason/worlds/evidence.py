"""What each finding says for or against each hypothesis, as dense tables built once.

Case reports have three states: a finding is observed, excluded, or not told. What is excluded was at
least looked for, which speaks for the hypotheses it is looked for in; so `no` is compared with how
often a finding is excluded anywhere, not with how often it is absent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuili.reason.worlds.findings import FloatArray, Hierarchy, IntArray, Rows
from tuili.reason.worlds.profiles import Known

# A stated share is pooled with this many cases of this share: "1 of 1" is weaker than "90 of 100".
PRIOR_CASES, PRIOR_SHARE = 2.0, 0.4
LEAST_RATE = 1e-4
LEAST_RATIO = 1e-3
NOISE = 0.1

YES = ("shared information", "stated ratio", "told ratio, light", "told ratio, heavy", "looked-for ratio", "stated")
NO = ("told ratio, light", "told ratio, heavy", "looked-for ratio", "stated ratio")
ROW = ("cases", "sources of cases", "sources", "statements", "has cases")


@dataclass(frozen=True, slots=True)
class Entries:
    """Sparse values by row (a hypothesis's row) and finding."""

    row: IntArray
    finding: IntArray
    value: FloatArray


@dataclass(frozen=True, slots=True)
class Facts:
    """What H rows state and tell: `stated` directly and `implied` above it, cases that show or exclude a finding."""

    stated: Entries
    implied: Entries
    observed: Entries
    excluded: Entries
    num_cases_H: FloatArray

    @classmethod
    def of(cls, known: Known, hierarchy: Hierarchy) -> Facts:
        """Collect; O(facts times ancestors)."""
        stated = _stated(known, len(hierarchy))
        num_cases = np.bincount(known.case_row, minlength=len(known)).astype(np.float32)
        return cls(
            stated,
            _largest(stated, hierarchy),
            _counted(known, known.cases.observed, hierarchy.above),
            _counted(known, known.cases.excluded, hierarchy.below),
            num_cases,
        )


def _stated(known: Known, num_findings: int) -> Entries:
    """Pool the statements of each row and finding; what no case of any source shows is left out."""
    statements = known.statements
    key, inverse = np.unique(known.statement_row * num_findings + statements.finding, return_inverse=True)
    seen = np.bincount(inverse, statements.share * statements.num_cases, len(key))
    total = np.bincount(inverse, statements.num_cases, len(key))
    share = ((seen + PRIOR_SHARE * PRIOR_CASES) / (total + PRIOR_CASES)).astype(np.float32)
    shown = np.flatnonzero(seen > 0)
    return Entries(key[shown] // num_findings, key[shown] % num_findings, share[shown])


def _largest(stated: Entries, hierarchy: Hierarchy) -> Entries:
    """Give each finding above a stated one the largest share below it."""
    spread = hierarchy.above.take(stated.finding)
    owner = spread.owners
    key = stated.row[owner] * len(hierarchy) + spread.flat
    order = np.lexsort((stated.value[owner], key))
    last = np.append(np.flatnonzero(np.diff(key[order])), len(order) - 1) if len(order) else order
    chosen = order[last]
    return Entries(key[chosen] // len(hierarchy), spread.flat[chosen], stated.value[owner[chosen]])


def _counted(known: Known, findings: Rows, implies: Rows) -> Entries:
    """Count, per row and finding, the cases that tell it or something that implies it."""
    spread = implies.take(findings.flat)
    num_findings = len(implies)
    per_case = np.unique(findings.owners[spread.owners] * num_findings + spread.flat)
    key, count = np.unique(
        known.case_row[per_case // num_findings] * num_findings + per_case % num_findings, return_counts=True
    )
    return Entries(key // num_findings, key % num_findings, count.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Background:
    """How common findings are over all hypotheses, (T,) each: information in nats, shares, rates of being told."""

    information_T: FloatArray
    stated_T: FloatArray
    observed_T: FloatArray
    excluded_T: FloatArray

    @classmethod
    def of(cls, facts: Facts, num_findings: int) -> Background:
        """Count over rows without versions. Source of the information: Resnik, IJCAI 1995, eq. 1."""
        num_rows = max(int((np.bincount(facts.implied.row, minlength=1) > 0).sum()), 1)
        num_cases = max(float(facts.num_cases_H.sum()), 1.0)
        stated = np.bincount(facts.implied.finding, minlength=num_findings)
        shares = np.bincount(facts.implied.finding, facts.implied.value, num_findings)
        return cls(
            -np.log(np.maximum(stated, 1) / num_rows).astype(np.float32),
            (shares / num_rows + LEAST_RATE).astype(np.float32),
            _rate(facts.observed, num_findings, num_cases),
            _rate(facts.excluded, num_findings, num_cases),
        )


def _rate(told: Entries, num_findings: int, num_cases: float) -> FloatArray:
    return (np.bincount(told.finding, told.value, num_findings) / num_cases + LEAST_RATE).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Tables:
    """Per findings Q and rows H: what a yes (YES), a no (NO) and silence add; `row_HP` are features of rows (ROW).

    `place_T` is a finding's place among the Q, -1 if it has none; with a finding its ancestors have one.
    """

    findings_Q: IntArray
    place_T: IntArray
    yes: tuple[FloatArray, ...]
    no: tuple[FloatArray, ...]
    silent_QH: FloatArray
    row_HP: FloatArray

    @classmethod
    def of(cls, known: Known, facts: Facts, hierarchy: Hierarchy, background: Background, findings: IntArray) -> Tables:
        """Build for the findings and all above them; O(Q H)."""
        findings = hierarchy.implied(findings)
        place = np.full(len(hierarchy), -1, dtype=np.int64)
        place[findings] = np.arange(len(findings))
        grid = _Grid(hierarchy, findings, place, len(known))
        shared, ratio = _similar(grid, facts, background)
        yes_light, yes_heavy = (_told(grid, facts, facts.observed, background.observed_T, k) for k in (1.0, 5.0))
        no_light, no_heavy = (_told(grid, facts, facts.excluded, background.excluded_T, k) for k in (1.0, 5.0))
        both = _together(facts.observed, facts.excluded)
        looked = _told(grid, facts, both, background.observed_T + background.excluded_T, 2.0)
        exact = np.zeros((len(findings), len(known)), np.float32)
        grid.add(exact, facts.stated, np.ones_like(facts.stated.value))
        silent = _silent(grid, facts, both, background.observed_T + background.excluded_T)
        yes = (shared, ratio, yes_light, yes_heavy, looked, exact)
        return cls(findings, place, yes, (no_light, no_heavy, looked, ratio), silent, _row_features(known, facts))


@dataclass(frozen=True, slots=True)
class _Grid:
    hierarchy: Hierarchy
    findings_Q: IntArray
    place_T: IntArray
    num_rows: int

    def inside(self, entries: Entries) -> IntArray:
        """Return which entries have a place."""
        return np.flatnonzero(self.place_T[entries.finding] >= 0)

    def add(self, table_QH: FloatArray, entries: Entries, values: FloatArray) -> None:
        """Add values at the entries' places; entries may meet."""
        inside = self.inside(entries)
        key = self.place_T[entries.finding[inside]] * self.num_rows + entries.row[inside]
        key, inverse = np.unique(key, return_inverse=True)
        table_QH.reshape(-1)[key] += np.bincount(inverse, values[inside], len(key)).astype(np.float32)


def _together(first: Entries, second: Entries) -> Entries:
    return Entries(
        np.concatenate([first.row, second.row]),
        np.concatenate([first.finding, second.finding]),
        np.concatenate([first.value, second.value]),
    )


def _similar(grid: _Grid, facts: Facts, background: Background) -> tuple[FloatArray, FloatArray]:
    """Return the information and the log-ratio of the best ancestor that a finding and a row's statements share.

    Sources: Resnik, IJCAI 1995, eq. 2; the ratio in the manner of Robinson et al., "Interpretable
    Clinical Genomics with a Likelihood Ratio Paradigm", AJHG 2020.
    """
    entries, rate = facts.implied, background.stated_T
    ratio = np.log((entries.value * (1 - NOISE) + NOISE * rate[entries.finding]) / rate[entries.finding])
    order = np.argsort(entries.finding, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(entries.finding, minlength=len(grid.hierarchy)))])
    shape = (len(grid.findings_Q), grid.num_rows)
    shared_QH, ratio_QH = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for place, finding in enumerate(grid.findings_Q):
        for parent in grid.hierarchy.parents[finding]:
            for table in (shared_QH, ratio_QH):
                np.maximum(table[place], table[grid.place_T[parent]], out=table[place])
        mine = order[offsets[finding] : offsets[finding + 1]]
        rows = entries.row[mine]
        shared_QH[place, rows] = np.maximum(shared_QH[place, rows], background.information_T[finding])
        ratio_QH[place, rows] = np.maximum(ratio_QH[place, rows], ratio[mine])
    return shared_QH, ratio_QH


def _told(grid: _Grid, facts: Facts, told: Entries, rate_T: FloatArray, prior: float) -> FloatArray:
    """Return log of how much oftener than usual a row's cases tell a finding, shrunk by `prior` usual cases."""
    total_H = facts.num_cases_H + prior
    table_QH = np.empty((len(grid.findings_Q), grid.num_rows), np.float32)
    table_QH[:] = prior / total_H
    grid.add(table_QH, told, told.value / rate_T[told.finding] / total_H[told.row])
    return _log_but(table_QH, np.log(prior / total_H + LEAST_RATIO), prior / total_H)


def _log_but(table_QH: FloatArray, usual_log_H: FloatArray, usual_H: FloatArray) -> FloatArray:
    """Take logs, only where a row's entry is not its usual one."""
    differs = table_QH != usual_H.astype(np.float32)
    logs = np.log(table_QH[differs] + LEAST_RATIO)
    table_QH[:] = usual_log_H
    table_QH[differs] = logs
    return table_QH


def _silent(grid: _Grid, facts: Facts, told: Entries, rate_T: FloatArray) -> FloatArray:
    """Return log of how much oftener than usual a row's cases say nothing of a finding."""
    prior = 3.0
    total_H = facts.num_cases_H + prior
    rate_Q = np.minimum(rate_T, 0.99)[grid.findings_Q]
    table_QH = np.empty((len(grid.findings_Q), grid.num_rows), np.float32)
    table_QH[:] = rate_Q[:, None] * prior / total_H
    grid.add(table_QH, told, told.value / total_H[told.row])
    np.log1p(-np.minimum(table_QH, 0.99), out=table_QH)
    table_QH -= np.log1p(-rate_Q)[:, None]
    return table_QH


def _row_features(known: Known, facts: Facts) -> FloatArray:
    num_sources = 1 + max(known.statements.sources.flat.max(initial=0), known.cases.sources.flat.max(initial=0))

    def distinct(rows: IntArray, sources: Rows) -> FloatArray:
        key = np.unique(rows[sources.owners] * num_sources + sources.flat)
        return np.bincount(key // num_sources, minlength=len(known)).astype(np.float32)

    features = (
        np.log1p(facts.num_cases_H),
        np.log1p(distinct(known.case_row, known.cases.sources)),
        np.log1p(distinct(known.statement_row, known.statements.sources)),
        np.log1p(np.bincount(known.statement_row, minlength=len(known))),
        facts.num_cases_H > 0,
    )
    return np.stack(features, axis=1).astype(np.float32)
