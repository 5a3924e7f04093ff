"""The world in which a policy learns to expand: its rewards, and a policy that learns what the prior can't know."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_formulas import expander, fuel, known

from tuili.errors import InputError
from tuili.reason.policy import Policy
from tuili.reason.worlds.budgeted import best_first
from tuili.reason.worlds.expanding import Exercise, Expanding, is_right
from tuili.reason.worlds.expansions import FEATURES, Expander


def heat() -> Expander:
    return expander("heat released", "J", known("mass", 2.0, "kg"), known("calorific value", 3e7, "J/kg"))


def test_a_right_value_is_rewarded() -> None:
    world = Expanding([Exercise(heat, 6e7)])
    choices = world.start(3, np.random.default_rng(0))
    assert choices.features_EF.shape[1] == len(FEATURES)
    step = world.step(np.zeros(3, np.int64))
    assert step.done_S.all()
    assert set(step.reward_S) <= {0.0, 1.0}
    wrong = Expanding([Exercise(heat, 1.0)])
    wrong.start(2, np.random.default_rng(0))
    assert wrong.step(np.zeros(2, np.int64)).reward_S.sum() == 0


def test_walks_keep_their_numbers() -> None:
    world = Expanding([Exercise(fuel, 0.02)])
    choices = world.start(4, np.random.default_rng(1))
    rng, seen = np.random.default_rng(2), set(choices.walk_S.tolist())
    for _ in range(20):
        step = world.step(np.array([rng.integers(size) for size in np.diff(choices.offsets)]))
        if step.choices is None:
            break
        choices = step.choices
        assert set(choices.walk_S.tolist()) <= seen
    assert step.choices is None


def test_a_world_without_exercises_is_refused() -> None:
    with pytest.raises(InputError, match="0 exercises"):
        Expanding([])


def test_a_world_in_which_nothing_can_be_begun_says_so() -> None:
    world = Expanding([Exercise(lambda: expander("current", "A", known("mass", 1.0, "kg")), 1.0)])
    with pytest.raises(InputError, match="can be begun"):
        world.start(2, np.random.default_rng(0))


def test_tolerance_is_one_percent() -> None:
    assert is_right(100.9, 100.0)
    assert not is_right(101.1, 100.0)


def test_training_beats_the_prior() -> None:
    ppo = pytest.importorskip("tuili.reason.ppo")
    config = ppo.PPOConfig(num_updates=25, num_walks=24, learning_rate=5e-3, hidden=8)
    policy: Policy = ppo.train(Expanding([Exercise(fuel, 0.02)]), config)
    before, after = best_first(fuel(), 500), best_first(fuel(), 500, policy)
    assert after.value == pytest.approx(0.02)
    assert after.num_expanded <= before.num_expanded
    assert after.num_expanded <= 6
