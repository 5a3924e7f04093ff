"""Chains from given arguments: success within a budget of expansions, for four ways of searching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from reasoning.formulas_data import Item, is_close
from reasoning.formulas_policy import MOST_CHAINS
from reasoning.formulas_setup import Setup, problem_of
from runner import Result, paired, share, watched
from tuili.reason.policy import Policy
from tuili.reason.verify import solve
from tuili.reason.worlds.budgeted import Outcome, all_found, best_first, enumerate_chains
from tuili.reason.worlds.choosing import Chooser, candidates
from tuili.reason.worlds.expansions import Expander

BUDGETS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
TWO_THIRDS = 2 / 3
NUM_PERTURBED = 3


@dataclass(frozen=True, slots=True)
class Attempt:
    """A question tried: each answer with the expansions until then, whether the last one's chain is the gold one.

    `answers`: expansions and whether the value is right; a later answer replaces the earlier ones.
    """

    answers: tuple[tuple[int, bool], ...]
    is_gold_chain: bool

    @property
    def is_right(self) -> bool:
        """Whether the last answer is right."""
        return self.answers[-1][1]

    @property
    def num_expanded(self) -> int:
        """How many expansions it took until the last answer."""
        return self.answers[-1][0]

    def within(self, budget: int) -> float:
        """Return 1 if the answer that a budget reaches is right, else 0."""
        reached = [is_right for num_expanded, is_right in self.answers if num_expanded <= budget]
        return float(bool(reached) and reached[-1])


Attempts = Mapping[str, Attempt]
Way: TypeAlias = Callable[[Expander], Sequence[Outcome]]
"""A way of searching: its answers in order, at least one; it may change its mind."""


def chosen(expander: Expander, most: int, policy: Policy, chooser: Chooser) -> list[Outcome]:
    """Return the chooser's answers while the policy finds one chain after the other."""
    found = candidates(expander, all_found(expander, most, MOST_CHAINS, policy))
    answers: list[Outcome] = []
    for at, latest in enumerate(found, 1):
        best = chooser.best(found[:at])
        if best is not None and (not answers or best.state != answers[-1].derivation):
            answers.append(Outcome(best.value, best.state, latest.num_expanded))
    return answers or [Outcome(None, None, most, "exhausted")]


def attempts(setup: Setup, items: Sequence[Item], way: Way, stage: str) -> dict[str, Attempt]:
    """Try every question one way, each with the largest budget; what a smaller one solves is read off."""
    found = {}
    for item in watched(items, stage):
        expander = setup.expander(problem_of(item))
        outcomes, gold = way(expander), item.arguments[item.asked].value
        answers = tuple((outcome.num_expanded, is_close(outcome.value, gold)) for outcome in outcomes)
        is_gold = answers[-1][1] and _is_gold_chain(item, expander, outcomes[-1])
        found[item.id] = Attempt(answers, is_gold)
    return found


def _is_gold_chain(item: Item, expander: Expander, outcome: Outcome) -> bool:
    """Tell whether a derivation is the gold chain: the same value when what is given changes a little."""
    rng = np.random.default_rng(0)
    for _ in range(NUM_PERTURBED):
        factors = rng.uniform(0.98, 1.02, len(item.known))
        values = {
            place: item.arguments[place].value * factor for place, factor in zip(item.known, factors, strict=True)
        }
        gold, found = _by_gold(item, dict(values)), expander.values_at(outcome.derivation, list(values.values()))
        if gold is None or found is None or not is_close(found[0], gold, 1e-4):
            return False
    return True


def _by_gold(item: Item, values: dict[int, float]) -> float | None:
    """Work out the gold chain from changed values; None where it can't be read as an equation."""
    for equation in item.equations:
        left, *right = equation.arguments
        known = {f"v{index}": values[place] for index, place in enumerate(right, 1) if place in values}
        try:
            result = solve(equation.expr, "v0", known) if len(known) == len(right) else None
        except (SyntaxError, TypeError):
            result = None
        if result is None:
            return None
        values[left] = result
    return values[item.asked]


def success(tried: Attempts, budget: int) -> dict[str, float]:
    """Return for each question whether it was solved within a budget."""
    return {name: attempt.within(budget) for name, attempt in tried.items()}


def two_thirds_budget(tried: Attempts) -> int:
    """Return the budget at which enumeration comes nearest to two thirds; the smallest of equals."""
    reached = {budget: float(np.mean(list(success(tried, budget).values()))) for budget in BUDGETS}
    return min(BUDGETS, key=lambda budget: (round(abs(reached[budget] - TWO_THIRDS), 6), budget))


def chain_results(prefix: str, setup: Setup, policy: Policy, chooser: Chooser) -> Iterator[Result]:
    """Yield success at the budget fixed on the development part, the curves and the policy's own gain."""
    most = BUDGETS[-1]
    developed = attempts(
        setup, setup.measured, lambda expander: [enumerate_chains(expander, most)], "enumeration, development"
    )
    budget = two_thirds_budget(developed)
    ways: dict[str, Way] = {
        "enumeration": lambda expander: [enumerate_chains(expander, most)],
        "best_first": lambda expander: [best_first(expander, budget)],
        "policy": lambda expander: [best_first(expander, budget, policy)],
        "chosen": lambda expander: chosen(expander, budget, policy, chooser),
    }
    tried = {name: attempts(setup, setup.scored, way, name) for name, way in ways.items()}
    yield Result(f"{prefix}.budget", budget, "expansions", None, len(developed))
    yield from _at(prefix, tried, budget)
    for small in (each for each in BUDGETS if each <= budget):
        for name, each in tried.items():
            yield share(f"{prefix}.curve.{name}.{small}", list(success(each, small).values()))
        yield paired(
            f"{prefix}.policy_gain.{small}", success(tried["policy"], small), success(tried["best_first"], small)
        )


def _at(prefix: str, tried: Mapping[str, Attempts], budget: int) -> Iterator[Result]:
    shares = {name: share("", list(success(each, budget).values())) for name, each in tried.items()}
    named = {name: f"success_{name}" for name in ("enumeration", "best_first", "policy")} | {"chosen": "success"}
    peer = {"name": "enumeration", "value": shares["enumeration"].value}
    for name, suffix in named.items():
        found = shares[name]
        yield Result(
            f"{prefix}.{suffix}",
            found.value,
            found.unit,
            found.spread,
            found.n,
            peer if name != "enumeration" else None,
            0.89 if name == "chosen" else None,
        )
    for name, each in tried.items():
        yield share(f"{prefix}.gold_chain.{name}", [float(attempt.is_gold_chain) for attempt in each.values()])
        solved = [attempt.num_expanded for attempt in each.values() if attempt.is_right]
        yield Result(f"{prefix}.expansions.{name}", float(np.median(solved or [0])), "expansions", None, len(solved))
