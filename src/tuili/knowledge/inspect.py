"""Looking at a base: what it is made of, what it says about one entity, what is near a name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tuili.errors import InputError, TuiliError
from tuili.knowledge.bases import available
from tuili.knowledge.migrations import INDEXES
from tuili.knowledge.records import normalise
from tuili.knowledge.sources import BUILT_IN
from tuili.knowledge.store import Store, base_path, sqlite_errors

MAX_FACTS = 200
NUM_EXAMPLES = 2
NUM_NEAR = 5
FUZZY_CUTOFF = 60.0

_FACTS = """
SELECT s.name, r.name, o.name, e.weight, e.source FROM edge e
JOIN node s ON s.id = e.subject JOIN node o ON o.id = e.object JOIN relation r ON r.id = e.relation
"""


def overview() -> list[dict[str, Any]]:
    """Return every base with its state: ready, missing (built in, built on first use) or damaged."""
    return [about(name) for name in available()]


def about(name: str) -> dict[str, Any]:
    """Return one base's state, counts and origin."""
    found = {
        "name": name,
        "state": "missing",
        "description": BUILT_IN.get(name, ""),
        "num_entities": 0,
        "num_facts": 0,
        "origin": "",
        "built_at": "",
    }
    if not base_path(name).is_file():
        return found
    try:
        with Store.open(base_path(name)) as store:
            counts, meta = store.counts(), store.meta()
    except TuiliError as error:
        return found | {"state": "damaged", "description": str(error)}
    return found | {
        "state": "ready",
        "num_entities": counts["node"],
        "num_facts": counts["edge"],
        "origin": meta.get("origin", ""),
        "built_at": meta.get("built_at", ""),
        "description": found["description"] or meta.get("origin", ""),
    }


def summary(store: Store) -> dict[str, Any]:
    """Return a base's counts, kinds and relations with examples."""
    with sqlite_errors(store.path):
        run = store.connection.execute
        kinds = dict(run("SELECT kind, count(*) FROM node GROUP BY kind ORDER BY count(*) DESC"))
        counts = dict(run("SELECT relation, count(*) FROM edge GROUP BY relation"))
        relations = [
            _relation(store, number, name, json.loads(data), counts.get(number, 0))
            for number, name, data in run("SELECT id, name, data FROM relation ORDER BY id").fetchall()
        ]
    return {
        "name": store.path.stem,
        "meta": store.meta(),
        "counts": store.counts(),
        "kinds": kinds,
        "relations": relations,
    }


def _relation(store: Store, number: int, name: str, data: dict[str, Any], count: int) -> dict[str, Any]:
    rows = store.connection.execute(
        f"{_FACTS} WHERE e.id IN (SELECT id FROM edge WHERE relation = ? LIMIT ?)", (number, NUM_EXAMPLES)
    )
    examples = [f"{subject} | {relation} | {object_}" for subject, relation, object_, _, _ in rows]
    return {"name": name, "num_facts": count, "description": data.get("description", ""), "examples": examples}


def entities_named(store: Store, name: str) -> list[dict[str, Any]]:
    """Return what the base says about each entity of this name or key.

    Raises:
        InputError: there is none; the message holds near names.
    """
    with sqlite_errors(store.path):
        ids = _ids(store, name)
        if not ids:
            raise InputError(f"{store.path.stem} knows nothing called {name!r}; {_hint(near_names(store, name))}")
        return [_entity(store, number) for number in ids]


def key_of(store: Store, name: str) -> str:
    """Return the key of the one entity with this key or name, or the name itself if it is new.

    Raises:
        InputError: several entities have this name.
    """
    with sqlite_errors(store.path):
        keys = [
            store.connection.execute("SELECT key FROM node WHERE id = ?", (number,)).fetchone()[0]
            for number in _ids(store, name)
        ]
    if len(keys) > 1:
        raise InputError(f"{len(keys)} entities are called {name!r}; give the key of one: {', '.join(keys[:10])}")
    return keys[0] if keys else name


def near_names(store: Store, name: str) -> list[str]:
    """Return names of the base that are spelled or worded like this one, best first."""
    from rapidfuzz import fuzz, process

    from tuili.knowledge.graph import Graph

    graph = Graph(store)
    norm = normalise(name)
    rows = graph.labels_like(norm) if norm else []
    spelled = process.extract(norm, dict(rows).keys(), scorer=fuzz.WRatio, limit=NUM_NEAR, score_cutoff=FUZZY_CUTOFF)
    by_label = dict(rows)
    ids = [by_label[label] for label, _, _ in spelled] + [number for number, _ in graph.search(name, limit=NUM_NEAR)]
    return list(dict.fromkeys(entity.name for entity in graph.entities(dict.fromkeys(ids))))[:NUM_NEAR]


def repair(store: Store) -> None:
    """Rebuild what can be rebuilt: indexes and full text; give back free space. Opening has migrated it."""
    with sqlite_errors(store.path):
        store.connection.executescript(INDEXES)
        store.connection.execute("INSERT INTO node_fts(node_fts) VALUES ('rebuild')")
        store.connection.executescript("VACUUM; ANALYZE; PRAGMA wal_checkpoint(TRUNCATE);")


def _hint(names: Iterable[str]) -> str:
    shown = ", ".join(names)
    return f"near names: {shown}" if shown else "nothing is spelled like it"


def _ids(store: Store, name: str) -> list[int]:
    """Return the entities with this key, else those whose name it is, else those with such an alias."""
    run = store.connection.execute
    by_key = run("SELECT id FROM node WHERE key = ?", (name,)).fetchall()
    rows = (
        by_key
        or run(
            "SELECT DISTINCT n.id, n.name FROM label l JOIN node n ON n.id = l.node WHERE l.norm = ?",
            (normalise(name),),
        ).fetchall()
    )
    named = [row[0] for row in rows if len(row) > 1 and normalise(row[1]) == normalise(name)]
    return named or [row[0] for row in rows]


def _entity(store: Store, number: int) -> dict[str, Any]:
    run = store.connection.execute
    key, kind, name, description, aliases, data = run(
        "SELECT key, kind, name, description, aliases, data FROM node WHERE id = ?", (number,)
    ).fetchone()
    rows = run(f"{_FACTS} WHERE e.subject = ? OR e.object = ? ORDER BY e.id LIMIT ?", (number, number, MAX_FACTS))
    facts = [dict(zip(("subject", "relation", "object", "weight", "source"), row, strict=True)) for row in rows]
    (num_facts,) = run("SELECT count(*) FROM edge WHERE subject = ? OR object = ?", (number, number)).fetchone()
    return {
        "key": key,
        "kind": kind,
        "name": name,
        "description": description,
        "aliases": aliases.split("\n") if aliases else [],
        "data": json.loads(data) if data else {},
        "num_facts": num_facts,
        "facts": facts,
    }
