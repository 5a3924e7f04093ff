"""Questions made from a base's own relations, to learn from where nobody asked any yet.

A walk of one or two hops is taken at random, and worded with the phrases of its relations. Such questions teach which
relation goes with which words and how hops follow each other, no more; real questions teach their wordings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuili.errors import InputError
from tuili.reason.reading import MASK, phrases
from tuili.reason.worlds.hops import Action, Frontier, Hops, hop, start_at
from tuili.reason.worlds.questions import Asked

MAX_ANSWERS = 50
MAX_TRIES_EACH = 20
_ONE = ("what is the {last} of {name}", "{last} {name}", "which {last} does {name} have", "{name} {last} what")
_MORE = ("what is the {last} of the {before} of {name}", "{last} of what is {before} {name}", "{last} {before} {name}")


def cold_questions(
    hops: Hops, nodes: Sequence[int], num_questions: int, seed: int = 0, max_hops: int = 2
) -> list[Asked]:
    """Return questions about some of `nodes`, as many as could be made, at most `num_questions`.

    Raises:
        InputError: no walk leads anywhere.
    """
    rng = np.random.default_rng(seed)
    found: list[Asked] = []
    for _ in range(MAX_TRIES_EACH * num_questions):
        if len(found) == num_questions or not len(nodes):
            break
        start = start_at([nodes[int(rng.integers(len(nodes)))]])
        path, end = _walk(hops, start, 1 + int(rng.integers(max_hops)), rng)
        if path and 0 < len(end.nodes_V) <= MAX_ANSWERS:
            found.append(Asked(_worded(hops, path, rng), start.nodes_V, end.nodes_V))
    if not found:
        raise InputError("no question could be made from the base: its entities have no facts; give --questions FILE")
    return found


def _walk(hops: Hops, start: Frontier, num_hops: int, rng: np.random.Generator) -> tuple[list[Action], Frontier]:
    path: list[Action] = []
    frontier = start
    for _ in range(num_hops):
        possible = np.flatnonzero(hops.leaving(frontier.nodes_V))
        if not len(possible):
            return [], frontier
        action = int(possible[rng.integers(len(possible))])
        path.append(hops.actions[action])
        frontier = hop(hops, frontier, action, start)
    return path, frontier


def _worded(hops: Hops, path: Sequence[Action], rng: np.random.Generator) -> str:
    """Return a masked question for a path, the phrase of its last hop first."""
    spoken = [phrases(action, hops.schema.get(action.relation)) for action in reversed(path)]
    chosen = [each[int(rng.integers(len(each)))] for each in spoken]
    forms = _ONE if len(path) == 1 else _MORE
    form = forms[int(rng.integers(len(forms)))]
    return " ".join(form.format(last=chosen[0], before=" of the ".join(chosen[1:]), name=MASK).split())
