"""Search: which entities satisfy a query, by which facts, within a budget.

The query is a tree around its target: sets grow from the constants along the relations and are
intersected where they meet, so only entities near the question's links are ever touched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tuili.knowledge.graph import Fact, Graph
from tuili.knowledge.query import Aggregate, Constraint, Query, Var
from tuili.knowledge.records import Relation
from tuili.reason.answer import Pruned

MAX_NODES = 20_000
SHORTLIST = 60
# Words that fit nothing better than this don't tell several things apart.
MIN_FILTER = 0.3
# What a constant has more facts of is tested for what is left of the others, rather than followed.
MANY = 2_000
MAX_PRUNED = 200
# How many facts a search may follow for each entity that it may touch.
STEPS_PER_NODE = 5

# Scores how well each entity (by id) fits a description, 0 to 1.
Matcher = Callable[[str, Sequence[int]], Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class Support:
    """Why an entity is in a set: the facts used, and how well descriptions fit (0 to 1)."""

    facts: tuple[Fact, ...] = ()
    fit: float = 1.0


Found = dict[int, Support]


@dataclass
class Outcome:
    """The result of a search: per target variable the entities with their support."""

    found: Found = field(default_factory=dict)
    pruned: list[Pruned] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    num_expanded: int = 0
    is_partial: bool = False
    empty_at: str = ""


class Search:
    """Evaluates one query on one graph."""

    def __init__(
        self,
        graph: Graph,
        query: Query,
        match: Matcher,
        max_nodes: int = MAX_NODES,
        min_fit: float = 0.0,
        deadline: float = math.inf,
    ) -> None:
        self.graph = graph
        self.query = query
        self.match = match
        self.max_nodes = max_nodes
        self.min_fit = min_fit
        self.deadline = deadline
        self.outcome = Outcome()
        self._num_steps = 0
        self._held: dict[tuple[int, str], bool] = {}

    def run(self) -> Outcome:
        """Evaluate the query; a search that hits the budget is marked partial."""
        outcome = self.outcome
        for name in self.query.targets[:1]:
            outcome.found = self._evaluate(name, frozenset())
            outcome.found = self._most_specific(name, outcome.found)
        if self.query.aggregate in (Aggregate.MOST, Aggregate.LEAST):
            self._count_each()
        return outcome

    # -- sets ----------------------------------------------------------------------------------

    def _evaluate(self, name: str, visited: frozenset[str]) -> Found:
        """Return the entities that variable `name` can be, given all constraints away from `visited`."""
        var = self.query.var(name)
        visited = visited | {name}
        around = [constraint for constraint in self.query.constraints if self._other(constraint, name, visited)]
        if self.query.counted:
            around = [one for one in around if not self._is_counted(self._other(one, name, visited), visited)]
        generating = [constraint for constraint in around if self._grows(constraint, name, visited)]
        testing = [constraint for constraint in around if constraint not in generating]
        found = self._constants(var)
        found = self._grow(var, found, [c for c in generating if not c.negated], visited)
        found = self._subtract(var, found, [c for c in generating if c.negated], visited)
        if found is None:
            found = {number: Support() for number in self._members(var)}
        for constraint in testing:
            found = self._test(found, constraint, name, visited)
        found = self._of_kind(var, found)
        found = self._fit(var, found)
        found = self._nth(var, found)
        if not found and not self.outcome.empty_at:
            self.outcome.empty_at = name
        return found

    def _other(self, constraint: Constraint, name: str, visited: frozenset[str]) -> str:
        if name not in (constraint.subject, constraint.object):
            return ""
        other = constraint.object if constraint.subject == name else constraint.subject
        return "" if other in visited else other

    def _is_counted(self, name: str, visited: frozenset[str]) -> bool:
        """Tell whether what is counted lies in this direction: a target may have none of it."""
        visited = visited | {name}
        return name == self.query.counted or any(
            self._is_counted(other, visited)
            for constraint in self.query.constraints
            if (other := self._other(constraint, name, visited))
        )

    def _grows(self, constraint: Constraint, name: str, visited: frozenset[str]) -> bool:
        return self._is_anchored(self._other(constraint, name, visited), visited | {name})

    def _is_anchored(self, name: str, visited: frozenset[str]) -> bool:
        """Tell whether a constant lies in this direction."""
        var = self.query.var(name)
        if var.is_constant or var.text:
            return True
        return any(
            self._is_anchored(other, visited | {name})
            for constraint in self.query.constraints
            if (other := self._other(constraint, name, visited | {name}))
        )

    def _constants(self, var: Var) -> Found | None:
        return {number: Support() for number in var.ids} if var.ids else None

    def _members(self, var: Var) -> list[int]:
        if var.text:
            return [number for number, _ in self.graph.search(var.text, kinds=var.kinds, limit=SHORTLIST)]
        members = [number for kind in var.kinds for number in self.graph.members(kind, self.max_nodes + 1)]
        return self._budget(list(dict.fromkeys(members)))

    def _budget(self, nodes: list[int]) -> list[int]:
        self.outcome.num_expanded += len(nodes)
        if self.outcome.num_expanded > self.max_nodes:
            self.outcome.is_partial = True
            return nodes[: max(0, self.max_nodes - self.outcome.num_expanded + len(nodes))]
        return nodes

    def _grow(
        self, var: Var, found: Found | None, constraints: Sequence[Constraint], visited: frozenset[str]
    ) -> Found | None:
        """Intersect what each constraint allows; constraints of one relation meet by name if the kind says so.

        The constraints with many facts come last, and only test what the others left.
        """
        groups: dict[tuple[str, bool], list[Found]] = {}
        large = [one for one in constraints if self._is_large(var, one, visited)]
        for constraint in constraints:
            if constraint not in large:
                forward = constraint.object == var.name
                groups.setdefault((constraint.relation, forward), []).append(self._reach(constraint, var.name, visited))
        for sets in groups.values():
            met = sets[0]
            for following in sets[1:]:
                met = self._meet(var, met, following)
            found = met if found is None else _intersect(found, met)
        for constraint in large:
            if found is None:
                found = self._reach(constraint, var.name, visited)
            else:
                found = self._kept(found, constraint, var.name, visited)
        return found

    def _is_large(self, var: Var, constraint: Constraint, visited: frozenset[str]) -> bool:
        """Tell whether a constraint's constant has many facts of its relation, all plainly about the variable."""
        other = self.query.var(self._other(constraint, var.name, visited))
        relation, inverse = self.graph.relations[constraint.relation], constraint.object != var.name
        is_plain = not (constraint.closure or relation.object_through or relation.subject_through)
        if not (is_plain and other.ids and not other.text and not self._by_name(var)):
            return False
        step = self.graph.step
        return any(len(step(one, relation.name, inverse=inverse, limit=MANY + 1)) > MANY for one in other.ids)

    def _kept(self, found: Found, constraint: Constraint, name: str, visited: frozenset[str]) -> Found:
        """Return those that a fact joins to the constraint's constants."""
        others = self.query.var(self._other(constraint, name, visited)).ids
        forward = constraint.object == name
        kept: Found = {}
        for number, support in found.items():
            ends = ((other, number) if forward else (number, other) for other in others)
            facts = (self.graph.fact(subject, constraint.relation, object_) for subject, object_ in ends)
            passing = next((fact for fact in facts if fact and _passes(fact, constraint.where)), None)
            if passing:
                kept[number] = Support((*support.facts, passing), support.fit)
        return kept

    def _meet(self, var: Var, left: Found, right: Found) -> Found:
        if not self._by_name(var):
            return _intersect(left, right)
        by_name = {self.graph.entity(number).name: support for number, support in right.items()}
        return {
            number: _join(support, by_name[name])
            for number, support in left.items()
            if (name := self.graph.entity(number).name) in by_name
        }

    def _by_name(self, var: Var) -> bool:
        return any(self.graph.kinds[kind].by_name for kind in var.kinds if kind in self.graph.kinds)

    def _subtract(
        self, var: Var, found: Found | None, constraints: Sequence[Constraint], visited: frozenset[str]
    ) -> Found | None:
        for constraint in constraints:
            base = found if found is not None else {number: Support() for number in self._members(var)}
            without = self._reach(constraint, var.name, visited)
            names = {self.graph.entity(number).name for number in without} if self._by_name(var) else set()
            out = {number for number in base if number in without or self.graph.entity(number).name in names}
            for number in sorted(out):
                self._prune(number, f"excluded: {constraint.relation}")
            found = {number: support for number, support in base.items() if number not in out}
        return found

    def _reach(self, constraint: Constraint, name: str, visited: frozenset[str]) -> Found:
        """Return the entities at `name`'s end of a constraint, from the set at its other end."""
        other = self._other(constraint, name, visited)
        start = self._evaluate(other, visited)
        forward = constraint.object == name
        reached: Found = {}
        steps = (
            (target, Support((*support.facts, *facts), support.fit))
            for number, support in start.items()
            for target, facts in self._step(number, constraint, forward)
        )
        for target, joined in steps:
            if target not in reached or len(joined.facts) < len(reached[target].facts):
                reached[target] = joined
            self._num_steps += 1
            if len(reached) > self.max_nodes or self._num_steps > STEPS_PER_NODE * self.max_nodes or self._is_late():
                self.outcome.is_partial = True
                break
        self.outcome.num_expanded += len(reached)
        return reached

    def _is_late(self) -> bool:
        """Tell every thousand steps whether the time is over."""
        return self._num_steps % 1000 == 0 and time.monotonic() > self.deadline

    def _step(self, number: int, constraint: Constraint, forward: bool) -> Iterable[tuple[int, tuple[Fact, ...]]]:
        relation = self.graph.relations[constraint.relation]
        if constraint.closure:
            yield from self.graph.closure(number, relation.name, inverse=not forward).items()
            return
        for facts, place in self._places(number, constraint, forward):
            for fact in self.graph.step(place, relation.name, inverse=not forward, limit=self.max_nodes + 1):
                if _passes(fact, constraint.where):
                    yield fact.other(place), (*facts, fact)
                    if not forward and self._inherits(relation):
                        below = self.graph.closure(fact.subject, relation.subject_through, inverse=True)
                        yield from ((heir, (*facts, fact, *more)) for heir, more in below.items())

    def _inherits(self, relation: Relation) -> bool:
        return bool(relation.subject_through) and self.query.aggregate == Aggregate.ASK

    def _places(self, number: int, constraint: Constraint, forward: bool) -> Iterable[tuple[tuple[Fact, ...], int]]:
        """Yield where facts about `number` may stand: itself, and along the hierarchy they are inherited by."""
        relation = self.graph.relations[constraint.relation]
        yield (), number
        if not forward and relation.object_through:
            for below, facts in self.graph.closure(number, relation.object_through, inverse=True).items():
                yield facts, below
        if forward and self._inherits(relation):
            for above, facts in self.graph.closure(number, relation.subject_through).items():
                yield facts, above

    def _test(self, found: Found, constraint: Constraint, name: str, visited: frozenset[str]) -> Found:
        """Keep the entities that have any fact of a constraint whose other end is free."""
        inverse = constraint.object == name
        other = self.query.var(constraint.object if not inverse else constraint.subject)
        kept = {}
        for number, support in found.items():
            facts = [
                fact
                for fact in self.graph.step(number, constraint.relation, inverse=inverse, limit=self.max_nodes + 1)
                if _passes(fact, constraint.where) and self._holds(fact.other(number), other, visited)
            ]
            if bool(facts) != constraint.negated:
                kept[number] = Support((*support.facts, *facts[:1]), support.fit)
        return kept

    def _holds(self, number: int, var: Var, visited: frozenset[str]) -> bool:
        """Tell whether an entity can be a free variable, given all constraints away from `visited`."""
        key = (number, var.name)
        if key not in self._held:
            self._held[key] = self._has_kind(number, var) and self._has_facts(number, var, visited | {var.name})
        return self._held[key]

    def _has_facts(self, number: int, var: Var, visited: frozenset[str]) -> bool:
        around = [one for one in self.query.constraints if self._other(one, var.name, visited)]
        if around and not self._budget([number]):
            return False
        return all(self._test({number: Support()}, one, var.name, visited) for one in around)

    def _has_kind(self, number: int, var: Var) -> bool:
        return not var.kinds or self.graph.entity(number).kind in var.kinds

    def _of_kind(self, var: Var, found: Found) -> Found:
        if not var.kinds:
            return found
        kinds = set(var.kinds)
        self.graph.entities(found)
        return {number: support for number, support in found.items() if self.graph.entity(number).kind in kinds}

    def _most_specific(self, name: str, found: Found) -> Found:
        """Of what several entities reach by a transitive relation, keep what lies nearest to them."""
        shared = [
            constraint
            for constraint in self.query.constraints
            if constraint.closure and not constraint.negated and constraint.object == name
        ]
        if len(shared) < 2 or len(found) < 2:
            return found
        reached = {number: self.graph.closure(number, shared[0].relation).keys() for number in found}
        above = {
            number
            for number in found
            if any(number in reached[other] and other not in reached[number] for other in found)
        }
        for number in sorted(above):
            self._prune(number, "a nearer one is shared too")
        return {number: support for number, support in found.items() if number not in above}

    # -- descriptions and order ----------------------------------------------------------------

    def _fit(self, var: Var, found: Found) -> Found:
        """Keep the entities that a description fits: the best one, or all near it if the word is plural."""
        if not var.text or not found:
            return found
        fits = {n: fit for n, fit in self.match(var.text, list(found)).items() if math.isfinite(fit)}
        best = max(fits.values(), default=0.0)
        if var.plural and best < MIN_FILTER:
            return {number: Support(found[number].facts, found[number].fit * fit) for number, fit in fits.items()}
        bound = max(self.min_fit, best * (0.93 if var.plural else 0.999))
        for number, fit in sorted(fits.items(), key=lambda item: -item[1]):
            if fit < bound:
                fact = found[number].facts[-1] if found[number].facts else None
                self._prune(number, f"fits “{var.text}” less", fit, fact)
        return {
            number: Support(found[number].facts, found[number].fit * fit)
            for number, fit in fits.items()
            if fit >= bound
        }

    def _prune(self, number: int, reason: str, weight: float = 0.0, fact: Fact | None = None) -> None:
        if len(self.outcome.pruned) >= MAX_PRUNED:
            return
        from tuili.reason.explain import path_edge

        edge = path_edge(self.graph, fact) if fact else None
        self.outcome.pruned.append(Pruned(self.graph.entity(number).name, weight, reason, edge))

    def _nth(self, var: Var, found: Found) -> Found:
        if not var.ordinal or not found:
            return found
        ordered = sorted(found, key=self._position(found))
        place = var.ordinal - 1 if var.ordinal > 0 else var.ordinal
        if not -len(ordered) <= place < len(ordered):
            return {}
        return {ordered[place]: found[ordered[place]]}

    def _position(self, found: Found) -> Callable[[int], tuple[float, int]]:
        def key(number: int) -> tuple[float, int]:
            position = self.graph.entity(number).data.get("position")
            facts = found[number].facts
            order = facts[-1].id if facts else number
            return (float(position) if isinstance(position, (int, float)) else 0.0, order)

        return key

    # -- counting ------------------------------------------------------------------------------

    def _count_each(self) -> None:
        """Count, for each target, the entities that the counted variable can be beside it."""
        target = self.query.targets[0]
        for number in self.outcome.found:
            if self.outcome.num_expanded > self.max_nodes or time.monotonic() > self.deadline:
                self.outcome.is_partial = True
                break
            variables = tuple(
                replace(var, ids=(number,)) if var.name == target else var for var in self.query.variables
            )
            query = replace(self.query, variables=variables, counted="")
            search = Search(self.graph, query, self.match, self.max_nodes, self.min_fit, self.deadline)
            self.outcome.counts[number] = len(search._evaluate(self.query.counted, frozenset()))
            self.outcome.num_expanded += search.outcome.num_expanded
            self.outcome.is_partial |= search.outcome.is_partial


def _passes(fact: Fact, where: tuple[str, str]) -> bool:
    qualifier, value = where
    data = fact.data.get(qualifier) if qualifier else None
    return not qualifier or (isinstance(data, Mapping) and data.get("class") == value)


def _intersect(left: Found, right: Found) -> Found:
    return {number: _join(support, right[number]) for number, support in left.items() if number in right}


def _join(left: Support, right: Support) -> Support:
    return Support((*left.facts, *right.facts), left.fit * right.fit)
