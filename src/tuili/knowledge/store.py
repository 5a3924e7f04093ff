"""The store: one SQLite file per knowledge base, safe against crashes.

Limits: a name, a key, a kind or an alias has at most `MAX_NAME` characters; a description, a source,
all aliases together and the data of a node or an edge, as JSON, `MAX_TEXT`. No text holds control
characters (but tab and line break) or lone surrogates.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from tuili.errors import InputError, LimitError, StoreError
from tuili.files import data_dir
from tuili.knowledge.locks import file_lock
from tuili.knowledge.migrations import SIGNATURES, TABLES, VERSION, migrate
from tuili.knowledge.records import Edge, Kind, Node, Relation, normalise

MAX_NAME = 1_000
MAX_TEXT = 1_000_000
MAX_BASE_NAME = 100
BUSY_TIMEOUT_S = 5.0

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_HINTS = {
    "SQLITE_BUSY": "another process is writing to it; try again",
    "SQLITE_LOCKED": "another process is writing to it; try again",
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_READONLY": "the file or its folder can't be written; check their rights",
    "SQLITE_CANTOPEN": "the file or its folder can't be opened; check their rights",
    "SQLITE_IOERR": "the disk failed or is full; free some space, then run: tuili kb check {name}",
}
_DAMAGED = (
    "it is damaged or no knowledge base; build it anew: tuili kb add {name} SOURCE --force "
    "(a built-in one needs no SOURCE)"
)


def base_path(name: str) -> Path:
    """Return the file of the base called `name`.

    Raises:
        InputError: the name could leave the folder of bases.
    """
    is_plain = all(char.isalnum() or char in "-_." for char in name)
    if not is_plain or not name[:1].isalnum() or len(name.encode()) > MAX_BASE_NAME:
        raise InputError(
            f"{name[:MAX_BASE_NAME]!r} can't name a knowledge base: use letters, digits, '-', '_' and '.', "
            f"starting with a letter or digit, at most {MAX_BASE_NAME} bytes"
        )
    return data_dir() / "kb" / f"{name}.sqlite"


def base_names() -> list[str]:
    """Return the names of all built bases, sorted."""
    return sorted(path.stem for path in (data_dir() / "kb").glob("*.sqlite") if not path.name.startswith("."))


def check_text(what: str, text: str, limit: int) -> str:
    """Return `text`, or refuse it.

    Raises:
        InputError: it is empty or holds a control character.
        LimitError: it is longer than `limit` characters.
    """
    if not text.strip():
        raise InputError(f"the {what} is empty; give it at least one visible character")
    return check_clean(what, text, limit)


def check_clean(what: str, text: str, limit: int = MAX_TEXT) -> str:
    """Return `text`, which may be empty, or refuse it.

    Raises:
        InputError: it holds a control character.
        LimitError: it is longer than `limit` characters.
    """
    if len(text) > limit:
        raise LimitError(f"the {what} has {len(text)} characters, the limit is {limit}; shorten it")
    if bad := _UNSAFE.search(text):
        raise InputError(
            f"the {what} {text[:40]!r} holds {bad[0]!r} at position {bad.start()}, "
            "a control character or a lone surrogate; remove it"
        )
    return text


def check_weight(weight: float) -> float:
    """Return `weight`, or refuse it.

    Raises:
        InputError: it is not a finite number from 0.
    """
    if not math.isfinite(weight) or weight < 0:
        raise InputError(f"the weight {weight} is not a finite number from 0")
    return weight


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into `StoreError` with what to do, and text it can't hold into `InputError`."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorname", "")
        hint = next((hint for known, hint in _HINTS.items() if code.startswith(known)), _DAMAGED)
        raise StoreError(f"knowledge base {path.name}: {error}; {hint.format(name=path.stem)}") from error
    except UnicodeDecodeError as error:
        raise StoreError(f"knowledge base {path.name}: {_DAMAGED.format(name=path.stem)}") from error
    except UnicodeEncodeError as error:
        raise InputError(f"the text {error.object[:40]!r} holds a lone surrogate; remove it") from error


def parse_data(text: str) -> dict[str, Any]:
    """Return the JSON object of a data column; "" is an empty one.

    Raises:
        StoreError: it is none, so the file is damaged.
    """
    try:
        data = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise StoreError(f"the knowledge base is damaged: {text[:40]!r} is no JSON; build it anew") from error
    if not isinstance(data, dict):
        raise StoreError(f"the knowledge base is damaged: {text[:40]!r} is no JSON object; build it anew")
    return data


def dump_data(what: str, data: Mapping[str, object]) -> str:
    """Return the data column of a node or an edge.

    Raises:
        InputError: it can't be written as JSON, or holds a lone surrogate.
        LimitError: it is longer than `MAX_TEXT` characters.
    """
    if not data:
        return ""
    try:
        text = json.dumps(dict(data), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the data of the {what} can't be written as JSON: {error}") from error
    return check_clean(f"data of the {what}", text)


class Store:
    """An open knowledge base.

    Writes are acknowledged only when they are on the disk (WAL, synchronous=FULL).
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection
        self.on_close = contextlib.ExitStack()

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Store:
        """Open an existing base; read-only unless `writable`.

        Raises:
            StoreError: missing, damaged, locked or of a newer version.
        """
        if not path.is_file():
            known = ", ".join(base_names()) or "none yet"
            raise StoreError(
                f"there is no knowledge base {path.stem!r} (built: {known}); build it: tuili kb add {path.stem} SOURCE"
            )
        with contextlib.ExitStack() as lock:
            lock.enter_context(file_lock(path))
            store = cls(path, _connect(path, writable))
            if writable:
                store.on_close = lock.pop_all()
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.connection.close()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
        self.on_close.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a block as one atomic write; on the disk when the block has ended."""
        with sqlite_errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def add_facts(self, edges: Iterable[Edge]) -> int:
        """Add facts, and the entities and relations they name if new. Return how many facts there were.

        All or none are added; a fact that is there already gets the new weight and source.
        """
        with self.transaction() as connection:
            return sum(_add_edge(connection, edge) for edge in edges)

    def add_nodes(self, nodes: Iterable[Node]) -> None:
        """Add entities, or replace those with the same key."""
        with self.transaction() as connection:
            moved = [put_node(connection, node) for node in nodes]
            if any(moved):
                connection.execute("DELETE FROM signature")
                connection.execute(SIGNATURES)

    def retract(self, subject: str, relation: str, object_: str) -> None:
        """Take a fact back.

        Raises:
            InputError: the base has no such fact.
        """
        with self.transaction() as connection:
            cursor = connection.execute(
                "DELETE FROM edge WHERE relation = (SELECT id FROM relation WHERE name = ?)"
                " AND subject = (SELECT id FROM node WHERE key = ?)"
                " AND object = (SELECT id FROM node WHERE key = ?)",
                (relation, subject, object_),
            )
            if cursor.rowcount == 0:
                raise InputError(
                    f"{self.path.stem} has no fact {subject!r} -{relation}-> {object_!r}; "
                    f"see what it has: tuili kb show {self.path.stem} {subject!r}"
                )

    def meta(self) -> dict[str, str]:
        """Return what was recorded when the base was built (name, origin, time, counts)."""
        with sqlite_errors(self.path):
            return dict(self.connection.execute("SELECT key, value FROM meta"))

    def counts(self) -> dict[str, int]:
        """Return the numbers of nodes, edges, relations and kinds."""
        with sqlite_errors(self.path):
            return {
                table: self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("node", "edge", "relation", "kind")
            }

    def check(self) -> list[str]:
        """Return what is wrong with the base, empty if nothing is."""
        with sqlite_errors(self.path):
            run = self.connection.execute
            problems = [row[0] for row in run("PRAGMA integrity_check") if row[0] != "ok"]
            for end in ("subject", "object"):
                select = f"SELECT count(*) FROM edge WHERE {end} NOT IN (SELECT id FROM node)"
                if orphans := run(select).fetchone()[0]:
                    problems.append(f"{orphans} facts have a {end} that is no entity")
            (nameless,) = run("SELECT count(*) FROM node WHERE id NOT IN (SELECT node FROM label)").fetchone()
            if nameless:
                problems.append(f"{nameless} entities can't be found by any name")
            if not run("SELECT 1 FROM node LIMIT 1").fetchone():
                problems.append("the base is empty")
            return problems + self._self_loops()

    def _self_loops(self) -> list[str]:
        rows = self.connection.execute(
            "SELECT r.name, s.key FROM edge e JOIN relation r ON r.id = e.relation JOIN node s"
            " ON s.id = e.subject WHERE json_extract(r.data, '$.transitive') AND e.subject = e.object"
        )
        return [f"{key!r} is its own {name!r}" for name, key in rows]


def has_log(path: Path) -> bool:
    """Tell whether the write-ahead log of a base holds anything."""
    wal = path.with_name(path.name + "-wal")
    return wal.exists() and wal.stat().st_size > 0


def _connect(path: Path, writable: bool) -> sqlite3.Connection:
    """Open a base's file; a folder that can't be written is read without a lock."""
    with sqlite_errors(path):
        is_fixed = not os.access(path.parent, os.W_OK) and not has_log(path)
        mode = "rw" if writable else "ro&immutable=1" if is_fixed else "ro"
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
        )
        try:
            _check_version(path, connection, writable)
        except BaseException:
            connection.close()
            raise
        return connection


def _check_version(path: Path, connection: sqlite3.Connection, writable: bool) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 or not tables >= TABLES:
        raise StoreError(
            f"{path.name} is no tuili knowledge base; move it away and build: tuili kb add {path.stem} SOURCE"
        )
    if version > VERSION or writable:
        migrate(connection, path.name)
    elif version < VERSION:
        raise StoreError(f"{path.name} has the older schema {version}; upgrade it: tuili kb check {path.stem} --fix")
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    if path.stat().st_size % page_size and not has_log(path):
        raise StoreError(f"knowledge base {path.name} is cut short; {_DAMAGED.format(name=path.stem)}")
    if writable:
        connection.execute("PRAGMA synchronous = FULL")


def put_node(connection: sqlite3.Connection, node: Node) -> bool:
    """Insert or replace an entity with its labels; return whether facts got another kind of end by it."""
    values = node_row(node)
    old = connection.execute("SELECT id, kind FROM node WHERE key = ?", (node.key,)).fetchone()
    if old:
        connection.execute("DELETE FROM label WHERE node = ?", old[:1])
        connection.execute("DELETE FROM node WHERE id = ?", old[:1])
    number = old[0] if old else None
    number = connection.execute("INSERT INTO node VALUES (?, ?, ?, ?, ?, ?, ?)", (number, *values)).lastrowid
    connection.executemany("INSERT INTO label VALUES (?, ?)", [(norm, number) for norm in labels(node)])
    return bool(old) and old[1] != node.kind


def node_row(node: Node) -> tuple[str, str, str, str, str, str]:
    """Return the columns of a node after its id.

    Raises:
        InputError: one of its texts is refused.
    """
    for what, text in (("key", node.key), ("name", node.name), ("kind", node.kind)):
        check_text(what, text, MAX_NAME)
    for alias in node.aliases:
        if "\n" in check_text("alias", alias, MAX_NAME):
            raise InputError(f"the alias {alias[:40]!r} of {node.key!r} holds a line break; remove it")
    check_clean(f"description of {node.key!r}", node.description)
    aliases = check_clean(f"list of aliases of {node.key!r}", "\n".join(node.aliases))
    return node.key, node.kind, node.name, node.description, aliases, dump_data(node.key, node.data)


def labels(node: Node) -> set[str]:
    """Return the normalised names by which a node is found."""
    return {norm for text in (node.key, node.name, *node.aliases) if (norm := normalise(text))} or {node.key}


def put_kind(connection: sqlite3.Connection, kind: Kind) -> None:
    """Insert or replace a kind."""
    connection.execute("INSERT OR REPLACE INTO kind VALUES (?, ?)", (kind.name, json.dumps(asdict(kind))))


def put_relation(connection: sqlite3.Connection, relation: Relation) -> int:
    """Insert or replace a relation; return its id."""
    connection.execute(
        "INSERT INTO relation(name, data) VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET data = excluded.data",
        (relation.name, json.dumps(asdict(relation))),
    )
    found: int = connection.execute("SELECT id FROM relation WHERE name = ?", (relation.name,)).fetchone()[0]
    return found


def edge_row(edge: Edge) -> tuple[float, str, str]:
    """Return an edge's weight, source and data as columns.

    Raises:
        InputError: one of them is refused.
    """
    return check_weight(edge.weight), check_clean("source", edge.source), dump_data("fact", edge.data)


def _add_edge(connection: sqlite3.Connection, edge: Edge) -> int:
    """Add one fact, with the entities and the relation it names; return 1."""
    columns = edge_row(edge)
    ends = _node_id(connection, "subject", edge.subject), _node_id(connection, "object", edge.object)
    name = check_text("relation", edge.relation, MAX_NAME)
    row = connection.execute("SELECT id FROM relation WHERE name = ?", (name,)).fetchone()
    relation = row[0] if row else put_relation(connection, Relation(name))
    connection.execute(
        "INSERT INTO edge(subject, relation, object, weight, source, data) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT(subject, relation, object) DO UPDATE SET"
        " weight = excluded.weight, source = excluded.source, data = excluded.data",
        (ends[0], relation, ends[1], *columns),
    )
    return 1


def _node_id(connection: sqlite3.Connection, what: str, key: str) -> int:
    check_text(what, key, MAX_NAME)
    select = "SELECT id FROM node WHERE key = ?"
    if not connection.execute(select, (key,)).fetchone():
        put_node(connection, Node(key=key, kind="entity", name=key))
    number: int = connection.execute(select, (key,)).fetchone()[0]
    return number
