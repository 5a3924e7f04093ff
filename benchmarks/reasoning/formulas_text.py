"""End to end from the English text: what is learnt from the development part, and the problem of a question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from reasoning.formulas_data import ROUNDED, Item, is_close
from reasoning.formulas_gold import learn, translations
from reasoning.formulas_setup import Setup
from tuili.reason.worlds.dimensions import Dimension
from tuili.reason.worlds.expansions import Expander
from tuili.reason.worlds.fillings import Known, Problem
from tuili.reason.worlds.givens import Asking, read_question
from tuili.reason.worlds.namesakes import Namesakes
from tuili.reason.worlds.relevance import GapDimensions, Relevance
from tuili.reason.worlds.usage import Usage

NUM_DIMENSIONS = 5


@dataclass(frozen=True)
class Reader:
    """What turns a question into a problem, learnt from questions with gold chains."""

    setup: Setup
    names: Namesakes
    usage: Usage
    relevance: Relevance
    dimensions: GapDimensions

    def expander(self, question: str) -> Expander:
        """Return the expander of a question's problem."""
        return Expander(self.setup.laws, self.names, self.usage, self.problem(read_question(question)))

    def problem(self, asking: Asking) -> Problem:
        """Return a question as a problem: every value with its words and the log-odds that it is needed."""
        odds = self.relevance(asking)
        known = tuple(
            Known(given.names, given.value, given.dimension, float(each))
            for given, each in zip(asking.givens, odds, strict=True)
        )
        gap = asking.gap
        if gap is None:
            return Problem(known, (), {}, needs_all=False)
        asked = gap.names
        dimensions = {gap.dimension: 0.0} if asking.has_unit else self.dimensions(gap, NUM_DIMENSIONS)
        return Problem(known, asked, dimensions, needs_all=False)


def learn_to_read(setup: Setup, items: Sequence[Item]) -> Reader:
    """Learn from questions with gold chains; none of the setup's own questions may have been learnt before."""
    names, usage = Namesakes(setup.laws), Usage()
    english = translations(setup.records, items)
    learn(setup.gold, setup.worked, usage, names, backward=True, english=english)
    learn(setup.gold, items, usage, names, backward=False)
    askings = [read_question(item.english) for item in items]
    for item, asking in zip(items, askings, strict=True):
        _learn_words(setup, item, asking, names)
    relevance = Relevance(
        [(asking, needed(item, asking)) for item, asking in zip(items, askings, strict=True)], setup.company
    )
    return Reader(setup, names, usage, relevance, _gap_dimensions(setup, items, askings, english))


def matches(item: Item, asking: Asking, place: int) -> list[int]:
    """Return the given arguments that a value of the text is; several if they are alike."""
    given = asking.givens[place]
    return [
        at
        for at in item.known
        if item.arguments[at].dimension == given.dimension and is_close(given.value, item.arguments[at].value, ROUNDED)
    ]


def needed(item: Item, asking: Asking) -> list[bool]:
    """Tell which values of the text are needed: those of the gold chain, and what differs by one of it.

    The gold chain may take a rise of 50 °C as given where the text has "from 25 °C to 75 °C".
    """
    given = [matches(item, asking, place) for place in range(len(asking.givens))]
    found = [bool(each) for each in given]
    missed = [item.arguments[at] for at in set(item.known) - {at for each in given for at in each}]
    for (one, first), (other, second) in combinations(enumerate(asking.givens), 2):
        difference = abs(first.value - second.value)
        if first.dimension == second.dimension and any(
            each.dimension == first.dimension and is_close(difference, each.value, ROUNDED) for each in missed
        ):
            found[one] = found[other] = True
    return found


def _learn_words(setup: Setup, item: Item, asking: Asking, names: Namesakes) -> None:
    """Count the words around values and the gap for the variables that gold chains make of them."""
    words: dict[int, tuple[str, ...]] = {}
    for place, given in enumerate(asking.givens):
        for argument in matches(item, asking, place):
            words.setdefault(argument, given.names)
    if asking.gap is not None:
        words[item.asked] = asking.gap.names
    for step in setup.gold.derivation(item, item.asked) or ():
        for index, argument in enumerate(step.arguments):
            if argument in words:
                names.add(step.place[0], index, words[argument])


def _gap_dimensions(
    setup: Setup, items: Sequence[Item], askings: Sequence[Asking], english: Mapping[str, Sequence[str]]
) -> GapDimensions:
    examples: list[tuple[str, str, Dimension, float]] = []
    for item, asking in zip(items, askings, strict=True):
        if asking.gap is not None:
            examples.append((asking.gap.before, asking.gap.after, item.arguments[item.asked].dimension, 1.0))
        examples += [
            (given.before, given.after, given.dimension, 0.5) for given in asking.givens if "answer" not in given.traits
        ]
    names: Counter[tuple[str, Dimension]] = Counter()
    for item in (*items, *setup.worked):
        for argument in item.arguments:
            names.update((name, argument.dimension) for name in english.get(argument.names[0], ())[:1])
    examples += [(name, "", dimension, min(2.0, 0.2 * count)) for (name, dimension), count in names.items()]
    return GapDimensions(examples)
