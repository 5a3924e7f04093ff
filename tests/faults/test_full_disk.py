"""A disk that is full after so many bytes, by a limit on the size of files: a typed error, the old base intact."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuili.knowledge.build import build
from tuili.knowledge.records import Edge
from tuili.knowledge.store import Store

SOURCE = Path(__file__).resolve().parents[2] / "src"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no limits on the size of files")

LIMITED = """
import resource, signal, sys
from pathlib import Path
from tuili.errors import StoreError
from tuili.files import write_text
from tuili.knowledge.build import build
from tuili.knowledge.records import Edge
from tuili.knowledge.store import Store
path, limit, verb = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
some = [Edge(f"s{i}", "r", f"o{i}", 1.0, "x" * 100) for i in range(2000)]
try:
    if verb == "add":
        with Store.open(path, writable=True) as store:
            try:
                store.add_facts(some)
            finally:
                print("in transaction:", store.connection.in_transaction)
    elif verb == "build":
        build(path, some, origin="new")
    else:
        write_text(path, "x" * 1_000_000)
    print("written")
except StoreError as error:
    print("refused:", error)
"""


def run(path: Path, limit: int, verb: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(limit), verb],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(SOURCE)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("limit", [4096, 20_000, 60_000, 100_000, 150_000, 200_000])
@pytest.mark.parametrize("verb", ["add", "build"])
def test_the_base_is_as_it_was(tmp_path: Path, verb: str, limit: int):
    path = tmp_path / "a.sqlite"
    build(path, [Edge("a", "b", "c")], origin="old")
    *said, last = run(path, limit, verb)
    assert last.startswith("refused: "), last
    assert "full" in last or "rights" in last or "space" in last
    assert said in ([], ["in transaction: False"])
    with Store.open(path, writable=True) as store:
        assert store.meta()["origin"] == "old"
        assert store.counts()["edge"] == 1
        assert store.check() == []
        store.add_facts([Edge("d", "b", "c")])
    assert not list(tmp_path.glob("*.tmp*"))


def test_a_text_file_is_as_it_was(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    (said,) = run(path, 10_000, "text")
    assert said.startswith(f"refused: can't write {path}")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
