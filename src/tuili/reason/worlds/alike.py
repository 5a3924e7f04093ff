"""Cases that look alike: the cosine of their findings, weighted by information, observed, excluded and told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuili.reason.worlds.evidence import Background
from tuili.reason.worlds.findings import FloatArray, Hierarchy, IntArray, Rows
from tuili.reason.worlds.profiles import Cases

VIEWS = ("observed", "excluded", "told")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Known cases as unit vectors over the U findings that any of them tells, one matrix for each view."""

    hierarchy: Hierarchy
    weight_U: FloatArray
    place_T: IntArray
    vectors: tuple[FloatArray, ...]

    @classmethod
    def of(cls, cases: Cases, hierarchy: Hierarchy, background: Background) -> Neighbours:
        """Build; O(C U) memory."""
        findings = hierarchy.implied([*cases.observed.flat, *cases.excluded.flat])
        place = np.full(len(hierarchy), -1, dtype=np.int64)
        place[findings] = np.arange(len(findings))
        empty = cls(hierarchy, np.sqrt(np.maximum(background.information_T[findings], 0)), place, ())
        return cls(hierarchy, empty.weight_U, place, empty.view(cases))

    def view(self, cases: Cases) -> tuple[FloatArray, ...]:
        """Return cases as unit vectors in each view, (C, U) each; zero where nothing is told."""
        observed, excluded = self._marked(cases.observed), self._marked(cases.excluded)
        return tuple(_unit(each) for each in (observed, excluded, np.maximum(observed, excluded)))

    def _marked(self, findings: Rows) -> FloatArray:
        spread = self.hierarchy.above.take(findings.flat)
        marks = np.zeros((len(findings), len(self.weight_U)), np.float32)
        place = self.place_T[spread.flat]
        inside = place >= 0
        marks[findings.owners[spread.owners][inside], place[inside]] = 1
        return marks * self.weight_U

    def likeness(self, cases: Cases, is_left_out: np.ndarray) -> tuple[FloatArray, ...]:
        """Return each case's cosine with every known case, (S, C) for each view; 0 for those left out (S, C)."""
        return tuple(
            np.where(is_left_out, 0, mine @ known.T).astype(np.float32)
            for mine, known in zip(self.view(cases), self.vectors, strict=True)
        )


def nearest(likeness_SC: FloatArray, hypothesis_C: IntArray, num_hypotheses: int) -> FloatArray:
    """Return the largest likeness of the cases of each hypothesis, (S, D); 0 where it has none."""
    out = np.zeros((len(likeness_SC), num_hypotheses), np.float32)
    if len(hypothesis_C):
        order = np.argsort(hypothesis_C, kind="stable")
        present, begins = np.unique(hypothesis_C[order], return_index=True)
        out[:, present] = np.maximum.reduceat(likeness_SC[:, order], begins, axis=1)
    return out


def _unit(rows: FloatArray) -> FloatArray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
