from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import SourceError
from tuili.knowledge.records import BadRow
from tuili.knowledge.sources.obo import Term, read_lines, read_terms


def read(folder: Path, text: str) -> list[Term | BadRow]:
    path = folder / "x.obo"
    path.write_text(text, encoding="utf-8", newline="")
    return list(read_terms(path))


def test_a_whole_stanza(tmp_path: Path) -> None:
    (term,) = read(
        tmp_path,
        "format-version: 1.2\r\n\r\n[Term]\r\nid: X:1\r\nname: one\\, two\r\nalt_id: X:2\r\n"
        'def: "A \\"b\\"." [ref:1]\r\nsynonym: "uno" EXACT layperson []\r\nsynonym: "i" [ref]\r\n'
        "is_a: X:3 ! three\r\nis_obsolete: true\r\nreplaced_by: X:4\r\nreplaced_by: X:5\r\nxref: Y:1\r\n",
    )
    assert term == Term(
        3,
        "X:1",
        "one, two",
        'A "b".',
        ["X:2"],
        {"EXACT": ["uno"], "RELATED": ["i"]},
        [(10, "X:3")],
        True,
        "X:4",
    )
    assert isinstance(term, Term) and term.all_synonyms() == ["uno", "i"]


def test_other_stanzas_are_skipped(tmp_path: Path) -> None:
    found = read(tmp_path, "[Typedef]\nid: part_of\nname: p\n[Term]\nid: X:1\nname: n\n[Instance]\nid: X:2\nname: i\n")
    assert [term.key for term in found if isinstance(term, Term)] == ["X:1"]
    assert len(found) == 1


def test_wrong_lines_are_reported(tmp_path: Path) -> None:
    bad, other, term, nameless = read(
        tmp_path, '[Term]\nid: X:1\nname: n\nsynonym: "open EXACT []\nwhat\n[Term]\nid: X:2\n'
    )
    assert isinstance(bad, BadRow) and isinstance(other, BadRow) and isinstance(nameless, BadRow)
    assert (bad.line, other.line, nameless.line) == (4, 5, 6)
    assert isinstance(term, Term) and term.key == "X:1"


@given(st.text())
def test_any_text_is_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    for each in read(tmp_path_factory.mktemp("obo"), "[Term]\n" + text.encode(errors="replace").decode()):
        assert isinstance(each, BadRow) or (each.key and each.name)


def test_lines_need_a_readable_utf8_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a\r\nb\xff\n")
    with pytest.raises(SourceError, match="UTF-8"):
        list(read_lines(tmp_path / "x"))
    with pytest.raises(SourceError, match="can't read"):
        list(read_lines(tmp_path / "missing"))
