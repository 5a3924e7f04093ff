from pathlib import Path

import numpy as np
import pytest
import torch

from tuili.errors import InputError, ModelFileError, UsageError
from tuili.reason.policy import Choices, Floats, Ints, Policy, Step
from tuili.reason.ppo import (
    Network,
    PPOConfig,
    Rollout,
    Trainer,
    Update,
    advantages,
    clipped_loss,
    roll_out,
    segment_log_softmax,
    train,
)


class Corridor:
    """Steps to the left or right from a random place; the door is at the right end, every step costs 0.1.

    Places have 2 to 4 actions (a copy of each may come twice), so action sets are ragged. The best policy walks right.
    """

    feature_names = ("direction", "place", "chance")
    length = 5

    def start(self, num_walks: int, rng: np.random.Generator) -> Choices:
        self.rng = rng
        self.place = rng.integers(0, self.length, num_walks)
        self.time = np.zeros(num_walks, int)
        self.walking = np.arange(num_walks)
        return self._choices()

    def _choices(self) -> Choices:
        sizes = 2 + self.walking % 3
        self.offsets = np.cumsum([0, *sizes])
        within = np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], sizes)
        self.direction = np.where(within % 2 == 0, -1.0, 1.0)
        place = np.repeat(self.place[self.walking], sizes)
        noise = self.rng.normal(size=len(within))
        features = np.stack([self.direction, place, noise], axis=1).astype(np.float32)
        return Choices(features, np.zeros(len(within), np.float32), self.offsets, self.walking)

    def step(self, picked: Ints) -> Step:
        walk = self.walking
        moved = self.place[walk] + self.direction[self.offsets[:-1] + picked].astype(int)
        self.place[walk] = np.maximum(moved, 0)
        self.time[walk] += 1
        is_out = self.place[walk] >= self.length
        done = is_out | (self.time[walk] >= 12)
        reward = is_out - 0.1 * np.ones(len(walk))
        self.walking = walk[~done]
        return Step(reward.astype(np.float32), done, self._choices() if len(self.walking) else None)


CONFIG = PPOConfig(num_updates=30, num_walks=64, hidden=8, learning_rate=0.01, entropy=0.01)


def test_the_best_policy_of_a_small_world_is_found() -> None:
    policy = train(Corridor(), CONFIG)
    world = Corridor()
    choices = world.start(60, np.random.default_rng(99))
    probabilities = np.exp(policy.log_probabilities(choices))
    right = np.add.reduceat(probabilities * (choices.features_EF[:, 0] > 0), choices.offsets[:-1])
    assert right.min() > 0.9
    random = roll_out(Corridor(), Policy.of_prior(Corridor.feature_names), 200, np.random.default_rng(1))
    learned = roll_out(Corridor(), policy, 200, np.random.default_rng(1))
    assert learned.reward_per_walk > 0.6 > random.reward_per_walk


def test_training_is_the_same_under_a_seed_and_when_resumed(tmp_path: Path) -> None:
    def weights(policy: Policy) -> Floats:
        return np.concatenate([each.ravel() for each in policy.weights.values()])

    config = PPOConfig(num_updates=6, num_walks=16, hidden=4)
    whole = weights(train(Corridor(), config))
    assert np.array_equal(whole, weights(train(Corridor(), config)))

    class StopError(Exception):
        pass

    def stop(update: Update) -> None:
        if update.index == 3:
            raise StopError

    checkpoint = tmp_path / "run.safetensors"
    trainer = Trainer(Corridor(), config, checkpoint=checkpoint)
    with pytest.raises(StopError):
        trainer.run(stop)
    trainer.save(checkpoint)
    seen: list[int] = []
    resumed = train(Corridor(), config, checkpoint=checkpoint, on_update=lambda update: seen.append(update.index))
    assert seen == [4, 5, 6]
    assert np.array_equal(whole, weights(resumed))
    assert not np.array_equal(
        whole, weights(train(Corridor(), PPOConfig(num_updates=6, num_walks=16, hidden=4, seed=1)))
    )


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.safetensors"
    config = PPOConfig(num_updates=2, num_walks=8, hidden=4)
    train(Corridor(), config, checkpoint=checkpoint)
    with pytest.raises(ModelFileError, match="of another run"):
        train(Corridor(), PPOConfig(num_updates=3, num_walks=8, hidden=4), checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    with pytest.raises(ModelFileError):
        train(Corridor(), config, checkpoint=checkpoint)


def test_a_start_is_taken_over_and_one_of_another_width_refused() -> None:
    config = PPOConfig(num_updates=1, num_walks=8, hidden=8)
    policy = train(Corridor(), CONFIG)
    begun = Trainer(Corridor(), config, start=policy).policy()
    assert all(np.array_equal(begun.weights[name], policy.weights[name]) for name in policy.weights)
    with pytest.raises(UsageError, match="3 features with 1 hidden units; here it is 3 and 8"):
        Trainer(Corridor(), config, start=Policy.of_prior(Corridor.feature_names))


# -- the arithmetic, by hand ---------------------------------------------------------------------


def moment(walks: list[int], rewards: list[float], done: list[bool]) -> tuple[Choices, Floats, np.ndarray]:
    num = len(walks)
    choices = Choices(np.zeros((num, 1), np.float32), np.zeros(num, np.float32), np.arange(num + 1), np.array(walks))
    return choices, np.array(rewards, np.float32), np.array(done)


def test_advantages_by_hand() -> None:
    first = moment([0, 1], [1.0, 2.0], [False, True])
    second = moment([0], [3.0], [True])
    rollout = Rollout([first[0], second[0]], [], [first[1], second[1]], [first[2], second[2]])
    values = [np.array([0.5, 1.5], np.float32), np.array([2.0], np.float32)]
    found = advantages(rollout, values, gamma=0.9, gae_lambda=0.8)
    # The last action of walk 0: 3 - 2 = 1. Its first: (1 + 0.9 * 2 - 0.5) + 0.9 * 0.8 * 1 = 3.02. Walk 1: 2 - 1.5.
    assert found[1] == pytest.approx([1.0])
    assert found[0] == pytest.approx([3.02, 0.5])


def test_clipped_loss_by_hand() -> None:
    log_ratio = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]))
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    # min(1.5, 1.2), min(-1.5, -1.2), min(0.5, 0.8), min(-0.5, -0.8), 2.2
    assert clipped_loss(log_ratio, advantage, 0.2).item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 2.2) / 5)


def test_no_gradient_beyond_the_clip() -> None:
    log_ratio = torch.log(torch.tensor([1.5, 0.5, 1.1])).requires_grad_()
    clipped_loss(log_ratio, torch.tensor([1.0, -1.0, 1.0]), 0.2).backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == pytest.approx([0.0, 0.0, -1.1 / 3])


def test_segment_log_softmax_is_torch_s_own_with_gradients() -> None:
    logits = torch.tensor([1.0, 2.0, -60.0, 80.0, 81.0, 3.0], requires_grad=True)
    found = segment_log_softmax(logits, torch.tensor([0, 0, 0, 1, 1, 2]), 3)
    twin = torch.cat([logits[:3].log_softmax(0), logits[3:5].log_softmax(0), logits[5:].log_softmax(0)])
    assert torch.allclose(found, twin, atol=1e-5)
    weights = torch.arange(6.0)
    (gradient,) = torch.autograd.grad((found * weights).sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad((twin * weights).sum(), logits)
    assert torch.allclose(gradient, wanted, atol=1e-5)


def test_the_network_and_the_policy_agree() -> None:
    torch.manual_seed(0)
    choices = Corridor().start(17, np.random.default_rng(0))
    network = Network(3, 8, seed=3)
    network.scale_to(choices.features_EF)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    log_probs, values = network(choices)
    assert values.shape == (17,)
    found = network.export(Corridor.feature_names).log_probabilities(choices)
    assert np.allclose(found, log_probs.detach().numpy(), atol=1e-5)


def test_an_untrained_network_is_the_prior() -> None:
    choices = Corridor().start(9, np.random.default_rng(0))
    choices.prior_E[:] = np.random.default_rng(1).normal(size=len(choices.prior_E))
    assert np.allclose(Network(3, 8, 0).export(Corridor.feature_names).logits(choices), choices.prior_E)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [{"num_updates": 0}, {"num_walks": 0}, {"gamma": 0.0}, {"clip": 1.5}, {"entropy": -1.0}, {"max_kl": float("nan")}],
)
def test_settings_out_of_bounds_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(given))):
        PPOConfig(**given)  # type: ignore[arg-type]


def test_a_reward_that_is_not_finite_is_refused() -> None:
    class Broken(Corridor):
        def step(self, picked: Ints) -> Step:
            step = super().step(picked)
            step.reward_S[:] = np.nan
            return step

    with pytest.raises(InputError, match="Broken gave a reward that is not finite"):
        train(Broken(), CONFIG)
