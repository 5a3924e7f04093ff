"""Damaged files and forbidden places: a typed error that says what to do, never a crash."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import StoreError, TuiliError
from tuili.knowledge.build import build
from tuili.knowledge.graph import Graph
from tuili.knowledge.records import Edge, Node, Relation
from tuili.knowledge.store import Store

NUM_FLIPS = int(os.environ.get("TUILI_FLIPS", "150"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base of 2,000 facts in several hundred pages."""
    path = tmp_path / "base.sqlite"
    some = [
        Edge(f"node {i}", f"relation {i % 9}", f"node {i * 7 % 2000}", 1.0, f"f:{i}", {"i": i}) for i in range(2000)
    ]
    build(path, [Relation("relation 0", transitive=True), Node("node 5", "k", "Five", "five" * 50), *some], origin="x")
    return path


def read_everything(path: Path) -> None:
    """Read a base the way the reasoner does."""
    with Store.open(path) as store:
        graph = Graph(store)
        _ = graph.kinds, graph.relations, graph.signatures
        for number in range(1, 2001, 50):
            graph.entity(graph.by_key(f"node {number}") or number)
            graph.facts(number)
            graph.facts(number, inverse=True)
        graph.search("five node")
        graph.by_label(["five", "node 7"])
        store.check()


def test_the_whole_base_is_sound(base: Path):
    read_everything(base)


@given(st.binary(max_size=5000))
def test_random_bytes_are_no_base(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    path = tmp_path_factory.mktemp("damage") / "a.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"no tuili knowledge base|damaged or no knowledge base"):
        read_everything(path)


def test_a_folder_is_no_base(tmp_path: Path):
    with pytest.raises(StoreError, match="there is no knowledge base"):
        Store.open(tmp_path)


@pytest.mark.parametrize("part", [0.999, 0.75, 0.5, 0.25, 0.05, 0.001])
def test_a_truncated_base_is_refused(base: Path, part: float):
    size = int(base.stat().st_size * part)
    os.truncate(base, size)
    with pytest.raises(StoreError, match="damaged"):
        read_everything(base)
        raise AssertionError("nothing was noticed")


def test_a_changed_byte_is_noticed_or_harmless(base: Path, tmp_path: Path):
    content = base.read_bytes()
    for position in random.sample(range(len(content)), NUM_FLIPS):
        path = tmp_path / "flipped.sqlite"
        changed = bytearray(content)
        changed[position] ^= random.randrange(1, 256)
        path.write_bytes(changed)
        try:
            read_everything(path)
        except TuiliError:
            continue


def test_a_missing_entity_is_a_damaged_base(base: Path):
    with Store.open(base, writable=True) as store:
        gone, broken = Graph(store).by_key("node 7"), Graph(store).by_key("node 8")
        store.connection.execute("DELETE FROM node WHERE key = 'node 7'")
        store.connection.execute("UPDATE node SET data = '[1' WHERE key = 'node 8'")
        assert "that is no entity" in store.check()[0]
        for number in (gone, broken):
            assert number is not None
            with pytest.raises(StoreError, match="damaged"):
                Graph(store).entity(number)


@pytest.mark.parametrize("log", [b"", b"rubbish" * 999])
def test_a_log_of_rubbish_is_left_unread(base: Path, log: bytes):
    base.with_name("base.sqlite-wal").write_bytes(log)
    read_everything(base)


def run_as_nobody(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run code without root's right to write everywhere."""
    source = Path(__file__).resolve().parents[2] / "src"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(source)}, check=False,
    )  # fmt: skip


WRITE = """
import fcntl, os, sys
from pathlib import Path
from tuili.errors import StoreError
from tuili.knowledge.build import build
from tuili.knowledge.records import Edge
from tuili.knowledge.store import Store
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
path = Path(sys.argv[1])
with Store.open(path) as store:
    print("read", store.counts()["edge"])
for name, write in {
    "add": lambda: Store.open(path, writable=True).add_facts([Edge("a", "b", "c")]),
    "build": lambda: build(path, [Edge("a", "b", "c")], origin="x"),
}.items():
    try:
        write()
        print(name, "written")
    except StoreError as error:
        print(name, "refused:", error)
"""


@pytest.fixture
def open_folder(base: Path):
    """A folder that everybody may enter, below no private one."""
    folder = Path("/tmp") / f"tuili-test-{os.getpid()}-{random.getrandbits(40):x}"
    folder.mkdir()
    shutil.copy(base, folder)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="rights are kept otherwise there")
def test_what_may_not_be_written_can_be_read_and_says_why(open_folder: Path):
    (open_folder / "base.sqlite").chmod(0o444)
    open_folder.chmod(0o555)
    done = run_as_nobody(WRITE, open_folder / "base.sqlite")
    lines = done.stdout.splitlines()
    assert lines[0] == "read 2000", done.stderr
    assert lines[1].startswith("add refused: knowledge base base.sqlite: attempt to write a readonly database")
    assert lines[2].startswith("build refused: can't write")
    assert "rights" in lines[1]
    assert "rights" in lines[2]


@pytest.mark.skipif(sys.platform == "win32", reason="rights are kept otherwise there")
def test_a_base_that_may_not_be_read_says_why(open_folder: Path):
    (open_folder / "base.sqlite").chmod(0o000)
    done = run_as_nobody(WRITE, open_folder / "base.sqlite")
    assert "StoreError" in done.stderr
    assert "check their rights" in done.stderr
