import os
import random
import subprocess
import sys

import numpy as np
import pytest

from tuili import runtime
from tuili.errors import DependencyError, UsageError


def test_importing_does_not_import_torch():
    code = "import sys, tuili.runtime as r; r.environment(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_torch_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DependencyError, match=r"pip install 'tuili\[models\]'"):
        runtime.import_torch.__wrapped__()


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 8), ("150000 100000", 2), ("1000 100000", 1), ("nonsense", 8)]
)
def test_cpus_are_cut_by_the_quota(monkeypatch, tmp_path, quota, expected):
    file = tmp_path / "cpu.max"
    file.write_text(quota + "\n")
    monkeypatch.setattr(runtime, "CPU_QUOTA_FILE", file)
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert runtime.num_cpus() == expected


def test_threads_are_one_per_cpu_unless_the_environment_says_otherwise():
    code = "from tuili import runtime; print(runtime.import_torch().get_num_threads(), runtime.num_cpus())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env())
    threads, cpus = run.stdout.split()
    assert threads == cpus
    one = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**_env(), "OMP_NUM_THREADS": "1"},
    )
    assert one.stdout.split()[0] == "1"


def _env():
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def test_device_and_dtype_on_a_cpu():
    import torch

    cpu = runtime.choose_device("cpu")
    assert cpu.type == "cpu"
    assert runtime.choose_device().type in ("cpu", "cuda", "mps")
    assert runtime.choose_dtype(cpu) == torch.float32


def test_an_unknown_device_is_refused_with_the_usable_ones():
    with pytest.raises(UsageError, match=r"'tpu'.*auto,.*cpu"):
        runtime.choose_device("tpu")


def test_seed_all_repeats_every_generator():
    import torch

    def draw():
        return random.random(), np.random.random(), torch.rand(()).item()

    with torch.random.fork_rng():
        runtime.seed_all(7)
        first = draw()
        runtime.seed_all(7)
        assert draw() == first


def test_environment_reports_versions_and_gaps(monkeypatch):
    monkeypatch.setattr(runtime, "REPORTED_PACKAGES", ("numpy", "no-such-package-at-all"))
    report = runtime.environment()
    assert report["packages"] == {"numpy": np.__version__, "no-such-package-at-all": None}
    assert report["cpus"] >= 1
    assert report["python"].count(".") == 2
