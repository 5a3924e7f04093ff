"""The world of asking: which finding to ask next, or to stop and name; for `policy.py` and `ppo.py`.

A state's actions are the questions of largest information gain and STOP. The reward is how much the
truth's probability rises, less a cost for each question.
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
STOP_PRIOR = -40.0
LEAST_GAIN = 1e-6

FEATURES = (
    "is stop",
    "gain over the best",
    "log gain",
    "gain if always answered",
    "chance of yes",
    "chance of no",
    "expected top probability",
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
        top, binary = _lookahead(self.answers, gains, order)
        usual = np.log(self.answers.usual_2M)
        now = gains.belief_WK.max(axis=1, keepdims=True)
        entropy = -(gains.belief_WK * np.log(np.maximum(gains.belief_WK, 1e-9))).sum(axis=1, keepdims=True)
        left = (self.budget - self._num_asked) / self.budget
        answered = self._share_answered()[:, None]
        best = np.maximum(gain.max(axis=1, keepdims=True), LEAST_GAIN)
        ratio = np.maximum(gain, LEAST_GAIN) / best
        columns = (
            np.zeros_like(gain),
            ratio,
            np.log(np.maximum(gain, LEAST_GAIN)),
            binary,
            yes,
            no,
            top - now,
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
        stop_prior = np.where(best > LEAST_GAIN, STOP_PRIOR, 1.0)
        return (
            np.concatenate([asked, stop], axis=1).astype(np.float32),
            np.concatenate([prior, stop_prior], axis=1).astype(np.float32),
        )


def _lookahead(answers: Answers, gains: Gains, order: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return, per candidate, the expected largest probability after the answer, and the gain of a sure answer."""
    top, binary = np.empty(order.shape, np.float32), np.empty(order.shape, np.float32)
    for walk, picked in enumerate(order):
        rows, belief = gains.rows_WK[walk], gains.belief_WK[walk][:, None]
        at = np.ix_(rows, picked)
        yes, no, present = answers.yes_HM[at], answers.no_HM[at], answers.present_HM[at]
        top[walk] = sum((belief * part).max(axis=0) for part in (yes, no, 1 - yes - no))
        total = max(float(belief.sum()), 1e-6)
        mean = (belief * present).sum(axis=0) / total
        inner = (belief * answers.binary_HM[at]).sum(axis=0) / total
        binary[walk] = _binary_entropy(mean) - inner
    return top, binary


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
