"""The world of asking: which finding to ask next, or to stop and name; for `policy.py` and `ppo.py`.

A state's actions are the questions of largest information gain and STOP. The prior's order is that of the
chance that the hypothesis which comes first after the answer is the right one (`right_after`), since this is
what is asked for in the end: much information on hypotheses that nobody would name is worth little. The reward
is how much the truth's probability rises, less a cost for each question.
Source: Howard, "Information Value Theory", 1966.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tuili.reason.policy import Choices, Floats, Ints, Policy, Step, best_of
from tuili.reason.worlds.findings import FloatArray, Hierarchy, IntArray
from tuili.reason.worlds.gains import Answers, Gains, Inquiry, Told
from tuili.reason.worlds.judge import Judge
from tuili.reason.worlds.profiles import Known

NUM_CANDIDATES = 50
COST = 0.001
LOG_SHARE = 0.03
LEAST_LOG = -10.0
SHARPNESS = 8.0
# What a nat of information is worth beside the chance to be right: most questions leave the same hypothesis first.
GAIN_WORTH = 0.01
STOP_PRIOR = -40.0
LEAST_GAIN = 1e-6
LEAST_WORTH = 1e-8

FEATURES = (
    "is stop",
    "worth over the best",
    "log gain",
    "gain if always answered",
    "chance of yes",
    "chance of no",
    "rise of the chance to be right",
    "top probability",
    "entropy",
    "depth",
    "log usual rate of yes",
    "log usual rate of no",
    "lift of yes",
    "share answered",
    "questions left",
)


@dataclass
class AskingWorld:
    """Walks over `cases` with a budget of questions; a World of `policy.py`."""

    judge: Judge
    answers: Answers
    hierarchy: Hierarchy
    known: Known
    cases: Sequence[Told]
    budget: int = 10
    cost: float = COST
    feature_names: tuple[str, ...] = FEATURES
    inquiry: Inquiry = field(init=False)
    _cases: list[Told] = field(init=False)
    _going: IntArray = field(init=False)
    _truth: IntArray = field(init=False)
    _candidates: IntArray = field(init=False)
    _num_asked: int = field(init=False, default=0)

    def start(self, num_walks: int, rng: np.random.Generator) -> Choices:
        """Begin walks over cases drawn with replacement."""
        return self.begin([self.cases[place] for place in rng.integers(len(self.cases), size=num_walks)])

    def begin(self, cases: Sequence[Told]) -> Choices:
        """Begin a walk for each case."""
        active = {case.group: self.known.active(case.group) for case in cases}
        active_WH = np.stack([active[case.group] for case in cases])
        self.inquiry = Inquiry.begin(self.judge, self.answers, self.hierarchy, active_WH, cases)
        self._truth = np.array([case.truth_row for case in cases], dtype=np.int64)
        self._cases, self._going, self._num_asked = list(cases), np.arange(len(cases)), 0
        return self._choices()

    def truth_row(self, walk: int) -> int:
        """Return the row of the hypothesis that a walk's case has."""
        return self._cases[walk].truth_row

    def step(self, picked_S: Ints) -> Step:
        """Ask each walk's question, or end it where STOP (the last action) is picked."""
        stops = picked_S == self._candidates.shape[1]
        before = self._worth(self._going)
        for state in np.flatnonzero(~stops):
            self.inquiry.ask(int(self._going[state]), int(self._candidates[state, picked_S[state]]))
        reward = np.where(stops, 0.0, self._worth(self._going) - before - self.cost).astype(np.float32)
        self._num_asked += 1
        done = stops | (self._num_asked >= self.budget)
        self._going = self._going[~done]
        return Step(reward, done, self._choices() if len(self._going) else None)

    def _worth(self, walks: IntArray) -> FloatArray:
        """Return what a belief is worth: the truth's probability, and a share of its log where it is small."""
        chance = self.inquiry.beliefs(walks)[np.arange(len(walks)), self._truth[walks]]
        log_chance = np.maximum(np.log(np.maximum(chance, 1e-9)), LEAST_LOG)
        return np.asarray(chance + LOG_SHARE * log_chance, np.float32)

    def _choices(self) -> Choices:
        gains = self.inquiry.gains(self._going)
        num = min(NUM_CANDIDATES, len(self.answers))
        order = np.argsort(-gains.gain_WM, axis=1, kind="stable")[:, :num]
        self._candidates = order
        features_WAF, prior_WA = self._features(gains, order)
        num_states, num_actions, num_features = features_WAF.shape
        return Choices(
            features_WAF.reshape(-1, num_features),
            prior_WA.reshape(-1),
            np.arange(num_states + 1, dtype=np.int64) * num_actions,
            self._going.copy(),
        )

    def _share_answered(self) -> FloatArray:
        told = [len(yes) + len(no) for yes, no, _ in (self.inquiry.taken[walk] for walk in self._going)]
        begun = [len(case.begins_with) for case in self._cases]
        told_now = np.array(told) - np.array(begun)[self._going]
        return (told_now / max(self._num_asked, 1)).astype(np.float32)

    def _features(self, gains: Gains, order: IntArray) -> tuple[Floats, Floats]:
        take = lambda table: np.take_along_axis(table, order, axis=1)  # noqa: E731
        gain, yes, no = take(gains.gain_WM), take(gains.yes_WM), take(gains.no_WM)
        questions = self.answers.questions_M[order]
        binary = _gain_if_answered(self.answers, gains, order)
        usual = np.log(self.answers.usual_2M)
        now = gains.belief_WK.max(axis=1, keepdims=True)
        entropy = -(gains.belief_WK * np.log(np.maximum(gains.belief_WK, 1e-9))).sum(axis=1, keepdims=True)
        left = (self.budget - self._num_asked) / self.budget
        answered = self._share_answered()[:, None]
        rise = np.maximum(right_after(self.inquiry, self._going, gains, order) - now, 0)
        worth = np.where(gain < 0, 0, rise + GAIN_WORTH * gain)
        best = np.maximum(worth.max(axis=1, keepdims=True), LEAST_WORTH)
        ratio = np.maximum(worth, LEAST_WORTH) / best
        columns = (
            np.zeros_like(gain),
            ratio,
            np.log(np.maximum(gain, LEAST_GAIN)),
            binary,
            yes,
            no,
            rise,
            now,
            entropy,
            self.hierarchy.depth[questions] / 10,
            usual[0][order],
            usual[1][order],
            np.log(np.maximum(yes, 1e-6)) - usual[0][order],
            answered,
            left,
        )
        asked = np.stack([np.broadcast_to(column, gain.shape) for column in columns], axis=2)
        stop = asked.mean(axis=1, keepdims=True) * 0
        stop[..., 0] = 1.0
        for place, column in ((7, now), (8, entropy), (13, answered), (14, np.full_like(now, left))):
            stop[:, 0, place] = column[:, 0]
        prior = SHARPNESS * np.log(ratio)
        stop_prior = np.where(gain.max(axis=1, keepdims=True) > LEAST_GAIN, STOP_PRIOR, 1.0)
        return (
            np.concatenate([asked, stop], axis=1).astype(np.float32),
            np.concatenate([prior, stop_prior], axis=1).astype(np.float32),
        )


def right_after(inquiry: Inquiry, walks: IntArray, gains: Gains, order_WA: IntArray) -> FloatArray:
    """Return, per candidate question, the chance that the row which comes first after the answer is true, (W, A).

    Among the likeliest rows; the answers' chances are those of `Answers`, what they change is the judge's. O(W A K).
    """
    judge, answers = inquiry.judge, inquiry.answers
    right = np.empty(order_WA.shape, np.float32)
    for state, (walk, picked) in enumerate(zip(walks.tolist(), order_WA, strict=True)):
        rows, belief = gains.rows_WK[state], gains.belief_WK[state]
        findings = answers.questions_M[picked]
        at = np.ix_(judge.place_T[findings], rows)
        yes, no = answers.yes_HM[np.ix_(rows, picked)].T, answers.no_HM[np.ix_(rows, picked)].T
        added = (judge.yes_QH[at] - _superseded(inquiry, walk, findings, rows), judge.no_QH[at], judge.silent_QH[at])
        right[state] = 0
        for chance, change in zip((yes, no, 1 - yes - no), added, strict=True):
            first = (inquiry.scores_WH[walk, rows] + change).argmax(axis=1)
            right[state] += belief[first] * chance[np.arange(len(picked)), first]
    return right


def _superseded(inquiry: Inquiry, walk: int, findings: IntArray, rows: IntArray) -> FloatArray:
    """Return what a yes to each finding takes back: what was counted above it, (A, K)."""
    judge = inquiry.judge
    taken_back = np.zeros((len(findings), len(rows)), np.float32)
    for counted in inquiry.counted[walk]:
        is_below = np.isin(findings, inquiry.hierarchy.below[counted])
        taken_back[is_below] += judge.yes_QH[judge.place_T[counted], rows]
    return taken_back


def _gain_if_answered(answers: Answers, gains: Gains, order_WA: IntArray) -> FloatArray:
    """Return, per candidate question, the gain of an answer that is surely yes or no, (W, A)."""
    gained = np.empty(order_WA.shape, np.float32)
    for walk, picked in enumerate(order_WA):
        at = np.ix_(gains.rows_WK[walk], picked)
        belief = gains.belief_WK[walk][:, None]
        total = max(float(belief.sum()), 1e-6)
        mean = (belief * answers.present_HM[at]).sum(axis=0) / total
        gained[walk] = _binary_entropy(mean) - (belief * answers.binary_HM[at]).sum(axis=0) / total
    return gained


def _binary_entropy(chance: FloatArray) -> FloatArray:
    chance = np.clip(chance, 1e-6, 1 - 1e-6)
    return -(chance * np.log(chance) + (1 - chance) * np.log(1 - chance))


def follow(world: AskingWorld, policy: Policy, cases: Sequence[Told]) -> IntArray:
    """Ask by the policy's likeliest actions to the end; returns how many questions each case was asked."""
    choices: Choices | None = world.begin(cases)
    num_asked = np.zeros(len(cases), dtype=np.int64)
    while choices is not None:
        picked = best_of(policy.logits(choices), choices.offsets)
        stop = np.diff(choices.offsets) - 1
        num_asked[choices.walk_S[picked < stop]] += 1
        choices = world.step(picked).choices
    return num_asked
