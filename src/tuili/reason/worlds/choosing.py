"""Choosing among complete derivations of a question in words, where the search alone can't tell which is meant.

A linear score over facts of a derivation, learnt from questions with gold values by conditional logit.
Source: McFadden, "Conditional logit analysis of qualitative choice behavior", 1974.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuili.reason.policy import Floats
from tuili.reason.worlds.budgeted import Entry
from tuili.reason.worlds.expansions import Derivation, Expander

FACTS = (
    "cost",
    "num_steps",
    "surprise",
    "used_relevance",
    "unused_relevance",
    "num_used",
    "num_unused_likely",
    "uses_surest",
    "dimension",
    "names",
    "worst_name",
    "asked_name",
    "surest_name",
    "num_misnamed",
    "num_well_named",
    "kinship",
    "context",
    "worst_context",
    "pattern",
    "is_seen",
    "laws",
    "new_links",
    "repeated",
    "num_not_positive",
    "digits",
    "is_given",
    "rank",
)
_SCALES = (1.0, 3.6, 60.0, 3600.0, 1e3, 36.0)
_MOST_DIGITS = 5
_MISNAMED, _WELL_NAMED = -0.5, 0.5
_RIDGE = 0.02
_STEPS = 400
_RATE = 0.05


def num_digits(value: float) -> int:
    """Return how many digits a person needs to write a value in some usual unit, up to 5.

    What stood in a gap was written by a person: 72 km/h, 0.4 kg, 30 %; a wrong chain gives 0.3871.
    """
    return min(_digits(value * scale) for scale in _SCALES)


def _digits(value: float) -> int:
    if value == 0 or not np.isfinite(value):
        return _MOST_DIGITS
    for digits in range(1, _MOST_DIGITS):
        if abs(float(f"{value:.{digits - 1}e}") - value) <= 2e-4 * abs(value):
            return digits
    return _MOST_DIGITS


@dataclass(frozen=True, slots=True)
class Candidate:
    """A complete derivation with its value, facts (F,) and how many expansions it took to find it."""

    state: Derivation
    value: float
    facts: Floats
    num_expanded: int = 0


def candidates(expander: Expander, entries: Sequence[Entry]) -> list[Candidate]:
    """Return complete derivations with their facts."""
    found = []
    for rank, entry in enumerate(entries):
        if entry.value is not None:
            facts = np.array(_facts(expander, entry, rank), np.float32)
            found.append(Candidate(entry.state, entry.value, facts, entry.num_expanded))
    return found


def _facts(expander: Expander, entry: Entry, rank: int) -> list[float]:
    state, problem, wordings = entry.state, expander.problem, expander.wordings
    relevance = [known.relevance for known in problem.known]
    used = [place for place in range(len(relevance)) if state.used >> place & 1]
    unused = [place for place in range(len(relevance)) if not state.used >> place & 1]
    values = expander.values(state) or []
    bound = [(slot, (step.law, index)) for step in state.steps for index, slot in enumerate(step.slots) if slot >= 0]
    scores = [wordings.score(slot, place) for slot, place in bound]
    first = state.steps[0]
    asked = expander.laws.laws[first.law].variables[first.solved].dimension
    surprise = sum(
        expander.usage.surprise((each.law, each.solved), value) for each, value in zip(state.steps, values, strict=True)
    )
    chain = expander.chain(state)
    weight = expander.usage.pattern_weight(chain)
    laws = [step.law for step in state.steps]
    contexts = [wordings.context((each.law, each.solved)) for each in state.steps]
    surest = max(range(len(relevance)), key=relevance.__getitem__, default=-1)
    return [
        entry.cost / 10,
        float(len(state.steps)),
        surprise / 4,
        sum(relevance[place] for place in used) / 4,
        sum(float(np.logaddexp(0, relevance[place])) for place in unused) / 4,
        float(len(used)),
        float(sum(relevance[place] > 0 for place in unused)),
        float(surest in used),
        problem.dimensions.get(asked, -10.0) / 3,
        sum(scores) / 4,
        min(scores, default=0.0) / 2,
        wordings.score(len(relevance), (first.law, first.solved)),
        max((score for (slot, _place), score in zip(bound, scores, strict=True) if slot == surest), default=-1.0),
        float(sum(score < _MISNAMED for score in scores)),
        float(sum(score > _WELL_NAMED for score in scores)),
        _kinship(expander, state),
        sum(contexts),
        min(contexts),
        weight,
        float(weight > 0),
        expander.usage.laws_weight(laws),
        float(expander.usage.num_new_links(chain)),
        float(len(laws) - len(set(laws))),
        float(sum(value <= 0 for value in values)),
        float(num_digits(entry.value or 0.0)),
        float(any(abs(known.value - (entry.value or 0.0)) < 1e-6 * abs(known.value) for known in problem.known)),
        float(np.log1p(rank)),
    ]


def _kinship(expander: Expander, state: Derivation) -> float:
    """Return the mean kinship of the values that laws bring together."""
    kinship = expander.wordings.kinship
    pairs = [
        float(kinship[one, other])
        for step in state.steps
        for at, one in enumerate(step.slots)
        for other in step.slots[at + 1 :]
        if one >= 0 and other >= 0
    ]
    return sum(pairs) / len(pairs) if pairs else 0.0


@dataclass(frozen=True)
class Chooser:
    """Weights of the facts, (F,)."""

    weights: Floats

    @classmethod
    def learn(cls, examples: Sequence[tuple[Floats, Sequence[bool]]]) -> Chooser:
        """Learn from candidates' facts (C, F) and which of them are right; those without a right one tell nothing."""
        useful = [(facts, np.array(right, bool)) for facts, right in examples if any(right) and not all(right)]
        weights = np.zeros(len(FACTS))
        mean, square = np.zeros_like(weights), np.zeros_like(weights)
        for step in range(1, _STEPS + 1):
            gradient = _RIDGE * weights
            for facts, right in useful:
                gradient -= _gradient(facts, right, weights) / len(useful)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
            weights -= _RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
        return cls(weights.astype(np.float32))

    def best(self, found: Sequence[Candidate]) -> Candidate | None:
        """Return the candidate of the highest score; what has the same value supports one another."""
        if not found:
            return None
        scores = np.array([candidate.facts for candidate in found]) @ self.weights
        values = np.array([candidate.value for candidate in found])
        alike = np.abs(values[:, None] - values) <= 1e-3 * np.abs(values)
        mass = np.where(alike, np.exp(scores - scores.max()), 0.0).sum(axis=1)
        return found[int(np.argmax(mass + 1e-9 * scores))]


def _gradient(facts: Floats, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the gradient of the log-probability that a right candidate is chosen."""
    scores = facts @ weights
    share = np.exp(scores - scores.max())
    share /= share.sum()
    among = np.where(right, share, 0.0)
    among /= max(among.sum(), 1e-12)
    return np.asarray((among - share) @ facts)
