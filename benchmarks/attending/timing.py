"""Runs of several sides in turn, and the figures made of them."""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import Result

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Side:
    """What runs of one side took: seconds of each."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)


def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int, *, warm_up: bool = False) -> dict[str, Side]:
    """Run every side in each round, after an unmeasured one with `warm_up`."""
    if warm_up:
        for call in sides.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            gc.collect()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: Side(tuple(values)) for name, values in seconds.items()}


def begin_peak() -> float | None:
    """Set the peak of the process's memory to what it takes now and return that; None where that is not possible.

    What was freed and kept is handed back to the system before, so that it does not hide what a run takes.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    try:
        CLEAR.write_text(RESET_PEAK)
        return process_memory("VmRSS")
    except (OSError, StopIteration):
        return None


def process_memory(field: str) -> float:
    """Return a field of the process's status in MiB."""
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024


def speedup(
    name: str, found: Mapping[str, Side], *, target: float | None = None, peer: str = "dense", shown: str = "SDPA"
) -> Iterator[Result]:
    """Yield how many times as long the peer took as tuili, the median over the rounds, and the peer's time."""
    pairs = zip(found[peer].seconds, found["tuili"].seconds, strict=True)
    ratios = [left / right for left, right in pairs]
    baseline = {"name": shown, "value": 1.0}
    yield Result(f"{name}.speedup", statistics.median(ratios), "x", quartiles(ratios), len(ratios), baseline, target)
    yield seconds(f"{name}.time" if peer == "flex" else f"{name}.{peer}.time", found[peer])


def seconds(name: str, side: Side) -> Result:
    """Return the median time of a side."""
    return Result(name, side.median, "s", quartiles(side.seconds), len(side.seconds))


def memory(name: str, tuili_mib: float | None, dense_mib: float | None) -> Iterator[Result]:
    """Yield what tuili takes beside what SDPA takes, where both are known."""
    if tuili_mib is not None and dense_mib is not None:
        yield Result(f"{name}.memory", tuili_mib, "MiB", None, 1, {"name": "SDPA", "value": dense_mib})


def quartiles(values: Sequence[float]) -> float | None:
    """Return the distance between the quartiles of at least three values."""
    if len(values) < 3:
        return None
    first, _, third = statistics.quantiles(values, n=4)
    return third - first


def slope(times: Mapping[int, float]) -> float:
    """Return the slope of log time over log length, by least squares."""
    xs = [math.log(length) for length in times]
    ys = [math.log(value) for value in times.values()]
    return statistics.linear_regression(xs, ys).slope
