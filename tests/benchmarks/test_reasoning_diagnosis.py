"""The diagnosis benchmark on a tiny ontology, tiny annotations and a few cases."""

import json
from pathlib import Path

import numpy as np
import pytest

from reasoning.diagnosis_baselines import Peers, rank_of
from reasoning.diagnosis_data import read_base, read_cases
from reasoning.diagnosis_protocol import fold_numbers, folds, side
from reasoning_diagnosis import score
from runner import Options
from tuili.reason.worlds.evidence import Background, Facts

TERMS = {  # a root, two organs, three findings in each
    1: [],
    118: [1],
    10: [118],
    20: [118],
    11: [10],
    12: [10],
    13: [10],
    21: [20],
    22: [20],
    23: [20],
}
SIGNS = {"A": (11, 12), "B": (21, 22), "C": (13, 23)}


def hp(number):
    return f"HP:{number:07d}"


@pytest.fixture(scope="module")
def ontology(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ontology")
    stanzas = [
        "\n".join(["[Term]", f"id: {hp(key)}", f"name: finding {key}", *(f"is_a: {hp(up)}" for up in ups)])
        for key, ups in TERMS.items()
    ]
    (folder / "hp.obo").write_text("format-version: 1.2\n\n" + "\n\n".join(stanzas) + "\n", encoding="utf-8")
    rows = [
        f"OMIM:{name}\tdisease {name}\t\t{hp(sign)}\t{reference}\tPCS\t\t{share}\t\t\tP\tsomebody"
        for name, signs in SIGNS.items()
        for sign in signs
        for reference, share in (("PMID:1" if name == "A" else "PMID:90", "3/4"), (f"OMIM:{name}", ""))
    ]
    text = "#a comment\ndatabase_id\tdisease_name\n" + "\n".join(rows) + "\n"
    (folder / "phenotype.hpoa").write_text(text, encoding="utf-8")
    return folder


def rows_of_cases(num_publications=8):
    rng = np.random.default_rng(0)
    for publication in range(1, num_publications + 1):
        for number in range(3):
            name = "ABC"[publication % 3]
            extra = int(rng.choice([11, 12, 13, 21, 22, 23]))
            observed = sorted({*SIGNS[name], extra})
            excluded = sorted({11, 21, 13} - set(observed))
            yield {
                "id": f"{publication}-{number}",
                "publications": [f"PMID:{publication}"],
                "disease": [f"OMIM:{name}"],
                "observed": [hp(each) for each in observed],
                "excluded": [hp(each) for each in excluded],
            }


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    path = tmp_path_factory.mktemp("cases") / "cases.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows_of_cases()), encoding="utf-8")
    return path


def test_a_case_never_meets_its_own_publication(ontology, cases):
    known = read_cases(cases)
    base = read_base(ontology, known, ())
    background = Background.of(Facts.of(base.known, base.hierarchy), len(base.hierarchy))
    mine = [case for case in known if case.publications == {"PMID:3"}]
    held = side(base, base.known, background, mine)
    versions, row = held.differential.known, held.truth_S[0]
    own = base.publications["PMID:3"]
    assert row >= len(base.diseases) and versions.active(0)[row]
    assert not versions.active(0)[versions.base[row]]
    for rows, sources in (
        (versions.case_row, versions.cases.sources),
        (versions.statement_row, versions.statements.sources),
    ):
        cited = {int(source) for entry in np.flatnonzero(rows == row) for source in sources[int(entry)]}
        assert own not in cited and cited


def test_a_disease_of_which_nothing_stays_is_not_known(ontology, tmp_path):
    row = {
        "id": "x",
        "publications": ["PMID:7", "PMID:8"],
        "disease": ["OMIM:new"],
        "observed": [hp(11)],
        "excluded": [],
    }
    twin = {**row, "id": "y", "publications": ["PMID:8"]}
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, (row, twin))), encoding="utf-8")
    known = read_cases(tmp_path / "c.jsonl")
    base = read_base(ontology, known, ())
    background = Background.of(Facts.of(base.known, base.hierarchy), len(base.hierarchy))
    assert side(base, base.known, background, known[:1]).truth_S.tolist() == [-1]
    assert len(set(fold_numbers(known, 2).tolist())) == 1  # they share a publication, so they share a fold


def test_no_scored_publication_is_in_the_fit(ontology, cases):
    known = read_cases(cases)
    base = read_base(ontology, known, ())
    for fold in folds(base, known, None, 2, 100):
        held = {base.publications[key] for key in fold.scored.publications}
        whole = fold.fitting.differential.whole
        assert not held & {*whole.cases.sources.flat.tolist(), *whole.statements.sources.flat.tolist()}
        assert not held & {*fold.fitting.cases.sources.flat.tolist()}


def test_resnik_by_hand(ontology, cases):
    known = read_cases(cases)
    base = read_base(ontology, known, ())
    peers = Peers.of(base.known, base.known, base.hierarchy)
    asked = base.findings([hp(11), hp(12)])
    number = base.hierarchy.number
    information = peers.information_T
    below = [number[hp(each)] for each in (11, 12)]
    stated = base.known
    scores = peers.resnik(asked)
    row = base.diseases["OMIM:A"]
    mine = {*peers.facts.stated.finding[peers.facts.stated.row == row].tolist()}
    up = [max(information[place] for place in (b, number[hp(10)], number[hp(118)])) for b in below]
    back = [
        max(information[place] for place in base.hierarchy.implied(asked) if place in base.hierarchy.above[each])
        for each in mine
    ]
    assert len(stated.base) == len(scores)
    assert scores[row] == pytest.approx((np.mean(up) + np.mean(back)) / 2, abs=1e-5)


def test_ranks_share_ties_and_a_missing_truth_has_none():
    scores, active = np.array([1.0, 3.0, 3.0, 9.0], np.float32), np.array([True, True, True, False])
    assert rank_of(scores, active, 1) == 1.5
    assert rank_of(scores, active, 0) == 3
    assert rank_of(scores, active, -1) == np.inf


@pytest.mark.parametrize("with_test", [False, True])
def test_the_whole_benchmark(ontology, cases, tmp_path, with_test):
    test = None
    if with_test:
        test = tmp_path / "test.jsonl"
        others = [{**row, "publications": ["PMID:77"], "id": "t" + row["id"]} for row in rows_of_cases(4)]
        others[0]["disease"] = ["OMIM:unheard-of"]
        test.write_text("\n".join(map(json.dumps, others)), encoding="utf-8")
    options = Options(Path("x"), None, test, smoke=True, only="diagnosis")
    found = {result.name: result for result in score(cases, options, ontology)}
    assert {"diagnosis.coverage", "diagnosis.mrr", "diagnosis.ask10.top1", "diagnosis.ask10.top1_greedy"} <= set(found)
    assert found["diagnosis.top1"].value >= found["diagnosis.random.top1"].value
    assert all(np.isfinite(result.value) for result in found.values())
    assert found["diagnosis.coverage"].value == pytest.approx(11 / 12 if with_test else 1.0)
