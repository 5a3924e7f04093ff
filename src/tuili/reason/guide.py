"""What a walk sees at each hop: the actions it can take, their features, and the question's word on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tuili.errors import InputError
from tuili.reason.conditioning import LIKENESSES, Conditioning, Heard, Menu, Moment, Opinion
from tuili.reason.policy import Choices, Policy, log_softmax
from tuili.reason.reading import Floats, Reader, Words
from tuili.reason.worlds.hops import Hops, IntArray

FEATURES: tuple[str, ...] = (*LIKENESSES, "hop", "log edges", "log edges per node", "log nodes", "prior", "best prior")
MAX_CACHED = 20_000


@dataclass(frozen=True, slots=True)
class Situation:
    """The actions of one state, by their place on the menu (the last may be STOP): [n], and what is known of each.

    `log_share`: the logarithm of the share of the question's word that falls on them, 0 where nothing is lacking.
    """

    actions_n: IntArray
    features_nF: Floats
    prior_n: Floats
    log_share: float = 0.0

    def choices(self) -> Choices:
        """Return the state as a policy reads it."""
        return Choices(self.features_nF, self.prior_n, np.array([0, len(self.actions_n)]), np.zeros(1, dtype=np.int64))


class Guide:
    """The conditioning of one graph's walks; readings and opinions are kept, for questions come in like wordings.

    Raises:
        InputError: the weights were trained on another reader's vectors.
    """

    def __init__(self, conditioning: Conditioning, reader: Reader, hops: Hops) -> None:
        if conditioning.reader_name != reader.name:
            raise InputError(f"this walk reads with {conditioning.reader_name!r}, given was {reader.name!r}")
        self.conditioning = conditioning
        self.reader = reader
        self.menu = Menu.of(hops.actions, hops.schema, reader)
        self.vectors_AD = conditioning.action_vectors(self.menu)
        self._heard: dict[str, Heard] = {}
        self._opinions: dict[tuple[str, tuple[int, ...]], tuple[Opinion, Moment]] = {}

    @property
    def stop(self) -> int:
        """The place of STOP on the menu."""
        return len(self.menu.actions)

    def prepare(self, texts: Sequence[str]) -> None:
        """Read masked questions, all at once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._heard]
        self.take({text: words for text, words in zip(missing, self.reader.read(missing), strict=True)})

    def take(self, read: Mapping[str, Words]) -> None:
        """Take over questions that are read already.

        Raises:
            InputError: one has no word.
        """
        if len(self._heard) > MAX_CACHED:
            self._heard.clear()
        for text, words in read.items():
            if not words.words:
                raise InputError(f"the question {text!r} has no word to go by; ask in words")
            self._heard[text] = self.conditioning.hear(words, self.menu)

    def opinion(self, text: str, path: tuple[int, ...]) -> tuple[Opinion, Moment]:
        """Return what a masked question says after a path was taken."""
        key = (text, path)
        if key not in self._opinions:
            if len(self._opinions) > MAX_CACHED:
                self._opinions.clear()
            if text not in self._heard:
                self.prepare([text])
            self._opinions[key] = self._judge(text, path)
        return self._opinions[key]

    def _judge(self, text: str, path: tuple[int, ...]) -> tuple[Opinion, Moment]:
        if path:
            opinion, moment = self.opinion(text, path[:-1])
            moment = self.conditioning.advance(moment, opinion, path[-1], self.vectors_AD)
        else:
            moment = self.conditioning.begin(self._heard[text])
        return self.conditioning.judge(self._heard[text], moment, self.menu, self.vectors_AD), moment

    def situation(self, text: str, path: tuple[int, ...], leaving_A: IntArray, num_nodes: int) -> Situation:
        """Return the actions that have edges, and STOP after the first hop; after the last hop STOP alone."""
        opinion, _ = self.opinion(text, path)
        goes_on = len(path) < self.conditioning.max_hops
        actions = np.flatnonzero(leaving_A) if goes_on else np.empty(0, dtype=np.int64)
        if path:
            actions = np.append(actions, self.stop)
        if not len(actions):
            return Situation(actions, np.empty((0, len(FEATURES)), np.float32), np.empty(0, np.float32))
        prior = log_softmax(opinion.logits_A[actions], np.array([0, len(actions)]))
        log_share = _log_share(opinion.logits_A, actions, self.stop, is_first=not path) if goes_on else 0.0
        edges = np.append(leaving_A, 0)[actions]
        columns = [
            np.full(len(actions), float(len(path))),
            np.log1p(edges),
            np.log1p(edges / max(1, num_nodes)),
            np.full(len(actions), np.log1p(num_nodes)),
            prior,
            np.full(len(actions), prior.max()),
        ]
        features = np.concatenate([opinion.likeness_AF[actions], np.stack(columns, axis=1)], axis=1)
        return Situation(actions, features.astype(np.float32), prior, log_share)


def _log_share(logits_A: Floats, actions_n: IntArray, stop: int, *, is_first: bool) -> float:
    """Return the log of how much of the question's word falls on actions that can be taken."""
    wanted = logits_A[:stop] if is_first else logits_A
    return float(np.logaddexp.reduce(logits_A[actions_n]) - np.logaddexp.reduce(wanted))


def log_probabilities(situation: Situation, policy: Policy | None) -> Floats:
    """Return the log-probability of each action of a state; without a policy, the question's own."""
    return situation.prior_n if policy is None else policy.log_probabilities(situation.choices())
