"""Peers that rank diseases: Resnik similarity, a likelihood ratio over ancestors, chance.

Each knows what the learned ranker knows: the annotations and the known cases, pooled into shares.
Sources: Köhler et al., "Clinical diagnostics in human genetics with semantic similarity searches",
AJHG 85, 2009; Robinson et al., "Interpretable clinical genomics with a likelihood ratio paradigm",
AJHG 107, 2020 (LIRICAL).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tuili.reason.worlds.differential import shared_information
from tuili.reason.worlds.evidence import Background, Facts
from tuili.reason.worlds.findings import FloatArray, Hierarchy, IntArray, Rows
from tuili.reason.worlds.profiles import Known, Statements

# What a finding that a disease is not known to have comes with, of its usual share. Of .01, .03, .1
# and .3, which differ by .005 in top-1, the best on development data, as is leaving the excluded out.
NOISE = 0.3


def pooled(known: Known) -> Known:
    """Return what is known with each case told as statements: 1 of 1 case shows it, or 0 of 1."""
    cases, statements = known.cases, known.statements
    rows, findings, shares = [], [], []
    for told, share in ((cases.observed, 1.0), (cases.excluded, 0.0)):
        rows.append(told.owners)
        findings.append(told.flat)
        shares.append(np.full(len(told.flat), share, np.float32))
    owner = np.concatenate(rows)
    more = Statements(
        cases.hypothesis[owner],
        np.concatenate(findings),
        np.concatenate(shares),
        np.ones(len(owner), np.float32),
        cases.sources.take(owner),
    )
    return replace(
        known,
        statements=_joined(statements, more),
        statement_row=np.concatenate([known.statement_row, known.case_row[owner]]),
    )


def _joined(first: Statements, second: Statements) -> Statements:
    sources = Rows(
        np.concatenate([first.sources.flat, second.sources.flat]),
        np.concatenate([first.sources.offsets, second.sources.offsets[1:] + len(first.sources.flat)]),
    )
    columns = ("hypothesis", "finding", "share", "num_cases")
    return Statements(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in columns), sources)


@dataclass(frozen=True)
class Peers:
    """Scores of all rows by each peer."""

    hierarchy: Hierarchy
    facts: Facts
    information_T: FloatArray
    rate_T: FloatArray
    zero_H: FloatArray
    entry_order: IntArray
    entry_offsets: IntArray
    stated_per_row: FloatArray

    @classmethod
    def of(cls, whole: Known, known: Known, hierarchy: Hierarchy) -> Peers:
        """Build from what is known, without (`whole`) and with versions."""
        facts = Facts.of(pooled(known), hierarchy)
        usual = Background.of(Facts.of(pooled(whole), hierarchy), len(hierarchy))
        order = np.argsort(facts.implied.finding, kind="stable")
        counts = np.bincount(facts.implied.finding, minlength=len(hierarchy))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        per_row = np.bincount(facts.stated.row, minlength=len(known)).astype(np.float32)
        zero = np.zeros(len(known), np.float32)
        return cls(hierarchy, facts, usual.information_T, usual.stated_T, zero, order, offsets, per_row)

    def resnik(self, observed: IntArray) -> FloatArray:
        """Return the average of both sides' best matches by information, (H,). Source: Köhler 2009, eq. 3."""
        best_T = shared_information(self.hierarchy, self.information_T, observed)
        stated = self.facts.stated
        back = np.bincount(stated.row, best_T[stated.finding], len(self.zero_H)) / np.maximum(self.stated_per_row, 1)
        total = np.zeros_like(self.zero_H)
        for finding in observed:
            best_H = np.zeros_like(self.zero_H)
            for place in sorted(self.hierarchy.above[finding], key=lambda up: self.information_T[up]):
                best_H[self._rows(place)] = self.information_T[place]
            total += best_H
        return ((total / max(len(observed), 1) + back) / 2).astype(np.float32)

    def ratio(self, observed: IntArray) -> FloatArray:
        """Return the sum over findings of the log-ratio of a row's share, or of noise, to the usual share, (H,)."""
        total = np.full(len(self.zero_H), len(observed) * np.log(NOISE), np.float32)
        for finding in observed:
            entries = self.entry_order[self.entry_offsets[finding] : self.entry_offsets[finding + 1]]
            share = self.facts.implied.value[entries]
            ratio = share * (1 - NOISE) / self.rate_T[finding] + NOISE
            total[self.facts.implied.row[entries]] += np.log(ratio) - np.log(NOISE)
        return total

    def _rows(self, finding: int) -> IntArray:
        return self.facts.implied.row[self.entry_order[self.entry_offsets[finding] : self.entry_offsets[finding + 1]]]


def rank_of(scores_H: FloatArray, active_H: np.ndarray, truth: int) -> float:
    """Return the true row's rank among the rows in force, ties shared; infinite without a true row."""
    if truth < 0:
        return np.inf
    scores = scores_H[active_H]
    return float(1 + (scores > scores_H[truth]).sum() + ((scores == scores_H[truth]).sum() - 1) / 2)
