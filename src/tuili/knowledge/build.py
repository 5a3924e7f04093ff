"""Building a base: a stream of records becomes one file, whole or not at all."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tuili.errors import InputError, StoreError
from tuili.files import atomic_path
from tuili.knowledge.locks import LOCK_TIMEOUT_S, file_lock
from tuili.knowledge.migrations import INDEXES, SIGNATURES, migrate
from tuili.knowledge.records import BadRow, Edge, Node, Record, Relation
from tuili.knowledge.store import (
    MAX_NAME,
    check_text,
    edge_row,
    has_log,
    labels,
    node_row,
    put_kind,
    put_relation,
    sqlite_errors,
)

BATCH = 20_000
MAX_SOURCES = 1_000
"""A fact stated by several rows has the highest weight, and sources up to about so many characters."""

_PUT_EDGE = f"""
INSERT INTO edge(subject, relation, object, weight, source, data) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT(subject, relation, object) DO UPDATE SET weight = max(weight, excluded.weight), source = CASE
    WHEN source = '' THEN excluded.source
    WHEN excluded.source = '' OR length(source) >= {MAX_SOURCES} THEN source
    WHEN instr('; ' || source || '; ', '; ' || excluded.source || '; ') THEN source
    ELSE source || '; ' || excluded.source END
"""
OnProgress = Callable[[str, int], None]


@dataclass(slots=True)
class BuildReport:
    """What an import did: counts, seconds and the rows that could not be read."""

    num_nodes: int = 0
    num_edges: int = 0
    seconds: float = 0.0
    bad_rows: list[BadRow] = field(default_factory=list)


def build(
    path: Path,
    records: Iterable[Record],
    *,
    origin: str,
    skip_bad: bool = False,
    on_progress: OnProgress | None = None,
) -> BuildReport:
    """Write a base from records; an older base at `path` stays until the new one is complete.

    Who has the older base open goes on reading that. Time and memory are linear in the number of
    records (one dictionary entry per entity).

    Raises:
        InputError: a row is wrong and `skip_bad` is false; nothing is written then.
        StoreError: the file can't be written, or another process writes to the older base.
    """
    start = time.perf_counter()
    with contextlib.ExitStack() as lock, atomic_path(path) as temporary:
        with sqlite_errors(path), contextlib.closing(_connect(temporary)) as connection:
            builder = _Builder(connection, skip_bad, on_progress or (lambda phase, done: None))
            _fill(builder, records, origin)
        lock.enter_context(file_lock(path, alone=True))
        _settle(path)
    builder.report.seconds = time.perf_counter() - start
    return builder.report


def _settle(path: Path) -> None:
    """Move what the log of the older base holds into its file, and remove the log.

    A log that were left would be read as part of the new base.
    """
    if path.exists() and has_log(path):
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_S)) as old:
                is_busy = old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError:
            is_busy = True
        except sqlite3.DatabaseError:
            is_busy = False  # the older base is damaged: there is nothing to keep
        if is_busy:
            raise StoreError(
                f"knowledge base {path.name} can't be replaced, another process uses it; "
                f"waited {LOCK_TIMEOUT_S:g} s, try again later"
            )
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file that nobody else knows and that is thrown away if anything fails."""
    connection = sqlite3.connect(path, isolation_level=None)
    for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"):
        connection.execute(f"PRAGMA {setting}")
    return connection


def _fill(builder: _Builder, records: Iterable[Record], origin: str) -> None:
    connection = builder.connection
    migrate(connection, "the new base")
    connection.execute("BEGIN")
    for record in records:
        builder.take(record)
    builder.finish()
    builder.on_progress("indexing", builder.report.num_edges)
    built_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    connection.executemany("INSERT INTO meta VALUES (?, ?)", [("origin", origin), ("built_at", built_at)])
    connection.execute("COMMIT")
    connection.executescript(f"BEGIN; {SIGNATURES} {INDEXES} COMMIT;")
    connection.execute("INSERT INTO node_fts(node_fts) VALUES ('rebuild')")
    connection.executescript("ANALYZE; PRAGMA journal_mode = WAL;")


class _Builder:
    """Collects records and writes them in batches."""

    def __init__(self, connection: sqlite3.Connection, skip_bad: bool, on_progress: OnProgress) -> None:
        self.connection = connection
        self.skip_bad = skip_bad
        self.on_progress = on_progress
        self.report = BuildReport()
        self.node_ids: dict[str, int] = {}
        self.implied: set[str] = set()
        self.relation_ids: dict[str, int] = {}
        self.edges: list[tuple[int, int, int, float, str, str]] = []
        self.nodes: list[tuple[int, str, str, str, str, str, str]] = []
        self.labels: list[tuple[str, int]] = []

    def take(self, record: Record) -> None:
        if isinstance(record, BadRow):
            self._bad(record)
            return
        try:
            if isinstance(record, Edge):
                self._edge(record)
            elif isinstance(record, Node):
                self._node(record)
            elif isinstance(record, Relation):
                check_text("relation", record.name, MAX_NAME)
                self.relation_ids[record.name] = put_relation(self.connection, record)
            else:
                put_kind(self.connection, record)
        except InputError as error:
            self._bad(BadRow(0, str(error), repr(record)[:200]))

    def _bad(self, row: BadRow) -> None:
        if not self.skip_bad:
            place = f"line {row.line}: " if row.line else ""
            raise InputError(
                f"{place}{row.reason}: {row.text!r}. Nothing was imported; "
                "mend the row, or leave wrong rows out with --skip-bad"
            )
        self.report.bad_rows.append(row)

    def _edge(self, edge: Edge) -> None:
        columns = edge_row(edge)
        for what, key in (("subject", edge.subject), ("object", edge.object)):
            if key not in self.node_ids:
                check_text(what, key, MAX_NAME)
        relation = self.relation_ids.get(edge.relation)
        if relation is None:
            check_text("relation", edge.relation, MAX_NAME)
            relation = self.relation_ids[edge.relation] = put_relation(self.connection, Relation(edge.relation))
        self.edges.append((self._end(edge.subject), relation, self._end(edge.object), *columns))
        if len(self.edges) >= BATCH:
            self._flush()

    def _end(self, key: str) -> int:
        found = self.node_ids.get(key)
        if found is None:
            found = self.node_ids[key] = len(self.node_ids) + 1
            self.implied.add(key)
        return found

    def _node(self, node: Node) -> None:
        row = node_row(node)
        if node.key in self.node_ids and node.key not in self.implied:
            raise InputError(f"the key {node.key!r} is given to two entities")
        self.implied.discard(node.key)
        self._queue(self.node_ids.setdefault(node.key, len(self.node_ids) + 1), node, row)

    def _queue(self, number: int, node: Node, row: tuple[str, str, str, str, str, str]) -> None:
        self.nodes.append((number, *row))
        self.labels.extend((norm, number) for norm in labels(node))
        if len(self.nodes) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        run = self.connection.executemany
        run("INSERT INTO node VALUES (?, ?, ?, ?, ?, ?, ?)", self.nodes)
        run("INSERT INTO label VALUES (?, ?)", self.labels)
        run(_PUT_EDGE, self.edges)
        self.report.num_nodes += len(self.nodes)
        self.report.num_edges += len(self.edges)
        for batch in (self.nodes, self.labels, self.edges):
            batch.clear()
        self.on_progress("reading", self.report.num_edges)

    def finish(self) -> None:
        for key in self.implied:
            node = Node(key=key, kind="entity", name=key)
            self._queue(self.node_ids[key], node, node_row(node))
        self._flush()
        (self.report.num_edges,) = self.connection.execute("SELECT count(*) FROM edge").fetchone()
