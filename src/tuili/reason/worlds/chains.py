"""The and-or search for a chain of formulas from an asked quantity back to what is known.

Best first over partial derivations. A derivation's cost is that of its formulas, bindings and
assumptions, plus a penalty for each given that plays no part; the estimate of what is still to pay
is the cost of each open quantity when solved alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count

from tuili.reason.worlds.formulary import ORDINALS, Formula
from tuili.reason.worlds.leaves import TO_CHILD, TO_PARENT, Goal, Leaves, Resolution
from tuili.reason.worlds.scene import Scene

MAX_EXPANSIONS = 2_500
MAX_DEPTH = 4
MISSING = 2.8
_CONTRADICTED = 1.0
_TWO_ROLES = 1.5
_MOST_OPTIONS = 18
_OPTION_WIDTH = 2.6
_RIVAL = 0.7
_REUSED = 0.6
_SHAPE_RIVAL = 1.8
_UNTOLD_DEPTH = 0.5
_INVERSE = 0.12
_SPLIT_GROUP = 1.2
_UNLIKE_GROUP = 0.4
_OUT_OF_ORDER = 0.15
_CROSSED = 0.6
_MIXED = 0.2
_ROUNDS = 4
_LEAST = -0.6
_OPTIMISM = 0.95


@dataclass(frozen=True, slots=True)
class Option:
    """A formula solved for a quantity, what else it needs, and the estimated cost of all."""

    item: Resolution
    needs: tuple[Goal, ...]
    estimate: float


@dataclass(frozen=True, slots=True)
class Chain:
    """A derivation: a resolution for every quantity that it needs, and the cost of all."""

    target: str
    cost: float
    goals: tuple[Goal, ...]
    resolved: Mapping[str, Resolution]
    used: frozenset[int] = frozenset()
    formulas: frozenset[str] = frozenset()
    materials: frozenset[str] = frozenset()
    estimate: float = 0.0

    @property
    def missing(self) -> list[str]:
        """The quantities that the chain lacks."""
        return [key for key, item in self.resolved.items() if item.how == "missing"]


class Search:
    """Finds the cheapest chains for a slot's candidates (quantity ids with costs)."""

    def __init__(self, scene: Scene, candidates: Mapping[str, float]) -> None:
        self.scene = scene
        self.base = scene.base
        self.candidates = candidates
        self.leaves = Leaves(scene, candidates)
        self.bound = float("inf")
        self.num_expanded = 0
        self._options: dict[str, tuple[Option, ...]] = {}

    def chains(self) -> Iterator[Chain]:
        """Yield complete chains, cheapest first as far as the estimate is right.

        A caller may lower `bound` meanwhile; chains above it are dropped.
        """
        order = count()
        queue: list[tuple[float, int, Chain]] = []
        for key, cost in self.candidates.items():
            goal = Goal(key)
            start = Chain(key, cost + self._all_penalties, (goal,), {}, estimate=self._estimate(goal))
            heapq.heappush(queue, (start.cost + start.estimate, next(order), start))
        while queue and self.num_expanded < MAX_EXPANSIONS:
            total, _, chain = heapq.heappop(queue)
            if total > self.bound:
                return
            if not chain.goals:
                yield chain
                continue
            self.num_expanded += 1
            for following in self._expand(chain):
                if not following.goals:
                    following = replace(following, cost=following.cost + self._whole_cost(following))
                if following.cost + following.estimate <= self.bound:
                    heapq.heappush(queue, (following.cost + following.estimate, next(order), following))

    @cached_property
    def _all_penalties(self) -> float:
        names = {name for name, _first, _last in self.scene.materials}
        return sum(self.scene.penalties) + self.scene.material_penalty * len(names)

    def _estimate(self, goal: Goal) -> float:
        """What a goal will cost at least, about; a constant costs little in a formula that the question tells of."""
        cost = self.relaxed[goal.quantity]
        if goal.above and (goal.is_told or goal.default):
            cost = min([cost, *(item.cost for item in self.leaves.of(goal) if item.known)])
        return _OPTIMISM * cost

    @cached_property
    def relaxed(self) -> dict[str, float]:
        """The cost of each quantity when solved alone, sharing nothing with others."""
        costs = {key: self._missing_cost(key) for key in self.base.quantities}
        for key in self.leaves.known_quantities():
            known = (item.cost - self._gain(item) for item in self.leaves.of(Goal(key, ("",))))
            costs[key] = min(costs[key], *known, costs[key])
        formulas = [
            (
                self.scene.formula_cost(formula),
                [(key, self._default_cost(formula, symbol)) for symbol, key in formula.where.items()],
            )
            for formula in self.base.formulas.values()
        ]
        for _ in range(_ROUNDS):
            if not self._relax(costs, formulas):
                break
        return costs

    def _missing_cost(self, key: str) -> float:
        """What it costs to lack a quantity: little if the question gives it an impossible value."""
        return _CONTRADICTED if key in self.scene.misnamed else MISSING

    def _gain(self, item: Resolution) -> float:
        return self.scene.penalties[item.value] if item.value >= 0 else 0.0

    def _default_cost(self, formula: Formula, symbol: str) -> float:
        if symbol not in formula.defaults:
            return MISSING
        quantity = self.base.constants[formula.defaults[symbol]].quantity
        return self.leaves.default_cost(quantity, self.scene.is_told(formula))

    def _relax(self, costs: dict[str, float], formulas: list[tuple[float, list[tuple[str, float]]]]) -> bool:
        """Lower the costs once by every formula; tell whether any was lowered."""
        changed = False
        for cost, parts in formulas:
            each = [min(costs[key], default) for key, default in parts]
            total = sum(each) + cost
            for (key, _default), part in zip(parts, each, strict=True):
                lower = max(_LEAST, total - part)
                if lower < costs[key] - 1e-6:
                    changed = True
                    self._lower(costs, key, lower)
        return changed

    def _lower(self, costs: dict[str, float], key: str, cost: float) -> None:
        costs[key] = cost
        for above, steps in self.base.ancestors[key].items():
            costs[above] = min(costs[above], cost + TO_PARENT * steps)
        for below, steps in self.base.descendants[key].items():
            costs[below] = min(costs[below], cost + TO_CHILD * steps)

    def _expand(self, chain: Chain) -> Iterator[Chain]:
        goal, rest = chain.goals[0], chain.goals[1:]
        estimate = chain.estimate - self._estimate(goal)
        if goal.quantity in chain.resolved:
            yield replace(chain, goals=rest, estimate=estimate)
            return
        for leaf in self.leaves.of(goal):
            following = self._with_leaf(chain, leaf)
            if following:
                yield replace(following, goals=rest, estimate=estimate)
        if goal.above:
            missing = Resolution("missing", goal.quantity, goal.quantity, self._missing_cost(goal.quantity))
            yield replace(_with(chain, missing), goals=rest, estimate=estimate)
        if len(goal.above) < MAX_DEPTH:
            yield from self._by_formulas(chain, goal, rest, estimate)

    def _with_leaf(self, chain: Chain, leaf: Resolution) -> Chain | None:
        if leaf.value >= 0:
            return self._with_given(chain, leaf)
        if leaf.how != "property":
            return _with(chain, leaf)
        if any(item.known is leaf.known for item in chain.resolved.values()):
            return None
        gain = 0.0 if leaf.material in chain.materials else self.scene.material_penalty
        if leaf.via not in self.scene.hinted and self._is_in_two_roles(chain, leaf):
            gain -= _TWO_ROLES
        return replace(_with(chain, leaf, gain), materials=chain.materials | {leaf.material})

    def _is_in_two_roles(self, chain: Chain, leaf: Resolution) -> bool:
        """Tell whether a formula takes two properties of one thing, such as mass and orbit of the Earth."""
        return any(
            item.material == leaf.material and self._meet(chain, leaf.quantity, key)
            for key, item in chain.resolved.items()
            if item.how == "property"
        )

    def _with_given(self, chain: Chain, leaf: Resolution) -> Chain | None:
        """Bind a value: it stands for one quantity only, or for related ones at a cost."""
        bound = {leaf.value, leaf.partner} - {-1}
        if not bound & chain.used:
            gain = sum(self.scene.penalties[index] for index in bound)
            return replace(_with(chain, leaf, gain), used=chain.used | bound)
        others = [item.quantity for item in chain.resolved.values() if item.value == leaf.value]
        if any(self._meet(chain, leaf.quantity, other) for other in others):
            return None
        if any(self.base.is_related(leaf.quantity, other) for other in others):
            return _with(chain, leaf, -_REUSED)
        return None

    def _meet(self, chain: Chain, first: str, second: str) -> bool:
        """Tell whether two quantities are in one formula of the chain, so that no value is both."""
        wheres = (self.base.formulas[key].where.values() for key in chain.formulas)
        return any(first in where and second in where for where in wheres)

    def _by_formulas(self, chain: Chain, goal: Goal, rest: tuple[Goal, ...], estimate: float) -> Iterator[Chain]:
        for option in self._options_for(goal.quantity):
            formula, via = option.item.formula, option.item.via
            assert formula is not None  # an option holds its formula
            if formula.id in chain.formulas or via in goal.above:
                continue
            if any(need.quantity in goal.above for need in option.needs):
                continue
            above = (*goal.above, *dict.fromkeys((goal.quantity, via)))
            needs = tuple(replace(need, above=above) for need in option.needs)
            depth = 0.0 if self.scene.is_told(formula) else _UNTOLD_DEPTH * len(goal.above)
            following = _with(chain, option.item, -depth)
            yield replace(
                following,
                goals=needs + rest,
                formulas=chain.formulas | {formula.id},
                estimate=estimate + sum(self._estimate(need) for need in needs),
            )

    def _options_for(self, key: str) -> tuple[Option, ...]:
        """Return the formulas that give a quantity, the most promising first."""
        if key not in self._options:
            found = sorted(self._all_options(key), key=lambda option: option.estimate)
            least = found[0].estimate if found else 0.0
            kept = [option for option in found if option.estimate <= least + _OPTION_WIDTH]
            self._options[key] = tuple(kept[:_MOST_OPTIONS])
        return self._options[key]

    def _all_options(self, key: str) -> Iterator[Option]:
        formulas = list(self._formulas_for(key))
        best: dict[str, float] = {}
        for formula, _via, _extra in formulas:
            best[formula.topic] = max(best.get(formula.topic, 0.0), self.scene.scenario.get(formula.id, 0.0))
        for formula, via, extra in formulas:
            told = self.scene.scenario.get(formula.id, 0.0)
            if formula.is_identity and not told:
                continue
            cost = self.scene.formula_cost(formula) + extra
            cost += 0.0 if formula.expr.partition("=")[0].strip() == formula.symbol(via) else _INVERSE
            if not told:
                cost += _RIVAL * max(0.0, best[formula.topic] - 0.3)
                cost += _SHAPE_RIVAL * (formula.topic == "geometry" and self._is_other_shape(formula, formulas))
            needs = tuple(
                Goal(other, (), formula.defaults.get(symbol, ""), self.scene.is_told(formula))
                for symbol, other in formula.where.items()
                if other != via
            )
            if any(need.quantity == key for need in needs):
                continue
            parts = (
                max(
                    0.0,
                    min(
                        self.relaxed[need.quantity],
                        self._default_cost(formula, formula.symbol(need.quantity)),
                    ),
                )
                for need in needs
            )
            item = Resolution("formula", key, via, cost, formula=formula, evidence=self.scene.fit[formula.id])
            yield Option(item, needs, cost + sum(parts))

    def _is_other_shape(self, formula: Formula, others: list[tuple[Formula, str, float]]) -> bool:
        """Tell whether the question's words tell of another shape with the same asked quantity."""
        mine = self.base.vocabulary[formula.id]
        return any(
            self.scene.scenario.get(other.id, 0.0) > 0.25 and not self._shape_stems(other) & mine
            for other, _via, _extra in others
            if other.topic == formula.topic
        )

    def _shape_stems(self, formula: Formula) -> frozenset[str]:
        """The stems by which the question tells of a formula, less those that name its quantities."""
        names = (self.base.name_stems[key] for key in formula.where.values())
        return self.scene.told_stems[formula.id] - frozenset().union(*names)

    def _formulas_for(self, key: str) -> Iterator[tuple[Formula, str, float]]:
        """Yield formulas that give a quantity, a case of it or what it is a case of, and the cost of that."""
        related = [(key, 0.0)]
        related += [(below, TO_PARENT * steps) for below, steps in self.base.descendants[key].items()]
        related += [(above, TO_CHILD * steps) for above, steps in self.base.ancestors[key].items()]
        for via, extra in related:
            for formula in self.base.formulas_of[via]:
                if formula.symbol(via) not in formula.no_solve:
                    yield formula, via, extra

    def _whole_cost(self, chain: Chain) -> float:
        """The cost of what depends on all bindings together: first and second, values listed together."""
        cost = _order_cost(chain.resolved)
        for group in self.scene.bindings.groups:
            used = group & chain.used
            if used == group:
                cost += 0.0 if self._are_siblings(chain, group) else _UNLIKE_GROUP
            elif used and any(self.scene.penalties[index] for index in group - used):
                cost += _SPLIT_GROUP
        return cost

    def _are_siblings(self, chain: Chain, group: frozenset[int]) -> bool:
        """Tell whether listed values are first and second of the same kind, or of one parent."""
        keys = [item.quantity for item in chain.resolved.values() if item.value in group]
        rests = {key.partition("_")[2] if key.partition("_")[0] in ORDINALS else key for key in keys}
        parents = {self.base.quantities[key].parent or key for key in keys}
        return len(rests) == 1 or (len(parents) == 1 and not parents & set(keys))


def _with(chain: Chain, item: Resolution, gain: float = 0.0) -> Chain:
    return replace(chain, cost=chain.cost + item.cost - gain, resolved={**chain.resolved, item.quantity: item})


def _order_cost(resolved: Mapping[str, Resolution]) -> float:
    """First and second of a kind should come in the question's order, and alike for all kinds."""
    places: dict[str, dict[str, int]] = {}
    for key, item in resolved.items():
        prefix, _, rest = key.partition("_")
        if prefix in ORDINALS and item.position >= 0:
            places.setdefault(rest, {})[prefix] = item.position
    cost, directions = 0.0, set()
    for where in places.values():
        if "first" in where and "second" in where:
            directions.add(where["first"] <= where["second"])
            cost += _OUT_OF_ORDER * (where["first"] > where["second"])
    return cost + (_CROSSED if len(directions) > 1 else 0.0) + _MIXED * _num_mixed(resolved)


def _num_mixed(resolved: Mapping[str, Resolution]) -> int:
    """Count the values of first things that stand nearest to a value of a second thing, and the reverse."""
    placed = [
        (key.partition("_"), item.position)
        for key, item in resolved.items()
        if key.partition("_")[0] in ORDINALS and item.position >= 0
    ]
    mixed = 0
    for (prefix, _, rest), place in placed:
        others = [(abs(place - other), name[0]) for name, other in placed if name[2] != rest]
        nearest = min(others, default=(0, prefix))
        mixed += nearest[1] != prefix and (nearest[0], prefix) not in others
    return mixed
