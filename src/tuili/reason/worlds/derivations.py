"""Answering quantitative questions: from words to values, from a chain of formulas to a checked number."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from tuili.knowledge.graph import Graph
from tuili.knowledge.query import Aggregate, Query, Value, Var
from tuili.reason.answer import Input, Number, Path, Pruned, Step
from tuili.reason.verify import convert, convert_difference, dimension
from tuili.reason.worlds.bindings import Bindings
from tuili.reason.worlds.chains import Chain, Search
from tuili.reason.worlds.formulary import Formulary, formulary
from tuili.reason.worlds.proofs import evaluate, friendly_unit, path_of, pruned_of
from tuili.reason.worlds.scene import Scene
from tuili.reason.worlds.targets import Asked, Slot
from tuili.reason.worlds.wording import Lexicon, Wording, read_wording

Similarity = Callable[[str, list[str]], list[float]]

_NUM_CHAINS = 3
_TIE = 0.25
_MOST_COST = 7.0
_WIDTH = 0.7
_PATIENCE_BEFORE_LAST = 0.6
_MISSING_MARGIN = 0.3
_UNTOLD_MARGIN = -0.6
_MOST_COMPARED = 12
_CONVERSION_COST = 1.4
_CONVERSION = re.compile(
    r"\b(?:convert|express|change|turn)\b.*#.*\b(?:to|into|in|as)\b|\bhow (?:many|much)\b[^#.?]{1,40}"
    r"\b(?:is|are|in|make|equal)\s+(?:a |an )?#"
    r"|\bwhat(?:'s| is| are)\s+#\s+(?:in|as|expressed)\b|^\s*#\s+(?:in|to|as)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Derivation:
    """What came of a quantitative question: a value for each target, or what is missing.

    `values` are in the unit asked for or a friendly one, `si_values` in the unit of the quantity.
    `results` are all quantities that became known, to be remembered in a conversation.
    """

    question: str
    query: Query
    targets: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    values: tuple[Number, ...] = ()
    si_values: tuple[Number, ...] = ()
    paths: tuple[Path, ...] = ()
    pruned: tuple[Pruned, ...] = ()
    unused: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    results: Mapping[str, Value] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()
    reason: str = ""
    is_partial: bool = False

    @property
    def is_solved(self) -> bool:
        """Whether every target has a value."""
        return bool(self.values) and not self.missing


_lexicons: WeakKeyDictionary[Graph, Lexicon] = WeakKeyDictionary()


def derive(
    question: str,
    graph: Graph,
    similarity: Similarity | None = None,
    memory: Mapping[str, Value] | None = None,
    deadline: float = math.inf,
) -> Derivation | None:
    """Solve a quantitative question over a base of formulas; None if it asks for no quantity.

    `similarity` scores texts against the question where the words leave a tie. `memory` holds
    values of quantities known from earlier turns, by quantity id. At `deadline`, a time of `time.monotonic`, the best
    chain so far is taken, and the derivation is marked partial.

    Raises:
        LimitError: the question holds too many or too large numbers.
        DependencyError: pint or sympy is not installed.
    """
    base = formulary(graph)
    if not base.quantities:
        return None
    if graph not in _lexicons:
        _lexicons[graph] = Lexicon(base)
    wording = read_wording(question, _lexicons[graph])
    bindings = Bindings(base, wording)
    asked = Asked(base, wording, bindings)
    slots = asked.slots()
    if not slots or not (memory or _is_quantitative(wording)):
        return _nothing_asked(question, base, wording, asked)
    remembered = _remembered(base, memory or {})
    return _Solver(question, base, wording, bindings, similarity, remembered, deadline).solve(slots)


def _nothing_asked(question: str, base: Formulary, wording: Wording, asked: Asked) -> Derivation | None:
    """Report a question with values whose target no quantity of the base fits."""
    if not wording.values or not (asked.has_question or len(wording.values) > 1):
        return None
    return Derivation(
        question,
        _query(base, wording, {}, []),
        unused=_texts(wording, set()),
        reason="no quantity of the collection is asked for",
        missing=("the quantity asked for",),
    )


def _is_quantitative(wording: Wording) -> bool:
    """Tell whether a question gives, or asks for, an amount: "what is density" does neither."""
    return bool(wording.values or wording.of_kind("ask", "material", "zero", "constant"))


def _remembered(base: Formulary, memory: Mapping[str, Value]) -> dict[str, float]:
    return {
        key: convert(value.magnitude, value.unit, base.quantities[key].unit)
        for key, value in memory.items()
        if key in base.quantities and dimension(value.unit) == base.dimensions[key]
    }


@dataclass(frozen=True)
class Solved:
    """One target's chain with its steps and value, or with what it lacks."""

    slot: Slot
    chain: Chain
    steps: tuple[Step, ...] = ()
    magnitude: float | None = None
    margin: float = 9.0


class _Solver:
    """Solves the slots of a question in order; each result is known to the ones after it."""

    def __init__(
        self,
        question: str,
        base: Formulary,
        wording: Wording,
        bindings: Bindings,
        similarity: Similarity | None,
        remembered: dict[str, float],
        deadline: float,
    ) -> None:
        self.deadline = deadline
        self.question = question
        self.base = base
        self.wording = wording
        self.bindings = bindings
        self.similarity = similarity
        self.remembered = remembered
        self.is_late = False
        self.earlier: dict[str, float] = {}
        self.meanings: dict[int, str] = {}
        self.rejected: list[tuple[Chain, str]] = []

    def solve(self, slots: Sequence[Slot]) -> Derivation:
        solved: list[Solved] = []
        for position, slot in enumerate(slots):
            is_last = position == len(slots) - 1
            result = self._conversion(slot) or self._solve_slot(slot, 1.0 if is_last else _PATIENCE_BEFORE_LAST)
            if result is None:
                continue
            solved.append(result)
            self._remember(result)
        return self._derivation(solved)

    def _remember(self, result: Solved) -> None:
        self.meanings |= dict.fromkeys(result.chain.used, "") | _meanings([result])
        for step in result.steps:
            self.earlier[step.quantity] = step.magnitude

    def _conversion(self, slot: Slot) -> Solved | None:
        """Answer "convert 25 °C to Fahrenheit": one value, and a unit of the same dimension to give it in."""
        values = [index for index, item in enumerate(self.wording.values) if not item.is_bare]
        if not slot.unit or len(values) != 1:
            return None
        index, item = values[0], self.wording.values[values[0]]
        if not item.unit or item.unit == slot.unit or dimension(slot.unit) != dimension(item.unit):
            return None
        if not (_CONVERSION.search(self._marked(index)) or "degree_" in slot.unit):
            return None
        readings = self.bindings.readings[index]
        key = min(readings, key=lambda each: (len(self.base.ancestors[each]), self.base.rarity[each]), default="")
        if not key:
            return None
        magnitude = readings[key][0]
        given = {"": Input(key, magnitude, "given", (item.value.text,))}
        step = Step("", "", given, "", key, magnitude, self.base.quantities[key].unit)
        return Solved(slot, Chain(key, _CONVERSION_COST, (), {}, frozenset({index})), (step,), magnitude)

    def _marked(self, index: int) -> str:
        """Return the question with "#" for a value."""
        value = self.wording.values[index].value
        return f"{self.question[: value.start]}#{self.question[value.end :]}"

    def _solve_slot(self, slot: Slot, patience: float) -> Solved | None:
        scene = Scene(self.base, self.wording, self.bindings, self.earlier, self.remembered, self.meanings, patience)
        search = Search(scene, slot.candidates)
        complete: list[Solved] = []
        incomplete: Chain | None = None
        for chain in search.chains():
            if chain.missing:
                incomplete = incomplete or chain
            else:
                self._take(slot, chain, complete)
            search.bound = _bound(complete, incomplete)
            self.is_late = time.monotonic() > self.deadline
            if len(complete) >= _NUM_CHAINS or self.is_late:
                break
        return self._choose(slot, complete, incomplete, scene)

    def _take(self, slot: Slot, chain: Chain, complete: list[Solved]) -> None:
        steps = evaluate(self.base, self.wording, chain)
        if steps is None:
            self.rejected.append((chain, "it has no real solution"))
            return
        if chain.cost > _MOST_COST:
            self.rejected.append((chain, "it fits the question's words too little"))
            return
        magnitude = steps[-1].magnitude
        same = any(
            other.magnitude is not None and abs(other.magnitude - magnitude) <= 1e-6 * abs(magnitude)
            for other in complete
        )
        if not same:
            complete.append(Solved(slot, chain, steps, magnitude))

    def _choose(self, slot: Slot, complete: list[Solved], incomplete: Chain | None, scene: Scene) -> Solved | None:
        if not complete:
            return Solved(slot, incomplete) if incomplete else None
        complete = self._reranked(complete)
        best = complete[0]
        if incomplete and incomplete.cost + _missing_margin(scene, best.chain, incomplete) < best.chain.cost:
            self.rejected.append((best.chain, "a formula that fits the words better lacks a quantity"))
            return Solved(slot, incomplete)
        margin = complete[1].chain.cost - best.chain.cost if len(complete) > 1 else 3.0
        self.rejected += [(other.chain, "its formulas and bindings fit the words less") for other in complete[1:]]
        return Solved(slot, best.chain, best.steps, best.magnitude, margin)

    def _reranked(self, complete: list[Solved]) -> list[Solved]:
        """Order by cost; where the best are close, let the meaning of their formulas decide."""
        complete = sorted(complete, key=lambda item: item.chain.cost)
        close = [item for item in complete if item.chain.cost - complete[0].chain.cost < _TIE][:_MOST_COMPARED]
        if self.similarity is None or len(close) < 2:
            return complete
        texts = [
            "; ".join(
                f"{self.base.formulas[key].name}: {self.base.formulas[key].description}"
                for key in sorted(item.chain.formulas)
            )
            for item in close
        ]
        scores = self.similarity(self.question, texts)
        order = sorted(range(len(close)), key=lambda index: -scores[index])
        return [close[index] for index in order] + complete[len(close) :]

    def _derivation(self, solved: Sequence[Solved]) -> Derivation:
        failed = [item for item in solved if item.magnitude is None]
        done = [item for item in solved if item.magnitude is not None]
        used = set(self.meanings) | {index for item in solved for index in item.chain.used}
        query = _query(self.base, self.wording, _meanings(solved), [item.chain.target for item in solved])
        if not solved:
            return Derivation(
                self.question,
                query,
                unused=_texts(self.wording, set()),
                missing=("a formula",),
                reason="no chain of formulas leads to the quantity asked for",
            )
        missing = tuple(dict.fromkeys(self.base.quantities[key].name for item in failed for key in item.chain.missing))
        return Derivation(
            self.question,
            query,
            targets=tuple(self.base.quantities[item.chain.target].name for item in solved),
            steps=tuple(step for item in done for step in item.steps),
            values=tuple(self._number(item) for item in done),
            si_values=tuple(
                Number(item.magnitude or 0.0, self.base.quantities[item.chain.target].unit) for item in done
            ),
            paths=tuple(path_of(self.base, self.wording, item.chain, item.steps) for item in done),
            pruned=tuple(pruned_of(self.base, chain, reason) for chain, reason in self.rejected[:8]),
            unused=_texts(self.wording, used),
            assumptions=tuple(dict.fromkeys(text for item in done for text in _assumptions(self.base, item.chain))),
            results={
                key: Value(magnitude, self.base.quantities[key].unit, f"{magnitude:g}")
                for key, magnitude in self._known(done).items()
            },
            features=_features(self.wording, solved, used),
            missing=missing,
            nearest=tuple(self.base.formulas[key].name for item in failed for key in sorted(item.chain.formulas)),
            reason=f"missing: {', '.join(missing)}" if missing else "",
            is_partial=self.is_late,
        )

    def _known(self, done: Sequence[Solved]) -> dict[str, float]:
        known = {
            key: item.magnitude
            for each in done
            for key, item in each.chain.resolved.items()
            if item.how == "given" and item.magnitude is not None
        }
        return known | {step.quantity: step.magnitude for each in done for step in each.steps}

    def _number(self, item: Solved) -> Number:
        quantity = self.base.quantities[item.chain.target]
        magnitude = item.magnitude or 0.0
        wanted = item.slot.unit
        if not wanted or dimension(wanted) != dimension(quantity.unit):
            wanted = friendly_unit(magnitude, quantity, [value.unit for value in self.wording.values])
        turn = convert_difference if quantity.role == "change" else convert
        return Number(turn(magnitude, quantity.unit, wanted), wanted)


def _missing_margin(scene: Scene, best: Chain, incomplete: Chain) -> float:
    """How much cheaper an incomplete chain must be: less if the question's words tell of its formulas alone."""
    told, other = (all(scene.scenario.get(key) for key in chain.formulas) for chain in (incomplete, best))
    return _UNTOLD_MARGIN if told and not other else _MISSING_MARGIN


def _bound(complete: Sequence[Solved], incomplete: Chain | None) -> float:
    costs = [item.chain.cost + _WIDTH for item in complete] + (
        [incomplete.cost + _MISSING_MARGIN] if incomplete else []
    )
    return min(costs, default=float("inf"))


def _meanings(solved: Sequence[Solved]) -> dict[int, str]:
    return {item.value: key for each in solved for key, item in each.chain.resolved.items() if item.value >= 0}


def _query(base: Formulary, wording: Wording, meanings: Mapping[int, str], targets: Sequence[str]) -> Query:
    variables = [
        _variable(base, f"x{index}", key, wording.values[index].value) for index, key in sorted(meanings.items())
    ]
    variables += [_variable(base, f"y{index}", key, None) for index, key in enumerate(targets)]
    return Query(
        tuple(variables),
        (),
        tuple(f"y{index}" for index in range(len(targets))),
        Aggregate.SOLVE,
        unexplained=_texts(wording, set(meanings)),
    )


def _variable(base: Formulary, name: str, key: str, value: Value | None) -> Var:
    node = base.graph.by_key(f"quantity:{key}")
    return Var(
        name,
        ("quantity",),
        () if node is None else (node,),
        base.quantities[key].name,
        plural=False,
        value=value,
    )


def _texts(wording: Wording, used: set[int]) -> tuple[str, ...]:
    return tuple(item.value.text for index, item in enumerate(wording.values) if index not in used)


def _assumptions(base: Formulary, chain: Chain) -> Iterator[str]:
    for key, item in chain.resolved.items():
        if item.known and item.how in ("constant", "default", "property"):
            yield f"{item.known.name}: {item.known.magnitude:g} {item.known.unit}".strip()
        elif item.how == "zero":
            yield f"{base.quantities[key].name}: 0"


def _features(wording: Wording, solved: Sequence[Solved], used: set[int]) -> dict[str, float]:
    """What tells a sure derivation from a guess; means over all targets."""
    chains = [item.chain for item in solved]
    given = [item.evidence for chain in chains for item in chain.resolved.values() if item.how == "given"]
    fits = [item.evidence for chain in chains for item in chain.resolved.values() if item.how == "formula"]
    values = [index for index, item in enumerate(wording.values) if not item.is_bare or wording.counted_by(index) >= 0]
    return {
        "cost": max(chain.cost for chain in chains),
        "margin": min(item.margin for item in solved),
        "target_cost": max(item.slot.candidates.get(item.chain.target, 1.0) for item in solved),
        "binding": sum(given) / len(given) if given else 0.5,
        "weakest_binding": min(given, default=0.5),
        "scenario": sum(fits) / len(fits) if fits else 0.5,
        "num_steps": float(sum(len(item.steps) for item in solved)),
        "num_unused": float(sum(index not in used for index in values)),
        "share_used": sum(index in used for index in values) / len(values) if values else 1.0,
        "num_defaults": float(sum(item.how == "default" for chain in chains for item in chain.resolved.values())),
        "num_missing": float(sum(len(chain.missing) for chain in chains)),
    }
