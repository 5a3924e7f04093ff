"""Checking what rules inferred: the body's facts followed again, and the rule counted again on the whole base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuili.errors import InputError
from tuili.knowledge.graph import Graph
from tuili.reason.audit_steps import Check
from tuili.reason.document import keys_of, number, objects, text
from tuili.reason.inferring import follow, stated
from tuili.reason.rulebook import BaseRule, Census, rule_of

ROUNDED = 5e-4
MAX_INFERENCES = 200


def check_inferences(document: Mapping[str, Any], graph: Graph) -> Iterator[Check]:
    """Check every inference of an answer. O(facts of the base) once, if there is any.

    Raises:
        InputError: they are no inferences, or too many.
    """
    rows = objects(document, "inferences")
    if len(rows) > MAX_INFERENCES:
        raise InputError(f"the answer has {len(rows)} inferences, at most {MAX_INFERENCES} are checked")
    census = Census.of(graph) if rows else None
    names = {each.get("name") for each in objects(document, "entities")}
    if lost := sorted(map(str, names - {row.get("entity") for row in rows})) if rows else []:
        yield Check(f"the rules for {', '.join(lost)}", False, "the answer names no rule that infers it")
    for row in rows:
        rule = _read(row)
        yield _replay(graph, row, rule)
        if census is not None:
            yield _recount(census, row, rule)


def _read(row: Mapping[str, Any]) -> BaseRule:
    try:
        return rule_of(row)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"an inference must have a rule with head, body, support and cases: {error!r}") from error


def _replay(graph: Graph, row: Mapping[str, Any], rule: BaseRule) -> Check:
    """Follow the rule's body from where it begins to where it is said to end."""
    if "keys" not in row:
        raise InputError("an inference must have the keys of where its rule begins and ends")
    what = f"{text(row, 'entity')} by {text(row, 'rule')}"
    start, end = (graph.by_key(key) for key in keys_of(row))
    if start is None or end is None or graph.entity(end).name != row["entity"]:
        return Check(what, False, f"the base {graph.name} has no such entities")
    if row["rule"] != rule.show():
        return Check(what, False, f"its head and body say {rule.show()}")
    if stated(graph, start, rule.head):
        return Check(what, False, f"the base states {rule.head} of {graph.entity(start).name}, so nothing is inferred")
    if end not in (follow(graph, start, rule.body) or {}):
        return Check(what, False, "the facts of its body don't lead there")
    return Check(what, True)


def _recount(census: Census, row: Mapping[str, Any], rule: BaseRule) -> Check:
    """Count the rule's support and cases again."""
    what = f"support and confidence of {rule.show()}"
    places = [census.number(action) for action in (rule.head, *rule.body)]
    counted = None if -1 in places else census.count(places[0], places[1:])
    if counted != (rule.support, rule.num_cases):
        now = "none" if counted is None else f"{counted[0]} of {counted[1]}"
        return Check(what, False, f"the answer says {rule.support} of {rule.num_cases}, the base gives {now}")
    if abs(number(row, "confidence") - rule.confidence) > ROUNDED:
        return Check(what, False, f"the answer says {row['confidence']}, it is {rule.confidence:.4f}")
    return Check(what, True)
