"""A policy over ragged action sets: every state has its own number of actions, one scorer judges them all.

    logit = exp(log_scale) * prior + residual(features of the action, mean of its state's actions)

The residual starts at zero, so an untrained policy orders actions as the prior does. Here is what search needs, in
NumPy; `ppo.py` trains. Worlds (`worlds/`) say what a state's actions are.

Sources: pointer-style scoring of candidate edges, Das et al. 2018, "Go for a Walk" (MINERVA), eq. 2; a residual on a
prior's logits, Silver et al. 2018, "Residual Policy Learning".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tuili.errors import InputError, ModelFileError
from tuili.files import atomic_path, read_safetensors_header

FORMAT = "tuili-policy-1"
MAX_FEATURES = 4096
MAX_HIDDEN = 4096

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Choices:
    """The actions of S states, E in all; state s owns the actions offsets[s] to offsets[s + 1].

    `features_EF`: F features for every action, STOP included. `prior_E`: a log-prior of any scale.
    `offsets`: (S + 1,), rising; no state is without an action. `walk_S`: the walk that each state belongs to.

    Raises:
        InputError: the shapes don't fit, or a state has no action.
    """

    features_EF: Floats
    prior_E: Floats
    offsets: Ints
    walk_S: Ints

    def __post_init__(self) -> None:
        num_actions = len(self.prior_E)
        if self.features_EF.ndim != 2 or len(self.features_EF) != num_actions:
            raise InputError(f"features of shape {self.features_EF.shape} don't fit {num_actions} actions")
        sizes = np.diff(self.offsets)
        if len(self.offsets) < 2 or self.offsets[0] or self.offsets[-1] != num_actions or sizes.min() < 1:
            raise InputError(f"offsets must rise from 0 to {num_actions} actions, every state needs at least one")
        if len(self.walk_S) != len(sizes):
            raise InputError(f"{len(self.walk_S)} walks don't fit {len(sizes)} states")

    def __len__(self) -> int:
        return len(self.walk_S)

    @property
    def owner(self) -> Ints:
        """The state that owns each action."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def take(self, states: Ints) -> Choices:
        """Return the actions of some states only, in the order given."""
        begins, sizes = self.offsets[states], np.diff(self.offsets)[states]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        actions = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], sizes)
        return Choices(self.features_EF[actions], self.prior_E[actions], offsets, self.walk_S[states])


def join(many: list[Choices]) -> Choices:
    """Return the states of several sets of actions as one."""
    starts = np.cumsum([0, *(len(one.prior_E) for one in many)])
    offsets = [one.offsets[:-1] + start for one, start in zip(many, starts, strict=False)]
    return Choices(
        np.concatenate([one.features_EF for one in many]),
        np.concatenate([one.prior_E for one in many]),
        np.concatenate([*offsets, starts[-1:]]),
        np.concatenate([one.walk_S for one in many]),
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What acting brought: rewards (S,), which walks are over (S,), and the actions of those that go on, if any do."""

    reward_S: Floats
    done_S: NDArray[np.bool_]
    choices: Choices | None


class World(Protocol):
    """What a policy can act in; one object steps many walks at once."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What each column of the features is."""
        ...

    def start(self, num_walks: int, rng: np.random.Generator) -> Choices:
        """Begin new walks and return their first actions."""
        ...

    def step(self, picked_S: Ints) -> Step:
        """Take in each state the action of this place among the state's own."""
        ...


# -- softmax within segments ---------------------------------------------------------------------


def log_softmax(logits_E: Floats, offsets: Ints) -> Floats:
    """Return log-probabilities within each segment of a ragged array."""
    sizes, begins = np.diff(offsets), offsets[:-1]
    shifted = logits_E - np.repeat(np.maximum.reduceat(logits_E, begins), sizes)
    total_S = np.add.reduceat(np.exp(shifted), begins)
    return np.asarray(shifted - np.repeat(np.log(total_S), sizes), np.float32)


def best_of(scores_E: Floats, offsets: Ints) -> Ints:
    """Return the place of the largest score within each segment; the first of equals."""
    sizes, begins = np.diff(offsets), offsets[:-1]
    is_best = scores_E == np.repeat(np.maximum.reduceat(scores_E, begins), sizes)
    found = np.flatnonzero(is_best)
    owner = np.searchsorted(offsets, found, side="right") - 1
    _, first = np.unique(owner, return_index=True)
    return np.asarray(found[first] - begins, np.int64)


def sample(logits_E: Floats, offsets: Ints, rng: np.random.Generator) -> Ints:
    """Draw one place within each segment with its softmax probability (Gumbel-max)."""
    noise = -np.log(-np.log(rng.uniform(np.finfo(np.float64).tiny, 1.0, len(logits_E))))
    return best_of(logits_E + noise, offsets)


# -- the policy ----------------------------------------------------------------------------------

WEIGHTS = ("mean", "spread", "w1", "b1", "w2", "b2", "w3", "log_scale")


@dataclass(frozen=True, slots=True)
class Policy:
    """Frozen weights; hidden width H.

    `weights`: mean (F,), spread (F,), w1 (F, H), b1 (H,), w2 (2 H, H), b2 (H,), w3 (H,), log_scale (1,).
    `feature_names`: what it was trained to read. `trained_for`: a hash of the base and relations, "" for a prior.
    `info`: facts about the training, as JSON can hold them.

    Raises:
        ModelFileError: weights are missing, of a wrong shape or not finite.
    """

    weights: Mapping[str, Floats]
    feature_names: tuple[str, ...]
    trained_for: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_features = len(self.feature_names)
        hidden = self.weights["b1"].size if "b1" in self.weights else 0
        for name, shape in shapes(num_features, hidden).items():
            weight = self.weights.get(name)
            if weight is None or weight.shape != shape or not np.isfinite(weight).all():
                seen = "missing" if weight is None else f"of shape {weight.shape} or not finite"
                raise ModelFileError(f"the policy's weight {name!r} is {seen}; wanted {shape}; train it anew")

    @classmethod
    def of_prior(cls, feature_names: tuple[str, ...], hidden: int = 1) -> Policy:
        """Return the policy that follows the prior."""
        weights = {name: np.zeros(shape, np.float32) for name, shape in shapes(len(feature_names), hidden).items()}
        weights["spread"][:] = 1.0
        return cls(weights, feature_names)

    def logits(self, choices: Choices) -> Floats:
        """Return a logit for every action, (E,).

        Raises:
            InputError: the features are others than the policy was trained for, or one is not finite.
        """
        self._check(choices)
        w = self.weights
        hidden_EH = np.tanh((choices.features_EF - w["mean"]) / w["spread"] @ w["w1"] + w["b1"])
        sizes = np.diff(choices.offsets)
        mean_SH = np.add.reduceat(hidden_EH, choices.offsets[:-1]) / sizes[:, None]
        half = len(w["b1"])
        context_SH = mean_SH @ w["w2"][half:] + w["b2"]
        second_EH = np.tanh(hidden_EH @ w["w2"][:half] + np.repeat(context_SH, sizes, axis=0))
        return np.asarray(np.exp(w["log_scale"]) * choices.prior_E + second_EH @ w["w3"], np.float32)

    def log_probabilities(self, choices: Choices) -> Floats:
        """Return the log-probability of every action within its state, (E,)."""
        return log_softmax(self.logits(choices), choices.offsets)

    def _check(self, choices: Choices) -> None:
        if choices.features_EF.shape[1] != len(self.feature_names):
            raise InputError(
                f"the policy reads {len(self.feature_names)} features, given were {choices.features_EF.shape[1]}; "
                "use a policy trained for this world"
            )
        bad = np.flatnonzero(~np.isfinite(choices.features_EF).all(axis=0))
        names = [self.feature_names[place] for place in bad]
        if names or not np.isfinite(choices.prior_E).all():
            raise InputError(f"not finite: {', '.join([*names, *([] if names else ['the prior'])])}; mend its scorer")

    def save(self, path: Path) -> None:
        """Write the policy as safetensors; whole or not at all."""
        from safetensors.numpy import save_file

        metadata = {
            "format": FORMAT,
            "features": json.dumps(self.feature_names),
            "trained_for": self.trained_for,
            "info": json.dumps(dict(self.info)),
        }
        with atomic_path(path) as partial:
            save_file({name: np.ascontiguousarray(self.weights[name]) for name in WEIGHTS}, partial, metadata=metadata)

    @classmethod
    def load(cls, path: Path, *, trained_for: str | None = None) -> Policy:
        """Read a policy.

        `trained_for`: the hash it must have been trained for; None takes any, as a start on another base.

        Raises:
            ModelFileError: the file is missing, damaged, no policy, or of another base.
        """
        metadata, weights = read_weights(path, "policy file")
        policy = _from_file(path, metadata, weights)
        if trained_for is not None and policy.trained_for != trained_for:
            raise ModelFileError(
                f"{path} was trained for {policy.trained_for[:12] or 'nothing'}, wanted is {trained_for[:12]}; "
                "learn anew with `tuili learn`, which can start from this file"
            )
        return policy


def read_weights(path: Path, what: str) -> tuple[Mapping[str, str], dict[str, Floats]]:
    """Return a file's metadata and its tensors, all of them float32; `what` says what it should be.

    Raises:
        ModelFileError: it is missing or damaged, or holds other numbers.
    """
    from safetensors import SafetensorError, safe_open

    if any(entry.dtype != "F32" for entry in read_safetensors_header(path).values()):
        raise ModelFileError(f"{path} is no {what}: its weights are not all float32; train it anew")
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelFileError(f"{path} can't be read: {error}; train it anew") from error


def shapes(num_features: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of a policy."""
    return {
        "mean": (num_features,),
        "spread": (num_features,),
        "w1": (num_features, hidden),
        "b1": (hidden,),
        "w2": (2 * hidden, hidden),
        "b2": (hidden,),
        "w3": (hidden,),
        "log_scale": (1,),
    }


def _from_file(path: Path, metadata: Mapping[str, str], weights: Mapping[str, Floats]) -> Policy:
    if metadata.get("format") != FORMAT:
        raise ModelFileError(f"{path} is no policy file: format {metadata.get('format')!r}, wanted {FORMAT!r}")
    try:
        names, info = json.loads(metadata["features"]), json.loads(metadata.get("info", "{}"))
    except (KeyError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} has a damaged header: {error}; train it anew") from error
    is_listed = isinstance(names, list) and all(isinstance(name, str) for name in names) and isinstance(info, dict)
    if not is_listed or len(names) > MAX_FEATURES or weights.get("b1", np.zeros(0)).size > MAX_HIDDEN:
        raise ModelFileError(
            f"{path} has a damaged header; a policy reads up to {MAX_FEATURES} named features with up to "
            f"{MAX_HIDDEN} hidden units; train it anew"
        )
    return Policy(dict(weights), tuple(names), metadata.get("trained_for", ""), info)
