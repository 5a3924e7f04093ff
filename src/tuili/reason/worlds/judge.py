"""Weighs the answers of an inquiry: one table for each kind of answer, added up row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuili.errors import InputError
from tuili.reason.worlds.evidence import NO, ROW, YES, Tables
from tuili.reason.worlds.findings import FloatArray, Hierarchy, IntArray

FEATURES = (
    *(f"yes: {name}" for name in YES),
    *(f"no: {name}" for name in NO),
    "silence",
    *(f"row: {name}" for name in ROW),
)
# Unlearned weights to begin with: told cases first, then what is stated; many sources make a hypothesis likelier.
FIRST = np.array([0.3, 0, 0, 0.6, 0.2, 0, 0, 0, 0.4, 0, 0.4, 0, 1.0, 0.3, -0.3, 0], np.float32)


@dataclass(frozen=True, slots=True)
class Judge:
    """What each answer adds to a row's score: `prior_H`, then a row of a table per finding with a place."""

    prior_H: FloatArray
    yes_QH: FloatArray
    no_QH: FloatArray
    silent_QH: FloatArray
    place_T: IntArray

    @classmethod
    def of(cls, tables: Tables, weights_F: FloatArray) -> Judge:
        """Weigh the tables by weights over `FEATURES`; O(Q H).

        Raises:
            InputError: there is not one weight for each feature.
        """
        if len(weights_F) != len(FEATURES):
            raise InputError(f"{len(weights_F)} weights were given, there are {len(FEATURES)} features")
        yes, no, silence, row = np.split(weights_F, np.cumsum([len(YES), len(NO), 1]))
        return cls(
            tables.row_HP @ row,
            _weighed(tables.yes, yes),
            _weighed(tables.no, no),
            tables.silent_QH * silence[0],
            tables.place_T,
        )


def _weighed(tables: Sequence[FloatArray], weights: FloatArray) -> FloatArray:
    total = tables[0] * weights[0]
    for table, weight in zip(tables[1:], weights[1:], strict=True):
        if weight:
            total += weight * table
    return total


def answer_features(
    tables: Tables, hierarchy: Hierarchy, rows_N: IntArray, answers: tuple[Sequence[int], Sequence[int], Sequence[int]]
) -> FloatArray:
    """Return the features (N, F) of some rows after answers: findings with a yes, with a no, with nothing told.

    Of findings with a yes only the most special count, as in `questions.Inquiry`.
    """
    yes, no, silent = answers
    yes = most_special(hierarchy, yes)
    groups = ((tables.yes, yes), (tables.no, no), ((tables.silent_QH,), silent))
    columns = [
        table[np.ix_(tables.place_T[np.array(findings, dtype=np.int64)], rows_N)].sum(axis=0)
        for group, findings in groups
        for table in group
    ]
    return np.concatenate([np.stack(columns, axis=1), tables.row_HP[rows_N]], axis=1).astype(np.float32)


def most_special(hierarchy: Hierarchy, findings: Sequence[int]) -> list[int]:
    """Return the findings that lie above no other one."""
    distinct = sorted(set(findings))
    implied = {up for finding in distinct for up in hierarchy.above[finding].tolist() if up != finding}
    return [finding for finding in distinct if finding not in implied]
