"""What the formula benchmark shares: the collection, what worked items teach, the split of the questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasoning.formulas_data import Item, families, names_and_dimensions, read_items
from reasoning.formulas_gold import Gold, learn
from reasoning.formulas_train import read_worked, values_needed
from tuili.reason.worlds.expansions import Expander
from tuili.reason.worlds.fillings import Known, Problem
from tuili.reason.worlds.laws import Laws, read_laws
from tuili.reason.worlds.namesakes import NameDimensions, Namesakes
from tuili.reason.worlds.relevance import Company
from tuili.reason.worlds.usage import Usage

SEED = 0
DEVELOPMENT = 0.4
NUM_SMOKE, NUM_SMOKE_WORKED = 12, 250


@dataclass(frozen=True)
class Setup:
    """The laws with what was learnt about them, the worked items, and the questions in two parts.

    `measured`: the questions that the budget is fixed on.
    """

    laws: Laws
    names: Namesakes
    usage: Usage
    gold: Gold
    company: Company
    records: tuple[dict[str, Any], ...]
    worked: tuple[Item, ...]
    development: tuple[Item, ...]
    scored: tuple[Item, ...]
    measured: tuple[Item, ...]
    notes: tuple[str, ...]

    def expander(self, problem: Problem) -> Expander:
        """Return the expander of a problem."""
        return Expander(self.laws, self.names, self.usage, problem)


def set_up(folder: Path, test: Path | None, *, smoke: bool = False) -> Setup:
    """Read everything.

    With `test`, all questions of `hof_test.json` that share no text with it are development; the budget, which
    nothing is learnt from, is fixed on the same part as without.
    """
    questions = read_items(folder / "hof_test.json")
    measured, rest = split(questions)
    development, scored = (measured, rest) if test is None else apart(questions, read_items(test))
    worked, num_overlapping, num_unread = read_worked(folder / "train_zh.json", [*questions, *scored])
    if smoke:
        worked, measured = worked[:NUM_SMOKE_WORKED], measured[:NUM_SMOKE]
        development, scored = development[:NUM_SMOKE], scored[:NUM_SMOKE]
    records = json.loads((folder / "formulas.json").read_text(encoding="utf-8"))
    laws = read_laws(records, NameDimensions(names_and_dimensions(worked)))
    names, usage = Namesakes(laws), Usage()
    gold = Gold(laws, names)
    num_learnt, _ = learn(gold, worked, usage, names, backward=True)
    learn(gold, development, usage, names, backward=False)
    notes = (
        f"{len(records)} formulas are {len(laws.laws)} laws; {len(laws.skipped)} are second names or unread",
        f"{len(worked)} worked items, {num_learnt} of known laws; left out: {num_overlapping} that share text "
        f"with questions, {num_unread} unread",
        f"{len(development)} questions for development, {len(scored)} scored",
    )
    return Setup(
        laws,
        names,
        usage,
        gold,
        Company(values_needed(worked)),
        tuple(records),
        tuple(worked),
        tuple(development),
        tuple(scored),
        tuple(measured),
        notes,
    )


def split(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Return development and scored questions; a family (one source, or shared text) stays together."""
    family = families(items)
    numbers = sorted(set(family))
    chosen = np.random.default_rng(SEED).permutation(numbers)[: round(DEVELOPMENT * len(numbers))].tolist()
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item, number in zip(items, family, strict=True):
        parts[number not in chosen].append(item)
    return parts


def apart(items: Sequence[Item], test: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Return the questions of no family of the test, and the test."""
    family = families([*items, *test])
    taken = set(family[len(items) :])
    return [item for item, number in zip(items, family, strict=False) if number not in taken], list(test)


def problem_of(item: Item, asked: int | None = None) -> Problem:
    """Return the chain task: what is given with names and units, and the asked quantity's name and unit."""
    asked = item.asked if asked is None else asked
    places = [place for place in (*item.known, item.asked) if place != asked]
    if asked == item.asked:
        places = list(item.known)
    known = tuple(
        Known(argument.names, argument.value, argument.dimension)
        for argument in (item.arguments[place] for place in places)
    )
    wanted = item.arguments[asked]
    return Problem(known, wanted.names, {wanted.dimension: 0.0})
