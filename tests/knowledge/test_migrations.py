import sqlite3
from pathlib import Path

import pytest

from tuili.errors import StoreError
from tuili.knowledge import migrations, store
from tuili.knowledge.migrations import MIGRATIONS, TABLES, VERSION, migrate
from tuili.knowledge.records import Edge
from tuili.knowledge.store import Store


def test_migrations_make_the_tables_and_can_be_repeated(tmp_path: Path):
    connection = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)
    for _ in range(2):
        migrate(connection, "a")
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert tables >= TABLES


def set_version(path: Path, version: int) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


@pytest.mark.parametrize("writable", [False, True])
def test_a_base_of_a_newer_tuili_is_refused(tiny_base: Path, writable: bool):
    set_version(tiny_base, VERSION + 1)
    with pytest.raises(StoreError, match=f"schema version {VERSION + 1}, this tuili reads up to {VERSION}"):
        Store.open(tiny_base, writable=writable)


def test_a_file_of_another_program_is_refused(tmp_path: Path, tiny_base: Path):
    set_version(tiny_base, 0)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE songs(name TEXT)")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.close()
    for path in (tiny_base, other):
        with pytest.raises(StoreError, match="no tuili knowledge base"):
            Store.open(path)


def test_an_older_base_is_upgraded_by_the_first_writer(tiny_base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, "ALTER TABLE node ADD COLUMN seen INTEGER;"))
    monkeypatch.setattr(migrations, "VERSION", VERSION + 1)
    monkeypatch.setattr(store, "VERSION", VERSION + 1)
    with pytest.raises(StoreError, match=f"older schema {VERSION}; upgrade it: tuili kb check films --fix"):
        Store.open(tiny_base)
    with Store.open(tiny_base, writable=True) as opened:
        opened.connection.execute("SELECT seen FROM node")
        assert opened.counts()["edge"] == 4


def test_a_migration_that_fails_changes_nothing(tiny_base: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, "DELETE FROM edge; SELECT nonsense FROM nowhere;"))
        patch.setattr(migrations, "VERSION", VERSION + 1)
        with pytest.raises(StoreError, match="no such table"):
            Store.open(tiny_base, writable=True)
    with Store.open(tiny_base, writable=True) as opened:
        assert opened.counts()["edge"] == 4
        opened.add_facts([Edge("a", "b", "c")])
