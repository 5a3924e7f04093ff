"""Trains the policy that expands formulas, on worked items asked forwards and backwards."""

from __future__ import annotations

import math
from functools import partial

from reasoning.formulas_data import Item
from reasoning.formulas_gold import Gold, learn
from reasoning.formulas_setup import Setup, problem_of
from tuili.reason.policy import Policy
from tuili.reason.worlds.expanding import Exercise, Expanding
from tuili.reason.worlds.expansions import Expander
from tuili.reason.worlds.namesakes import Namesakes
from tuili.reason.worlds.usage import Usage

NUM_UPDATES, NUM_WALKS = 60, 256
LEAST_STEPS = 2


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


def train_policy(setup: Setup, seed: int, *, smoke: bool) -> Policy:
    """Train from the heuristic on."""
    from runner import say
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
