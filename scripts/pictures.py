"""Draw the pictures of figures in the documents from the benchmarks' results.

A picture is drawn only if its results are there: docs/img/calibration.png, how often answers are right that are said
with a confidence; docs/img/scale.png, what a question costs as the base grows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "img"
BIN = re.compile(r"(?P<prefix>.+)\.bin\.(?P<low>\d+)-\d+\.(?P<what>confidence|right)$")
SETS = {"ask.calibration": "development questions", "ask.test.calibration": "held-out questions"}
KINDS = {"one": "one hop", "two": "two hops", "hub": "through a hub"}

Rows = Mapping[str, Mapping[str, Any]]


def results(name: str) -> Rows:
    """Return a benchmark's results by name; empty if it was not run."""
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return {row["name"]: row for row in rows if "name" in row}


def draw(name: str, title: str, x: str, y: str, plot: Callable[[Any], None]) -> None:
    """Write one picture."""
    figure, axes = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
    plot(axes)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(IMAGES / name, dpi=110)
    plt.close(figure)
    print(IMAGES / name)


def calibration(rows: Rows) -> None:
    """Draw a reliability diagram: a point for each tenth of confidence, its size by the number of answers."""

    def plot(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfect")
        for prefix, label in SETS.items():
            places = sorted(
                int(found["low"]) for name in rows if (found := BIN.match(name)) and found["prefix"] == prefix
            )
            bins = [f"{prefix}.bin.{low}-{low + 10}" for low in dict.fromkeys(places)]
            said = [rows[f"{each}.confidence"]["value"] for each in bins]
            right = [rows[f"{each}.right"]["value"] for each in bins]
            spread = [rows[f"{each}.right"]["spread"] or 0.0 for each in bins]
            error = 100 * rows[f"{prefix}.ece"]["value"]
            shown = axes.errorbar(said, right, spread, linestyle="none", capsize=2, alpha=0.8)
            sizes = [8 + rows[f"{each}.right"]["n"] ** 0.7 for each in bins]
            axes.scatter(said, right, sizes, color=shown[0].get_color(), label=f"{label}, error {error:.1f} %")

    draw("calibration.png", "How sure, and how often right", "confidence said", "share of right answers", plot)


def scale(rows: Rows) -> None:
    """Draw the time of a question against the number of facts."""

    def plot(axes: Any) -> None:
        for kind, label in KINDS.items():
            found = [(name, row) for name, row in rows.items() if re.fullmatch(rf"scale\.{kind}\.1e\d\.time", name)]
            sizes = [10.0 ** int(name.split(".")[2][2:]) for name, _ in found]
            times = [row["value"] for _, row in found]
            axes.errorbar(sizes, times, [row["spread"] / 2 for _, row in found], marker="o", capsize=2, label=label)
        axes.set(xscale="log", yscale="log")

    draw("scale.png", "A question at a fixed budget", "facts in the base", "time, ms", plot)


def main() -> None:
    """Draw everything there are results for."""
    for file, make in (("ask", calibration), ("reasoning_scale", scale)):
        if rows := results(file):
            make(rows)


if __name__ == "__main__":
    main()
