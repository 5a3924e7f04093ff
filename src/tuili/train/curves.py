"""A picture of a run: loss, learning rate and gradient norm over the tokens read, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuili.errors import DependencyError
from tuili.files import atomic_path

INK, SOFT, PALE, ACCENT = "#1f2430", "#667085", "#c3cbd9", "#b5482f"
WINDOW = 50
"""Most steps that the smoothed loss is a mean of."""
DPI = 150


def draw(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Write the curves of a run's metrics (`tuili.train.metrics`) as .png or .svg.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError("matplotlib", "draw", "drawing curves") from error
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1, 1]})
    steps = [row for row in rows if row.get("loss") is not None]
    _draw_loss(top, steps, [row for row in rows if row.get("held_out_loss") is not None])
    tokens = [row["tokens"] for row in steps]
    middle.plot(tokens, [row["rate"] for row in steps], color=INK, linewidth=1.2)
    bottom.plot(tokens, [row["grad_norm"] or np.nan for row in steps], color=INK, linewidth=0.8)
    for axes, label in ((top, "loss (nats a token)"), (middle, "learning rate"), (bottom, "gradient norm")):
        axes.set_ylabel(label, color=SOFT, fontsize=8)
        axes.tick_params(labelsize=8, colors=SOFT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    middle.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    bottom.set_xlabel("tokens trained on", color=SOFT, fontsize=8)
    top.set_title(title, loc="left", fontsize=11, color=INK, weight="bold", parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=DPI)


def _draw_loss(axes: Any, steps: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> None:
    if steps:
        tokens, losses = ([row[key] for row in steps] for key in ("tokens", "loss"))
        width = max(1, min(WINDOW, len(losses) // 10))
        axes.plot(tokens, losses, color=PALE, linewidth=0.8, label="training, each step")
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(tokens[width - 1 :], smooth, color=INK, linewidth=1.6, label=f"training, mean of {width}")
    if evaluations:
        places, losses = ([row[key] for row in evaluations] for key in ("tokens", "held_out_loss"))
        axes.plot(places, losses, color=ACCENT, marker="o", markersize=4, linewidth=1.2, label="held out")
        axes.annotate(
            f"{losses[-1]:.3f}", (places[-1], losses[-1]), (-4, 9), textcoords="offset points", ha="right",
            fontsize=9, color=ACCENT,
        )  # fmt: skip
    if axes.lines:
        axes.legend(frameon=False, fontsize=8, labelcolor=SOFT)
