"""Fits the belief that all askers share: how findings are answered, and what each answer weighs.

The weights are fitted on states that askers reach in training cases, so that they fit the answers
that are met while asking. Source: Ross et al., "A Reduction of Imitation Learning and Structured
Prediction to No-Regret Online Learning", AISTATS 2011 (DAgger).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reasoning.diagnosis_protocol import Side
from runner import say
from tuili.reason.worlds.asking import AskingWorld
from tuili.reason.worlds.belief import fit_weights
from tuili.reason.worlds.findings import FloatArray, Hierarchy, IntArray
from tuili.reason.worlds.gains import NO, YES, Answers, Told, truth_of
from tuili.reason.worlds.judge import FIRST, Judge, answer_features

NUM_STARTS = 2
NUM_ASKED = 12
NUM_LIKELY, NUM_CHANCE = 150, 50
BATCH = 64


@dataclass(frozen=True)
class Setting:
    """Cases to ask, and how their answers are judged."""

    hierarchy: Hierarchy
    side: Side
    cases: list[Told]
    publications: list[str]
    answers: Answers
    judge: Judge

    def world(self, budget: int) -> AskingWorld:
        """Return the world of these cases."""
        known = self.side.differential.known
        return AskingWorld(self.judge, self.answers, self.hierarchy, known, self.cases, budget)


def settings_of(hierarchy: Hierarchy, fitting: Side, held: Side, questions: IntArray) -> tuple[Setting, Setting]:
    """Fit on one side's cases; return the settings of both."""
    train_cases, train_publications = _told(hierarchy, fitting, questions, seed=0)
    shares = answer_shares(fitting, train_cases, questions)
    say(f"  answers fitted: {np.round(shares, 3).tolist()}")
    answers = Answers.of(fitting.differential.facts, fitting.differential.background, questions, shares)
    judge, weights = Judge.of(fitting.differential.tables, FIRST), FIRST
    for _ in range(2):
        start = Setting(hierarchy, fitting, train_cases, train_publications, answers, judge)
        states = np.concatenate(list(_states(start)))
        weights = fit_weights(states, np.zeros(len(states), dtype=np.int64), ridge=3.0)
        judge = Judge.of(fitting.differential.tables, weights)
    say(f"  weights fitted: {np.round(weights, 2).tolist()}")
    train_on = Setting(hierarchy, fitting, train_cases, train_publications, answers, judge)
    cases, publications = _told(hierarchy, held, questions, seed=1)
    held_answers = Answers.of(held.differential.facts, held.differential.background, questions, shares)
    score_on = Setting(hierarchy, held, cases, publications, held_answers, Judge.of(held.differential.tables, weights))
    return train_on, score_on


def _told(hierarchy: Hierarchy, side: Side, questions: IntArray, seed: int) -> tuple[list[Told], list[str]]:
    """Return the cases that stay known from a publication, each with two of its findings drawn."""
    rng = np.random.default_rng(seed)
    cases, publications = [], []
    for place in range(len(side.cases)):
        observed = side.cases.observed[place]
        if side.published_S[place] and len(observed) >= NUM_STARTS:
            begins = tuple(rng.choice(observed, NUM_STARTS, replace=False).tolist())
            truth = truth_of(hierarchy, questions, observed, side.cases.excluded[place])
            cases.append(Told(begins, truth, int(side.group_S[place]), int(side.truth_S[place])))
            publications.append(side.publications[place])
    return cases, publications


def answer_shares(side: Side, cases: Sequence[Told], questions: IntArray) -> list[float]:
    """Regress yes on the usual rate and the stated share, no on its usual rate and being stated; least squares."""
    background, implied = side.differential.background, side.differential.facts.implied
    place = np.full(len(side.differential.hierarchy), -1)
    place[questions] = np.arange(len(questions))
    inside = np.flatnonzero(place[implied.finding] >= 0)
    order = inside[np.argsort(implied.row[inside], kind="stable")]
    bounds = np.searchsorted(implied.row[order], np.arange(len(side.differential.known) + 1))
    sums, targets = np.zeros((2, 2, 2)), np.zeros((2, 2))
    for case in cases:
        stated = np.zeros(len(questions))
        mine = order[bounds[case.truth_row] : bounds[case.truth_row + 1]]
        stated[place[implied.finding[mine]]] = implied.value[mine]
        yes = np.stack([background.observed_T[questions], stated])
        no = np.stack([background.excluded_T[questions], stated > 0])
        for kind, (x, answer) in enumerate(((yes, YES), (no, NO))):
            sums[kind] += x @ x.T
            targets[kind] += x @ (case.truth_M == answer)
    solved = [np.linalg.solve(sums[kind] + 1e-6 * np.eye(2), targets[kind]) for kind in (0, 1)]
    return [float(value) for value in np.clip(np.concatenate(solved), 0, 1)]


def _states(setting: Setting) -> Iterator[FloatArray]:
    """Yield features (S, N, F) of states that two askers reach after 0 to NUM_ASKED questions, truth first."""
    rng = np.random.default_rng(0)
    usual = setting.answers.usual_2M[0]
    for begin in range(0, len(setting.cases), BATCH):
        cases = setting.cases[begin : begin + BATCH]
        for by_gain in (True, False):
            world = setting.world(NUM_ASKED)
            world.begin(cases)
            inquiry, walks = world.inquiry, np.arange(len(cases))
            ends = rng.integers(NUM_ASKED + 1, size=len(cases))
            for num_asked in range(NUM_ASKED + 1):
                yield from (_state(setting, world, walk, rng)[None] for walk in np.flatnonzero(ends == num_asked))
                going = walks[ends > num_asked]
                if not len(going):
                    break
                score = inquiry.gains(going).gain_WM if by_gain else np.where(inquiry.closed_WM[going], -1, usual)
                for walk, question in zip(going, score.argmax(axis=1), strict=True):
                    inquiry.ask(int(walk), int(question))


def _state(setting: Setting, world: AskingWorld, walk: int, rng: np.random.Generator) -> FloatArray:
    """Return the features of the true row, of the likeliest ones and of some by chance."""
    scores, truth = world.inquiry.scores_WH[walk], world.truth_row(int(walk))
    num_likely = min(NUM_LIKELY, len(scores) - 1)
    likely = np.argpartition(-scores, num_likely)[:num_likely]
    active = np.flatnonzero(np.isfinite(scores))
    others = np.concatenate([likely[likely != truth], rng.choice(active[active != truth], NUM_CHANCE)])
    rows = np.concatenate([[truth], others[: num_likely + NUM_CHANCE - 1]])
    return answer_features(setting.side.differential.tables, setting.hierarchy, rows, world.inquiry.taken[walk])
