"""Trains the policy that expands formulas, on worked items asked forwards and backwards."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from reasoning.formulas_data import Item
from reasoning.formulas_gold import Gold, learn
from reasoning.formulas_setup import Setup, problem_of
from tuili.reason.policy import Policy
from tuili.reason.worlds.expanding import Exercise, Expanding
from tuili.reason.worlds.expansions import Expander
from tuili.reason.worlds.fillings import Known, Problem
from tuili.reason.worlds.namesakes import Namesakes
from tuili.reason.worlds.usage import Usage

NUM_UPDATES, NUM_WALKS = 45, 224
LEAST_STEPS = 2
MOST_DISTRACTORS = 4
SURE, NOISE = 1.5, 1.5
UNNAMED = 0.25


def exercises(setup: Setup, rng: np.random.Generator | None = None) -> list[Exercise]:
    """Return worked items as exercises; counts of laws and names come from the other half of the items.

    Otherwise the policy would trust names more than it may where a question is new. `rng`: makes them noisy.
    """
    halves = (setup.worked[0::2], setup.worked[1::2])
    found = []
    for own, other in (halves, halves[::-1]):
        names, usage = Namesakes(setup.laws), Usage()
        learn(setup.gold, other, usage, names, backward=True)
        for item in own:
            for asked in (item.asked, *item.known):
                if _is_hard(setup.gold, item, asked):
                    make = partial(_expander, setup, names, usage, item, asked, rng)
                    found.append(Exercise(make, item.arguments[asked].value))
    return found


def noisy(setup: Setup, problem: Problem, rng: np.random.Generator) -> Problem:
    """Return a problem as a reader of texts would see it.

    Values of other items among its own, unsure which are needed and which dimension is asked for, some without names.
    """
    others = [setup.worked[at] for at in rng.integers(len(setup.worked), size=rng.integers(1, MOST_DISTRACTORS + 1))]
    strange = [item.arguments[int(rng.choice(item.known))] for item in others if item.known]
    known = [_unsure(each, SURE, rng) for each in problem.known]
    known += [
        _unsure(Known(each.names, each.value, each.dimension), -SURE, rng)
        for each in strange
        if math.isfinite(each.value)
    ]
    order = rng.permutation(len(known))
    weights = {each.dimension: float(-abs(rng.normal(1.5, 1.5))) for each in strange}
    weights |= {dimension: float(-abs(rng.normal(0.5, 0.5))) for dimension in problem.dimensions}
    return Problem(tuple(known[at] for at in order), problem.asked, weights, needs_all=False)


def _unsure(known: Known, mean: float, rng: np.random.Generator) -> Known:
    names = () if rng.random() < UNNAMED else known.names
    return replace(known, names=names, relevance=float(rng.normal(mean, NOISE)))


def _is_hard(gold: Gold, item: Item, asked: int) -> bool:
    steps = gold.derivation(item, asked)
    return steps is not None and len(steps) >= LEAST_STEPS and math.isfinite(item.arguments[asked].value)


def _expander(
    setup: Setup, names: Namesakes, usage: Usage, item: Item, asked: int, rng: np.random.Generator | None
) -> Expander:
    problem = problem_of(item, asked)
    return Expander(setup.laws, names, usage, problem if rng is None else noisy(setup, problem, rng))


def train_policy(setup: Setup, seed: int, *, smoke: bool, in_words: bool = False) -> Policy:
    """Train from the heuristic on; `in_words`: on problems as a reader of texts sees them."""
    from runner import say
    from tuili.reason.ppo import PPOConfig, Update, train

    def report(update: Update) -> None:
        if update.index % 10 == 0:
            say(f"  policy, update {update.index} of {update.total}: right {update.reward:.3f} of walks")

    rng = np.random.default_rng(seed) if in_words else None
    config = PPOConfig(
        num_updates=3 if smoke else NUM_UPDATES,
        num_walks=32 if smoke else NUM_WALKS,
        learning_rate=2e-3,
        entropy=0.01,
        seed=seed,
    )
    return train(Expanding(exercises(setup, rng)), config, on_update=report)
