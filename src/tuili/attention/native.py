"""The compiled kernel: the shared library that installation builds, found and called through ctypes.

The library is plain C++ without torch or Python in it (`csrc/`), and optional: where it could not be built the
PyTorch twin runs, and `absence` tells why. `TUILI_KERNEL` forces a path: amx, avx512, avx2, scalar or torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path

from tuili.errors import DependencyError, LimitError, UsageError

VARIABLE = "TUILI_KERNEL"
LEVELS = {"scalar": 0, "avx2": 1, "avx512": 2, "amx": 5}
AVX512_WITH_ALL = 4  # avx512 takes int8 (3) and bfloat16 products (4) where there are some
SHOWN = (
    "portable vectors",
    "AVX2",
    "AVX-512",
    "AVX-512 with int8 products",
    "AVX-512 with int8 and bfloat16 products",
    "AVX-512 with matrix tiles (AMX) for int8 and bfloat16 products",
)
STRIP = 16  # keys side by side in a register; blocks are made of whole strips


class Problem(ctypes.Structure):
    """What a call is given; the same as `DsaProblem` in csrc/dsa.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in "batch groups heads_per_group queries keys dim".split()),
        *((name, ctypes.c_int64) for name in "block keep sink local gate_queries gate_dim sub beam".split()),
        *((name, ctypes.c_int64) for name in "is_bf16 gate_is_bf16 gate_is_int8".split()),
        *((name, ctypes.c_int64) for name in "selects attends normalizes threads window window_sink".split()),
        *((name, ctypes.c_int64 * 3) for name in "q_stride k_stride v_stride out_stride".split()),
        ("gate_q_stride", ctypes.c_int64 * 4),
        ("gate_k_stride", ctypes.c_int64 * 3),
        ("prior_stride", ctypes.c_int64 * 3),
        ("prior_size", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in "q k v gate_q gate_k out gate_scale means mean_scale offset bias start prior blocks".split()
        ),
        *((name, ctypes.c_double) for name in "scale coverage penalty".split()),
    ]


class Backward(ctypes.Structure):
    """What the gradient of attention over blocks is given; the same as `DsaBackward` in csrc/dsa.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in "batch groups heads_per_group queries keys dim".split()),
        *((name, ctypes.c_int64) for name in "block keep parts threads".split()),
        *((name, ctypes.c_void_p) for name in "q k v grad_out blocks grad_q grad_k grad_v grad_gate packed".split()),
        ("scale", ctypes.c_double),
    ]


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded library and the best level that this processor has."""

    handle: ctypes.CDLL
    best_level: int

    def run(self, problem: Problem, level: int) -> None:
        """Solve the problem in place; its pointers and sizes must have been checked.

        Raises:
            LimitError: there is not enough memory.
        """
        _check_room(self.handle.tuili_dsa_run(ctypes.byref(problem), ctypes.c_int64(level)), problem)

    def run_backward(self, problem: Backward, level: int) -> None:
        """Compute gradients in place; pointers and sizes must have been checked.

        Raises:
            LimitError: there is not enough memory.
        """
        _check_room(self.handle.tuili_dsa_backward(ctypes.byref(problem), ctypes.c_int64(level)), problem)


def _check_room(failed: int, problem: Problem | Backward) -> None:
    if failed:
        raise LimitError(
            f"attention over {problem.keys} keys and {problem.queries} queries needs more memory than there is; "
            "take fewer queries at a time or a smaller batch"
        )


class KernelMissingError(DependencyError):
    """The compiled kernel can't be used; `reason` says why and `fix` what helps."""

    def __init__(self, reason: str, fix: str) -> None:
        Exception.__init__(self, f"{reason}; {fix}")
        self.reason, self.fix = reason, fix


def load() -> Library:
    """Return the library, looked for on the first call.

    Raises:
        KernelMissingError: it was not built, can't be loaded, or belongs to another version.
    """
    found = _find_once()
    if isinstance(found, KernelMissingError):
        raise found
    return found


@functools.cache
def _find_once() -> Library | KernelMissingError:
    try:
        return _load()
    except KernelMissingError as error:
        return error


def _load() -> Library:
    path = find()
    if path is None:
        raise KernelMissingError(
            "the compiled kernel was not built (no C++ compiler at install time?)",
            "install g++ or clang++, then install tuili again",
        )
    again = "install tuili again"
    try:
        handle = ctypes.CDLL(str(path))
        for name in ("tuili_dsa_level", "tuili_dsa_problem_bytes", "tuili_dsa_backward_bytes"):
            getattr(handle, name).restype = ctypes.c_int64
        num_bytes = handle.tuili_dsa_problem_bytes(), handle.tuili_dsa_backward_bytes()
        level = handle.tuili_dsa_level()
    except OSError as error:
        raise KernelMissingError(f"the compiled kernel {path.name} can't be loaded ({error})", again) from error
    except AttributeError as error:
        raise KernelMissingError(f"{path.name} is not the compiled kernel ({error})", again) from error
    if num_bytes != (ctypes.sizeof(Problem), ctypes.sizeof(Backward)):
        raise KernelMissingError(f"the compiled kernel {path.name} belongs to another version of tuili", again)
    return Library(handle, level)


def find() -> Path | None:
    """Return the library's file, or None where it was not built."""
    folder = Path(__file__).parent
    return next((path for suffix in ("so", "dylib", "pyd") for path in sorted(folder.glob(f"_dsa*.{suffix}"))), None)


def chosen_level() -> int | None:
    """Return the level to run at, or None where the PyTorch twin is to run.

    Raises:
        UsageError: `TUILI_KERNEL` is unknown, or this installation or processor doesn't have what it names.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "torch":
        return None
    if wanted and wanted not in LEVELS:
        raise UsageError(f"{VARIABLE} must be one of: {', '.join(LEVELS)}, torch; not {wanted!r}")
    try:
        best = load().best_level
    except KernelMissingError as error:
        if wanted:
            raise UsageError(f"{VARIABLE} is {wanted}, but {error}, or unset {VARIABLE}") from error
        return None
    if LEVELS.get(wanted, 0) > best:
        raise UsageError(f"{VARIABLE} is {wanted}, but this processor has only {SHOWN[best]}; unset {VARIABLE}")
    if wanted == "avx512":
        return min(best, AVX512_WITH_ALL)
    return LEVELS[wanted] if wanted else best


def absence() -> tuple[str, str]:
    """Return why the compiled kernel doesn't run, and what helps; two empty strings where it does."""
    if os.environ.get(VARIABLE) == "torch":
        return f"{VARIABLE} is torch", f"unset {VARIABLE}"
    try:
        load()
    except KernelMissingError as error:
        return error.reason, error.fix
    return "", ""
