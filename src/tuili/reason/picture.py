"""Pictures of a reasoning graph: kept edges thick, pruned ones dashed, the answers marked.

`.html` is one file that works offline; `.svg` and `.png` are drawn with matplotlib.
"""

from __future__ import annotations

from pathlib import Path

from tuili.errors import UsageError
from tuili.files import atomic_path, write_text
from tuili.reason.answer import Answer

SUFFIXES = (".html", ".svg", ".png")


def draw(answer: Answer, path: Path) -> None:
    """Write a picture of an answer's reasoning graph.

    Raises:
        UsageError: the file's name has another ending than .html, .svg or .png.
        StoreError: the file can't be written.
        DependencyError: matplotlib is not installed (.svg, .png).
    """
    suffix = path.suffix.lower()
    if suffix == ".html":
        from tuili.reason.picture_html import page

        write_text(path, page(answer))
        return
    if suffix not in SUFFIXES:
        raise UsageError(f"can't draw to {path.name!r}; its name must end in {', '.join(SUFFIXES)}")
    from tuili.reason.picture_plot import plot

    with atomic_path(path) as temporary:
        plot(answer, temporary, suffix.removeprefix("."))


def fragment(answer: Answer) -> str:
    """Return the picture as a piece of HTML for a notebook."""
    from tuili.reason.picture_html import fragment

    return fragment(answer)
