"""Reading an answer's JSON document, which may come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tuili.errors import InputError

MAX_EDGES = 20_000


def all_edges(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the edges of paths and of what was pruned.

    Raises:
        InputError: they are no list of edges, or too many.
    """
    edges = [edge for path in objects(document, "paths") for edge in objects(path, "edges")]
    edges += [item["edge"] for item in objects(document, "pruned") if "edge" in item]
    if len(edges) > MAX_EDGES:
        raise InputError(f"the answer has {len(edges)} edges, at most {MAX_EDGES} are checked")
    for edge in edges:
        if not isinstance(edge, Mapping):
            raise InputError(f"an edge must be an object, not {edge!r}")
        for name in ("subject", "relation", "object"):
            text(edge, name)
        yield edge


def objects(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return a list of objects."""
    found = document.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise InputError(f"{name!r} must be a list of objects; give what `tuili ask --json` printed")
    return found


def text(document: Mapping[str, Any], name: str) -> str:
    """Return a text."""
    found = document.get(name)
    if not isinstance(found, str):
        raise InputError(f"{name!r} must be a text, not {found!r}; give what `tuili ask --json` printed")
    return found


def number(document: Mapping[str, Any], name: str) -> float:
    """Return a finite number."""
    found = document.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise InputError(f"{name!r} must be a number, not {found!r}; give what `tuili ask --json` printed")
    return float(found)


def keys_of(edge: Mapping[str, Any]) -> tuple[str, str]:
    """Return the keys of an edge's ends."""
    keys = edge["keys"]
    if not isinstance(keys, list) or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        raise InputError(f"an edge's keys must be two texts, not {keys!r}")
    return keys[0], keys[1]
