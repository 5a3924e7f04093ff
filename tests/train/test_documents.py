import json
import sys

import pyarrow
import pytest
from pyarrow import parquet

from tuili.errors import DependencyError, SourceError
from tuili.train import documents
from tuili.train.documents import find_files, read_pieces


def texts_of(path, field="text"):
    """The documents of a file, put together again."""
    found, text = [], ""
    for piece in read_pieces(path, field):
        text += piece.text
        if piece.ends:
            found.append(text)
            text = ""
    assert text == ""
    return found


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 7)
    monkeypatch.setattr(documents, "ROWS", 2)


CASES = ["", "a", "one two\nthree\r\n four, five, six\n", "äöü 漢字 🙂\n" * 9, "x" * 50, "\n\n\n"]


@pytest.mark.parametrize("text", CASES)
def test_a_text_comes_back_whole_from_its_pieces(tmp_path, small_pieces, text):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    assert texts_of(path) == [text]


def test_rows_of_jsonl_and_parquet_are_documents(tmp_path, small_pieces):
    rows = [text for text in CASES if text]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps({"n": 1, "body": text}) for text in rows))
    parquet.write_table(pyarrow.table({"n": [1] * len(rows), "body": rows}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.jsonl", "body") == rows
    assert texts_of(tmp_path / "a.parquet", "body") == rows


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', "a.jsonl:2 is no sound JSON"),
        (b'{"text": "a"}\n\n{"text": "b', "a.jsonl:3 is no sound JSON: .*may be cut"),
        (b'{"text": "a"}\n[1]\n', "a.jsonl:2 holds a list"),
        (b'{"txt": "a", "id": 1}\n', "has no field 'text'; did you mean 'txt'"),
        (b'{"text": 3}\n', "a.jsonl:1: the field 'text' holds a int"),
        (b'{"text": null}\n', "holds a NoneType"),
        (b'{"text": "\xff"}\n', "a.jsonl:1 is no sound JSON"),
        (b'{"text": "\\ud800"}\n', "half a character"),
        (b"[" * 100_000 + b"\n", "a.jsonl:1 is no sound JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, lines, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines)
    with pytest.raises(SourceError, match=message):
        texts_of(path)


def test_a_cut_text_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\ntwo\nthree ü".encode()[:-1])
    with pytest.raises(SourceError, match=r"no UTF-8 text after line \d: .*cut"):
        texts_of(path)


def test_broken_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"body": ["a", None, "b"]}), path)
    with pytest.raises(SourceError, match=r"row 2: the field 'body' holds a NoneType"):
        texts_of(path, "body")
    with pytest.raises(SourceError, match="no column 'bdy'; did you mean 'body'"):
        texts_of(path, "bdy")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"can't read .*a\.parquet.*cut"):
        texts_of(path, "body")


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError, match=r"pip install 'tuili\[train\]'"):
        texts_of(tmp_path / "a.parquet")


def test_files_are_found_in_a_fixed_order(texts):
    (texts / "empty.txt").write_text("")
    (texts / "sub").mkdir()
    (texts / "sub" / "c.py").write_text("x = 1\n")
    (texts / "other.bin").write_text("no")
    names = [path.name for path in find_files([texts / "b.jsonl", texts / "sub"])]
    assert names == ["b.jsonl", "c.py"]
    assert [path.name for path in find_files([texts])] == ["a.txt", "b.jsonl", "c.py"]


def test_what_can_not_be_read_is_refused(texts):
    (texts / "empty.txt").write_text("")
    (texts / "hollow").mkdir()
    (texts / "a.bin").write_text("x")
    for paths, message in [
        ([texts / "none.txt"], "there is no file"),
        ([texts / "empty.txt"], "is empty"),
        ([texts / "hollow"], "holds no file"),
        ([texts / "a.bin"], "ends in '.bin'"),
        ([texts, texts / "a.txt"], "named twice"),
        ([], "no text to train on"),
    ]:
        with pytest.raises(SourceError, match=message):
            find_files(paths)
