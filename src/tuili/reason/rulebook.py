"""Rules of a base: paths of up to three facts that tend to go along with a relation, mined, counted and kept as JSON.

A rule r(X,Y) ← a(X,Z), b(Z,Y) has a case in every pair (X, Y) that its body leads from and to over distinct entities,
if X has any fact of r; its support is the number of cases where r(X,Y) is a fact. Entities are distinct on a path, so
no fact supports itself. At most `MAX_HEADS` X are counted, evenly spaced; anyone counts the same from the same base.

Sources: Galárraga et al. 2013, "AMIE: Association Rule Mining under Incomplete Evidence", section 3.3 (cases only where
something of the relation is known); Wilson 1927, "Probable inference" (the lower bound of a share).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tuili.errors import ModelFileError
from tuili.files import atomic_path
from tuili.knowledge.graph import Graph
from tuili.reason.priors.facts import Facts, Ints
from tuili.reason.priors.rules import RulesConfig, Walker
from tuili.reason.walk_file import fingerprint
from tuili.reason.worlds.hops import Action

FORMAT = "tuili-rules-1"
MAX_BYTES = 16 << 20
MAX_HOPS = 3
MAX_HEADS = 500
MAX_CASES = 300_000
MIN_SUPPORT = 5
LEAST_SURE = 0.5
Z95 = 1.96
VARIABLES = "XZWY"

OnStage = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class BaseRule:
    """`body` leads from X to Y where `head` may hold; it did in `support` of `num_cases` cases of the base."""

    head: Action
    body: tuple[Action, ...]
    support: int
    num_cases: int

    @property
    def confidence(self) -> float:
        """The share of cases where the head is a fact."""
        return self.support / self.num_cases

    @property
    def sure(self) -> float:
        """The lower end of the confidence's 95 % interval: few cases make no rule sure."""
        share, per_case = self.confidence, Z95**2 / self.num_cases
        spread = Z95 * math.sqrt(share * (1 - share) / self.num_cases + per_case / self.num_cases / 4)
        return (share + per_case / 2 - spread) / (1 + per_case)

    def show(self) -> str:
        """Return the rule for people: r(X,Y) ← a(X,Z), b(Z,Y)."""
        names = (*VARIABLES[: len(self.body)], VARIABLES[-1])
        steps = (_atom(action, names[at], names[at + 1]) for at, action in enumerate(self.body))
        return f"{_atom(self.head, names[0], names[-1])} ← {', '.join(steps)}"

    def counted(self) -> str:
        """Return what the rule rests on, for people."""
        return f"support {self.support} of {self.num_cases}, confidence {self.confidence:.2f}"


def _atom(action: Action, begin: str, end: str) -> str:
    ends = (end, begin) if action.inverse else (begin, end)
    return f"{action.relation}({','.join(ends)})"


@dataclass(frozen=True, slots=True)
class Rulebook:
    """The rules of a base, the surest first; `trained_for` is the fingerprint of its relations."""

    rules: tuple[BaseRule, ...] = ()
    trained_for: str = ""

    def of(self, head: Action) -> tuple[BaseRule, ...]:
        """Return the rules for one relation and direction."""
        return tuple(rule for rule in self.rules if rule.head == head)


# -- counting ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Census:
    """All facts of a base in arrays, to count rules on. Memory: about 100 bytes a fact."""

    facts: Facts
    codes: Ints = field(repr=False)
    to: Ints = field(repr=False)

    @classmethod
    def of(cls, graph: Graph) -> Census:
        """Read a whole base."""
        names = sorted(graph.relations)
        number = {name: place for place, name in enumerate(names)}
        rows = np.array([(s, number[r], o) for s, r, o in graph.triples()], np.int64).reshape(-1, 3)
        nodes, places = np.unique(rows[:, [0, 2]], return_inverse=True)
        places = places.reshape(-1, 2)
        triples = np.column_stack([places[:, 0], rows[:, 1], places[:, 1]])
        facts = Facts(triples, [str(node) for node in nodes.tolist()], names)
        head, relation, tail = facts.edges_E3.T
        codes = relation * max(1, facts.num_entities) + head
        order = np.lexsort((tail, codes))
        return cls(facts, codes[order], tail[order])

    def action(self, place: int) -> Action:
        """Return what an edge's number of a relation stands for."""
        num = len(self.facts.relations)
        return Action(self.facts.relations[place % num], inverse=place >= num)

    def number(self, action: Action) -> int:
        """Return the number of a relation, -1 if the base has none of this name."""
        if action.relation not in self.facts.relations:
            return -1
        return self.facts.relations.index(action.relation) + action.inverse * len(self.facts.relations)

    def count(self, head: int, body: Sequence[int]) -> tuple[int, int] | None:
        """Return a rule's support and number of cases; None if it has too many cases to count."""
        first, last = np.searchsorted(self.codes, self.facts.num_entities * np.array([head, head + 1]))
        heads = np.unique(self.codes[first:last]) - head * self.facts.num_entities
        if len(heads) > MAX_HEADS:
            heads = heads[np.linspace(0, len(heads) - 1, MAX_HEADS).astype(np.int64)]
        paths_WK = heads[:, None]
        for relation in body:
            grown = self._grow(paths_WK, relation)
            if grown is None:
                return None
            paths_WK = grown
        pairs = np.unique(paths_WK[:, [0, -1]], axis=0)
        is_fact = self.facts.holds(pairs[:, 0], np.full(len(pairs), head), pairs[:, 1])
        return int(is_fact.sum()), len(pairs)

    def _grow(self, paths_WK: Ints, relation: int) -> Ints | None:
        """Return the paths one edge longer that visit no entity twice."""
        code = relation * self.facts.num_entities + paths_WK[:, -1]
        first, last = (np.searchsorted(self.codes, code, side=side) for side in ("left", "right"))
        sizes = last - first
        if sizes.sum() > MAX_CASES:
            return None
        row = np.repeat(np.arange(len(code)), sizes)
        end = self.to[np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes - first, sizes)]
        is_new = (paths_WK[row] != end[:, None]).all(1)
        return np.column_stack([paths_WK[row], end])[is_new]


# -- mining --------------------------------------------------------------------------------------


def mine_base(graph: Graph, seed: int = 0, on_stage: OnStage = lambda stage, done, total: None) -> Rulebook:
    """Return the rules of a base that hold surely enough to infer by. Deterministic under its seed."""
    census = Census.of(graph)
    rng, walker = np.random.default_rng(seed), Walker(census.facts)
    config = RulesConfig(max_hops=MAX_HOPS)
    heads = np.unique(census.facts.edges_E3[:, 1]).tolist()
    found: list[BaseRule] = []
    for done, head in enumerate(heads):
        on_stage("mining rules", done, len(heads))
        found += _rules_of(census, head, walker.bodies(head, config, rng))
    found.sort(key=lambda rule: (-rule.sure, len(rule.body), rule.show()))
    return Rulebook(tuple(found), fingerprint(graph))


def _rules_of(census: Census, head: int, bodies: Sequence[tuple[int, ...]]) -> Iterator[BaseRule]:
    for body in bodies:
        counted = None if body == (head,) else census.count(head, body)
        if counted is None or counted[0] < MIN_SUPPORT:
            continue
        rule = BaseRule(census.action(head), tuple(map(census.action, body)), *counted)
        if rule.sure >= LEAST_SURE:
            yield rule


# -- the file ------------------------------------------------------------------------------------


def save_rules(book: Rulebook, path: Path) -> None:
    """Write a rulebook as JSON; whole or not at all."""
    document = {"format": FORMAT, "trained_for": book.trained_for, "rules": [rule_json(rule) for rule in book.rules]}
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")


def load_rules(path: Path, trained_for: str) -> Rulebook:
    """Read the rulebook of a base with this fingerprint.

    Raises:
        ModelFileError: the file is damaged, no rulebook, or of other relations.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelFileError(f"{path} has {path.stat().st_size:,} bytes, rules have at most {MAX_BYTES:,}")
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ModelFileError(f"{path} holds no rules of the format {FORMAT!r}; run `tuili learn` again")
        rules = tuple(rule_of(row) for row in document["rules"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} holds damaged rules: {error!r}; run `tuili learn` again") from error
    if document.get("trained_for") != trained_for:
        raise ModelFileError(f"{path} was mined for other relations; run `tuili learn` again")
    return Rulebook(rules, trained_for)


def rule_json(rule: BaseRule) -> dict[str, Any]:
    """Return a rule as a JSON-ready object."""
    head, *body = ({"relation": one.relation, "inverse": one.inverse} for one in (rule.head, *rule.body))
    return {"head": head, "body": body, "support": rule.support, "num_cases": rule.num_cases}


def rule_of(row: Mapping[str, Any]) -> BaseRule:
    """Return the rule of such an object.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    head, *body = (Action(str(one["relation"]), bool(one["inverse"])) for one in (row["head"], *row["body"]))
    support, num_cases = row["support"], row["num_cases"]
    if not (isinstance(support, int) and isinstance(num_cases, int) and 0 <= support <= num_cases and num_cases):
        raise ValueError(f"support {support!r} of {num_cases!r} is no count")
    if not 1 <= len(body) <= MAX_HOPS:
        raise ValueError(f"a rule's body has 1 to {MAX_HOPS} relations, not {len(body)}")
    return BaseRule(head, tuple(body), support, num_cases)
