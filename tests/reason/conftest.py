"""A family to ask about: enough people that two or three hops have answers, in wordings of every hop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tuili.knowledge.records import Relation
from tuili.reason.worlds.hops import ArrayHops, follow, start_at
from tuili.reason.worlds.questions import Asked

RELATIONS = ("parent", "works_at", "located_in")
SCHEMA = {
    "parent": Relation("parent", inverse="child", nouns=("mother", "father"), inverse_nouns=("children",)),
    "works_at": Relation("works at", inverse="employs", words=("works for",), inverse_words=("employer of",)),
    "located_in": Relation("located in", inverse="location of", nouns=("city",)),
}
# Actions are 2 r forwards and 2 r + 1 backwards.
WORDINGS = {
    (0,): ("who is the parent of xyz", "name the mother or father of xyz"),
    (1,): ("who are the children of xyz", "name each child of xyz"),
    (2,): ("where does xyz work", "which firm is the employer of xyz"),
    (2, 4): ("in which city does xyz work", "in what city is the employer of xyz located"),
    (0, 2): ("where does the parent of xyz work", "the mother or father of xyz works for whom"),
    (0, 2, 4): ("in which city does the parent of xyz work", "in what city does the mother or father of xyz work"),
}
NUM_PEOPLE, NUM_FIRMS, NUM_CITIES = 60, 8, 4


@dataclass(frozen=True)
class Family:
    """A graph, and questions with their answers."""

    hops: ArrayHops
    asked: list[Asked]


@pytest.fixture(scope="session")
def family() -> Family:
    """Return a random family in which everybody but the eldest has a parent, and everybody a job."""
    rng = np.random.default_rng(0)
    firms = range(NUM_PEOPLE, NUM_PEOPLE + NUM_FIRMS)
    rows = [(child, 0, int(rng.integers(max(1, child)))) for child in range(1, NUM_PEOPLE)]
    rows += [(person, 1, int(rng.choice(firms))) for person in range(NUM_PEOPLE)]
    rows += [(firm, 2, NUM_PEOPLE + NUM_FIRMS + firm % NUM_CITIES) for firm in firms]
    hops = ArrayHops(np.array(rows), RELATIONS, NUM_PEOPLE + NUM_FIRMS + NUM_CITIES, SCHEMA)
    asked = [
        Asked(text, np.array([person]), end.nodes_V)
        for path, texts in WORDINGS.items()
        for text in texts
        for person in rng.permutation(NUM_PEOPLE)[:15].tolist()
        if len((end := follow(hops, start_at([person]), path)).nodes_V)
    ]
    return Family(hops, asked)
