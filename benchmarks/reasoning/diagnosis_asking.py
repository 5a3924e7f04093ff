"""Asks for findings one by one: a policy trained with PPO against greedy information gain and simpler ways.

Every asker starts with the same two findings and is judged by the same belief.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from reasoning.diagnosis_belief import Setting, settings_of
from reasoning.diagnosis_data import Base, Case
from reasoning.diagnosis_protocol import ask_sides
from runner import Result, half_width, say, share
from tuili.reason.policy import Policy
from tuili.reason.worlds.asking import FEATURES, AskingWorld, follow
from tuili.reason.worlds.findings import IntArray
from tuili.reason.worlds.gains import Inquiry, Told

Pick = Callable[[Inquiry, IntArray], IntArray]
BATCH = 64
TARGET_GAIN = 0.03


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is asked and trained; `least_shown`: a question is a finding that so many known cases show."""

    num_folds: int = 2
    num_fitted: int = 800
    num_scored: int = 800
    least_shown: int = 8
    num_updates: int = 24
    num_walks: int = 96
    budgets: tuple[int, ...] = (5, 10, 20)

    @classmethod
    def smoke(cls) -> Plan:
        """Return a plan of seconds."""
        return cls(num_fitted=40, num_scored=20, least_shown=4, num_updates=2, num_walks=8, budgets=(5, 10))


@dataclass
class Asked:
    """Per asker and budget whether the truth came first, per case; `lengths` of the policy's walks."""

    hits: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    lengths: dict[int, list[int]] = field(default_factory=dict)
    publications: list[str] = field(default_factory=list)


def ask_folds(base: Base, known: Sequence[Case], scored: Sequence[Case] | None, plan: Plan) -> Iterator[Result]:
    """Train and ask on each fold, then yield the figures."""
    asked = Asked()
    sides = ask_sides(base, known, scored, plan.num_folds, (plan.num_fitted, plan.num_scored, plan.least_shown))
    for number, (fitting, held, questions) in enumerate(sides):
        say(f"diagnosis: asking, fold {number + 1}, {len(questions)} questions, {len(held.cases)} cases")
        train_on, score_on = settings_of(base.hierarchy, fitting, held, questions)
        policies = {"ask": _train(train_on, plan), "lookahead": Policy.of_prior(FEATURES)}
        _score(score_on, policies, plan, asked)
    yield from results(asked, plan)


def _train(setting: Setting, plan: Plan) -> Policy:
    from tuili.reason.ppo import PPOConfig, train

    world = setting.world(10)
    config = PPOConfig(
        num_updates=plan.num_updates, num_walks=plan.num_walks, hidden=24, learning_rate=2e-3, entropy=0.01
    )
    return train(world, config, on_update=lambda update: say(f"  update {update.index}: reward {update.reward:.4f}"))


def _score(setting: Setting, policies: dict[str, Policy], plan: Plan, asked: Asked) -> None:
    for begin in range(0, len(setting.cases), BATCH):
        cases = setting.cases[begin : begin + BATCH]
        for name, policy in policies.items():
            for budget in plan.budgets:
                _follow(setting.world(budget), name, policy, cases, asked)
        for name, pick in _peers(setting).items():
            _play(setting.world(max(plan.budgets)), name, pick, cases, plan, asked)
    asked.publications += setting.publications


def _follow(world: AskingWorld, name: str, policy: Policy, cases: Sequence[Told], asked: Asked) -> None:
    lengths = follow(world, policy, cases)
    asked.hits.setdefault((name, world.budget), []).extend(_is_first(world.inquiry, cases))
    if name == "ask":
        asked.lengths.setdefault(world.budget, []).extend(lengths.tolist())


def _play(world: AskingWorld, name: str, pick: Pick, cases: Sequence[Told], plan: Plan, asked: Asked) -> None:
    world.begin(cases)
    walks = np.arange(len(cases))
    for num_asked in range(max(plan.budgets) + 1):
        if num_asked in plan.budgets or (not num_asked and name == "random"):
            asked.hits.setdefault((name, num_asked), []).extend(_is_first(world.inquiry, cases))
        if num_asked < max(plan.budgets):
            for walk, question in enumerate(pick(world.inquiry, walks)):
                world.inquiry.ask(walk, int(question))


def _is_first(inquiry: Inquiry, cases: Sequence[Told]) -> list[float]:
    truth = np.array([case.truth_row for case in cases])
    return (inquiry.scores_WH.argmax(axis=1) == truth).astype(float).tolist()


def _peers(setting: Setting) -> dict[str, Pick]:
    rng = np.random.default_rng(0)
    usual = setting.answers.usual_2M[0]
    return {
        "greedy": lambda inquiry, walks: inquiry.gains(walks, binary=True).gain_WM.argmax(axis=1),
        "greedy_told": lambda inquiry, walks: inquiry.gains(walks).gain_WM.argmax(axis=1),
        "frequent": lambda inquiry, walks: np.where(inquiry.closed_WM, -1, usual).argmax(axis=1),
        "random": lambda inquiry, walks: np.where(inquiry.closed_WM, -1, rng.random(inquiry.closed_WM.shape)).argmax(
            axis=1
        ),
    }


def results(asked: Asked, plan: Plan) -> Iterator[Result]:
    """Yield top-1 by asker and budget, what is gained over greedy, questions asked."""
    groups = asked.publications
    yield share("diagnosis.ask0.top1", asked.hits["random", 0], groups=groups)
    for budget in plan.budgets:
        greedy = asked.hits["greedy", budget]
        baseline = {"name": "greedy information gain", "value": float(np.mean(greedy))}
        yield share(f"diagnosis.ask{budget}.top1", asked.hits["ask", budget], groups=groups, baseline=baseline)
        for name in ("greedy", "greedy_told", "lookahead", "frequent", "random"):
            yield share(f"diagnosis.ask{budget}.top1_{name}", asked.hits[name, budget], groups=groups)
        for name in ("greedy", "greedy_told", "lookahead"):
            yield _gain(f"diagnosis.ask{budget}.over_{name}", asked, name, budget)
        lengths = asked.lengths[budget]
        yield Result(f"diagnosis.ask{budget}.questions", float(np.mean(lengths)), "questions", None, len(lengths))


def _gain(name: str, asked: Asked, peer: str, budget: int) -> Result:
    """Return the mean paired difference in top-1, bootstrapped by publication."""
    gaps = np.array(asked.hits["ask", budget]) - np.array(asked.hits[peer, budget])
    spread = half_width(gaps.tolist(), asked.publications)
    target = TARGET_GAIN if (peer, budget) == ("greedy", 10) else None
    return Result(name, float(gaps.mean()), "fraction", spread, len(gaps), None, target)
