from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import LimitError, SourceError
from tuili.knowledge.records import BadRow, Edge, Node, Record, Relation
from tuili.knowledge.sources import triples
from tuili.knowledge.sources.triples import read_jsonl, read_tsv

Reader = Callable[[Path], Iterator[Record]]


def tsv(folder: Path, text: str | bytes, name: str = "facts.tsv") -> list[Record]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_tsv(path))


def jsonl(folder: Path, *rows: object) -> list[Record]:
    path = folder / "facts.jsonl"
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in rows))
    return list(read_jsonl(path))


def fact(**change: object) -> dict[str, object]:
    return {"subject": "a", "relation": "r", "object": "b"} | change


# TSV.


def test_tsv_columns_and_defaults(tmp_path: Path) -> None:
    assert tsv(tmp_path, "a\tlives in\tb\nc\tr\td\t0.25\ne\tr\tf\t\tPMID:1\n g \tr\th\t2e-1\tPMID:2") == [
        Edge("a", "lives in", "b", 1.0, "facts.tsv:1"),
        Edge("c", "r", "d", 0.25, "facts.tsv:2"),
        Edge("e", "r", "f", 1.0, "PMID:1"),
        Edge("g", "r", "h", 0.2, "PMID:2"),
    ]


def test_tsv_bom_header_comments_blank_lines_and_windows_ends(tmp_path: Path) -> None:
    text = "\ufeffSubject\tRelation\tObject\tWeight\r\n\r\n# note\r\n  \t \r\na\tr\tb\t3\r\n"
    assert tsv(tmp_path, text) == [Edge("a", "r", "b", 3.0, "facts.tsv:5")]


def test_tsv_header_is_one_only_at_the_top(tmp_path: Path) -> None:
    records = tsv(tmp_path, "#c\nsubject\trelation\tobject\nsubject\trelation\tobject\n")
    assert records == [Edge("subject", "relation", "object", 1.0, "facts.tsv:3")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a\tr", "2 columns"),
        (b"a r b", "1 columns"),
        (b"a\tr\tb\t1\ts\tx", "6 columns"),
        (b"\tr\tb", "the subject is empty"),
        (b"a\t \tb", "the relation is empty"),
        (b"a\tr\t", "the object is empty"),
        (b"a\tr\tb\tnan", "the weight 'nan'"),
        (b"a\tr\tb\tinf", "the weight 'inf'"),
        (b"a\tr\tb\t1e999", "the weight '1e999'"),
        (b"a\tr\tb\t-1", "the weight '-1'"),
        (b"a\tr\tb\t1_0", "the weight '1_0'"),
        ("a\tr\tb\t٣".encode(), "the weight"),
        (b"a\tr\tb\thigh", "the weight 'high'"),
        (b"a\tr\tb\x00", "control character"),
        (b"a\x1b[31m\tr\tb", "control character"),
        (b"a\tr\tb\rc\tr\td", "control character"),
        ("a\tr\tb\x9b".encode(), "control character"),
        (b"a\tr\t\xff\xfe", "no UTF-8: byte 5"),
        (b"a\tr\t\xed\xa0\x80", "no UTF-8"),
        (b"a\tr\t" + b"x" * 1001, "the object has 1001 characters"),
        (b"a\tr\tb\t1\t" + b"x" * ((1 << 20) + 1), "the source is longer than 1048576 bytes"),
    ],
)
def test_tsv_wrong_row_is_reported_with_its_line_and_the_rest_read(tmp_path: Path, line: bytes, reason: str) -> None:
    good, bad, last = tsv(tmp_path, b"a\tr\tb\n" + line + b"\nc\tr\td\n")
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert reason in bad.reason
    assert bad.text == line.decode(errors="replace")[:200]
    assert (good, last) == (
        Edge("a", "r", "b", source="facts.tsv:1"),
        Edge("c", "r", "d", source="facts.tsv:3"),
    )


def test_a_line_without_end_is_read_in_pieces_and_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triples, "MAX_LINE_BYTES", 10)
    bad, good = tsv(tmp_path, "x" * 95 + "\na\tr\tb\n")
    assert isinstance(bad, BadRow) and "longer than 10 bytes" in bad.reason and bad.line == 1
    assert good == Edge("a", "r", "b", source="facts.tsv:2")


names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(
    lambda text: text == text.strip() and not text.startswith(("#", "\ufeff"))
)


@given(st.lists(st.tuples(names, names, names, st.floats(0, 1e12))))
def test_tsv_reads_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, float]]
) -> None:
    text = "subject\trelation\tobject\tweight\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    found = tsv(tmp_path_factory.mktemp("tsv"), text)
    assert found == [Edge(*row, source=f"facts.tsv:{line}") for line, row in enumerate(rows, 2)]


@given(st.lists(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")).filter(lambda raw: raw.strip())))
def test_no_bytes_break_the_readers_and_no_row_gets_lost(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "x"
    path.write_bytes(b"{}\n" + b"".join(b"a" + line + b"\n" for line in lines))
    assert len(list(read_tsv(path))) == len(lines) + 1
    assert len(list(read_jsonl(path))) == len(lines) + 1


# Files.


@pytest.mark.parametrize("read", [read_tsv, read_jsonl])
def test_files_that_cannot_be_read(tmp_path: Path, read: Reader) -> None:
    (tmp_path / "no.gz").write_bytes(b"plain")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"a\tr\tb\n" * 1000)[:-20])
    (tmp_path / "utf16").write_text("a\tr\tb\n", encoding="utf-16")
    for name in ("missing", ".", "no.gz", "cut.gz"):
        with pytest.raises(SourceError, match="can't read"):
            list(read(tmp_path / name))
    with pytest.raises(SourceError, match="UTF-16"):
        list(read(tmp_path / "utf16"))


@pytest.mark.parametrize("read", [read_tsv, read_jsonl])
def test_an_empty_file_holds_nothing(tmp_path: Path, read: Reader) -> None:
    (tmp_path / "empty").touch()
    assert list(read(tmp_path / "empty")) == []


def test_gzip_is_unpacked_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(b"a\tr\tb\n" * 100)
    assert len(tsv(tmp_path, packed, "facts.tsv.gz")) == 100
    monkeypatch.setattr(triples, "MAX_UNPACKED_BYTES", 599)
    with pytest.raises(LimitError, match="599"):
        tsv(tmp_path, packed, "facts.tsv.gz")


def test_a_bomb_of_one_line_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triples, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(triples, "MAX_UNPACKED_BYTES", 10_000)
    with pytest.raises(LimitError, match="10000"):
        tsv(tmp_path, gzip.compress(b"x" * 1_000_000), "facts.tsv.gz")


def test_progress_is_told(tmp_path: Path) -> None:
    path = tmp_path / "facts.tsv"
    path.write_text("a\tr\tb\n" * 100_001)
    calls: list[tuple[str, int]] = []
    assert sum(1 for _ in read_tsv(path, on_progress=lambda phase, done: calls.append((phase, done)))) == 100_001
    assert calls == [("reading lines", 50_000), ("reading lines", 100_000)]


# JSON Lines.


def test_jsonl_facts_nodes_and_relations(tmp_path: Path) -> None:
    records = jsonl(
        tmp_path,
        {
            "relation_name": "r",
            "inverse": "of",
            "words": ["takes"],
            "inverse_words": ["taken by"],
            "transitive": True,
            "domain": ["x"],
            "range": ["y"],
            "description": "d",
        },
        {
            "node": "a",
            "kind": "x",
            "name": "A",
            "description": "first\nsecond",
            "aliases": ["one"],
            "data": {"k": [1]},
        },
        "",
        fact(weight=2, source="PMID:1", data={"since": 1900}, subject_kind="x", object_kind="y"),
        fact(object="c"),
    )
    assert records == [
        Relation("r", "of", "d", ("x",), ("y",), ("takes",), ("taken by",), transitive=True),
        Node("a", "x", "A", "first\nsecond", ("one",), {"k": [1]}),
        Edge("a", "r", "b", 2.0, "PMID:1", {"since": 1900}),
        Edge("a", "r", "c", 1.0, "facts.jsonl:5"),
        Node("b", "y", "b"),
    ]


def test_jsonl_node_has_defaults_and_takes_a_kind_stated_before(tmp_path: Path) -> None:
    _, stated, plain = jsonl(tmp_path, fact(subject_kind="x"), {"node": "a"}, {"node": "z"})
    assert stated == Node("a", "x", "a")
    assert plain == Node("z", "entity", "z")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ("{}", "none of the keys"),
        ('{"subject": "a", "subject": "b", "relation": "r", "object": "o"}', "'subject' is given twice"),
        (json.dumps(fact(data={}))[:-3] + '{"k": 1, "k": 2}}', "'k' is given twice"),
        ('{"subject": "a", "relation": "r", "object": "o", "weight": NaN}', "NaN"),
        ('{"subject": "a", "relation": "r", "object": "o", "weight": -Infinity}', "-Infinity"),
        ('{"subject": "a", "relation": "r", "object": "o", "weight": 1e999}', "1e999 is too large"),
        ('{"subject": "a", "relation": "r", "object": "o", "weight": 1' + "0" * 400 + "}", "too large"),
        ('{"subject": "a", "relation": "r", "object": "o", "weight": 1' + "0" * 5000 + "}", "limit"),
        (fact(weight=-1), "-1.0"),
        (fact(weight="1"), "expected a number"),
        (fact(weight=True), "expected a number"),
        (fact(weight=None), "expected a number"),
        (fact(subject=""), "'subject' is empty"),
        (fact(subject=" "), "'subject' is empty"),
        (fact(subject=5), "expected text"),
        (fact(subject_kind=""), "'subject_kind' is empty"),
        (fact(subject="x" * 1001), "1001 characters"),
        (fact(subject="a\u0000"), "control character"),
        (fact(subject="a\nb"), "control character"),
        (fact(object="\ud800"), "lone surrogate"),
        (fact(data={"x": "\ud800"}), "lone surrogate"),
        (fact(data={"x": "y" * (1 << 20)}), "longer than 1048576 bytes"),
        (fact(source="y" * ((1 << 20) + 1)), "longer than 1048576 bytes"),
        (fact(data=[1]), "expected an object"),
        (fact(colour="red"), "'colour' is unknown"),
        ({"subject": "a", "relation": "r"}, "'object' is missing"),
        ({"subject": "a", "node": "b"}, "'node' is unknown"),
        ({"node": "n", "aliases": "one"}, "expected a list of texts"),
        ({"node": "n", "aliases": [1]}, "expected texts only"),
        ({"relation_name": "r", "transitive": 1}, "expected true or false"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_jsonl_wrong_row_is_reported_with_its_line_and_the_rest_read(tmp_path: Path, row: object, reason: str) -> None:
    good, bad, last = jsonl(tmp_path, fact(), row, fact(object="c"))
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert reason in bad.reason
    assert len(bad.text) <= 200
    assert (good, last) == (
        Edge("a", "r", "b", source="facts.jsonl:1"),
        Edge("a", "r", "c", source="facts.jsonl:3"),
    )


def test_jsonl_contradictions_between_lines_are_reported(tmp_path: Path) -> None:
    records = jsonl(tmp_path, {"node": "a", "kind": "x"}, {"node": "a", "kind": "x"}, fact(subject_kind="y"))
    bad = [record for record in records if isinstance(record, BadRow)]
    assert [(row.line, row.reason) for row in bad] == [
        (2, "the node 'a' is given twice"),
        (3, "'a' is said to be a 'y', before it was a 'x'"),
    ]
