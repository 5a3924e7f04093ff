"""SIGKILL at random moments: an acknowledged fact stays, a base is whole, the older one or the newer.

TUILI_KILLS sets the number of kills, 25 by default.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tuili.knowledge.build import build
from tuili.knowledge.store import Store

NUM_KILLS = int(os.environ.get("TUILI_KILLS", "25"))
WRITER = Path(__file__).with_name("writer.py")
SOURCE = WRITER.parents[2] / "src"

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
    pytest.mark.timeout(60 + 4 * NUM_KILLS),
]


def run_and_kill(verb: str, path: Path, start: int, seconds: float) -> list[int]:
    """Let the writer run until some time after its first word, kill it, return what it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, str(WRITER), verb, str(path), str(start)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, "the writer ended by itself"
    return [int(line) for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]


def test_acknowledged_facts_survive(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    build(path, [], origin="nothing")
    acknowledged = -1
    for _ in range(NUM_KILLS):
        said = run_and_kill("add", path, acknowledged + 1, random.expovariate(20))
        acknowledged = max(said, default=acknowledged)
        with Store.open(path) as store:
            run = store.connection.execute
            kept = {int(key[1:]) for (key,) in run("SELECT key FROM node WHERE key LIKE 's%'")}
            assert set(range(acknowledged + 1)) <= kept
            assert kept <= set(range(acknowledged + 2)), "at most the one that was being written"
            assert run("SELECT count(*) FROM edge").fetchone() == (2 * len(kept),), "both facts or none"
            assert store.check() == []
        acknowledged = max(kept)
    assert acknowledged > NUM_KILLS


def test_a_base_is_the_older_or_the_newer_one_whole(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    build(path, [], origin="0")
    newest = 0
    for _ in range(NUM_KILLS):
        said = run_and_kill("rebuild", path, newest + 1, random.uniform(0, 0.1))
        newest = max(said)
        with Store.open(path) as store:
            found = int(store.meta()["origin"])
            assert found in (newest, newest + 1)
            rows = store.connection.execute("SELECT name, count(*) FROM edge e JOIN relation r ON r.id = e.relation")
            assert rows.fetchall() == [(f"generation {found}", 3000)]
            assert store.check() == []
        newest = found
    for left in tmp_path.glob(".*.tmp*"):
        os.utime(left, (0, 0))
    build(path, [], origin="last")
    assert not list(tmp_path.glob(".*.tmp*")), "the next build removes what a killed one left"
