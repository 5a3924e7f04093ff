"""Draw the pictures of figures in the documents from the benchmarks' results.

A picture is drawn only if its results are there: docs/img/calibration.png, how often answers are right that are said
with a confidence; docs/img/scale.png, what a question costs as the base grows; docs/img/sandwich.png, losses while
three kinds of decoders are trained; docs/img/planner.png, predicted against published step times; and
docs/img/tradeoff.png, what is lost in perplexity against the keys that a token keeps.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator

from tuili.train.planning.tables import tables

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "img"
BIN = re.compile(r"(?P<prefix>.+)\.bin\.(?P<low>\d+)-\d+\.(?P<what>confidence|right)$")
SETS = {"ask.calibration": "development questions", "ask.test.calibration": "held-out questions"}
KINDS = {"one": "one hop", "two": "two hops", "hub": "through a hub"}
DECODERS = {"sandwich": "C0", "dense": "C1", "window": "C2"}
TOKENS, LENGTH_8K = 1e6, 8192
BUDGET = re.compile(r"tradeoff\.(?P<text>[^.]+)\.8k\.(?P<method>\w+)\.keys_(?P<keys>\d+)\.ppl_increase$")
METHODS = {
    "tuili": "shipped gates",
    "pooled_keys": "mean-pooled keys, as MoBA",
    "min_max_bounds": "min-max bounds, as Quest",
    "sink_window": "first and last keys",
}

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
    save(figure, name)


def save(figure: Any, name: str) -> None:
    """Write a figure as a picture of the documents."""
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


def sandwich(rows: Rows) -> None:
    """Draw held-out losses of each stage against tokens, those at 8k against time too; a line for each seed."""
    times = {kind: row["value"] for kind in DECODERS if (row := rows.get(f"sandwich.8k.step.{kind}.time"))}
    panels = [("512", None), ("2k", None), ("8k", None), *([("8k", times)] if times else [])]
    figure, every = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.8), layout="constrained", squeeze=False)
    for axes, (context, step_s) in zip(every[0], panels, strict=True):
        for kind, color in DECODERS.items():
            for number, path in enumerate(sorted((RESULTS / "sandwich").glob(f"{kind}-{context}-s*.jsonl"))):
                points = losses(path)
                scale_x = 1 / TOKENS if step_s is None else step_s[kind] / LENGTH_8K / 60
                x, y = [tokens * scale_x for tokens, _ in points], [loss for _, loss in points]
                label = kind if number == 0 else None
                axes.plot(x, y, color=color, marker=".", linestyle=("-", "--", ":")[number % 3], label=label)
        alike = ", all alike" if context == "512" else ""
        axes.set(
            title=f"rows of {context} tokens{alike}",
            xlabel="tokens, millions" if step_s is None else "minutes on two cores",
        )
        axes.grid(alpha=0.3)
    every[0][0].set(ylabel="held-out loss, nats a token")
    every[0][1].legend(frameon=False)
    save(figure, "sandwich.png")


def losses(path: Path) -> list[tuple[int, float]]:
    """Return tokens and held-out loss of each evaluation in a curve."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return [(row["tokens"], row["held_out_loss"]) for row in rows if "held_out_loss" in row]


def planner(_: Rows) -> None:
    """Draw how far predicted step times are from published ones: a point for each row that counts for its table."""
    figure, axes = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
    axes.axvspan(-10, 10, color="grey", alpha=0.15, label="10 %")
    axes.axvline(0, color="grey", linewidth=1)
    for place, table in enumerate(reversed(tables())):
        errors = [100 * row.error() for row in table.judged]
        color = "C1" if table.role == "fitted" else "C0"
        axes.plot(errors, [place] * len(errors), "o", color=color, alpha=0.6)
        axes.plot(statistics.fmean(errors), place, "|", color=color, markersize=14)
    names = [f"{table.name}, fitted" if table.role == "fitted" else table.name for table in reversed(tables())]
    axes.set(
        title="Predicted step times against published ones", xlabel="error, % of the published time (line: mean)",
        yticks=range(len(names)), yticklabels=names,
    )  # fmt: skip
    axes.grid(alpha=0.3, axis="x")
    axes.legend(frameon=False, loc="lower right")
    save(figure, "planner.png")


def tradeoff(rows: Rows) -> None:
    """Draw the increase of perplexity at 8,192 tokens against kept keys, a panel for each text."""
    found = {name: match for name in rows if (match := BUDGET.match(name))}
    texts = list(dict.fromkeys(match["text"] for match in found.values()))
    if not texts:
        return
    figure, every = plt.subplots(1, len(texts), figsize=(1 + 5 * len(texts), 4.5), layout="constrained", squeeze=False)
    for axes, text in zip(every[0], texts, strict=True):
        for method, label in METHODS.items():
            names = [name for name, match in found.items() if (match["text"], match["method"]) == (text, method)]
            keys = [int(found[name]["keys"]) for name in names]
            lost, spread = ([100 * rows[name][part] for name in names] for part in ("value", "spread"))
            axes.errorbar(keys, lost, spread, marker="o", capsize=2, label=label)
            axes.set_xticks(keys, [f"{number:,}" for number in keys])
        for bound, shipped in ((rows[name]["target"], found[name]["keys"]) for name in found if "target" in rows[name]):
            axes.axhline(100 * bound, color="grey", linestyle="--", label=f"bound, {100 * bound:g} %")
            axes.axvline(int(shipped), color="grey", linestyle=":", label="as shipped")
        axes.set(title=f"{text}, 8,192 tokens", xlabel="keys kept a token, mean over sparse layers", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    every[0][0].set(ylabel="increase of perplexity, %")
    figure.legend(
        *every[0][0].get_legend_handles_labels(),
        frameon=False,
        loc="outside lower center",
        ncols=min(3, len(texts) + 1),
    )
    save(figure, "tradeoff.png")


def main() -> None:
    """Draw everything there are results for."""
    drawn = {
        "ask": calibration,
        "reasoning_scale": scale,
        "sandwich": sandwich,
        "plan": planner,
        "port_quality": tradeoff,
    }
    for file, make in drawn.items():
        if rows := results(file):
            make(rows)


if __name__ == "__main__":
    main()
