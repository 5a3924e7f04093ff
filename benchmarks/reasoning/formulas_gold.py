"""Gold chains as derivations over a collection's laws: what was solved for what, and by which names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasoning.formulas_data import Equation, Item
from tuili.errors import SourceError
from tuili.knowledge.sources.formula_expressions import expression_symbols
from tuili.reason.worlds.laws import Laws, shape_of, signature, signature_of
from tuili.reason.worlds.namesakes import Namesakes, all_pieces
from tuili.reason.worlds.usage import Place, Usage


@dataclass(frozen=True, slots=True)
class GoldStep:
    """A gold formula as a law solved for a variable; `arguments` stand for the law's variables."""

    place: Place
    parent: Place | None
    arguments: tuple[int, ...]


class Gold:
    """Finds the laws behind gold formulas."""

    def __init__(self, laws: Laws, names: Namesakes) -> None:
        self.laws, self.names = laws, names
        self._matched: dict[str, list[tuple[int, tuple[int, ...]]] | None] = {}
        self.places: dict[Any, int] = {signature(law): place for place, law in enumerate(laws.laws)}

    def derivation(self, item: Item, asked: int) -> list[GoldStep] | None:
        """Return the steps from an argument down to what is given, None if a formula is no law of the collection."""
        if item.id not in self._matched:
            self._matched[item.id] = self._match_all(item)
        matched, same = self._matched[item.id], _second_names(item)
        if matched is None:
            return None
        given = {same[place] for place in (*item.known, item.asked) if same[place] != same[asked]}
        return _grow(matched, same[asked], given, None, frozenset())

    def _match_all(self, item: Item) -> list[tuple[int, tuple[int, ...]]] | None:
        """Return the laws of an item's formulas with their arguments, None if one is no law of the collection."""
        same = _second_names(item)
        matched = []
        for equation in item.equations:
            if is_second_name(equation):
                continue
            found = self.match(item, equation)
            if found is None:
                return None
            law, arguments = found
            matched.append((law, tuple(same[argument] for argument in arguments)))
        return matched

    def match(self, item: Item, equation: Equation) -> tuple[int, tuple[int, ...]] | None:
        """Return the law of a gold formula and the argument for each of its variables."""
        symbols = tuple(f"v{index}" for index in range(len(equation.arguments)))
        dimensions = tuple(item.arguments[place].dimension for place in equation.arguments)
        try:
            expression_symbols(equation.expr, set(symbols), item.id)
        except SourceError:
            return None
        place = self.places.get(signature_of(equation.expr, dimensions))
        if place is None:
            return None
        degrees = shape_of(equation.expr, symbols).degrees
        free = list(range(len(symbols)))
        arguments = []
        for index, variable in enumerate(self.laws.laws[place].variables):
            fitting = [at for at in free if dimensions[at] == variable.dimension and degrees[at] == variable.degree]
            best = max(fitting, key=lambda at: self._fit(item, equation.arguments[at], place, index))
            free.remove(best)
            arguments.append(equation.arguments[best])
        return place, tuple(arguments)

    def _fit(self, item: Item, argument: int, place: int, index: int) -> float:
        return self.names.score(all_pieces(item.arguments[argument].names), place, index)


def learn(
    gold: Gold,
    items: Sequence[Item],
    usage: Usage,
    names: Namesakes,
    *,
    backward: bool,
    english: Mapping[str, Sequence[str]] | None = None,
) -> tuple[int, int]:
    """Count the laws and names of worked items; return how many items were read and how many were not.

    `backward`: also with each of the given quantities as the asked one. `english`: translations of names that have
    some; they are counted beside the names.
    """
    num_read = num_unread = 0
    for item in items:
        is_read = False
        for asked in (item.asked, *(item.known if backward else ())):
            steps = gold.derivation(item, asked)
            words = all_pieces(_all_names(item, english or {}))
            if steps:
                usage.add_pattern([(step.place, step.parent) for step in steps])
            for step in steps or ():
                value = item.arguments[step.arguments[step.place[1]]].value
                usage.add(step.place, step.parent, words, value)
            if steps and asked == item.asked:
                is_read = True
                for step in steps:
                    for index, argument in enumerate(step.arguments):
                        own = item.arguments[argument].names
                        names.add(step.place[0], index, (*own, *(english or {}).get(own[0], ())))
        num_read, num_unread = num_read + is_read, num_unread + (not is_read)
    return num_read, num_unread


def _all_names(item: Item, english: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names of everything given and asked, with their translations."""
    names = [item.arguments[place].names for place in (*item.known, item.asked)]
    return [name for each in names for name in (*each, *english.get(each[0], ()))]


def translations(records: Iterable[Mapping[str, Any]], items: Iterable[Item]) -> dict[str, list[str]]:
    """Return the English names of Chinese ones, from the collection and from questions in both languages."""
    pairs = [
        (str(entry["zh_name"]).strip(), str(entry["en_name"]).strip())
        for record in records
        for entry in record["symbol_map"]
        if entry.get("zh_name") and entry.get("en_name")
    ]
    pairs += [argument.names[:2] for item in items for argument in item.arguments if len(argument.names) > 2]
    found: dict[str, list[str]] = {}
    for chinese, english in pairs:
        if english not in found.setdefault(chinese, []):
            found[chinese].append(english)
    return {chinese: english[:3] for chinese, english in found.items()}


def is_second_name(equation: Equation) -> bool:
    """Tell whether a formula says only that two quantities are one."""
    return equation.expr.replace(" ", "") == "v0=v1"


def _second_names(item: Item) -> list[int]:
    """Return for each argument the first of those that second names make one with it."""
    first = list(range(len(item.arguments)))
    for equation in item.equations:
        if is_second_name(equation):
            left, right = (first[place] for place in equation.arguments)
            first = [min(left, right) if place in (left, right) else place for place in first]
    return first


def _grow(
    matched: list[tuple[int, tuple[int, ...]]],
    asked: int,
    given: set[int],
    parent: Place | None,
    above: frozenset[int],
) -> list[GoldStep] | None:
    """Return steps that work out one argument, each equation used at most once on the way down."""
    for at, (law, arguments) in enumerate(matched):
        if at in above or asked not in arguments:
            continue
        solved = arguments.index(asked)
        steps = [GoldStep((law, solved), parent, arguments)]
        for index, argument in enumerate(arguments):
            if index == solved or argument in given:
                continue
            below = _grow(matched, argument, given, (law, index), above | {at})
            if below is None:
                break
            steps += below
        else:
            return steps
    return None
