"""Numbered migrations of the knowledge base file. `PRAGMA user_version` is the number applied last."""

from __future__ import annotations

import sqlite3

from tuili.errors import StoreError

_FIRST = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE kind(name TEXT PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE relation(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, data TEXT NOT NULL);
CREATE TABLE node(
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, name TEXT NOT NULL,
    description TEXT NOT NULL, aliases TEXT NOT NULL, data TEXT NOT NULL);
CREATE TABLE label(norm TEXT NOT NULL, node INTEGER NOT NULL);
CREATE TABLE edge(
    id INTEGER PRIMARY KEY, subject INTEGER NOT NULL, relation INTEGER NOT NULL, object INTEGER NOT NULL,
    weight REAL NOT NULL, source TEXT NOT NULL, data TEXT NOT NULL,
    UNIQUE(subject, relation, object));
CREATE TABLE signature(
    subject_kind TEXT NOT NULL, relation INTEGER NOT NULL, object_kind TEXT NOT NULL, num INTEGER NOT NULL,
    PRIMARY KEY (subject_kind, relation, object_kind)) WITHOUT ROWID;
CREATE VIRTUAL TABLE node_fts USING fts5(
    name, aliases, description, content='node', content_rowid='id',
    tokenize='porter unicode61 remove_diacritics 2');
"""

# Built after a bulk import: maintaining them row by row would cost several times as much.
INDEXES = """
CREATE INDEX IF NOT EXISTS label_norm ON label(norm, node);
CREATE INDEX IF NOT EXISTS label_node ON label(node);
CREATE INDEX IF NOT EXISTS edge_object ON edge(object, relation);
CREATE INDEX IF NOT EXISTS node_kind ON node(kind);
CREATE TRIGGER IF NOT EXISTS edge_added AFTER INSERT ON edge BEGIN
    INSERT INTO signature VALUES (
        (SELECT kind FROM node WHERE id = new.subject), new.relation,
        (SELECT kind FROM node WHERE id = new.object), 1)
        ON CONFLICT DO UPDATE SET num = num + 1;
END;
CREATE TRIGGER IF NOT EXISTS edge_removed AFTER DELETE ON edge BEGIN
    UPDATE signature SET num = num - 1 WHERE relation = old.relation
        AND subject_kind = (SELECT kind FROM node WHERE id = old.subject)
        AND object_kind = (SELECT kind FROM node WHERE id = old.object);
    DELETE FROM signature WHERE num < 1;
END;
CREATE TRIGGER IF NOT EXISTS node_added AFTER INSERT ON node BEGIN
    INSERT INTO node_fts(rowid, name, aliases, description)
    VALUES (new.id, new.name, new.aliases, new.description);
END;
CREATE TRIGGER IF NOT EXISTS node_removed AFTER DELETE ON node BEGIN
    INSERT INTO node_fts(node_fts, rowid, name, aliases, description)
    VALUES ('delete', old.id, old.name, old.aliases, old.description);
END;
"""

# Which kinds each relation joins in fact; the question compiler reads it.
SIGNATURES = """
INSERT OR IGNORE INTO signature SELECT s.kind, e.relation, o.kind, count(*)
FROM edge e JOIN node s ON s.id = e.subject JOIN node o ON o.id = e.object GROUP BY 1, 2, 3;
"""

MIGRATIONS = (_FIRST,)
VERSION = len(MIGRATIONS)
TABLES = {"edge", "kind", "label", "meta", "node", "node_fts", "relation", "signature"}


def migrate(connection: sqlite3.Connection, file_name: str) -> None:
    """Bring the base in `file_name` to the newest version, each migration in a transaction of its own.

    Raises:
        StoreError: the base was written by a newer tuili.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StoreError(
            f"{file_name} has the schema version {version}, this tuili reads up to {VERSION}; "
            "upgrade tuili: pip install -U tuili"
        )
    for number in range(version, VERSION):
        connection.executescript(f"BEGIN; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
