"""A picture of what a ported model keeps: layers by place in the text, drawn with matplotlib."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuili.errors import DependencyError
from tuili.porting.measure import Kept, Measured

WIDTH_INCHES = 11.0
ROW_INCHES = 0.17
MARGIN_INCHES = 2.1
MIN_ROWS = 8
DPI = 150
NUM_WORDS = 12
MAX_WORD = 14
WORD = re.compile(r"[^\W\d_]\w{3,}")
COLOURS = "viridis"
"""Perceptually even, and readable without telling red from green."""

_INK, _SOFT, _UNREAD = "#1f2430", "#667085", "#e4e7ec"


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the text and the index of the token with which it begins."""

    at: int
    text: str


def words_along(tokenizer: Any, ids: Sequence[int], count: int = NUM_WORDS) -> list[Word]:
    """Return up to `count` readable words of a text, evenly spread, each the first one after its place."""
    found: list[Word] = []
    stride = max(1, len(ids) // count)
    for begin in range(0, len(ids) - stride // 2, stride):
        for at in range(begin, min(begin + stride // 2 + 1, len(ids))):
            match = WORD.fullmatch(tokenizer.decode([ids[at]]).strip())
            if match:
                found.append(Word(at, match[0][:MAX_WORD]))
                break
    return found


def draw(measured: Measured, words: Sequence[Word], path: Path, title: str) -> None:
    """Write the heat map as .png.

    Args:
        measured: what was measured.
        words: marks along the text.
        path: of the picture.
        title: the model and the text.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    axes, figure = _axes(len(measured.layers))
    image = None
    for layer in measured.layers:
        kept = measured.kept.get(layer.index)
        image = _paint_row(axes, layer.index, kept, measured.num_tokens) or image
    if image is not None:
        bar = figure.colorbar(image, ax=axes, pad=0.012, aspect=30, ticks=(0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1))
        bar.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        bar.set_label("share of the later tokens that could choose it", color=_SOFT, fontsize=8)
        bar.ax.tick_params(labelsize=7, colors=_SOFT)
        bar.outline.set_visible(False)
    _mark_crossover(axes, measured)
    _label_axes(axes, measured, words)
    axes.set_title(title, loc="left", fontsize=11, color=_INK, weight="bold", pad=24, parse_math=False)
    about = axes.text(0, 1.015, _about(measured), transform=axes.transAxes, fontsize=8, color=_SOFT, va="bottom")
    about.set_in_layout(False)  # it may be longer than the axes, and would push the colour bar away
    _save(figure, path)


def check() -> None:
    """Raise a DependencyError if nothing can be drawn, before time is spent on measuring."""
    _matplotlib()


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError("matplotlib", "draw", "drawing the layers") from error
    return Figure, FigureCanvasAgg


def _axes(num_layers: int) -> tuple[Any, Any]:
    figure_of, canvas_of = _matplotlib()
    height = MARGIN_INCHES + ROW_INCHES * max(num_layers, MIN_ROWS)
    figure = figure_of(figsize=(WIDTH_INCHES, height), dpi=DPI, layout="constrained")
    canvas_of(figure)
    return figure.add_subplot(), figure


def _paint_row(axes: Any, index: int, kept: Kept | None, num_tokens: int) -> Any:
    """Paint one layer; return what the colour bar is of, if the layer chose anything."""
    if kept is None:
        axes.barh(index, num_tokens, height=1, color="white", edgecolor=_UNREAD, hatch="////", linewidth=0)
        return None
    edges = np.minimum(np.arange(len(kept.share) + 1) * kept.block, num_tokens)
    rows = np.array([index - 0.5, index + 0.5])
    share_1J = np.ma.masked_invalid(kept.share)[None]
    axes.barh(index, num_tokens, height=1, color=_UNREAD, linewidth=0)
    return axes.pcolormesh(edges, rows, share_1J, cmap=COLOURS, norm=_norm(), rasterized=True)


def _norm() -> Any:
    """Return colours over 0 .. 1 that tell small shares apart: most blocks are kept by few."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0, vmax=1)


def _mark_crossover(axes: Any, measured: Measured) -> None:
    at = measured.crossover
    if 0 < at < measured.num_tokens and measured.kept:
        axes.axvline(at, color="white", linewidth=2)
        axes.axvline(at, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))


def _label_axes(axes: Any, measured: Measured, words: Sequence[Word]) -> None:
    num_layers = len(measured.layers)
    axes.set(xlim=(0, measured.num_tokens), ylim=(-0.5, num_layers - 0.5))
    axes.set_yticks(range(0, num_layers, max(1, num_layers // 15)))
    axes.set_xticks([word.at for word in words], [f"{word.at:,}\n{word.text}" for word in words], parse_math=False)
    axes.tick_params(labelsize=7, colors=_SOFT, length=3)
    axes.set_ylabel("layer", fontsize=9, color=_INK)
    axes.set_xlabel("token of the text", fontsize=9, color=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _about(measured: Measured) -> str:
    if not measured.kept or all(np.isnan(each.share).all() for each in measured.kept.values()):
        return f"no layer chose anything: tokens before {measured.crossover:,} read every key"
    blocks = "/".join(str(block) for block in sorted({each.block for each in measured.kept.values()}))
    return (
        f"colour: how often later tokens keep a block of {blocks} keys · hatched: layers that do not choose · "
        f"grey: nobody had the choice · dashed: tokens before {measured.crossover:,} read every key"
    )


def _save(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format="png")
