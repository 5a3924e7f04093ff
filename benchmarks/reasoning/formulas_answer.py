"""Answers from the English text: learning to read and to choose, accuracy, and classes of errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reasoning.formulas_data import Item, families, is_close
from reasoning.formulas_setup import SEED, Setup
from reasoning.formulas_text import Reader, learn_to_read, matches
from runner import Result, say, share, watched
from tuili.reason.worlds.budgeted import all_found, best_first
from tuili.reason.worlds.choosing import Candidate, Chooser, candidates
from tuili.reason.worlds.givens import read_question

BUDGET = 3_000
MOST_CANDIDATES = 1_000
NUM_FOLDS = 4
LEAST_DEVELOPMENT = 5
LOOSE = 0.05
CLASSES = (
    "gap_not_found",
    "quantity_missed",
    "unit_misread",
    "wrong_target",
    "rounding",
    "chain_not_found",
    "wrong_chain_chosen",
)


@dataclass(frozen=True)
class Answered:
    """A question with what was found: all candidates and the chosen one."""

    item: Item
    found: list[Candidate]
    chosen: Candidate | None
    first: float | None

    def is_right(self, tolerance: float = 0.01) -> bool:
        """Tell whether the chosen value is within the relative tolerance."""
        return self.chosen is not None and is_close(self.chosen.value, self.gold, tolerance)

    @property
    def gold(self) -> float:
        """The gold value in SI base units."""
        return self.item.arguments[self.item.asked].value


def learn_to_answer(setup: Setup, items: Sequence[Item]) -> tuple[Reader, Chooser, list[Answered]]:
    """Learn the reader, and the chooser on questions that its reader had not seen.

    Returns also the answers to these questions, each by a reader and a chooser that had not seen it.
    """
    folds = _folds(items)
    found: list[tuple[list[Candidate], float | None]] = [([], None)] * len(items)
    for fold in range(NUM_FOLDS):
        reader = learn_to_read(setup, [item for item, own in zip(items, folds, strict=True) if own != fold])
        for at in watched([at for at, own in enumerate(folds) if own == fold], f"reading, fold {fold + 1}"):
            found[at] = _candidates(reader, items[at])
    answered = []
    for fold in range(NUM_FOLDS):
        chooser = _learn(items, found, [at for at, own in enumerate(folds) if own != fold])
        answered += [
            Answered(items[at], found[at][0], chooser.best(found[at][0]), found[at][1])
            for at, own in enumerate(folds)
            if own == fold
        ]
    return learn_to_read(setup, items), _learn(items, found, range(len(items))), answered


def _learn(
    items: Sequence[Item], found: Sequence[tuple[list[Candidate], float | None]], places: Sequence[int]
) -> Chooser:
    examples = []
    for at in places:
        gold = items[at].arguments[items[at].asked].value
        if found[at][0]:
            facts = np.array([each.facts for each in found[at][0]])
            examples.append((facts, [is_close(each.value, gold) for each in found[at][0]]))
    return Chooser.learn(examples)


def _folds(items: Sequence[Item]) -> list[int]:
    """Return the fold of each question; families stay together."""
    family = families(items)
    numbers = sorted(set(family))
    fold = dict(zip(numbers, np.random.default_rng(SEED).permutation(len(numbers)) % NUM_FOLDS, strict=True))
    return [int(fold[number]) for number in family]


def _candidates(reader: Reader, item: Item) -> tuple[list[Candidate], float | None]:
    """Return the candidates of a question, and the value of the first by the search alone."""
    expander = reader.expander(item.english)
    found = candidates(expander, all_found(expander, BUDGET, wanted=MOST_CANDIDATES))
    return found, best_first(expander, BUDGET).value


def answer(reader: Reader, chooser: Chooser, items: Sequence[Item]) -> list[Answered]:
    """Answer questions from their English text."""
    answered = []
    for item in watched(items, "questions in words"):
        found, first = _candidates(reader, item)
        answered.append(Answered(item, found, chooser.best(found), first))
    return answered


def text_results(prefix: str, setup: Setup) -> Iterator[Result]:
    """Yield accuracy on the scored part, on the development part by cross-validation, and the errors' classes."""
    if len(setup.development) < LEAST_DEVELOPMENT:
        say(f"skipped {prefix}: {len(setup.development)} questions share no text with the test, too few to learn from")
        return
    reader, chooser, developed = learn_to_answer(setup, setup.development)
    answered = answer(reader, chooser, setup.scored)
    right = [float(each.is_right()) for each in answered]
    alone = [float(is_close(each.first, each.gold)) for each in answered]
    whole = share(f"{prefix}.accuracy", right)
    peer = {"name": "search without chooser", "value": float(np.mean(alone))}
    yield Result(whole.name, whole.value, whole.unit, whole.spread, whole.n, peer, 0.55)
    yield share(f"{prefix}.accuracy_5_percent", [float(each.is_right(LOOSE)) for each in answered])
    recall = [float(any(is_close(one.value, each.gold) for one in each.found)) for each in answered]
    yield share(f"{prefix}.among_candidates", recall)
    yield share(f"{prefix}.development.accuracy", [float(each.is_right()) for each in developed])
    classes = Counter(error_class(reader, each) for each in answered if not each.is_right())
    for name in CLASSES:
        yield Result(f"{prefix}.errors.{name}", classes[name] / len(answered), "fraction", None, len(answered))


def error_class(reader: Reader, answered: Answered) -> str:
    """Return the first stage at which a wrong answer went wrong."""
    item, asking = answered.item, read_question(answered.item.english)
    if asking.gap is None:
        return "gap_not_found"
    known = [item.arguments[place] for place in item.known]
    values = [matches(item, asking, place) for place in range(len(asking.givens))]
    missed = set(item.known) - {place for each in values for place in each}
    if missed:
        texts = {given.value for given in asking.givens}
        alike = any(is_close(value, item.arguments[place].value, 0.006) for place in missed for value in texts)
        near = any(
            is_close(given.value, each.value, LOOSE) and given.dimension == each.dimension
            for given in asking.givens
            for each in known
        )
        return "unit_misread" if alike else ("rounding" if near and answered.is_right(LOOSE) else "quantity_missed")
    if answered.is_right(LOOSE):
        return "rounding"
    if item.arguments[item.asked].dimension not in reader.problem(asking).dimensions:
        return "wrong_target"
    if any(is_close(each.value, answered.gold) for each in answered.found):
        return "wrong_chain_chosen"
    return "chain_not_found"
