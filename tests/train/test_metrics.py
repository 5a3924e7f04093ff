import json
import math
import subprocess
import sys

import pytest

from tuili.errors import ModelFileError
from tuili.train.metrics import Metrics, read


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    metrics = Metrics(path, 0, pytest.fail)
    for step in range(1, 6):
        metrics.add({"step": step, "loss": 1 / step})
    return path


def test_rows_come_back(path):
    assert read(path) == [{"step": step, "loss": 1 / step} for step in range(1, 6)]


def test_a_run_that_resumes_cuts_off_what_came_after(path):
    Metrics(path, 3, pytest.fail).add({"step": 4, "loss": 0.0})
    assert [row["step"] for row in read(path)] == [1, 2, 3, 4] and read(path)[-1]["loss"] == 0.0
    Metrics(path, 0, pytest.fail)
    assert read(path) == []


def test_a_line_that_a_kill_cut_is_left_out(path):
    path.write_bytes(path.read_bytes()[:-4])
    assert [row["step"] for row in read(path)] == [1, 2, 3, 4]
    Metrics(path, 4, pytest.fail).add({"step": 5})
    assert [row["step"] for row in read(path)] == [1, 2, 3, 4, 5]


def test_what_is_not_finite_is_null(path):
    Metrics(path, 5, pytest.fail).add({"step": 6, "loss": math.nan, "grad_norm": math.inf})
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 6, "loss": None, "grad_norm": None}


@pytest.mark.parametrize("line", ["{", "[]", '{"loss": 1}', '{"step": "1"}'])
def test_a_damaged_line_is_named(path, line):
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ModelFileError, match=r"metrics\.jsonl:6 is no line"):
        read(path)


CUT = """
import resource, signal, sys
from pathlib import Path
from tuili.train.metrics import Metrics, read
path = Path(sys.argv[1])
metrics = Metrics(path, 5, print)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, size + 10))
metrics.add({"step": 6, "loss": 0.5})
"""


def test_a_line_that_the_disk_cuts_is_taken_back(path):
    told = subprocess.run([sys.executable, "-c", CUT, path], capture_output=True, text=True, check=True).stdout
    assert "can't write" in told and "the training goes on" in told
    assert path.read_bytes().endswith(b"\n")
    Metrics(path, 6, pytest.fail).add({"step": 7})
    assert [row["step"] for row in read(path)] == [1, 2, 3, 4, 5, 7]


def test_a_file_that_can_not_be_written_is_told_once(path):
    told = []
    metrics = Metrics(path, 5, told.append)
    path.unlink()
    path.mkdir()
    for step in (6, 7):
        metrics.add({"step": step})
    assert len(told) == 1 and "the training goes on" in told[0]
