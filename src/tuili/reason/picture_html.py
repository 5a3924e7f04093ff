"""A reasoning graph as HTML: inline SVG, a switch for what was pruned, and the same as a table.

No script, no outside file; everything that comes from a base or a question is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from tuili.reason.answer import Answer, PathEdge
from tuili.reason.layout import (
    LABEL_CHAR,
    LINE_HEIGHT,
    QUESTION,
    RESULT,
    Box,
    Curve,
    Picture,
    about,
    label_of,
    picture_of,
)

_STYLE = """
.tuili { --ink: #1f2430; --soft: #667085; --line: #2f6f5e; --paper: #ffffff; --box: #f4f6f8; --edge: #b4bec9;
  --constant: #e3edfb; --constant-edge: #3b6fb6; --answer: #dff3e6; --answer-edge: #1f8a4c;
  color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif; padding: 1rem; }
@media (prefers-color-scheme: dark) { .tuili { --ink: #e6e9ef; --soft: #98a2b3; --line: #6cc2a8; --paper: #14171c;
  --box: #1e232b; --edge: #3a4350; --constant: #1b2b44; --constant-edge: #7fb0f0; --answer: #16331f;
  --answer-edge: #57c785; } }
.tuili h1 { font-size: 1.25rem; margin: 0 0 .25rem; font-weight: 600; }
.tuili .answer { font-size: 1.1rem; margin: .25rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.tuili .about, .tuili .legend { color: var(--soft); font-size: .85rem; margin: .25rem 0; overflow-wrap: anywhere; }
.tuili .graph, .tuili .rows { overflow-x: auto; margin: .75rem 0; }
.tuili svg { display: block; height: auto; font: 13px system-ui, sans-serif; }
@media (min-width: 800px) { .tuili svg { max-width: max(100%, calc(var(--width) * .7)); } }
.tuili rect { fill: var(--box); stroke: var(--edge); }
.tuili .curve .halo { fill: var(--paper); stroke: none; }
.tuili .question rect { fill: var(--paper); stroke: var(--soft); }
.tuili .constant rect { fill: var(--constant); stroke: var(--constant-edge); }
.tuili .answer-box rect { fill: var(--answer); stroke: var(--answer-edge); stroke-width: 2.5; }
.tuili .answer-box text { font-weight: 600; }
.tuili text { fill: var(--ink); text-anchor: middle; dominant-baseline: central; }
.tuili .curve path { fill: none; stroke: var(--line); }
.tuili .curve polygon { fill: var(--line); }
.tuili .link path { stroke: var(--soft); }
.tuili .link polygon { fill: var(--soft); }
.tuili .curve text { font-size: 11px; }
.tuili .pruned rect { fill: none; stroke-dasharray: 4 3; }
.tuili .pruned path { stroke: var(--edge); stroke-dasharray: 5 4; }
.tuili .pruned polygon { fill: var(--edge); }
.tuili .pruned text { fill: var(--soft); font-weight: 400; }
.tuili:has(.toggle:not(:checked)) .pruned { display: none; }
.tuili table { border-collapse: collapse; font-size: .85rem; width: 100%; }
.tuili th, .tuili td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--edge);
  vertical-align: top; }
.tuili td { min-width: 5rem; max-width: 24rem; overflow-wrap: break-word; }
.tuili caption { text-align: left; font-weight: 600; padding: .3rem 0; }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>html {{ color-scheme: light dark; }} body {{ margin: 0; }}
.tuili {{ min-height: 100vh; box-sizing: border-box; }}</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(answer: Answer) -> str:
    """Return a whole page that works offline."""
    return _PAGE.format(title=escape(answer.question[:200]), body=fragment(answer))


def fragment(answer: Answer) -> str:
    """Return the picture, its words and its table as one element."""
    picture = picture_of(answer)
    query = f'<p class="about">{escape(answer.query.describe())}</p>' if answer.query else ""
    notes = "".join(f'<p class="about">{escape(note)}</p>' for note in answer.notes)
    return (
        f'<div class="tuili"><style>{_STYLE}</style>\n<h1>{escape(answer.question)}</h1>\n'
        f'<p class="answer">{escape(answer.text)}</p>\n<p class="about">{escape(about(answer))}</p>\n{query}{notes}'
        f'{_legend(picture)}<div class="graph" tabindex="0">{_svg(picture)}</div>\n{_table(answer)}</div>'
    )


def _legend(picture: Picture) -> str:
    left_out = f" · {picture.num_left_out} more entities are not drawn" if picture.num_left_out else ""
    if not any(curve.is_pruned for curve in picture.curves):
        return f'<p class="legend">{left_out.removeprefix(" · ")}</p>\n' if left_out else ""
    return (
        f'<p class="legend"><label><input type="checkbox" class="toggle" checked> show what was pruned '
        f"(dashed)</label>{left_out}</p>\n"
    )


def _svg(picture: Picture) -> str:
    curves = "".join(_curve(curve) for curve in sorted(picture.curves, key=lambda curve: not curve.is_pruned))
    boxes = "".join(_box(box) for box in picture.boxes.values())
    labels = "".join(_label(curve) for curve in picture.curves)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="The reasoning graph; the table below '
        f'holds the same" width="{picture.width:.0f}" style="--width: {picture.width:.0f}px" '
        f'viewBox="0 0 {picture.width:.0f} {picture.height:.0f}">\n'
        f"{curves}{boxes}{labels}</svg>"
    )


def _classes(curve: Curve) -> str:
    is_link = curve.start == QUESTION or curve.end == RESULT
    return "curve" + (" pruned" if curve.is_pruned else " link" if is_link else "")


def _curve(curve: Curve) -> str:
    (x0, y0), bend, first, second, (end_x, end_y), (x1, y1) = curve.points
    side = 1 if x1 > x0 else -1
    tip = f"{x1:.1f},{y1:.1f} {x1 - side * 8:.1f},{y1 - 4:.1f} {x1 - side * 8:.1f},{y1 + 4:.1f}"
    width = 1.2 if curve.is_pruned or "link" in _classes(curve) else 1.2 + 2 * min(1.0, curve.weight)
    title = f"<title>{escape(curve.reason)}</title>" if curve.reason else ""
    return (
        f'<g class="{_classes(curve)}">{title}<path stroke-width="{width:.1f}" d="M{x0:.1f} {y0:.1f} '
        f"H{bend[0]:.1f} C{first[0]:.1f} {first[1]:.1f} {second[0]:.1f} {second[1]:.1f} {end_x:.1f} {end_y:.1f} "
        f'H{x1 - side * 6:.1f}"/><polygon points="{tip}"/></g>\n'
    )


def _label(curve: Curve) -> str:
    text = label_of(curve)
    if not text:
        return ""
    x, y = curve.label_at
    width = len(text) * LABEL_CHAR + 4
    return (
        f'<g class="{_classes(curve)}"><rect class="halo" x="{x - width / 2:.1f}" y="{y - 6.5:.1f}" '
        f'width="{width:.1f}" height="13"/><text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text></g>\n'
    )


def _box(box: Box) -> str:
    role = "answer-box" if box.role == "answer" else box.role
    top = box.y - (len(box.lines) - 1) * LINE_HEIGHT / 2
    lines = "".join(
        f'<text x="{box.x:.1f}" y="{top + at * LINE_HEIGHT:.1f}">{escape(line)}</text>'
        for at, line in enumerate(box.lines)
    )
    return (
        f'<g class="{role}"><rect x="{box.x - box.width / 2:.1f}" y="{box.y - box.height / 2:.1f}" '
        f'width="{box.width:.1f}" height="{box.height:.1f}" rx="8"/>{lines}</g>\n'
    )


def _table(answer: Answer) -> str:
    rows = "".join(
        f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>\n" for kind, cells in _rows(answer)
    )
    if not rows:
        return ""
    head = "".join(
        f'<th scope="col">{title}</th>' for title in ("Subject", "Relation", "Object", "Weight", "Source or reason")
    )
    return (
        f'<div class="rows" tabindex="0"><table><caption>The same as a table</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}</tbody></table></div>"
    )


def _rows(answer: Answer) -> Iterator[tuple[str, tuple[str, ...]]]:
    for path in answer.paths:
        for edge in path.edges:
            yield "", (*_ends(edge), f"{edge.weight:.2f}{_parts(edge.parts)}", edge.source)
    for item in answer.pruned:
        ends = _ends(item.edge) if item.edge else ("", "", item.entity)
        yield ' class="pruned"', (*ends, f"{item.weight:.2f}", f"pruned: {item.reason}")


def _ends(edge: PathEdge) -> tuple[str, str, str]:
    return edge.subject, edge.relation, edge.object


def _parts(parts: Mapping[str, float]) -> str:
    return f" ({', '.join(f'{name} {part:.2f}' for name, part in parts.items())})" if parts else ""
