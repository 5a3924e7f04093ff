"""UMLS and Kinships as they come in the package pykeen, and any folder of the same format.

A folder holds `train.txt`, `valid.txt` and `test.txt`: head, relation and tail between tabs.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runner import say
from tuili.errors import SourceError
from tuili.reason.priors.facts import Bools, Facts, Ints

PACKAGED = {"umls": "umls", "kinship": "kinships"}
SPLITS = ("train", "valid", "test")
HOW_TO = "the package pykeen is not installed; links are skipped. Run: pip install 'tuili[bench]'"


@dataclass(frozen=True, slots=True)
class Links:
    """A data set: `facts` are the training facts; queries (Q, 3) are held-out edges whose tail is asked for."""

    name: str
    facts: Facts
    valid_Q3: Ints
    test_Q3: Ints

    def known(self, edges_Q3: Ints, *, with_test: bool) -> Bools:
        """Return the tails of each query known from train and valid, and test if wanted, without its own: (Q, N)."""
        given = [self.facts.triples_E3, self.valid_Q3, *([self.test_Q3] if with_test else [])]
        every = Facts(np.concatenate(given), self.facts.entities, self.facts.relations)
        known_QN = every.tails(edges_Q3[:, 0], edges_Q3[:, 1])
        known_QN[np.arange(len(edges_Q3)), edges_Q3[:, 2]] = False
        return known_QN


def packaged() -> Path | None:
    """Return pykeen's folder of data sets without importing it, None (and say so) where it isn't installed."""
    found = importlib.util.find_spec("pykeen")
    if found is None or found.origin is None:
        say(HOW_TO)
        return None
    return Path(found.origin).parent / "datasets"


def read(name: str, folder: Path) -> Links:
    """Read a data set.

    Raises:
        SourceError: a file is missing, empty, or a line has other than three fields.
    """
    rows = {split: _rows(folder / f"{split}.txt") for split in SPLITS}
    every = [row for split in SPLITS for row in rows[split]]
    entities = sorted({name for head, _, tail in every for name in (head, tail)})
    relations = sorted({relation for _, relation, _ in every})
    entity = {name: place for place, name in enumerate(entities)}
    relation = {name: place for place, name in enumerate(relations)}
    train, valid, test = (
        np.array([(entity[h], relation[r], entity[t]) for h, r, t in rows[split]], np.int64) for split in SPLITS
    )
    return Links(name, Facts(train, entities, relations), valid, test)


def _rows(path: Path) -> list[list[str]]:
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeError) as error:
        raise SourceError(
            f"can't read {path}: {error}; wanted is a folder with train.txt, valid.txt, test.txt"
        ) from error
    bad = next((number for number, row in enumerate(rows, 1) if len(row) != 3), 0)
    if bad or not rows:
        raise SourceError(f"{path} {f'has other than three fields in line {bad}' if bad else 'is empty'}; mend it")
    return rows


def small(links: Links, every: int, num_queries: int) -> Links:
    """Return a part of a data set for a smoke run."""
    facts = Facts(links.facts.triples_E3[::every], links.facts.entities, links.facts.relations)
    return Links(links.name, facts, links.valid_Q3[:num_queries], links.test_Q3[:num_queries])
