"""Importer of triples: TSV and JSON Lines, plain or gzipped (".gz").

TSV: subject, relation, object, then optionally weight and source, in UTF-8. Blank lines, lines that
start with "#" and the header "subject, relation, object" are no rows. Fields lose outer blanks.

JSON Lines: one object a line, of four sorts, told apart by `subject`, `node`, `relation_name` and
`kind_name`; the keys of each are in `_FIELDS`.

A wrong row becomes a `BadRow` with its line; the rest is read on. The source of a fact that names
none is "FILE:LINE". TSV needs constant memory, JSON Lines one entry for each node with a stated kind.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from tuili.errors import InputError, LimitError, SourceError
from tuili.knowledge.records import BadRow, Edge, Kind, Node, Record, Relation
from tuili.knowledge.sources import shown_name
from tuili.knowledge.store import MAX_NAME

OnProgress = Callable[[str, int], None]

MAX_FIELD_BYTES = 1 << 20
"""The longest field, in UTF-8. Subject, relation and object are names: at most `MAX_NAME` characters."""

MAX_LINE_BYTES = 8 * MAX_FIELD_BYTES
MAX_UNPACKED_BYTES = 16 << 30
"""The most a gzipped file may unpack to."""

_HEADER = ["subject", "relation", "object", "weight", "source"]
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_OR_BREAK = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_PROGRESS_EVERY = 50_000

# The keys of each sort of JSON line: the type of the value, and whether it must be there.
_FIELDS: dict[str, dict[str, tuple[type, bool]]] = {
    "subject": {
        "subject": (str, True),
        "relation": (str, True),
        "object": (str, True),
        "weight": (float, False),
        "source": (str, False),
        "data": (dict, False),
        "subject_kind": (str, False),
        "object_kind": (str, False),
    },
    "node": {
        "node": (str, True),
        "kind": (str, False),
        "name": (str, False),
        "description": (str, False),
        "aliases": (list, False),
        "data": (dict, False),
    },
    "relation_name": {
        "relation_name": (str, True),
        "inverse": (str, False),
        "description": (str, False),
        "domain": (list, False),
        "range": (list, False),
        "words": (list, False),
        "inverse_words": (list, False),
        "nouns": (list, False),
        "inverse_nouns": (list, False),
        "transitive": (bool, False),
        "qualifiers": (dict, False),
        "object_through": (str, False),
        "subject_through": (str, False),
        "ranked": (bool, False),
    },
    "kind_name": {
        "kind_name": (str, True),
        "description": (str, False),
        "words": (list, False),
        "parent": (str, False),
        "by_name": (bool, False),
    },
}
_TYPE_NAMES = {str: "text", float: "a number", dict: "an object", list: "a list of texts", bool: "true or false"}


def read_tsv(path: Path, *, on_progress: OnProgress | None = None) -> Iterator[Record]:
    """Yield a fact or a `BadRow` for each row of a TSV file.

    Raises:
        LimitError: the file unpacks to more than `MAX_UNPACKED_BYTES`.
        SourceError: the file can't be read.
    """
    first, name = True, shown_name(path)
    for number, line in _lines(path, on_progress):
        if isinstance(line, BadRow):
            yield line
        elif line and not line.startswith("#") and not line.isspace():
            cells = line.split("\t")
            header, first = first and _is_header(cells), False
            if not header:
                yield _tsv_row(cells, number, line, f"{name}:{number}")


def _is_header(cells: list[str]) -> bool:
    return [cell.strip().lower() for cell in cells] == _HEADER[: max(3, len(cells))]


def _tsv_row(cells: list[str], number: int, line: str, default_source: str) -> Edge | BadRow:
    if not 3 <= len(cells) <= 5:
        return _bad(number, f"{len(cells)} columns, expected 3 to 5 (tabs between them)", line)
    subject, relation, object_ = cells[0].strip(), cells[1].strip(), cells[2].strip()
    if problem := _name_problem(subject, relation, object_):
        return _bad(number, problem, line)
    if _CONTROL.search(line):
        return _bad(number, "the line holds a control character", line)
    weight = 1.0
    if len(cells) > 3 and (text := cells[3].strip()):
        weight = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not 0 <= weight < math.inf:
            return _bad(number, f"the weight {text[:40]!r} is not a finite number from 0", line)
    source = cells[4].strip() if len(cells) > 4 else ""
    if len(source) * 4 > MAX_FIELD_BYTES < len(source.encode()):
        return _bad(number, f"the source is longer than {MAX_FIELD_BYTES} bytes", line)
    return Edge(subject, relation, object_, weight, source or default_source)


def _name_problem(*names: str) -> str:
    """Return what is wrong with subject, relation and object; empty if nothing is."""
    for what, name in zip(_HEADER, names, strict=False):
        if not name:
            return f"the {what} is empty"
        if len(name) > MAX_NAME:
            return f"the {what} has {len(name)} characters, the limit is {MAX_NAME}"
    return ""


def read_jsonl(path: Path, *, on_progress: OnProgress | None = None) -> Iterator[Record]:
    """Yield what each line of a JSON Lines file states, or a `BadRow`.

    Nodes known only by `subject_kind` and `object_kind` come last.

    Raises:
        LimitError: the file unpacks to more than `MAX_UNPACKED_BYTES`.
        SourceError: the file can't be read.
    """
    reader = _JsonReader(shown_name(path))
    for number, line in _lines(path, on_progress):
        if isinstance(line, BadRow):
            yield line
        elif not line.isspace() and line:
            try:
                yield reader.record(line, number)
            except (InputError, ValueError, OverflowError, RecursionError) as error:
                yield _bad(number, _json_problem(error), line)
    yield from reader.implied_nodes()


def _json_problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "values are nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg} at column {error.colno}"
    return str(error)


class _JsonReader:
    """Turns lines into records and remembers the kinds that facts state."""

    def __init__(self, file_name: str) -> None:
        self.file_name = file_name
        self.stated: dict[str, str] = {}
        self.declared: set[str] = set()
        self.decode = json.JSONDecoder(
            object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        ).decode

    def record(self, line: str, number: int) -> Record:
        """Return what a line states.

        Raises:
            ValueError: it is no JSON or holds a value that is none.
            InputError: its keys or values are wrong.
        """
        row = self.decode(line)
        if not isinstance(row, dict):
            raise InputError("the line is no JSON object")
        sort = next((sort for sort in _FIELDS if sort in row), None)
        if sort is None:
            raise InputError(f"none of the keys {', '.join(map(repr, _FIELDS))} is there")
        _check_fields(row, _FIELDS[sort])
        if sort == "subject":
            return self._edge(row, number)
        if sort == "node":
            return self._node(row)
        return _relation(row) if sort == "relation_name" else _kind(row)

    def _edge(self, row: dict[str, object], number: int) -> Edge:
        subject, object_ = str(row["subject"]), str(row["object"])
        weight = float(cast(float, row.get("weight", 1.0)))
        if weight < 0:
            raise InputError(f"the weight {weight} is not a finite number from 0")
        for what, key in (("subject", subject), ("object", object_)):
            if kind := row.get(f"{what}_kind"):
                self._state(key, str(kind))
        source = str(row.get("source") or f"{self.file_name}:{number}")
        return Edge(subject, str(row["relation"]), object_, weight, source, _data(row))

    def _state(self, key: str, kind: str) -> None:
        if self.stated.setdefault(key, kind) != kind:
            raise InputError(f"{key[:80]!r} is said to be a {kind!r}, before it was a {self.stated[key]!r}")

    def _node(self, row: dict[str, object]) -> Node:
        key = str(row["node"])
        if key in self.declared:
            raise InputError(f"the node {key[:80]!r} is given twice")
        kind = str(row.get("kind", "") or self.stated.get(key, "entity"))
        self._state(key, kind)
        self.declared.add(key)
        return Node(
            key,
            kind,
            str(row.get("name", key)),
            str(row.get("description", "")),
            _texts(row, "aliases"),
            _data(row),
        )

    def implied_nodes(self) -> Iterator[Node]:
        """Yield a node for each key that has a kind and no line of its own."""
        for key, kind in self.stated.items():
            if key not in self.declared:
                yield Node(key, kind, key)


def _relation(row: dict[str, object]) -> Relation:
    texts = {key: _texts(row, key) for key in ("domain", "range", "words", "inverse_words", "nouns", "inverse_nouns")}
    names = {key: str(row.get(key, "")) for key in ("inverse", "description", "object_through", "subject_through")}
    flags = {key: bool(row.get(key, False)) for key in ("transitive", "ranked")}
    return Relation(str(row["relation_name"]), **texts, **names, **flags, qualifiers=_qualifiers(row))  # type: ignore[arg-type]


def _kind(row: dict[str, object]) -> Kind:
    return Kind(
        str(row["kind_name"]),
        str(row.get("description", "")),
        _texts(row, "words"),
        str(row.get("parent", "")),
        bool(row.get("by_name", False)),
    )


def _qualifiers(row: dict[str, object]) -> dict[str, tuple[str, ...]]:
    qualifiers = cast(dict[str, object], row.get("qualifiers", {}))
    for name, words in qualifiers.items():
        _check_value(f"qualifiers.{name}", words, list, name=True)
    return {name: tuple(cast(list[str], words)) for name, words in qualifiers.items()}


def _texts(row: dict[str, object], key: str) -> tuple[str, ...]:
    return tuple(cast(list[str], row.get(key, [])))


def _data(row: dict[str, object]) -> dict[str, object]:
    return cast(dict[str, object], row.get("data", {}))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        ((repeated, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise InputError(f"the key {repeated[:80]!r} is given twice")
    return row


def _refuse_constant(name: str) -> float:
    raise InputError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InputError(f"the number {text[:40]} is too large")
    return number


def _check_fields(row: dict[str, object], fields: dict[str, tuple[type, bool]]) -> None:
    """Refuse unknown and missing keys and values of the wrong type.

    Raises:
        InputError: the first thing that is wrong.
    """
    for key in row:
        if key not in fields:
            raise InputError(f"the key {key[:80]!r} is unknown; known are {', '.join(fields)}")
    for key, (kind, needed) in fields.items():
        if key in row:
            _check_value(key, row[key], kind, name=needed or key.endswith(("kind", "name")))
        elif needed:
            raise InputError(f"the key {key!r} is missing")


def _check_value(key: str, value: object, kind: type, *, name: bool) -> None:
    numeric = kind is float and isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, kind) and not numeric:
        raise InputError(f"the value of {key!r} is {str(value)[:40]!r}, expected {_TYPE_NAMES[kind]}")
    if isinstance(value, str):
        _check_text(key, value, name=name)
    elif isinstance(value, list):
        for text in value:
            if not isinstance(text, str):
                raise InputError(f"the value of {key!r} holds {str(text)[:40]!r}, expected texts only")
            _check_text(key, text, name=True)
    elif isinstance(value, dict):
        _check_encodes(key, value)


def _check_text(key: str, text: str, *, name: bool) -> None:
    if name and not text.strip():
        raise InputError(f"the value of {key!r} is empty")
    if name and len(text) > MAX_NAME:
        raise InputError(f"the value of {key!r} has {len(text)} characters, the limit is {MAX_NAME}")
    if (_CONTROL_OR_BREAK if name else _CONTROL).search(text):
        raise InputError(f"the value of {key!r} holds a control character or a lone surrogate")
    if len(text) * 4 > MAX_FIELD_BYTES < len(text.encode()):
        raise InputError(f"the value of {key!r} is longer than {MAX_FIELD_BYTES} bytes")


def _check_encodes(key: str, value: dict[str, object]) -> None:
    try:
        length = len(json.dumps(value, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise InputError(f"the value of {key!r} holds a lone surrogate") from error
    if length > MAX_FIELD_BYTES:
        raise InputError(f"the value of {key!r} is longer than {MAX_FIELD_BYTES} bytes")


# Lines.


def _lines(path: Path, on_progress: OnProgress | None) -> Iterator[tuple[int, str | BadRow]]:
    """Yield each line without its end, or a `BadRow` for a line that is too long or no UTF-8."""
    number, num_bytes, in_long_line = 0, 0, False
    with _opened(path) as file:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            num_bytes += len(raw)
            if path.suffix == ".gz" and num_bytes > MAX_UNPACKED_BYTES:
                raise LimitError(f"{path.name} unpacks to more than {MAX_UNPACKED_BYTES} bytes; split it")
            if not in_long_line:
                number += 1
                yield number, _decoded(raw, number)
                if on_progress and number % _PROGRESS_EVERY == 0:
                    on_progress("reading lines", number)
            in_long_line = len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n")


def _decoded(raw: bytes, number: int) -> str | BadRow:
    if len(raw) > MAX_LINE_BYTES:
        text = raw[:800].decode(errors="replace")
        return _bad(number, f"the line is longer than {MAX_LINE_BYTES} bytes", text)
    raw = raw.rstrip(b"\r\n")
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        return _bad(number, f"no UTF-8: byte {error.start + 1} of the line", raw.decode(errors="replace"))
    return line.removeprefix("\ufeff") if number == 1 else line


def _bad(number: int, reason: str, line: str) -> BadRow:
    return BadRow(number, reason, line[:200])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        _check_encoding(path)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"can't read {path}: {error}; give a readable file") from error


def _check_encoding(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise SourceError(f"{path} is in UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
