"""Checking an answer anew from the base alone: each fact, each step of a derivation, each rule, each weight.

The document is what `tuili ask --json` printed, perhaps elsewhere and long ago. Facts are looked up by their keys;
steps are put into their formulas, with units; givens are read from the question again; then the question is asked
again and every weight and the answer must come out the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuili.knowledge.graph import Fact, Graph
from tuili.reason.answer import Answer
from tuili.reason.audit_rules import check_inferences
from tuili.reason.audit_steps import Check, check_steps
from tuili.reason.document import all_edges, keys_of, number, text

TOLERANCE = 2e-3
EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that was checked of one answer."""

    question: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """What does not hold."""
        return tuple(check for check in self.checks if check.holds is False)

    @property
    def unproven(self) -> tuple[Check, ...]:
        """What the base alone can't prove."""
        return tuple(check for check in self.checks if check.holds is None)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        shown = {"failed": self.failed, "unproven": self.unproven}
        return {
            "question": self.question,
            "holds": not self.failed,
            "num_checks": len(self.checks),
        } | {name: [{"what": check.what, "why": check.detail} for check in checks] for name, checks in shown.items()}


def audit(document: Mapping[str, Any], graph: Graph, again: Answer | None) -> Audit:
    """Check a document of `tuili ask --json`; `again` is the answer to its question now, None if it can't be asked.

    Raises:
        InputError: the document is not such an answer.
    """
    question = text(document, "question")
    edges = list(all_edges(document))
    checks = [*(_fact(graph, edge) for edge in edges if "keys" in edge)]
    checks += check_steps(document, graph)
    checks += check_inferences(document, graph)
    unsourced = [edge for edge in edges if not text(edge, "source")]
    checks += [Check(f"the source of {edge['subject']}", None, "the base names none") for edge in unsourced]
    checks += _asked_again(document, edges, again) if again else [_not_asked_again(document)]
    return Audit(question, tuple(checks))


# -- facts ---------------------------------------------------------------------------------------


def _fact(graph: Graph, edge: Mapping[str, Any]) -> Check:
    what = f"{text(edge, 'subject')} – {text(edge, 'relation')} – {text(edge, 'object')}"
    fact = _find(graph, edge)
    if fact is None:
        return Check(what, False, f"the base {graph.name} states no such fact")
    if fact.source != text(edge, "source"):
        return Check(what, False, f"the base has it from {fact.source!r}, the answer says {text(edge, 'source')!r}")
    if abs(fact.weight - number(edge, "stated")) > EXACT:
        return Check(what, False, f"the base gives it {fact.weight:g}, the answer says {number(edge, 'stated'):g}")
    return Check(what, True)


def _find(graph: Graph, edge: Mapping[str, Any]) -> Fact | None:
    """Return the fact that an edge shows, by the keys of its ends; their names must be the same too."""
    ends = [graph.by_key(key) for key in keys_of(edge)]
    if None in ends:
        return None
    names = [graph.entity(end).name for end in ends if end is not None]
    if names != [text(edge, "subject"), text(edge, "object")] or text(edge, "relation") not in graph.relations:
        return None
    return graph.fact(ends[0] or 0, text(edge, "relation"), ends[1] or 0)


# -- asking again --------------------------------------------------------------------------------


def _not_asked_again(document: Mapping[str, Any]) -> Check:
    return Check("the weights", None, f"{text(document, 'question')!r} was not asked again")


def _asked_again(document: Mapping[str, Any], edges: Sequence[Mapping[str, Any]], again: Answer) -> Iterator[Check]:
    """Compare what the question gives now: the answer, its confidence, and every edge's weight with its parts."""
    now = again.to_json()
    if lost := set(now["notes"]) - set(document.get("notes", ())):
        yield Check("the weights", None, f"asked again, but {'; '.join(sorted(lost))}")
        return
    shown = {name: document.get(name) for name in ("answer", "abstained", "value", "values")}
    for name, value in shown.items():
        same = _same(value, now[name])
        yield Check(f"the {name}", same, "" if same else f"it was {value!r}, now it is {now[name]!r}")
    same = _same(document.get("entities"), now["entities"]) and _same(document.get("confidence"), now["confidence"])
    yield Check("entities and confidence", same, "" if same else "asked again, probabilities differ")
    current = {_place(edge): edge for edge in all_edges(now)}
    for edge in edges:
        yield _weight(edge, current.get(_place(edge)))


def _weight(edge: Mapping[str, Any], current: Mapping[str, Any] | None) -> Check:
    what = f"weight of {edge['subject']} – {edge['relation']} – {edge['object']}"
    if current is None:
        return Check(what, False, "asked again, the answer has no such edge")
    for name in ("weight", "parts"):
        if not _same(edge.get(name), current[name]):
            return Check(what, False, f"{name} was {edge.get(name)}, now it is {current[name]}")
    return Check(what, True)


def _place(edge: Mapping[str, Any]) -> tuple[str, ...]:
    return (*edge.get("keys", ("", "")), edge["subject"], edge["relation"], edge["object"])


def _same(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are the same, numbers within a tolerance."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    is_number = [isinstance(each, int | float) and not isinstance(each, bool) for each in (one, other)]
    if all(is_number):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(one == other)
