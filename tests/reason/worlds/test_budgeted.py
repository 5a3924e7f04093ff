"""Searches within a budget, counted alike: what they find, and what they say when they don't."""

from __future__ import annotations

import pytest
from tiny_formulas import expander, fuel, known

from tuili.errors import LimitError, UsageError
from tuili.reason.worlds.budgeted import Outcome, all_found, best_first, enumerate_chains
from tuili.reason.worlds.expansions import Expander
from tuili.reason.worlds.usage import Usage

WAYS = [enumerate_chains, best_first]


@pytest.mark.parametrize("way", WAYS)
def test_one_law(way) -> None:  # type: ignore[no-untyped-def]
    problem = expander("heat released", "J", known("mass of fuel", 2.0, "kg"), known("calorific value", 3e7, "J/kg"))
    outcome: Outcome = way(problem, 50)
    assert outcome.value == pytest.approx(6e7)
    assert not outcome.is_partial


def test_a_chain_of_four_laws() -> None:
    found = best_first(fuel(), 2_000)
    assert found.value == pytest.approx(0.02)
    assert found.derivation is not None
    assert len(found.derivation.steps) == 4
    assert found.num_expanded < enumerate_chains(fuel(), 20_000).num_expanded


def test_every_expansion_is_counted_once() -> None:
    class Counting(Expander):
        num_applied = 0

        def apply(self, state, expansion):  # type: ignore[no-untyped-def]
            self.num_applied += 1
            return super().apply(state, expansion)

    for way in WAYS:
        plain = fuel()
        counting = Counting(plain.laws, plain.wordings.names, plain.usage, plain.problem)
        assert way(counting, 37).num_expanded == counting.num_applied <= 37


@pytest.mark.parametrize("way", WAYS)
def test_budgets_of_nothing_and_one(way) -> None:  # type: ignore[no-untyped-def]
    nothing, one = way(fuel(), 0), way(fuel(), 1)
    assert (nothing.num_expanded, nothing.derivation, nothing.reason) == (0, None, "budget")
    assert (one.num_expanded, one.value, one.reason) == (1, None, "budget")
    assert one.is_partial
    assert one.derivation is not None


@pytest.mark.parametrize("way", WAYS)
def test_a_time_limit_leaves_the_best_so_far(way) -> None:  # type: ignore[no-untyped-def]
    outcome = way(fuel(), 10_000, time_limit_s=0.0)
    assert outcome.reason == "time"
    assert outcome.is_partial


@pytest.mark.parametrize("way", WAYS)
def test_goals_that_nothing_leads_to(way) -> None:  # type: ignore[no-untyped-def]
    apart = expander("current", "A", known("mass of fuel", 2.0, "kg"))
    assert way(apart, 100).reason == "exhausted"
    without = expander("heat released", "J")
    assert way(without, 100).reason == "exhausted"


@pytest.mark.parametrize("way", WAYS)
def test_cycles_end(way) -> None:  # type: ignore[no-untyped-def]
    """Heat from useful heat from heat: every step must take a known value or leave one for later."""
    cyclic = expander("heat released", "J", known("efficiency", 0.5, ""), known("time", 3.0, "s"))
    outcome = way(cyclic, 5_000)
    assert outcome.value is None
    assert outcome.reason == "exhausted"


@pytest.mark.parametrize("way", WAYS)
def test_one_known_value(way) -> None:  # type: ignore[no-untyped-def]
    assert way(expander("mass of fuel", "kg", known("heat", 3.0, "J")), 100).value is None


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(UsageError, match="-1"):
        best_first(fuel(), -1)


def test_too_many_known_values_are_refused() -> None:
    with pytest.raises(LimitError, match="61"):
        expander("mass", "kg", *[known("mass", float(each), "kg") for each in range(61)])


def test_values_that_are_not_needed_may_be_left_out() -> None:
    given = (
        known("mass of fuel", 2.0, "kg", 3.0),
        known("calorific value", 3e7, "J/kg", 3.0),
        known("final temperature", 80.0, "℃", -4.0),
    )
    outcome = best_first(expander("heat released", "J", *given, needs_all=False), 100)
    assert outcome.value == pytest.approx(6e7)
    assert best_first(expander("heat released", "J", *given), 300).value is None


def test_all_found_holds_what_best_first_finds() -> None:
    problem = fuel()
    values = [entry.value for entry in all_found(problem, 500)]
    assert best_first(problem, 500).value in values


def test_unusual_values_wait() -> None:
    usage = Usage()
    for _ in range(6):
        usage.add((0, 0), None, value=100.0)
    assert usage.surprise((0, 0), 100.0) == 0.0
    assert usage.surprise((0, 0), 1e9) > 5.0
    assert usage.surprise((0, 0), -1.0) > 5.0
    assert usage.surprise((1, 0), 1e9) == 0.0
    assert usage.surprise((1, 0), 0.0) > 5.0


def test_a_usage_knows_chains_in_parts() -> None:
    usage = Usage()
    chain = [((0, 1), None), ((1, 0), (0, 2))]
    usage.add_pattern(chain)
    usage.add((1, 0), (0, 2))
    assert usage.laws_weight([1, 0]) > 0 == usage.laws_weight([0])
    assert usage.num_new_links(chain) == 0
    assert usage.num_new_links([((0, 1), None), ((1, 0), (0, 1))]) == 1
