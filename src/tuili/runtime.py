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
    """Return torch, imported on the first call with one thread per usable CPU.

    `OMP_NUM_THREADS` wins over our count, and a program that imported torch itself keeps its own.

    Raises:
        DependencyError: torch is not installed.
    """
    is_ours = "torch" not in sys.modules and "OMP_NUM_THREADS" not in os.environ
    try:
        import torch
    except ImportError as error:
        raise DependencyError("torch", "models", "running a model") from error
    if is_ours:
        torch.set_num_threads(num_cpus())
    return torch


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
