"""Writing a base out as triples: JSON Lines give the same base again, TSV holds the plain facts."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tuili.errors import InputError
from tuili.knowledge.store import Store, sqlite_errors

_EDGES = """
SELECT s.key, r.name, o.key, e.weight, e.source, e.data FROM edge e
JOIN node s ON s.id = e.subject JOIN node o ON o.id = e.object JOIN relation r ON r.id = e.relation ORDER BY e.id
"""


def tsv_lines(store: Store) -> Iterator[str]:
    """Yield the facts as TSV rows: subject, relation, object, weight, source.

    Raises:
        InputError: a name holds a tab or a line break.
    """
    with sqlite_errors(store.path):
        for *cells, weight, source, _ in store.connection.execute(_EDGES):
            if any(mark in cell for cell in (*cells, source) for mark in "\t\n"):
                raise InputError(f"a name of the fact {cells} holds a tab or a line break; export with --format jsonl")
            yield "\t".join((*cells, f"{weight!r}", source))


def jsonl_lines(store: Store) -> Iterator[str]:
    """Yield everything the base holds as JSON: kinds, relations, entities, facts."""
    run = store.connection.execute
    with sqlite_errors(store.path):
        for name, data in run("SELECT name, data FROM kind ORDER BY rowid"):
            yield _line("kind_name", name, json.loads(data))
        for name, data in run("SELECT name, data FROM relation ORDER BY id"):
            yield _line("relation_name", name, json.loads(data))
        for key, *fields in run("SELECT key, kind, name, description, aliases, data FROM node ORDER BY id"):
            yield _node_line(key, *fields)
        for subject, relation, object_, weight, source, data in run(_EDGES):
            fact = {"subject": subject, "relation": relation, "object": object_, "weight": weight, "source": source}
            yield json.dumps(fact | ({"data": json.loads(data)} if data else {}), ensure_ascii=False)


def _line(sort: str, name: str, fields: dict[str, object]) -> str:
    """Return a kind or relation without its empty fields."""
    kept = {key: value for key, value in fields.items() if key != "name" and value}
    return json.dumps({sort: name} | kept, ensure_ascii=False)


def _node_line(key: str, kind: str, name: str, description: str, aliases: str, data: str) -> str:
    node: dict[str, object] = {"node": key, "kind": kind, "name": name}
    if description:
        node["description"] = description
    if aliases:
        node["aliases"] = aliases.split("\n")
    if data:
        node["data"] = json.loads(data)
    return json.dumps(node, ensure_ascii=False)
