"""Proximal policy optimisation over ragged action sets, in one file.

Each update begins `num_walks` walks, follows them to their end under the present policy, estimates advantages, and
takes a few clipped steps. Random numbers come from (seed, update), so that a resumed run equals one that was never
stopped. Needs torch; what it trains doesn't (`policy.py`).

Sources: Schulman et al. 2017, "Proximal Policy Optimization" (eq. 7, 9); Schulman et al. 2016, "Generalized Advantage
Estimation" (eq. 16); details after Huang et al. 2022, "The 37 Implementation Details of PPO".
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tuili.errors import InputError, ModelFileError, UsageError
from tuili.files import atomic_path, read_safetensors_header
from tuili.reason.policy import WEIGHTS, Choices, Floats, Ints, Policy, World, join, sample

FORMAT = "tuili-ppo-1"
LEAST_SPREAD = 1e-4
VALUE_WEIGHT = 0.5
MAX_GRADIENT = 0.5
SAVE_EVERY_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOConfig:
    """How a policy is trained.

    `entropy` falls linearly to 0. `batch`: states a step takes. `max_kl`: an epoch that moves the policy further than
    this (nats) ends the update.

    Raises:
        UsageError: a value is out of its bounds.
    """

    num_updates: int = 100
    num_walks: int = 256
    epochs: int = 4
    batch: int = 512
    hidden: int = 32
    learning_rate: float = 1e-3
    clip: float = 0.2
    gamma: float = 1.0
    gae_lambda: float = 0.95
    entropy: float = 0.02
    max_kl: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_updates", "num_walks", "epochs", "batch", "hidden"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("gamma", "gae_lambda", "clip", "learning_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} must lie above 0 and at most at 1, not {getattr(self, name)}")
        for name in ("entropy", "max_kl"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be 0 or more, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """One update done: its index (from 1) of `total`, mean reward and length of a walk, losses, seconds left."""

    index: int
    total: int
    reward: float
    length: float
    policy_loss: float
    value_loss: float
    entropy: float
    kl: float
    seconds_left: float


OnUpdate = Callable[[Update], None]


# -- the arithmetic ------------------------------------------------------------------------------


def segment_log_softmax(logits_E: Tensor, state_E: Tensor, num_states: int) -> Tensor:
    """Return log-probabilities within the segments that `state_E` names, with gradients."""
    top_S = torch.full((num_states,), -math.inf).scatter_reduce(0, state_E, logits_E.detach(), "amax")
    shifted = logits_E - top_S[state_E]
    total_S = torch.zeros(num_states).index_add(0, state_E, shifted.exp())
    return shifted - total_S.log()[state_E]


def clipped_loss(log_ratio_S: Tensor, advantage_S: Tensor, clip: float) -> Tensor:
    """Return the negated clipped objective. Source: Schulman et al. 2017, eq. 7."""
    ratio = log_ratio_S.exp()
    return -torch.minimum(ratio * advantage_S, ratio.clamp(1 - clip, 1 + clip) * advantage_S).mean()


@dataclass(frozen=True, slots=True)
class Rollout:
    """Walks from their starts to their ends: per moment the states acted in, the actions, and what they brought."""

    choices: list[Choices]
    picked: list[Ints]
    rewards: list[Floats]
    done: list[NDArray[np.bool_]]

    @property
    def reward_per_walk(self) -> float:
        """The mean sum of rewards."""
        return float(sum(each.sum() for each in self.rewards)) / len(self.choices[0])


def advantages(rollout: Rollout, values: list[Floats], gamma: float, gae_lambda: float) -> list[Floats]:
    """Return the advantage of every action. Source: Schulman et al. 2016, eq. 16, per walk from its end."""
    num_walks = int(rollout.choices[0].walk_S.max()) + 1
    next_value_W, next_gae_W = np.zeros(num_walks, np.float32), np.zeros(num_walks, np.float32)
    found = []
    for choices, reward, done, value in zip(
        reversed(rollout.choices), reversed(rollout.rewards), reversed(rollout.done), reversed(values), strict=True
    ):
        walk, goes_on = choices.walk_S, 1.0 - done.astype(np.float32)
        delta = reward + gamma * goes_on * next_value_W[walk] - value
        gae = delta + gamma * gae_lambda * goes_on * next_gae_W[walk]
        next_value_W[walk], next_gae_W[walk] = value, gae
        found.append(gae.astype(np.float32))
    return found[::-1]


def roll_out(world: World, policy: Policy, num_walks: int, rng: np.random.Generator) -> Rollout:
    """Follow walks to their ends, drawing actions from the policy.

    Raises:
        InputError: the world gave a reward that is not finite.
    """
    rollout = Rollout([], [], [], [])
    choices: Choices | None = world.start(num_walks, rng)
    while choices is not None:
        picked = sample(policy.logits(choices), choices.offsets, rng)
        step = world.step(picked)
        if not np.isfinite(step.reward_S).all():
            raise InputError(f"{type(world).__name__} gave a reward that is not finite; mend it")
        for kept, new in zip(
            (rollout.choices, rollout.picked, rollout.rewards, rollout.done),
            (choices, picked, step.reward_S, step.done_S),
            strict=True,
        ):
            kept.append(new)  # type: ignore[attr-defined]
        choices = step.choices
    return rollout


# -- the network ---------------------------------------------------------------------------------


class Network(nn.Module):
    """The policy's weights as parameters, and a value of each state from the same features."""

    def __init__(self, num_features: int, hidden: int, seed: int) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=chance) / math.sqrt(shape[0]))

        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("spread", torch.ones(num_features))
        self.w1, self.b1 = random(num_features, hidden), nn.Parameter(torch.zeros(hidden))
        self.w2, self.b2 = random(2 * hidden, hidden), nn.Parameter(torch.zeros(hidden))
        self.w3, self.log_scale = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(1))
        self.v1, self.c1 = random(2 * num_features, hidden), nn.Parameter(torch.zeros(hidden))
        self.v2, self.c2 = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(1))

    def scale_to(self, features_EF: Floats) -> None:
        """Fix the mean and spread by which features are normalised."""
        spread_F = features_EF.std(axis=0)
        self.get_buffer("mean").copy_(torch.from_numpy(features_EF.mean(axis=0)))
        self.get_buffer("spread").copy_(torch.from_numpy(np.where(spread_F > LEAST_SPREAD, spread_F, 1.0)))

    def forward(self, choices: Choices) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (E,) and values (S,)."""
        features_EF = torch.from_numpy(choices.features_EF)
        state_E, num_states = torch.from_numpy(choices.owner), len(choices)
        x_EF = (features_EF - self.get_buffer("mean")) / self.get_buffer("spread")
        size_S1 = torch.from_numpy(np.diff(choices.offsets)).float()[:, None]

        def mean_of(rows: Tensor) -> Tensor:
            return torch.zeros(num_states, rows.shape[1]).index_add(0, state_E, rows) / size_S1

        half = len(self.b1)
        hidden_EH = torch.tanh(x_EF @ self.w1 + self.b1)
        context_SH = mean_of(hidden_EH) @ self.w2[half:] + self.b2
        second_EH = torch.tanh(hidden_EH @ self.w2[:half] + context_SH[state_E])
        logits_E = self.log_scale.exp() * torch.from_numpy(choices.prior_E) + second_EH @ self.w3
        most_SF = torch.full((num_states, x_EF.shape[1]), -math.inf).scatter_reduce(
            0, state_E[:, None].expand_as(x_EF), x_EF, "amax"
        )
        value_S = torch.tanh(torch.cat([mean_of(x_EF), most_SF], 1) @ self.v1 + self.c1) @ self.v2 + self.c2
        return segment_log_softmax(logits_E, state_E, num_states), value_S

    def export(self, names: tuple[str, ...], trained_for: str = "", info: dict[str, Any] | None = None) -> Policy:
        """Return the weights as a policy that needs no torch."""
        state = self.state_dict()
        weights = {name: state[name].detach().numpy().copy() for name in WEIGHTS}
        return Policy(weights, names, trained_for, info or {})

    def begin_with(self, policy: Policy) -> None:
        """Take over the weights of a policy of the same features and width."""
        own = self.state_dict()
        if any(own[name].shape != policy.weights[name].shape for name in WEIGHTS):
            raise UsageError(
                f"the policy to start from reads {len(policy.feature_names)} features with "
                f"{len(policy.weights['b1'])} hidden units; here it is {len(own['mean'])} and {len(own['b1'])}"
            )
        self.load_state_dict({name: torch.from_numpy(policy.weights[name]) for name in WEIGHTS}, strict=False)


# -- training ------------------------------------------------------------------------------------


class Trainer:
    """Trains one policy in one world; `run` does what is left to do.

    `start`: a policy to begin with, whose normalisation of features is kept. `checkpoint`: a file that is written
    while training and resumed from when it is there.

    Raises:
        ModelFileError: the checkpoint is damaged or of another run.
    """

    def __init__(
        self, world: World, config: PPOConfig, start: Policy | None = None, checkpoint: Path | None = None
    ) -> None:
        self.world, self.config, self.checkpoint = world, config, checkpoint
        self.network = Network(len(world.feature_names), config.hidden, config.seed)
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.learning_rate, eps=1e-5)
        self.num_done = 0
        self.is_scaled = start is not None
        if start is not None:
            self.network.begin_with(start)
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def run(self, on_update: OnUpdate = lambda update: None) -> Policy:
        """Do the updates that are left and return the policy."""
        begun, saved, first = time.monotonic(), time.monotonic(), self.num_done
        while self.num_done < self.config.num_updates:
            reward, length, parts = self._update(self.num_done)
            self.num_done += 1
            now = time.monotonic()
            left = (now - begun) / (self.num_done - first) * (self.config.num_updates - self.num_done)
            on_update(
                Update(
                    index=self.num_done,
                    total=self.config.num_updates,
                    reward=reward,
                    length=length,
                    policy_loss=float(parts[0]),
                    value_loss=float(parts[1]),
                    entropy=float(parts[2]),
                    kl=float(parts[3]),
                    seconds_left=left,
                )
            )
            if self.checkpoint and (now - saved > SAVE_EVERY_S or self.num_done == self.config.num_updates):
                self.save(self.checkpoint)
                saved = now
        return self.policy()

    def policy(self, trained_for: str = "", info: dict[str, Any] | None = None) -> Policy:
        """Return the present policy."""
        return self.network.export(self.world.feature_names, trained_for, info)

    def _update(self, index: int) -> tuple[float, float, NDArray[np.float64]]:
        rng = np.random.default_rng([self.config.seed, index])
        rollout = roll_out(self.world, self.policy(), self.config.num_walks, rng)
        choices = join(rollout.choices)
        if not self.is_scaled:
            self.network.scale_to(choices.features_EF)
            self.is_scaled = True
        picked_S = np.concatenate(rollout.picked) + choices.offsets[:-1]
        with torch.no_grad():
            log_probs_E, value_S = self.network(choices)
        old_S = log_probs_E.numpy()[picked_S]
        cuts = np.cumsum([len(each) for each in rollout.choices])[:-1]
        gae_S = np.concatenate(
            advantages(rollout, np.split(value_S.numpy(), cuts), self.config.gamma, self.config.gae_lambda)
        )
        target_S = gae_S + value_S.numpy()
        normal_S = (gae_S - gae_S.mean()) / (gae_S.std() + 1e-6)
        parts = self._epochs(choices, picked_S - choices.offsets[:-1], (old_S, normal_S, target_S), index, rng)
        return rollout.reward_per_walk, len(choices) / len(rollout.choices[0]), parts

    def _epochs(
        self, choices: Choices, picked_S: Ints, numbers: tuple[Floats, ...], index: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        entropy_weight = self.config.entropy * (1 - index / self.config.num_updates)
        parts = []
        for _ in range(self.config.epochs):
            order = rng.permutation(len(choices))
            epoch = []
            for begin in range(0, len(order), self.config.batch):
                states = order[begin : begin + self.config.batch]
                some = [torch.from_numpy(each[states]) for each in numbers]
                epoch.append(self._step(choices.take(states), picked_S[states], some, entropy_weight))
            parts.append(np.mean(epoch, axis=0))
            if self.config.max_kl and parts[-1][3] > self.config.max_kl:
                break
        return np.asarray(parts[-1])

    def _step(
        self, choices: Choices, picked_S: Ints, numbers: list[Tensor], entropy_weight: float
    ) -> tuple[float, float, float, float]:
        """Take one step of gradient descent; return the parts of the loss."""
        old_S, advantage_S, target_S = numbers
        log_probs_E, value_S = self.network(choices)
        log_ratio_S = log_probs_E[torch.from_numpy(choices.offsets[:-1] + picked_S)] - old_S
        policy_loss = clipped_loss(log_ratio_S, advantage_S, self.config.clip)
        value_loss = 0.5 * (value_S - target_S).square().mean()
        entropy = -(log_probs_E.exp() * log_probs_E).sum() / len(choices)
        loss = policy_loss + VALUE_WEIGHT * value_loss - entropy_weight * entropy
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT)
        self.optimizer.step()
        with torch.no_grad():
            kl = (log_ratio_S.exp() - 1 - log_ratio_S).mean()
        return policy_loss.item(), value_loss.item(), entropy.item(), kl.item()

    # -- resuming ------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write everything that a resumed run needs; whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for place, state in self.optimizer.state_dict()["state"].items():
            tensors.update({f"adam.{place}.{key}": tensor for key, tensor in state.items()})
        metadata = {"format": FORMAT, "run": self._run(), "num_done": str(self.num_done)}
        with atomic_path(path) as partial:
            save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, partial, metadata)

    def _run(self) -> str:
        return json.dumps([asdict(self.config), self.world.feature_names])

    def _resume(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        read_safetensors_header(path)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelFileError(f"{path} can't be read: {error}; delete it to begin anew") from error
        if metadata.get("format") != FORMAT or metadata.get("run") != self._run():
            raise ModelFileError(f"{path} is of another run; delete it to begin anew, or give the same settings")
        try:
            self._take_over(tensors, metadata)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ModelFileError(f"{path} is damaged: {error}; delete it to begin anew") from error

    def _take_over(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        own = {name.removeprefix("network."): each for name, each in tensors.items() if name.startswith("network.")}
        self.network.load_state_dict(own)
        state = self.optimizer.state_dict()
        state["state"] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, place, key = name.split(".")
                state["state"].setdefault(int(place), {})[key] = tensor
        self.optimizer.load_state_dict(state)
        self.num_done = int(metadata["num_done"])
        self.is_scaled = True


def train(
    world: World,
    config: PPOConfig,
    *,
    start: Policy | None = None,
    checkpoint: Path | None = None,
    on_update: OnUpdate = lambda update: None,
) -> Policy:
    """Train a policy in a world; see `Trainer`."""
    return Trainer(world, config, start, checkpoint).run(on_update)


__all__ = [
    "PPOConfig",
    "Rollout",
    "Trainer",
    "Update",
    "advantages",
    "clipped_loss",
    "roll_out",
    "segment_log_softmax",
    "train",
]
