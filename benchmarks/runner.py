"""What every benchmark shares: arguments, results, statistics, the machine's description, the JSON file.

`python benchmarks/NAME.py [--data DIR] [--test PATH] [--smoke | --full] [--only PREFIX] --out FILE.json`
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_DATA = ROOT.parent / "shared" / "data"
NUM_RESAMPLES = 2000
HEARTBEAT_S = 5.0
Z_95 = 1.96
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """One figure.

    `spread`: for shares and differences half the width of the 95 % bootstrap interval, for times the
    distance between the quartiles; None for a single measurement. `baseline`: name and value of the
    best peer of the same run. `target`: what the figure is to reach, where that was laid down before.
    """

    name: str
    value: float
    unit: str
    spread: float | None
    n: int
    baseline: Mapping[str, Any] | None = None
    target: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object; `target` only if there is one."""
        fields = asdict(self)
        if self.target is None:
            del fields["target"]
        return {key: _rounded(value) for key, value in fields.items()}


def _rounded(value: Any) -> Any:
    """Round floats to six significant digits; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments that every benchmark takes; `data` is None where no such folder was found."""

    out: Path
    data: Path | None
    test: Path | None
    smoke: bool
    only: str
    full: bool = False
    retrain: bool = False

    def wants(self, prefix: str) -> bool:
        """Tell whether a result whose name starts with `prefix` may be asked for."""
        return prefix.startswith(self.only) or self.only.startswith(prefix)


def parse(description: str, arguments: Sequence[str] | None = None, *, retrains: bool = False) -> Options:
    """Read the command line; `--retrain` where it has an effect.

    A folder given by `--data` must exist; a default one may be missing.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="folder of data sets; else TUILI_DATA, else ../shared/data")
    parser.add_argument("--test", type=Path, help="score another set of the same format")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--smoke", action="store_true", help="a look at every part in at most a minute")
    extent.add_argument("--full", action="store_true", help="also what a default run leaves out for time")
    if retrains:
        parser.add_argument("--retrain", action="store_true", help="train anew what is else read from committed curves")
    parser.add_argument("--only", default="", metavar="PREFIX", help="results whose names start so")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    given = parser.parse_args(arguments)
    for path in (given.data, given.test):
        if path is not None and not path.exists():
            parser.error(f"there is no {path}")
    retrain = retrains and given.retrain
    return Options(given.out, find_data(given.data), given.test, given.smoke, given.only, given.full, retrain)


def find_data(given: Path | None) -> Path | None:
    """Return the folder of data sets, or None where there is none."""
    chosen = given or Path(os.environ.get("TUILI_DATA") or DEFAULT_DATA)
    return chosen if chosen.is_dir() else None


def run(
    description: str,
    measure: Callable[[Options], Iterable[Result]],
    arguments: Sequence[str] | None = None,
    *,
    retrains: bool = False,
) -> None:
    """Run a benchmark as a program: measure, keep what `--only` asks for, write the file."""
    options = parse(description, arguments, retrains=retrains)
    if options.data is None:
        say("no folder of data sets (--data, TUILI_DATA); what needs none runs all the same")
    pin_threads()
    start = time.monotonic()
    results = []
    for result in measure(options):
        if result.name.startswith(options.only):
            results.append(result)
            say(show(result))
    seconds = time.monotonic() - start
    write(options.out, results, seconds)
    say(f"{len(results)} results in {seconds:.0f} s: {options.out}")


def write(path: Path, results: Iterable[Result], seconds: float | None = None) -> None:
    """Write the results, the environment and how long it took as one JSON list; whole or not at all."""
    from tuili.files import write_text

    rows = [
        json.dumps(row)
        for row in (*(result.to_json() for result in results), {**environment(), "duration": duration(seconds)})
    ]
    write_text(path, "[\n" + ",\n".join(rows) + "\n]\n")


def show(result: Result) -> str:
    """Return a result as one line for people."""
    spread = "" if result.spread is None else f" ± {result.spread:.3g}"
    peer = f"; {result.baseline['name']} {result.baseline['value']:.4g}" if result.baseline else ""
    target = "" if result.target is None else f"; target {result.target:g}"
    value = f"{result.value:,.0f}" if abs(result.value) >= 10_000 else f"{result.value:.4g}"
    return f"{result.name} = {value}{spread} {result.unit} (n = {result.n}{peer}{target})"


# -- progress and threads ------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def watched(items: Sequence[T], stage: str) -> Iterable[T]:
    """Yield the items; say every few seconds how far it has come."""
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > HEARTBEAT_S:
            last = time.monotonic()
            say(f"  {stage}: {done} of {len(items)}")
        yield item


def pin_threads() -> int:
    """Have this process and its children compute with one thread per usable CPU; return their number."""
    from tuili.runtime import num_cpus

    num_threads = int(os.environ.setdefault("OMP_NUM_THREADS", str(num_cpus())))
    os.environ.setdefault("MKL_NUM_THREADS", str(num_threads))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return num_threads


# -- statistics ----------------------------------------------------------------------------------


def share(
    name: str,
    values: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    baseline: Mapping[str, Any] | None = None,
) -> Result:
    """Return the mean of values between 0 and 1 as a result."""
    mean = float(np.mean(values)) if len(values) else math.nan
    return Result(name, mean, "fraction", half_width(values, groups), len(values), baseline)


def half_width(values: Sequence[float], groups: Sequence[Hashable] | None = None) -> float | None:
    """Return half the width of the 95 % percentile bootstrap interval of the mean.

    Values of one group (the wordings of one question) are drawn together. Where all values are the
    same, resampling shows no spread; Wilson's interval for a share of 0 or 1 is taken then.
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3; Wilson,
    "Probable Inference", JASA 22, 1927. O(resamples * groups).
    """
    if not len(values):
        return None
    sums, counts = _by_group(values, groups)
    if len(set(values)) == 1:
        return Z_95**2 / (len(sums) + Z_95**2) / 2
    picked = np.random.default_rng(0).integers(len(sums), size=(NUM_RESAMPLES, len(sums)))
    means = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(high - low) / 2


def _by_group(values: Sequence[float], groups: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of values of each group; without groups every value is its own."""
    if groups is None:
        return np.asarray(values, dtype=float), np.ones(len(values))
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    rows = np.array([places[group] for group in groups])
    return np.bincount(rows, weights=np.asarray(values, dtype=float)), np.bincount(rows).astype(float)


def paired(
    name: str, left: Mapping[Hashable, float], right: Mapping[Hashable, float], unit: str = "fraction"
) -> Result:
    """Return the mean of `left` minus `right` over the items that both have, bootstrapped in pairs."""
    both = [key for key in left if key in right]
    gaps = [left[key] - right[key] for key in both]
    return Result(name, float(np.mean(gaps)) if gaps else math.nan, unit, half_width(gaps), len(gaps))


def timing(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    quantile: float = 0.5,
    baseline: Mapping[str, Any] | None = None,
    target: float | None = None,
) -> Result:
    """Return a quantile of measured times (or sizes) with the distance between the quartiles."""
    if not len(values):
        return Result(name, math.nan, unit, None, 0, baseline, target)
    low, high = np.quantile(values, (0.25, 0.75))
    spread = float(high - low) if len(values) > 1 else None
    return Result(name, float(np.quantile(values, quantile)), unit, spread, len(values), baseline, target)


# -- processes -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process took: wall and CPU seconds, the peak of its memory, what it printed."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    stdout: str


# Runs a command from a small process: a child starts with the peak memory of the one that forks it.
_LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[2:]).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
spent = [code, time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]
open(sys.argv[1], "w").write(json.dumps(spent))
"""


def measure_process(command: Sequence[str], env: Mapping[str, str] | None = None) -> Spent:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; the message holds the end of its stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "spent.json"
        done = subprocess.run(
            [sys.executable, "-S", "-c", _LAUNCHER, str(report), *command],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.is_file():
            raise RuntimeError(f"{' '.join(command[:4])} could not be started: {done.stderr[-500:]}")
        code, wall_s, cpu_s, peak = json.loads(report.read_text(encoding="utf-8"))
    if code:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {code}: {done.stderr[-500:]}")
    per_mib = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Spent(wall_s, cpu_s, peak / per_mib, done.stdout)


# -- environment ---------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """Return what the figures depend on: hardware, versions, commit, date."""
    from tuili.runtime import environment as versions
    from tuili.runtime import num_cpus

    return {
        "hardware": {"cpu": cpu_model(), "cores": num_cpus(), "memory_gib": memory_gib()},
        "versions": {"python": platform.python_version(), **versions()["packages"]},  # type: ignore[dict-item]
        "platform": platform.platform(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or num_cpus(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def duration(seconds: float | None) -> dict[str, float | None]:
    """Return how long a run took, and how long processors worked for it, processes that it started included."""
    spent = os.times()
    processor = spent.user + spent.system + spent.children_user + spent.children_system
    return {"wall_s": None if seconds is None else round(seconds, 1), "processor_s": round(processor, 1)}


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def memory_gib() -> float | None:
    """Return the machine's memory, None if it doesn't tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)
    except (AttributeError, OSError, ValueError):
        return None


def commit() -> str:
    """Return the commit of the code, with a plus sign if files differ from it; "" outside a repository."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}{'+' if changed else ''}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
