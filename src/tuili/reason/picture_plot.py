"""A reasoning graph drawn with matplotlib, for .svg and .png."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from tuili.errors import DependencyError
from tuili.reason.answer import Answer
from tuili.reason.layout import LINE_HEIGHT, QUESTION, RESULT, Box, Curve, Picture, about, label_of, picture_of

DPI = 100
PIXELS_PER_INCH = 100
TITLE_HEIGHT = 56.0
MIN_WIDTH = 640.0

_FILL = {"question": "#ffffff", "constant": "#e3edfb", "answer": "#dff3e6", "middle": "#f4f6f8", "pruned": "#ffffff"}
_STROKE = {"question": "#667085", "constant": "#3b6fb6", "answer": "#1f8a4c", "middle": "#c9d1da", "pruned": "#c9d1da"}
_INK, _SOFT, _LINE, _PALE = "#1f2430", "#667085", "#2f6f5e", "#b8c1cc"


def plot(answer: Answer, path: Path, kind: str) -> None:
    """Write the picture as `kind` ("svg" or "png").

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError("matplotlib", "draw", "drawing to .svg or .png") from error
    picture = picture_of(answer)
    width, height = max(picture.width, MIN_WIDTH), picture.height + TITLE_HEIGHT
    figure = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    _paint_title(axes, answer, picture, width)
    shift = TITLE_HEIGHT, (width - picture.width) / 2
    for curve in sorted(picture.curves, key=lambda curve: not curve.is_pruned):
        _paint_curve(axes, curve, shift)
    for box in picture.boxes.values():
        _paint_box(axes, box, shift)
    for curve in picture.curves:
        _paint_label(axes, curve, shift)
    _save(figure, path, kind)


def _save(figure: Any, path: Path, kind: str) -> None:
    """Write the file; an .svg holds text as text, a .png shows a box for a sign that no font has."""
    from matplotlib import rc_context

    metadata = {"Date": None} if kind == "svg" else {}
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format=kind, dpi=2 * DPI if kind == "png" else DPI, metadata=metadata)


def _paint_title(axes: Any, answer: Answer, picture: Picture, width: float) -> None:
    room = int(width / 9.5)
    text = answer.text if len(answer.text) <= room else f"{answer.text[: room - 1]}…"
    left_out = f" · {picture.num_left_out} more entities are not drawn" if picture.num_left_out else ""
    _text(axes, 24, 22, text, size=11, weight="bold", ha="left")
    _text(axes, 24, 44, about(answer) + left_out, size=8, color=_SOFT, ha="left")


def _text(axes: Any, x: float, y: float, text: str, *, size: float, color: str = _INK, **options: Any) -> Any:
    """Write a text as it is; "$" starts no formula."""
    return axes.text(
        x, y, text, **{"fontsize": size, "color": color, "va": "center", "ha": "center", "parse_math": False, **options}
    )


def _paint_box(axes: Any, box: Box, shift: tuple[float, float]) -> None:
    from matplotlib.patches import FancyBboxPatch

    down, right = shift
    axes.add_patch(
        FancyBboxPatch(
            (box.x - box.width / 2 + right, box.y - box.height / 2 + down),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=8",
            facecolor=_FILL[box.role],
            edgecolor=_STROKE[box.role],
            linewidth=2 if box.role == "answer" else 1,
            linestyle=(0, (4, 3)) if box.role == "pruned" else "solid",
        )
    )
    top = box.y - (len(box.lines) - 1) * LINE_HEIGHT / 2 + down
    for at, line in enumerate(box.lines):
        _text(
            axes,
            box.x + right,
            top + at * LINE_HEIGHT,
            line,
            size=9,
            color=_SOFT if box.role == "pruned" else _INK,
            weight="bold" if box.role == "answer" else "normal",
        )


def _paint_curve(axes: Any, curve: Curve, shift: tuple[float, float]) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Outline

    down, right = shift
    points = [(x + right, y + down) for x, y in curve.points]
    color = _PALE if curve.is_pruned else _SOFT if _is_link(curve) else _LINE
    width = 1.0 if curve.is_pruned or _is_link(curve) else 1.0 + 1.6 * min(1.0, curve.weight)
    axes.add_patch(
        FancyArrowPatch(
            path=Outline(points, [Outline.MOVETO, Outline.LINETO, *[Outline.CURVE4] * 3, Outline.LINETO]),
            arrowstyle="-|>",
            mutation_scale=9,
            color=color,
            linewidth=width,
            linestyle=(0, (5, 4)) if curve.is_pruned else "solid",
            fill=True,
            shrinkA=0,
            shrinkB=0,
            joinstyle="miter",
            capstyle="butt",
        )
    )


def _paint_label(axes: Any, curve: Curve, shift: tuple[float, float]) -> None:
    text = label_of(curve)
    if text:
        down, right = shift
        x, y = curve.label_at
        _text(
            axes,
            x + right,
            y + down,
            text,
            size=7.5,
            color=_SOFT if curve.is_pruned else _INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )


def _is_link(curve: Curve) -> bool:
    return curve.start == QUESTION or curve.end == RESULT
