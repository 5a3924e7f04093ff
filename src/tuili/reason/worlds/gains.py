"""Beliefs while questions are asked: W walks at once, one case each, answers yes, no or not told.

What is implied is never asked: a yes answers everything above it, a no everything below it, and what
is not told rules out a yes to anything below. Beliefs are scores of H rows (`profiles.Known`); the
gain of a question is computed over the likeliest rows and the rest as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tuili.reason.worlds.belief import softmax
from tuili.reason.worlds.evidence import Background, Entries, Facts
from tuili.reason.worlds.findings import FloatArray, Hierarchy, IntArray
from tuili.reason.worlds.judge import Judge, most_special

UNKNOWN, YES, NO = 0, 1, 2  # a case's answers
NUM_LIKELY = 150
CHUNK = 16
LEAST = 1e-4
PRIOR_TOLD = 3.0


@dataclass(frozen=True, slots=True)
class Answers:
    """How M questions are answered: chances of yes and no by row, and for any row, `usual` (2, M).

    `entropy_HM`: of the three answers, `binary_HM`: of present or absent if every question were answered.
    """

    questions_M: IntArray
    yes_HM: FloatArray
    no_HM: FloatArray
    entropy_HM: FloatArray
    present_HM: FloatArray
    binary_HM: FloatArray
    usual_2M: FloatArray

    @classmethod
    def of(cls, facts: Facts, background: Background, questions: IntArray, shares: Sequence[float]) -> Answers:
        """Build from told cases, shrunk towards what the statements let expect.

        `shares` (4): a yes is expected at shares[0] of the usual rate plus shares[1] of the stated
        share, a no at shares[2] of its usual rate plus shares[3] where the finding is stated.
        """
        num_rows, place = len(facts.num_cases_H), np.full(len(background.stated_T), -1)
        place[questions] = np.arange(len(questions))
        usual_2M = np.stack([background.observed_T[questions], background.excluded_T[questions]]).astype(np.float32)
        stated = _dense(facts.implied, place, num_rows, len(questions))
        total_H1 = (facts.num_cases_H + PRIOR_TOLD)[:, None]
        expected = (shares[0] * usual_2M[0] + shares[1] * stated, shares[2] * usual_2M[1] + shares[3] * (stated > 0))
        told = (facts.observed, facts.excluded)
        yes, no = (
            np.clip((_dense(each, place, num_rows, len(questions)) + PRIOR_TOLD * rate) / total_H1, LEAST, 0.98)
            for each, rate in zip(told, expected, strict=True)
        )
        scale = np.minimum(1.0, 0.99 / (yes + no))
        yes, no = (yes * scale).astype(np.float32), (no * scale).astype(np.float32)
        present = np.maximum(yes / (yes + no), stated).astype(np.float32)
        return cls(questions, yes, no, _entropy(yes, no), present, _entropy(present, 1 - present), usual_2M)

    def __len__(self) -> int:
        return len(self.questions_M)


def _dense(entries: Entries, place_T: IntArray, num_rows: int, num_questions: int) -> FloatArray:
    table = np.zeros((num_rows, num_questions), np.float32)
    inside = place_T[entries.finding] >= 0
    table[entries.row[inside], place_T[entries.finding[inside]]] = entries.value[inside]
    return table


def _entropy(yes: FloatArray, no: FloatArray) -> FloatArray:
    """Return the entropy in nats of three answers."""
    rest = np.maximum(1 - yes - no, 1e-7)
    return -(yes * np.log(np.maximum(yes, 1e-7)) + no * np.log(np.maximum(no, 1e-7)) + rest * np.log(rest))


@dataclass(frozen=True, slots=True)
class Gains:
    """Per walk and question: mutual information with the hypothesis in nats, chances of yes and no.

    `rows_WK` are the likeliest rows, `belief_WK` their probabilities.
    """

    gain_WM: FloatArray
    yes_WM: FloatArray
    no_WM: FloatArray
    rows_WK: IntArray
    belief_WK: FloatArray


@dataclass(frozen=True, slots=True)
class Told:
    """A case to ask: the findings it begins with, its answer to each question, its group of left-out sources."""

    begins_with: tuple[int, ...]
    truth_M: np.ndarray
    group: int
    truth_row: int


@dataclass
class Inquiry:
    """The state of W walks.

    `truth_WM`: the answer each case gives to each question. `closed_WM`: what needs no asking any more.
    `taken`: per walk the findings answered with yes (those it began with too), no, nothing told.
    `counted`: per walk those with a yes that count, the most special ones.
    """

    judge: Judge
    answers: Answers
    hierarchy: Hierarchy
    truth_WM: np.ndarray
    scores_WH: FloatArray
    closed_WM: np.ndarray = field(init=False)
    taken: list[tuple[list[int], list[int], list[int]]] = field(init=False)
    counted: list[list[int]] = field(init=False)
    place_T: IntArray = field(init=False)

    @classmethod
    def begin(
        cls, judge: Judge, answers: Answers, hierarchy: Hierarchy, active_WH: np.ndarray, cases: Sequence[Told]
    ) -> Inquiry:
        """Start walks with the findings that each case begins with."""
        truth = np.stack([case.truth_M for case in cases])
        scores = np.where(active_WH, judge.prior_H, -np.inf).astype(np.float32)
        inquiry = cls(judge, answers, hierarchy, truth, scores)
        for walk, case in enumerate(cases):
            for finding in case.begins_with:
                inquiry._take_yes(walk, finding)
        return inquiry

    def __post_init__(self) -> None:
        num_walks, num_questions = self.truth_WM.shape
        self.closed_WM = np.zeros((num_walks, num_questions), dtype=bool)
        self.taken = [([], [], []) for _ in range(num_walks)]
        self.counted = [[] for _ in range(num_walks)]
        self.place_T = np.full(len(self.hierarchy), -1, dtype=np.int64)
        self.place_T[self.answers.questions_M] = np.arange(num_questions)

    def ask(self, walk: int, question: int) -> int:
        """Ask a walk's case a question (by its place), update the belief, return the answer.

        A closed question has been settled before: its answer changes nothing.
        """
        finding, answer = int(self.answers.questions_M[question]), int(self.truth_WM[walk, question])
        if self.closed_WM[walk, question]:
            return answer
        place = self.judge.place_T[finding]
        if answer == YES:
            self._take_yes(walk, finding)
        else:
            self.scores_WH[walk] += (self.judge.no_QH if answer == NO else self.judge.silent_QH)[place]
            self.taken[walk][1 if answer == NO else 2].append(finding)
            self._close(walk, self.hierarchy.below[finding])
        return answer

    def _take_yes(self, walk: int, finding: int) -> None:
        """Add a finding that is there; one above it that was added before counts no longer."""
        self.taken[walk][0].append(finding)
        counted = most_special(self.hierarchy, [*self.counted[walk], finding])
        table, place = self.judge.yes_QH, self.judge.place_T
        for change, findings in (
            (-1, set(self.counted[walk]) - set(counted)),
            (1, set(counted) - set(self.counted[walk])),
        ):
            for each in sorted(findings):
                self.scores_WH[walk] += change * table[place[each]]
        self.counted[walk] = counted
        self._close(walk, self.hierarchy.above[finding])

    def _close(self, walk: int, findings: IntArray) -> None:
        places = self.place_T[findings]
        self.closed_WM[walk, places[places >= 0]] = True

    def beliefs(self, walks: IntArray) -> FloatArray:
        """Return the probability of each row, (W, H)."""
        return softmax(self.scores_WH[walks]).astype(np.float32)

    def likely(self, walks: IntArray) -> tuple[IntArray, FloatArray]:
        """Return the likeliest rows and their probabilities, (W, K) each."""
        belief = self.beliefs(walks)
        num = min(NUM_LIKELY, belief.shape[1])
        rows = np.argpartition(-belief, num - 1, axis=1)[:, :num]
        return rows, np.take_along_axis(belief, rows, axis=1)

    def gains(self, walks: IntArray, *, binary: bool = False) -> Gains:
        """Return every open question's gain; closed ones have -1. `binary`: as if all were answered yes or no.

        Source: Lindley, "On a measure of the information provided by an experiment", 1956. O(W K M).
        """
        rows, belief = self.likely(walks)
        first, entropy = (
            (self.answers.present_HM, self.answers.binary_HM)
            if binary
            else (self.answers.yes_HM, self.answers.entropy_HM)
        )
        usual = self.answers.usual_2M
        rest = np.maximum(1 - belief.sum(axis=1, keepdims=True), 0)
        usual_yes, usual_no = (usual[0] / usual.sum(axis=0), usual[1] / usual.sum(axis=0)) if binary else usual
        yes = _expected(belief, rows, first) + rest * usual_yes
        no = 1 - yes if binary else _expected(belief, rows, self.answers.no_HM) + rest * usual_no
        inner = _expected(belief, rows, entropy) + rest * _entropy(usual_yes, usual_no)
        gain = np.where(self.closed_WM[walks], -1.0, np.maximum(_entropy(yes, no) - inner, 0)).astype(np.float32)
        return Gains(gain, yes, no, rows, belief)


def truth_of(hierarchy: Hierarchy, questions: IntArray, observed: IntArray, excluded: IntArray) -> np.ndarray:
    """Return a case's answer to each question by the true-path rule."""
    truth = np.zeros(len(hierarchy), dtype=np.int8)
    truth[hierarchy.ruled_out(excluded)] = NO
    truth[hierarchy.implied(observed)] = YES
    return truth[questions]


def _expected(belief_WK: FloatArray, rows_WK: IntArray, table_HM: FloatArray) -> FloatArray:
    """Return the sum over K of belief times the table's rows, (W, M), a few walks at a time."""
    out = np.empty((len(rows_WK), table_HM.shape[1]), np.float32)
    for begin in range(0, len(rows_WK), CHUNK):
        part = slice(begin, begin + CHUNK)
        out[part] = np.matmul(belief_WK[part, None, :], table_HM[rows_WK[part]])[:, 0]
    return out
