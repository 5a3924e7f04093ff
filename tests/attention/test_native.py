import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tuili.attention import kernels, native
from tuili.attention.select import Budget
from tuili.cli import doctor
from tuili.errors import DependencyError, LimitError, UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Load the library anew, and without what the environment says."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    native._find_once.cache_clear()
    yield
    native._find_once.cache_clear()


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation whose kernel could not be built."""
    monkeypatch.setattr(native, "find", lambda: None)


def attend() -> torch.Tensor:
    q, k, v = (torch.randn(1, heads, 300, 16) for heads in (4, 2, 2))
    gate_q, gate_k = torch.randn(1, 300, 2, 1, 8), torch.randn(1, 19, 2, 8)
    return kernels.gated_attention(q, k, v, gate_q, gate_k, Budget(keep=8))


class TestWithoutTheLibrary:
    def test_the_twin_runs_and_says_why(self, absent: None) -> None:
        assert attend().isfinite().all()
        assert kernels.available() == (
            "PyTorch twin: the compiled kernel was not built (no C++ compiler at install time?); "
            "install g++ or clang++, then install tuili again"
        )

    def test_loading_it_is_a_typed_error(self, absent: None) -> None:
        with pytest.raises(native.KernelMissingError, match="was not built") as caught:
            native.load()
        assert isinstance(caught.value, DependencyError) and caught.value.fix.startswith("install g++")

    def test_the_doctor_warns(self, absent: None) -> None:
        check = doctor.check_kernel()
        assert check.status == doctor.WARN and "was not built" in check.detail and "g++" in check.fix

    @pytest.mark.parametrize("name", native.LEVELS)
    def test_it_can_not_be_forced(self, absent: None, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(native.VARIABLE, name)
        with pytest.raises(UsageError, match=f"TUILI_KERNEL is {name}, but the compiled kernel was not built"):
            attend()

    def test_a_file_that_is_no_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "_dsa.so"
        path.write_bytes(b"no library")
        monkeypatch.setattr(native, "find", lambda: path)
        with pytest.raises(native.KernelMissingError, match=r"_dsa\.so can't be loaded"):
            native.load()
        assert attend().isfinite().all()

    def test_another_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(native, "find", lambda: Path("other.so"))
        monkeypatch.setattr(ctypes, "CDLL", lambda path: ctypes.PyDLL(None))
        with pytest.raises(native.KernelMissingError, match="is not the compiled kernel"):
            native.load()


def test_the_torch_twin_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "torch")
    assert kernels.available() == "PyTorch twin: TUILI_KERNEL is torch; unset TUILI_KERNEL"
    assert doctor.check_kernel().status == doctor.WARN


def test_an_unknown_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "sse9")
    with pytest.raises(UsageError, match="must be one of: scalar, avx2, avx512, amx, torch; not 'sse9'"):
        kernels.available()


class FakeHandle:
    """A library on a processor of a given level; every run fails for want of memory."""

    def tuili_dsa_run(self, problem: object, level: object) -> int:
        return 1


@pytest.mark.parametrize("best", range(len(native.SHOWN)))
@pytest.mark.parametrize("wanted", ["", *native.LEVELS])
def test_levels(monkeypatch: pytest.MonkeyPatch, best: int, wanted: str) -> None:
    monkeypatch.setattr(native, "load", lambda: native.Library(FakeHandle(), best))  # type: ignore[arg-type]
    monkeypatch.setenv(native.VARIABLE, wanted)
    if native.LEVELS.get(wanted, 0) > best:
        with pytest.raises(UsageError, match="this processor has only"):
            native.chosen_level()
    else:
        assert native.chosen_level() == {"": best, "scalar": 0, "avx2": 1, "avx512": min(best, 4), "amx": 5}[wanted]
        assert kernels.available() == f"compiled kernel: {native.SHOWN[native.chosen_level() or 0]}"


def test_too_little_memory_is_a_typed_error() -> None:
    library = native.Library(FakeHandle(), 0)  # type: ignore[arg-type]
    with pytest.raises(LimitError, match="attention over 9 keys and 3 queries needs more memory"):
        library.run(native.Problem(keys=9, queries=3), 0)


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's sources alone, as a checkout has them."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    return folder


def built(copy: Path, target: Path, compiler: str | None) -> Path:
    """Build a wheel, unpack it, and return the folder of its attention package."""
    environment = os.environ | ({"CC": compiler, "CXX": compiler} if compiler else {})
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(target)]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(copy)], check=True, capture_output=True, env=environment
    )
    with zipfile.ZipFile(next(target.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    shutil.rmtree(copy / "build", ignore_errors=True)
    return target / "tuili" / "attention"


@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler here")
def test_installing_builds_a_library_that_runs(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = built(copy, tmp_path, None).glob("_dsa*.so")
    monkeypatch.setattr(native, "find", lambda: path)
    assert native.load().best_level in range(len(native.SHOWN))
    assert attend().isfinite().all()


def test_installing_without_a_compiler_goes_on(copy: Path, tmp_path: Path) -> None:
    folder = built(copy, tmp_path, str(tmp_path / "no-compiler"))
    assert (folder / "kernels.py").is_file() and not list(folder.glob("_dsa*"))
