"""Texts to train on, read in pieces from *.txt, *.md, *.py, *.jsonl and *.parquet files.

A text file is one document, every line of a JSONL file and every row of a parquet file another. Long texts come in
pieces that end at a line, so that no file has to fit into memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tuili.config import closest
from tuili.errors import DependencyError, SourceError

TEXT_SUFFIXES = (".txt", ".md", ".py", ".rst")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
PARQUET_SUFFIXES = (".parquet",)
SUFFIXES = (*TEXT_SUFFIXES, *JSONL_SUFFIXES, *PARQUET_SUFFIXES)
PIECE = 1 << 18
"""Characters of a text that are in memory at a time."""
ROWS = 1024
"""Rows of a parquet file that are in memory at a time."""


class Piece(NamedTuple):
    """A part of a document, and whether the document ends with it."""

    text: str
    ends: bool


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files that are named, and those in the folders that are named, sorted within each.

    Raises:
        SourceError: nothing is named, a file is missing, is of another kind, is empty or is named twice, or a folder
            holds no file that can be read.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
            if not inside:
                raise SourceError(f"the folder {path} holds no file that ends in {', '.join(SUFFIXES)}")
            found += [file for file in inside if file.stat().st_size]
        else:
            found.append(_checked(path))
    if not found:
        raise SourceError("there is no text to train on; name files or folders in data.files")
    if len(set(found)) < len(found):
        twice = next(path for path in found if found.count(path) > 1)
        raise SourceError(f"{twice} is named twice, so it would count double; name it once")
    return found


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise SourceError(f"there is no file {path}; check the name, and that it is there on every host")
    if path.suffix not in SUFFIXES:
        raise SourceError(
            f"{path} ends in {path.suffix or 'nothing'!r}; what can be read ends in {', '.join(SUFFIXES)}"
        )
    if not path.stat().st_size:
        raise SourceError(f"{path} is empty; remove it from data.files, or bring it again")
    return path


def read_pieces(path: Path, field: str = "text") -> Iterator[Piece]:
    """Yield the documents of a file in pieces; `field` is the key or the column of the text.

    Raises:
        SourceError: the file is damaged, with its line or row and what is wrong there.
        DependencyError: it is a parquet file and pyarrow is not installed.
    """
    if path.suffix in TEXT_SUFFIXES:
        yield from _text_pieces(path)
        return
    texts = _jsonl_texts(path, field) if path.suffix in JSONL_SUFFIXES else _parquet_texts(path, field)
    for text in texts:
        starts = range(0, len(text), PIECE)
        yield from (Piece(text[start : start + PIECE], start == starts[-1]) for start in starts)


def _text_pieces(path: Path) -> Iterator[Piece]:
    carried, num_lines = "", 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            while block := file.read(PIECE):
                end = block.rfind("\n") + 1 or len(block)
                yield Piece(carried + block[:end], ends=False)
                carried, num_lines = block[end:], num_lines + block.count("\n")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} is no UTF-8 text after line {num_lines}: {error.reason}; it may be cut, or in another encoding"
        ) from error
    except OSError as error:
        raise SourceError(f"can't read {path}: {error.strerror}") from error
    yield Piece(carried, ends=True)


def _jsonl_texts(path: Path, field: str) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _text_of(_parsed(line, f"{path}:{number}"), field, f"{path}:{number}")
    except OSError as error:
        raise SourceError(f"can't read {path}: {error.strerror}") from error


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else " (the file's last line, which has no end: the file may be cut)"
        raise SourceError(f"{where} is no sound JSON: {error}{cut}") from error
    if not isinstance(row, dict):
        raise SourceError(f"{where} holds a {type(row).__name__}; every line must be a JSON object")
    return row


def _text_of(row: dict[str, Any], field: str, where: str) -> str:
    if field not in row:
        raise SourceError(f"{where} has no field {field!r}; {closest(field, row)}; data.field names it")
    if not isinstance(row[field], str):
        raise SourceError(f"{where}: the field {field!r} holds a {type(row[field]).__name__}, a text is needed")
    try:
        row[field].encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceError(f"{where}: the text has half a character, \\u{ord(row[field][error.start]):x}") from error
    return str(row[field])


def _parquet_texts(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DependencyError("pyarrow", "train", f"reading {path}") from error
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise SourceError(
                    f"{path} has no column {field!r}; {closest(field, file.schema_arrow.names)}; data.field names it"
                )
            for batch in file.iter_batches(batch_size=ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield _text_of({field: value}, field, f"{path}, row {row}")
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"can't read {path} after row {row}: {error}; the file may be cut") from error
