import os
import platform
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


REUSES = """
import resource
from tuili import runtime

torch = runtime.import_torch()
def faults(mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(mib << 18).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(128), faults(64))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_of_freed_tensors_is_reused_unless_the_environment_says_otherwise():
    def run(**variables):
        code = [sys.executable, "-c", REUSES]
        shown = subprocess.run(code, capture_output=True, text=True, check=True, env=_env() | variables).stdout
        return [int(count) for count in shown.split()]

    first, again = run()
    assert again < first / 20
    first, again = run(MALLOC_MMAP_THRESHOLD_="1000000")
    assert again > first / 3


def test_memory_is_left_alone_where_the_environment_decides(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert runtime.keep_memory() is False


def _env():
    ours = ("OMP_NUM_THREADS", *runtime.MALLOC_VARIABLES)
    return {name: value for name, value in os.environ.items() if name not in ours}


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
