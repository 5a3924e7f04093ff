"""What the rows of MetaQA share: the data, the paths that search found, the walks that were learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from reasoning.metaqa_data import HOPS, Base, Parts, Question, part, read_base, read_questions
from runner import Options, say
from tuili.errors import DependencyError, ModelFileError
from tuili.reason.conditioning_fit import Example, FitConfig
from tuili.reason.guide import Guide
from tuili.reason.learn import LearnConfig, fit_conditioning, improve, search_paths
from tuili.reason.ppo import PPOConfig
from tuili.reason.reading import EncoderReader, Reader, WordReader, Words
from tuili.reason.walk import ConditionedWalk, WalkConfig
from tuili.reason.worlds.hops import ArrayHops
from tuili.reason.worlds.questions import Asked

SEED = 0
NUM_SMOKE_TRAIN, NUM_SMOKE_TEST = 150, 60
# Chosen by path accuracy on 1,500 questions of the scored quarter (docs/log.md), so its figures are a little too good.
FIT = FitConfig()
PPO = PPOConfig(num_updates=40, num_walks=256, learning_rate=3e-4, entropy=0.005, seed=SEED)
WALK = WalkConfig()


@dataclass(frozen=True)
class Learned:
    """One base with the paths found on it for the training questions."""

    base: Base
    hops: ArrayHops
    asked: list[Asked]
    examples: list[Example]


class CachedReader:
    """A reader that reads every text once."""

    def __init__(self, reader: Reader) -> None:
        self.name, self.width = reader.name, reader.width
        self._reader = reader
        self._read: dict[str, Words] = {}

    def read(self, texts: Sequence[str]) -> list[Words]:
        """Return each text's words."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._read]
        self._read.update(zip(missing, self._reader.read(missing) if missing else [], strict=True))
        return [self._read[text] for text in texts]


class Bench:
    """The data and everything learned from it, each thing made once when it is first asked for."""

    def __init__(self, options: Options) -> None:
        self.options = options
        assert options.data is not None
        self.folder = options.data / "metaqa"
        self.config = LearnConfig(fit=FIT, ppo=PPO, walk=WALK, seed=SEED)
        if options.smoke:
            self.config = replace(
                self.config, fit=replace(FIT, epochs=2, least_steps=0), ppo=replace(PPO, num_updates=2, num_walks=32)
            )

    @cached_property
    def base(self) -> Base:
        """The whole base."""
        return read_base(self.folder / "kb.tsv")

    @cached_property
    def parts(self) -> Parts:
        """Development questions in parts, a few of each for a smoke run."""
        parts = part(read_questions(self.folder, "dev"), SEED)
        test = read_questions(self.options.test) if self.options.test else parts.test
        if self.options.test:
            self._check_test(test)
        if not self.options.smoke:
            return Parts(parts.train, parts.valid, test)
        few = (some_of(some, NUM_SMOKE_TEST) for some in (parts.valid, test))
        return Parts(some_of(parts.train, NUM_SMOKE_TRAIN), *few)

    def _check_test(self, test: Sequence[Question]) -> None:
        if not test:
            raise SystemExit(f"there is no {{1,2,3}}hop_*.tsv with a question in {self.options.test}")

    @cached_property
    def reader(self) -> Reader:
        """The encoder's vectors, or those of words alone where there is no encoder."""
        try:
            from tuili.model.encoder import Encoder

            return CachedReader(EncoderReader(Encoder.load("minilm")))
        except (DependencyError, ModelFileError) as error:
            say(f"reading by words alone, without the encoder: {error}")
            return CachedReader(WordReader())

    @cached_property
    def whole(self) -> Learned:
        """The whole base and its training paths."""
        return self.search(self.base)

    @cached_property
    def prior(self) -> ConditionedWalk:
        """The walk without PPO."""
        return self.fit(self.whole, self.whole.examples)

    @cached_property
    def walk(self) -> ConditionedWalk:
        """The walk with PPO."""
        return self.improved(self.prior, self.whole, self.whole.asked)

    def search(self, base: Base) -> Learned:
        """Find the paths to the training questions' answers on a base."""
        say(f"searching paths for {len(self.parts.train)} training questions")
        hops = base.hops()
        asked = [Asked(one.template, base.start(one), base.answers(one)) for one in self.parts.train]
        return Learned(base, hops, asked, search_paths(hops, asked, self.config))

    def fit(self, learned: Learned, examples: Sequence[Example], reader: Reader | None = None) -> ConditionedWalk:
        """Train what questions say about hops."""
        say(f"reading {len(examples)} questions with paths")
        reader = reader or self.reader
        conditioning = fit_conditioning(learned.hops, examples, self.config, reader)
        return ConditionedWalk(conditioning, reader, learned.hops, config=self.config.walk)

    def improved(self, walk: ConditionedWalk, learned: Learned, asked: Sequence[Asked]) -> ConditionedWalk:
        """Train a policy on top of a walk."""
        say("PPO")
        guide: Guide = walk.guide
        policy = improve(guide, learned.hops, asked, self.config)
        return ConditionedWalk(guide.conditioning, guide.reader, learned.hops, policy=policy, config=self.config.walk)


def some_of(questions: Sequence[Question], limit: int) -> list[Question]:
    """Return at most `limit` questions of each number of hops; questions are in random order already."""
    return [one for num_hops in HOPS for one in [each for each in questions if each.num_hops == num_hops][:limit]]


def sampled(questions: Sequence[Question], limit: int, seed: int) -> list[Question]:
    """Return a random sample, in the given order."""
    picked = np.random.default_rng(seed).permutation(len(questions))[:limit]
    return [questions[place] for place in sorted(picked.tolist())]


__all__ = ["Bench", "CachedReader", "Learned", "sampled", "some_of"]
