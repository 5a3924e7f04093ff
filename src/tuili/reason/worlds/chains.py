"""The and-or search for a chain of formulas from an asked quantity back to what is known.

Best first over partial derivations. A derivation's cost is that of its formulas, bindings and
assumptions, plus a penalty for each given that plays no part; the estimate of what is still to pay
is the cost of each open quantity when solved alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from tuili.reason.verify import convert
from tuili.reason.worlds.bindings import Bindings
from tuili.reason.worlds.formulary import Formula, Formulary, Known
from tuili.reason.worlds.wording import Wording

MAX_EXPANSIONS = 4_000
MAX_DEPTH = 4
MISSING = 2.8
_FORMULA = 1.0
_SCENARIO_GAIN = 0.55
_SCENARIO_LACK = 0.3
_AMBIGUOUS_LACK = 0.9
_RIVAL = 0.7
_NAMED = 0.55
_OVERLAP = 0.4
_UNTOLD_CONSTANT = 2.0
_TO_PARENT = 0.2
_TO_CHILD = 0.7
_ROUNDS = 4
_UNUSED = {"unit": 1.0, "money": 0.5, "bare": 0.25, "word": 0.05}
_UNUSED_MATERIAL = 0.5
_LEAST = -0.6


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a quantity gets its value.

    `how` is "given", "zero", "constant", "default", "property", "earlier", "remembered", "formula"
    or "missing"; `via` is the quantity that was really known or solved for, the same or a related one.
    """

    how: str
    quantity: str
    via: str
    cost: float
    magnitude: float | None = None
    value: int = -1
    partner: int = -1
    known: Known | None = None
    formula: Formula | None = None
    evidence: float = 1.0
    position: int = -1


@dataclass(frozen=True, slots=True)
class Goal:
    """A quantity to be found; `above` are those that it is needed for."""

    quantity: str
    above: tuple[str, ...] = ()
    default: str = ""
    is_scene: bool = False


@dataclass(frozen=True)
class Chain:
    """A derivation: a resolution for every quantity that it needs, and the cost of all."""

    target: str
    cost: float
    goals: tuple[Goal, ...]
    resolved: Mapping[str, Resolution]
    used: frozenset[int] = frozenset()
    formulas: frozenset[str] = frozenset()
    materials: frozenset[str] = frozenset()

    @property
    def missing(self) -> list[str]:
        """The quantities that the chain lacks."""
        return [key for key, item in self.resolved.items() if item.how == "missing"]


@dataclass
class Scene:
    """All that a question says: readings of its values, zeros, materials, earlier results, fitting formulas."""

    base: Formulary
    wording: Wording
    bindings: Bindings
    earlier: dict[str, float] = field(default_factory=dict)
    remembered: dict[str, float] = field(default_factory=dict)
    free: frozenset[int] = frozenset()
    patience: float = 1.0

    @cached_property
    def zeros(self) -> dict[str, tuple[float, int]]:
        """Quantities that the question says are nothing ("from rest"): cost and place."""
        found: dict[str, tuple[float, int]] = {}
        for mention in self.wording.of_kind("zero"):
            cost = 0.15 + 0.6 * (1 - mention.fit)
            if mention.ref not in found or cost < found[mention.ref][0]:
                found[mention.ref] = (cost, mention.first)
        return found

    @cached_property
    def materials(self) -> list[tuple[str, int, int]]:
        """Materials named in the question, with first and last token; the longest name at each place."""
        mentions = sorted(self.wording.of_kind("material"), key=lambda item: (item.first, item.first - item.last))
        found: list[tuple[str, int, int]] = []
        for mention in mentions:
            if mention.fit > 0.8 and (not found or mention.first > found[-1][2] or mention.span == found[-1][1:]):
                found.append((mention.ref, mention.first, mention.last))
        return found

    @cached_property
    def scenario(self) -> dict[str, float]:
        """How well each formula's words fit the question (0 to 1)."""
        sharing: dict[tuple[int, int], int] = {}
        mentions = self.wording.of_kind("scenario", "formula")
        for mention in mentions:
            sharing[mention.span] = sharing.get(mention.span, 0) + 1
        fits: dict[str, dict[tuple[int, int], float]] = {}
        for mention in mentions:
            weight = mention.fit * (0.75 if mention.num_words == 1 else 0.9) / sharing[mention.span] ** 0.25
            spans = fits.setdefault(mention.ref, {})
            spans[mention.span] = max(spans.get(mention.span, 0.0), weight)
        return {key: _combined(list(spans.values())) for key, spans in fits.items()}

    @cached_property
    def fit(self) -> dict[str, float]:
        """How well each formula fits: by its own words, and by the names of its quantities."""
        named = self.named | {above for key in self.named for above in self.base.ancestors[key]} | {
            below for key in self.named for below in self.base.descendants[key]}
        found = {}
        for formula in self.base.formulas.values():
            needed = [key for key in formula.where.values() if key not in self.base.constants_of]
            share = sum(key in named for key in needed) / len(needed) if needed else 0.0
            found[formula.id] = _combined([self.scenario.get(formula.id, 0.0), _NAMED * share * share,
                                           _OVERLAP * self.wording.overlap.get(formula.id, 0.0)])
        return found

    @cached_property
    def named(self) -> set[str]:
        """Quantities that the question names."""
        return {mention.ref for mention in self.wording.of_kind("name")}

    @cached_property
    def penalties(self) -> list[float]:
        """What it costs to leave each value out."""
        found: list[float] = []
        for index, item in enumerate(self.wording.values):
            kind = ("word" if item.in_words and item.is_bare else "bare" if item.is_bare
                    else "money" if item.is_money else "unit")
            cost = 0.0 if index in self.free or self._is_repeated(index) else _UNUSED[kind]
            found.append(cost * self.patience)
        return found

    def _is_repeated(self, index: int) -> bool:
        """Tell whether a value says again what another one says ("half an hour, 30 min")."""
        mine = self.bindings.readings[index]
        for other in range(index + 1, len(self.wording.values)):
            shared = mine.keys() & self.bindings.readings[other].keys()
            key = min(shared, default="")
            if key and self.wording.values[index].unit and abs(
                    mine[key][0] - self.bindings.readings[other][key][0]) <= 1e-9 * abs(mine[key][0]):
                return True
        return False

    def formula_cost(self, formula: Formula) -> float:
        """The cost of using a formula: less if the question's words tell of it."""
        cost = _FORMULA - _SCENARIO_GAIN * self.fit[formula.id]
        if self.scenario.get(formula.id) or not formula.scenario:
            return cost
        return cost + (_AMBIGUOUS_LACK if self.base.is_ambiguous[formula.id] else _SCENARIO_LACK)


def _combined(weights: list[float]) -> float:
    missing = 1.0
    for weight in weights:
        missing *= 1.0 - weight
    return min(1.0, 1.0 - missing)


class Search:
    """Finds the cheapest chains for a slot."""

    def __init__(self, scene: Scene, candidates: Mapping[str, float]) -> None:
        self.scene = scene
        self.base = scene.base
        self.candidates = candidates
        self.num_expanded = 0

    def chains(self) -> Iterator[Chain]:
        """Yield complete chains, cheapest first as far as the estimate is right."""
        order = count()
        queue: list[tuple[float, int, Chain]] = []
        for key, cost in self.candidates.items():
            start = Chain(key, cost + self._all_penalties, (Goal(key),), {})
            heapq.heappush(queue, (start.cost + self._estimate(start), next(order), start))
        while queue and self.num_expanded < MAX_EXPANSIONS:
            estimate, _, chain = heapq.heappop(queue)
            if not chain.goals:
                yield chain
                continue
            self.num_expanded += 1
            for following in self._expand(chain):
                if not following.goals:
                    following = self._finished(following)
                heapq.heappush(queue, (following.cost + self._estimate(following), next(order), following))

    @cached_property
    def _all_penalties(self) -> float:
        return sum(self.scene.penalties) + _UNUSED_MATERIAL * self.scene.patience * len(self._material_names)

    @cached_property
    def _material_names(self) -> set[str]:
        return {name for name, _first, _last in self.scene.materials}

    def _estimate(self, chain: Chain) -> float:
        return sum(0.95 * self.relaxed[goal.quantity] for goal in chain.goals)

    @cached_property
    def relaxed(self) -> dict[str, float]:
        """The cost of each quantity when solved alone, sharing nothing with others."""
        costs = {key: min([MISSING, *(self._leaf_gain(item) for item in self.leaves(Goal(key)))])
                 for key in self.base.quantities}
        for _ in range(_ROUNDS):
            changed = self._relax(costs)
            if not changed:
                break
        return costs

    def _leaf_gain(self, item: Resolution) -> float:
        if item.value >= 0:
            return item.cost - self.scene.penalties[item.value]
        return item.cost

    def _relax(self, costs: dict[str, float]) -> bool:
        changed = False
        for formula in self.base.formulas.values():
            each = {key: min(costs[key], self._default_cost(formula, symbol))
                    for symbol, key in formula.where.items()}
            total = sum(each.values()) + self.scene.formula_cost(formula)
            for key in formula.where.values():
                cost = max(_LEAST, total - each[key])
                changed |= self._lower(costs, key, cost)
        return changed

    def _lower(self, costs: dict[str, float], key: str, cost: float) -> bool:
        changed = False
        if cost < costs[key] - 1e-9:
            costs[key], changed = cost, True
        for above, steps in self.base.ancestors[key].items():
            if cost + _TO_PARENT * steps < costs[above] - 1e-9:
                costs[above], changed = cost + _TO_PARENT * steps, True
        for below, steps in self.base.descendants[key].items():
            if cost + _TO_CHILD * steps < costs[below] - 1e-9:
                costs[below], changed = cost + _TO_CHILD * steps, True
        return changed

    def _default_cost(self, formula: Formula, symbol: str) -> float:
        if symbol not in formula.defaults:
            return 9.0
        return 0.25 if self.scene.scenario.get(formula.id) else _UNTOLD_CONSTANT

    def leaves(self, goal: Goal) -> Iterator[Resolution]:
        """Yield the ways to know a quantity without a formula."""
        key, scene = goal.quantity, self.scene
        for binding in scene.bindings.of_quantity.get(key, ()):
            at = scene.wording.value_at[binding.value]
            yield Resolution("given", key, key, binding.cost, binding.magnitude, binding.value,
                             evidence=binding.evidence, position=at)
        yield from self._differences(key)
        yield from self._zeros(key)
        yield from self._stated(goal)
        for how, known, cost in (("earlier", scene.earlier, 0.1), ("remembered", scene.remembered, 0.35)):
            for via, magnitude in known.items():
                extra = self._coercion(via, key)
                if extra is not None:
                    unit, wanted = self.base.quantities[via].unit, self.base.quantities[key].unit
                    yield Resolution(how, key, via, cost + extra, convert(magnitude, unit, wanted))

    def _differences(self, key: str) -> Iterator[Resolution]:
        """Yield the width of a range: "from the 3 m mark to the 18 m mark"."""
        values, readings = self.scene.wording.values, self.scene.bindings.readings
        if self.base.quantities[key].role or (key != self.base.general_of(key) and key not in self.scene.named):
            return
        for index in range(len(values) - 1):
            first, second = values[index], values[index + 1]
            is_range = first.in_range and second.in_range and (first.role, second.role) == ("initial", "final")
            if is_range and key in readings[index] and key in readings[index + 1]:
                width = readings[index + 1][key][0] - readings[index][key][0]
                yield Resolution("given", key, key, 0.6, width, index, partner=index + 1, evidence=0.5,
                                 position=self.scene.wording.value_at[index])

    def _coercion(self, known: str, wanted: str) -> float | None:
        """What it costs to take one quantity for another, or None if they aren't related."""
        if known == wanted:
            return 0.0
        if wanted in self.base.ancestors[known]:
            return _TO_PARENT * self.base.ancestors[known][wanted]
        if known in self.base.ancestors[wanted]:
            return _TO_CHILD * self.base.ancestors[wanted][known]
        return None

    def _zeros(self, key: str) -> Iterator[Resolution]:
        for via in (key, *self.base.descendants[key]):
            if via in self.scene.zeros:
                cost, place = self.scene.zeros[via]
                yield Resolution("zero", key, via, cost + (0.3 if via != key else 0.0), 0.0, position=place)

    def _stated(self, goal: Goal) -> Iterator[Resolution]:
        """Yield material properties, constants and the formula's own default."""
        key = goal.quantity
        for order, (name, first, _last) in enumerate(self.scene.materials):
            for via, known in self.base.properties(name).items():
                extra = self._coercion(via, key)
                if extra is not None:
                    cost = 0.1 + self._property_cost(goal, via, extra) + self._side_cost(key, first) + 0.02 * order
                    yield Resolution("property", key, via, cost, None, known=known, position=first)
        if key in self.base.constants_of:
            cost = 0.35 if goal.is_scene or key in self.scene.named else _UNTOLD_CONSTANT
            cost += 0.0 if goal.above else self._lookup_cost
            yield Resolution("constant", key, key, cost, None, known=self.base.constants_of[key])
        if goal.default in self.base.constants:
            known = self.base.constants[goal.default]
            cost = 0.25 if goal.is_scene or known.quantity in self.scene.named else _UNTOLD_CONSTANT
            yield Resolution("default", key, key, cost, None, known=known)

    def _property_cost(self, goal: Goal, via: str, extra: float) -> float:
        """A property that the question doesn't name is seldom what it asks for."""
        named = via in self.scene.named or self.candidates.get(via, 9.0) < 0.6
        if not goal.above:
            return min(extra, 0.3) + self._lookup_cost + (0.0 if named else 1.5)
        specialised = via in self.base.descendants[goal.quantity]
        return min(extra, 0.3) + (0.5 if specialised and not named else 0.0)

    @cached_property
    def _lookup_cost(self) -> float:
        """What it costs to answer with a stored value although the question gives some."""
        return min(1.0, 0.5 * sum(not item.is_bare for item in self.scene.wording.values))

    def _side_cost(self, key: str, place: int) -> float:
        """A material after "from" is the first of two, one after "into" the second."""
        words = [word.text.casefold() for word in self.scene.wording.words[max(0, place - 2):place]]
        side = "first" if {"from"} & set(words) else "second" if {"into", "to", "enters", "strikes"} & set(words) else ""
        ordinal = key.partition("_")[0]
        return 0.5 if side and ordinal in ("first", "second") and ordinal != side else 0.0

    def _expand(self, chain: Chain) -> Iterator[Chain]:
        goal, rest = chain.goals[0], chain.goals[1:]
        if goal.quantity in chain.resolved:
            yield Chain(chain.target, chain.cost, rest, chain.resolved, chain.used, chain.formulas, chain.materials)
            return
        for leaf in self.leaves(goal):
            if goal.above or leaf.how in ("property", "constant", "remembered"):
                following = self._with_leaf(chain, rest, leaf)
                if following:
                    yield following
        if goal.above:
            yield self._with(chain, rest, Resolution("missing", goal.quantity, goal.quantity, MISSING))
        if len(goal.above) < MAX_DEPTH:
            yield from self._by_formulas(chain, goal, rest)

    def _with_leaf(self, chain: Chain, rest: tuple[Goal, ...], leaf: Resolution) -> Chain | None:
        if leaf.value >= 0:
            return self._with_given(chain, rest, leaf)
        if leaf.how == "property" and leaf.known:
            name = leaf.known.name.partition(" of ")[2]
            tag = leaf.known.name
            if any(item.known and item.known.name == tag and item.quantity != leaf.quantity
                   for item in chain.resolved.values()):
                return None
            gain = 0.0 if name in chain.materials else _UNUSED_MATERIAL * self.scene.patience
            return self._with(chain, rest, leaf, gain, materials=chain.materials | {name})
        return self._with(chain, rest, leaf)

    def _with_given(self, chain: Chain, rest: tuple[Goal, ...], leaf: Resolution) -> Chain | None:
        """Bind a value: it stands for one quantity only, or for related ones at a cost."""
        bound = {leaf.value, leaf.partner} - {-1}
        if not bound & chain.used:
            gain = sum(self.scene.penalties[index] for index in bound)
            return self._with(chain, rest, leaf, gain, used=chain.used | bound)
        others = [item.quantity for item in chain.resolved.values() if item.value == leaf.value]
        if any(self.base.is_related(leaf.quantity, other) for other in others):
            return self._with(chain, rest, leaf, -0.2)
        return None

    @staticmethod
    def _with(chain: Chain, rest: tuple[Goal, ...], item: Resolution, gain: float = 0.0, *,
              used: frozenset[int] | None = None, materials: frozenset[str] | None = None) -> Chain:
        return Chain(chain.target, chain.cost + item.cost - gain, rest, {**chain.resolved, item.quantity: item},
                     chain.used if used is None else used, chain.formulas,
                     chain.materials if materials is None else materials)

    def _by_formulas(self, chain: Chain, goal: Goal, rest: tuple[Goal, ...]) -> Iterator[Chain]:
        options = list(self._formulas_for(goal.quantity))
        best: dict[str, float] = {}
        for formula, _via, _extra in options:
            best[formula.topic] = max(best.get(formula.topic, 0.0), self.scene.scenario.get(formula.id, 0.0))
        for formula, via, extra in options:
            if formula.id in chain.formulas or via in goal.above:
                continue
            others = [(symbol, key) for symbol, key in formula.where.items() if key != via]
            if any(key in goal.above or key == goal.quantity for _symbol, key in others):
                continue
            fit = self.scene.scenario.get(formula.id, 0.0)
            cost = self.scene.formula_cost(formula) + extra
            if not fit:
                cost += _RIVAL * max(0.0, best[formula.topic] - 0.3)
            item = Resolution("formula", goal.quantity, via, cost, formula=formula,
                              evidence=self.scene.fit[formula.id])
            above = (*goal.above, goal.quantity, *((via,) if via != goal.quantity else ()))
            goals = tuple(Goal(key, above, formula.defaults.get(symbol, ""), fit > 0) for symbol, key in others)
            yield Chain(chain.target, chain.cost + cost, goals + rest, {**chain.resolved, goal.quantity: item},
                        chain.used, chain.formulas | {formula.id}, chain.materials)

    def _formulas_for(self, key: str) -> Iterator[tuple[Formula, str, float]]:
        """Yield formulas that give a quantity, a case of it, or what it is a case of, with the cost of that."""
        related = [(key, 0.0)]
        related += [(below, _TO_PARENT * steps) for below, steps in self.base.descendants[key].items()]
        related += [(above, _TO_CHILD * steps) for above, steps in self.base.ancestors[key].items()]
        for via, extra in related:
            for formula in self.base.formulas_of[via]:
                if formula.symbol(via) not in formula.no_solve:
                    yield formula, via, extra

    def _finished(self, chain: Chain) -> Chain:
        """Add what depends on all bindings together: the order of first and second."""
        cost = _order_cost(chain.resolved)
        return Chain(chain.target, chain.cost + cost, (), chain.resolved, chain.used, chain.formulas, chain.materials)


_ORDINALS = {"first": 1, "second": 2, "third": 3, "initial": 1, "final": 2, "primary": 1, "secondary": 2}


def _order_cost(resolved: Mapping[str, Resolution]) -> float:
    """First and second of a kind should come in the question's order, and alike for all kinds."""
    places: dict[str, dict[int, int]] = {}
    for key, item in resolved.items():
        prefix, _, rest = key.partition("_")
        if prefix in ("first", "second", "third") and item.position >= 0:
            places.setdefault(rest, {})[_ORDINALS[prefix]] = item.position
    cost, directions = 0.0, set()
    for where in places.values():
        if 1 in where and 2 in where:
            directions.add(where[1] <= where[2])
            cost += 0.15 * (where[1] > where[2])
    return cost + (0.6 if len(directions) > 1 else 0.0)
