"""Ranks hypotheses for whole cases: all evidence, the nearest known cases, weights learned from other cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tuili.reason.worlds.alike import VIEWS, Neighbours, nearest
from tuili.reason.worlds.belief import fit_weights
from tuili.reason.worlds.evidence import NO, ROW, YES, Background, Facts, Tables
from tuili.reason.worlds.findings import FloatArray, Hierarchy, IntArray
from tuili.reason.worlds.profiles import Cases, Known

NUM_CANDIDATES = 150
CHUNK = 128
FEATURES = (
    *(f"yes: {name}, {kind}" for name in YES for kind in ("sum", "mean")),
    *(f"no: {name}, {kind}" for name in NO for kind in ("sum", "mean")),
    *(f"nearest case: {name}" for name in VIEWS),
    "explained share",
    *(f"row: {name}" for name in ROW),
)
# A first, unlearned order, out of which the candidates are taken.
FIRST_YES, FIRST_NO, FIRST_NEAR, FIRST_ROW = (0.0, 0.3, 0.0, 1.0, 0.0, 0.0), (0.0, 0.7, 0.0, 0.0), 3.0, 0.3


@dataclass(frozen=True, slots=True)
class Candidates:
    """Per case the candidate rows, (S, N), and their features, (S, N, F)."""

    rows_SN: IntArray
    features_SNF: FloatArray


@dataclass(frozen=True)
class Differential:
    """What is known, with a version per left-out group, as tables."""

    known: Known
    facts: Facts
    hierarchy: Hierarchy
    background: Background
    tables: Tables
    neighbours: Neighbours
    whole: Known

    @classmethod
    def of(
        cls, whole: Known, known: Known, hierarchy: Hierarchy, background: Background, findings: IntArray
    ) -> Differential:
        """Build from what is `known` with versions (`whole` without); `findings` are those that may be told."""
        facts = Facts.of(known, hierarchy)
        tables = Tables.of(known, facts, hierarchy, background, findings)
        neighbours = Neighbours.of(whole.cases, hierarchy, background)
        return cls(known, facts, hierarchy, background, tables, neighbours, whole)

    def candidates(self, cases: Cases, group_S: IntArray) -> Candidates:
        """Return the candidates of cases; `group_S` are their left-out groups."""
        parts = list(self._parts(cases, group_S))
        return Candidates(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))

    def _parts(self, cases: Cases, group_S: IntArray) -> Iterator[tuple[IntArray, FloatArray]]:
        for begin in range(0, len(cases), CHUNK):
            some = np.arange(begin, min(begin + CHUNK, len(cases)))
            chunk = cases.take(some)
            left_out = np.stack([self._shares_source(chunk, place) for place in range(len(chunk))])
            near = [
                nearest(likeness, self.whole.cases.hypothesis, int(self.known.base.max()) + 1)
                for likeness in self.neighbours.likeness(chunk, left_out)
            ]
            for place, group in enumerate(group_S[some]):
                rows, features = self._of_case(chunk, place, [each[place] for each in near], int(group))
                yield rows[None], features[None]

    def _shares_source(self, cases: Cases, place: int) -> np.ndarray:
        mark = np.zeros(len(self.whole.cases), dtype=bool)
        sources = self.whole.cases.sources
        mark[sources.owners[np.isin(sources.flat, cases.sources[place])]] = True
        return mark

    def _of_case(self, cases: Cases, place: int, near: list[FloatArray], group: int) -> tuple[IntArray, FloatArray]:
        seen, ruled = (self._places(cases.observed[place]), self._places(cases.excluded[place]))
        near_H = [each[self.known.base] for each in near]
        first = FIRST_NEAR * near_H[0] + FIRST_ROW * self.tables.row_HP[:, 1]
        for tables, weights, places in ((self.tables.yes, FIRST_YES, seen), (self.tables.no, FIRST_NO, ruled)):
            for table, weight in zip(tables, weights, strict=True):
                if weight:
                    first = first + weight * table[places].sum(axis=0)
        first[~self.known.active(group)] = -np.inf
        num = min(NUM_CANDIDATES, len(first) - 1)
        rows = np.argpartition(-first, num)[:num]
        columns: list[FloatArray] = []
        for tables, places in ((self.tables.yes, seen), (self.tables.no, ruled)):
            for table in tables:
                total = table[np.ix_(places, rows)].sum(axis=0)
                columns += [total, total / max(len(places), 1)]
        columns += [each[rows] for each in near_H]
        columns.append(self._explained(cases.observed[place])[rows])
        return rows, np.concatenate([np.stack(columns, axis=1), self.tables.row_HP[rows]], axis=1).astype(np.float32)

    def _places(self, findings: IntArray) -> IntArray:
        return self.tables.place_T[findings]

    def _explained(self, observed: IntArray) -> FloatArray:
        """Return the information that a row's statements share with the findings, weighted by their shares, (H,)."""
        best_T = shared_information(self.hierarchy, self.background.information_T, observed)
        stated = self.facts.stated
        total = np.bincount(stated.row, stated.value, len(self.known))
        shared = np.bincount(stated.row, best_T[stated.finding] * stated.value, len(self.known))
        return (shared / np.maximum(total, 1e-6)).astype(np.float32)


def shared_information(hierarchy: Hierarchy, information_T: FloatArray, observed: IntArray) -> FloatArray:
    """Return, per finding, the information of its best ancestor that the observed findings imply, (T,)."""
    implied = np.zeros(len(hierarchy), np.float32)
    places = hierarchy.implied(observed)
    implied[places] = information_T[places]
    return np.maximum.reduceat(implied[hierarchy.above.flat], hierarchy.above.offsets[:-1])


@dataclass(frozen=True, slots=True)
class Ranker:
    """Learned weights over `FEATURES`."""

    weights_F: FloatArray

    @classmethod
    def fit(cls, candidates: Candidates, truth_S: IntArray, ridge: float = 3.0) -> Ranker:
        """Fit on cases whose true row (`truth_S`) is among the candidates; the others can't teach."""
        is_true = candidates.rows_SN == truth_S[:, None]
        kept = np.flatnonzero(is_true.any(axis=1))
        return cls(fit_weights(candidates.features_SNF[kept], is_true[kept].argmax(axis=1), ridge))

    def ranks(self, candidates: Candidates, truth_S: IntArray) -> FloatArray:
        """Return the rank of the true row, ties shared; infinite if it is no candidate."""
        scores = candidates.features_SNF @ self.weights_F
        is_true = candidates.rows_SN == truth_S[:, None]
        mine = np.where(is_true, scores, -np.inf).max(axis=1, keepdims=True)
        rank = 1 + (scores > mine).sum(axis=1) + ((scores == mine) & ~is_true).sum(axis=1) / 2
        return np.where(is_true.any(axis=1), rank, np.inf).astype(np.float32)
