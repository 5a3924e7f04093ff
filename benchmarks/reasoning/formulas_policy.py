"""Trains the policy that expands formulas and the chooser among chains, on worked items asked either way."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from reasoning.formulas_data import Item, is_close
from reasoning.formulas_gold import Gold, learn
from reasoning.formulas_setup import Setup, problem_of
from runner import say, watched
from tuili.reason.policy import Policy
from tuili.reason.worlds.budgeted import all_found
from tuili.reason.worlds.choosing import Chooser, candidates
from tuili.reason.worlds.expanding import Exercise, Expanding
from tuili.reason.worlds.expansions import Expander
from tuili.reason.worlds.namesakes import Namesakes
from tuili.reason.worlds.usage import Usage

NUM_UPDATES, NUM_WALKS = 60, 256
LEAST_STEPS = 2
NUM_CHOICES, NUM_CHOICES_SMOKE = 1_200, 20
MOST_EXPANDED, MOST_CHAINS = 300, 20


def exercises(setup: Setup) -> list[Exercise]:
    """Return worked items as exercises; counts of laws and names come from the other half of the items.

    Otherwise the policy would trust names more than it may where a question is new.
    """
    halves = (setup.worked[0::2], setup.worked[1::2])
    found = []
    for own, other in (halves, halves[::-1]):
        names, usage = Namesakes(setup.laws), Usage()
        learn(setup.gold, other, usage, names, backward=True)
        for item in own:
            for asked in (item.asked, *item.known):
                if _is_hard(setup.gold, item, asked):
                    make = partial(_expander, setup, names, usage, item, asked)
                    found.append(Exercise(make, item.arguments[asked].value))
    return found


def _is_hard(gold: Gold, item: Item, asked: int) -> bool:
    steps = gold.derivation(item, asked)
    return steps is not None and len(steps) >= LEAST_STEPS and math.isfinite(item.arguments[asked].value)


def _expander(setup: Setup, names: Namesakes, usage: Usage, item: Item, asked: int) -> Expander:
    return Expander(setup.laws, names, usage, problem_of(item, asked))


def train_chooser(setup: Setup, policy: Policy, seed: int, *, smoke: bool) -> Chooser:
    """Learn which of the chains that the policy finds for a worked item is the right one."""
    practice = exercises(setup)
    drawn = np.random.default_rng(seed).permutation(len(practice))[: NUM_CHOICES_SMOKE if smoke else NUM_CHOICES]
    examples = []
    for place in watched(drawn.tolist(), "chains to choose from"):
        expander = practice[place].expander()
        found = candidates(expander, all_found(expander, MOST_EXPANDED, MOST_CHAINS, policy))
        if found:
            facts = np.array([each.facts for each in found])
            examples.append((facts, [is_close(each.value, practice[place].gold) for each in found]))
    return Chooser.learn(examples)


def train_policy(setup: Setup, seed: int, *, smoke: bool) -> Policy:
    """Train from the heuristic on."""
    from tuili.reason.ppo import PPOConfig, Update, train

    def report(update: Update) -> None:
        if update.index % 10 == 0:
            say(f"  policy, update {update.index} of {update.total}: right {update.reward:.3f} of walks")

    config = PPOConfig(
        num_updates=3 if smoke else NUM_UPDATES,
        num_walks=32 if smoke else NUM_WALKS,
        learning_rate=2e-3,
        entropy=0.01,
        seed=seed,
    )
    return train(Expanding(exercises(setup)), config, on_update=report)
