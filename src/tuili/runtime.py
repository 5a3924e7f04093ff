"""The machine: torch imported on use, threads, device, dtype, seed, environment report.

Importing this module does no work and does not import torch.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import platform
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tuili.errors import DependencyError, UsageError

if TYPE_CHECKING:
    from types import ModuleType

    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT_TENSOR_BYTES, KEPT_BYTES = 1 << 30, (1 << 31) - 1
MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
CPU_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")
REPORTED_PACKAGES = (
    "tuili",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "gguf",
    "huggingface-hub",
    "numpy",
    "sympy",
    "pint",
    "click",
    "rich",
)


@functools.cache
def import_torch() -> ModuleType:
    """Return torch, imported on the first call with one thread per usable CPU and freed memory kept (`keep_memory`).

    `OMP_NUM_THREADS` wins over our count, and a program that imported torch itself keeps its threads and its memory.

    Raises:
        DependencyError: torch is not installed.
    """
    is_ours = "torch" not in sys.modules
    try:
        import torch
    except ImportError as error:
        raise DependencyError("torch", "models", "running a model") from error
    if is_ours:
        keep_memory()
    if is_ours and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_cpus())
    return torch


def keep_memory() -> bool:
    """Have this process reuse the memory of freed tensors, up to 2 GiB; return whether that is so.

    By default the C library gives every large tensor's memory back to the system, which hands it out anew page by page:
    in a long prefill on a CPU that takes up to a third of the time. Works with glibc (2.36 tried); elsewhere, and where
    the environment sets `MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_` or `GLIBC_TUNABLES`, it changes nothing.
    """
    if any(name in os.environ for name in MALLOC_VARIABLES) or platform.libc_ver()[0] != "glibc":
        return False
    import ctypes

    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT_TENSOR_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))


def num_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, cut by a container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _cpu_quota()))


def _cpu_quota() -> int:
    """Return the container's CPU quota rounded up, or a number no machine reaches."""
    try:
        quota, period = CPU_QUOTA_FILE.read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return sys.maxsize


def choose_device(wanted: str = "auto") -> torch.device:
    """Return the device to run on; `auto` takes a GPU where there is one.

    Raises:
        UsageError: the device is unknown or this machine doesn't have it.
    """
    torch = import_torch()
    usable = ["cpu"]
    if torch.backends.mps.is_available():
        usable.insert(0, "mps")
    if torch.cuda.is_available():
        usable.insert(0, "cuda")
    if wanted == "auto":
        return torch.device(usable[0])
    if wanted not in usable:
        raise UsageError(f"there is no device {wanted!r} here; choose one of: auto, {', '.join(usable)}")
    return torch.device(wanted)


def choose_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on a GPU that computes in it, else float32."""
    torch = import_torch()
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def seed_all(seed: int) -> None:
    """Seed `random`, and numpy and torch where they are already imported."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def environment() -> dict[str, object]:
    """Return what a bug report needs to know about this machine; imports nothing heavy."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": num_cpus(),
        "packages": {name: _version(name) for name in REPORTED_PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
