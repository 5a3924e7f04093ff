"""Learning to walk from questions and answers: paths by search, the conditioning, then PPO on top.

walk = learn(GraphHops(graph), questions)
walk.ask(masked("who directed Alien", [(13, 18)]), [alien]).answers
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tuili.reason.conditioning import Conditioning, Menu
from tuili.reason.guide import Guide
from tuili.reason.reading import Reader, WordReader
from tuili.reason.supervision import Budget, leads
from tuili.reason.walk import ConditionedWalk, WalkConfig
from tuili.reason.worlds.hops import Hops
from tuili.reason.worlds.questions import Asked, QuestionWorld, Reward

if TYPE_CHECKING:
    from tuili.reason.conditioning_fit import Example, FitConfig
    from tuili.reason.policy import Policy
    from tuili.reason.ppo import PPOConfig, Update

# A stage's name, what is done of it, and of how much.
OnStage = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnConfig:
    """How a walk is learned. `keep`: paths kept per question, each with `share` of the best one's reward or more.

    `fit` and `ppo`: None for the defaults; `num_updates` of 0 leaves PPO out.
    """

    budget: Budget = field(default_factory=Budget)
    keep: int = 6
    share: float = 0.5
    fit: FitConfig | None = None
    ppo: PPOConfig | None = None
    use_ppo: bool = True
    reward: Reward = field(default_factory=Reward)
    walk: WalkConfig = field(default_factory=WalkConfig)
    seed: int = 0


def learn(
    hops: Hops,
    questions: Sequence[Asked],
    config: LearnConfig | None = None,
    *,
    reader: Reader | None = None,
    start: ConditionedWalk | None = None,
    checkpoint: Path | None = None,
    on_stage: OnStage = lambda stage, done, total: None,
    on_update: Callable[[Update], None] = lambda update: None,
) -> ConditionedWalk:
    """Learn to answer questions over one graph from their answers alone; no path need be known.

    `reader`: vectors of words, by default without a model. `start`: a walk learned before, on this graph or
    another. `checkpoint`: where PPO is resumed from. Deterministic under `config.seed`.

    Raises:
        InputError: no question has a path to its answers.
        DependencyError: torch is missing.
    """
    config = config or LearnConfig()
    reader = reader or WordReader()
    examples = search_paths(hops, questions, config, on_stage)
    conditioning = fit_conditioning(hops, examples, config, reader, start, on_stage)
    policy = None
    if config.use_ppo:
        guide = Guide(conditioning, reader, hops)
        policy = improve(guide, hops, questions, config, start.policy if start else None, checkpoint, on_update)
    return ConditionedWalk(conditioning, reader, hops, policy=policy, config=config.walk)


def search_paths(
    hops: Hops, questions: Sequence[Asked], config: LearnConfig, on_stage: OnStage = lambda stage, done, total: None
) -> list[Example]:
    """Return the questions that have paths to their answers, with the best of them."""
    from tuili.reason.conditioning_fit import Example

    examples = []
    for done, asked in enumerate(questions):
        on_stage("searching paths", done, len(questions))
        found = leads(hops, asked.start, asked.answers, config.budget, config.keep)
        if found:
            good = tuple(lead for lead in found if lead.reward >= config.share * found[0].reward)
            examples.append(Example(asked.text, good))
    return examples


def fit_conditioning(
    hops: Hops,
    examples: Sequence[Example],
    config: LearnConfig,
    reader: Reader,
    start: ConditionedWalk | None = None,
    on_stage: OnStage = lambda stage, done, total: None,
) -> Conditioning:
    """Train what questions say about hops; see `conditioning_fit`."""
    from tuili.reason.conditioning_fit import FitConfig, fit

    texts = list(dict.fromkeys(example.text for example in examples))
    read = dict(zip(texts, reader.read(texts), strict=True))
    return fit(
        examples,
        read,
        Menu.of(hops.actions, hops.schema, reader),
        config.fit or FitConfig(max_hops=config.budget.max_hops, seed=config.seed),
        reader_name=reader.name,
        start=start.guide.conditioning if start else None,
        on_progress=lambda epoch, total, loss: on_stage("reading questions", epoch, total),
    )


def improve(
    guide: Guide,
    hops: Hops,
    questions: Sequence[Asked],
    config: LearnConfig,
    start: Policy | None = None,
    checkpoint: Path | None = None,
    on_update: Callable[[Update], None] = lambda update: None,
) -> Policy:
    """Train a policy on top of the question's own word with PPO; the reward needs answers only."""
    from tuili.reason.ppo import PPOConfig, train

    ppo = config.ppo or PPOConfig(seed=config.seed, num_updates=40, num_walks=256)
    world = QuestionWorld(guide, hops, questions, config.reward)
    return train(world, ppo, start=start, checkpoint=checkpoint, on_update=on_update)
