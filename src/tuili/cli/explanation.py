"""How an answer came about, printed for people: the path as a tree, what was pruned, links, timings."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tuili.cli.output import is_terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from tuili.reason.answer import Answer, Inference, PathEdge

WIDTH = 160
MIN_WIDTH = 20
INDENT = 8
MAX_PATHS = 8
MAX_SOURCES = 3
MAX_PRUNED = 8


def print_explanation(answer: Answer) -> None:
    """Print everything that supports an answer."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, width=None if is_terminal(sys.stdout) else WIDTH)
    console.print(Text(_verdict(answer), style="dim"))
    if answer.paths:
        console.print(_path_tree(answer))
    _print_list(console, "rules", [_rule(item) for item in answer.inferences[:MAX_PATHS]])
    _print_list(console, "nearest", answer.nearest)
    _print_list(
        console,
        "pruned",
        [f"{item.entity} ({item.weight:.2f}): {item.reason}" for item in answer.pruned[:MAX_PRUNED]],
        len(answer.pruned) - MAX_PRUNED,
    )
    _print_list(
        console,
        "links",
        [f"“{link.text}” → {', '.join(link.entities)} ({link.how}, {link.score:.2f})" for link in answer.links],
    )
    _print_list(console, "query", [answer.query.describe()] if answer.query else [])
    _print_list(console, "notes", answer.notes)
    console.print(Text("  ".join(f"{name} {value:.0f} ms" for name, value in answer.timings_ms.items()), style="dim"))


def _verdict(answer: Answer) -> str:
    sure = f"confidence {answer.confidence:.2f}"
    return f"base {answer.kb}, {'abstained' if answer.abstained else sure}"


def _rule(item: Inference) -> str:
    counted = f"support {item.counted['support']} of {item.counted['num_cases']}, confidence {item.confidence:.2f}"
    return f"{item.entity}: {item.rule}  {counted}"


def _path_tree(answer: Answer) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text("path", style="bold"))
    names = {item.name for item in answer.entities}
    for path in answer.paths[:MAX_PATHS]:
        ends = dict.fromkeys(end for edge in path.edges for end in (edge.subject, edge.object))
        reached = ", ".join(name for name in ends if name in names)
        head = Text.assemble((f"{path.weight:.2f}", "cyan"), f" {reached}")
        branch = tree.add(head) if reached and len(answer.paths) > 1 else tree
        for edge in path.edges:
            branch.add(_edge_text(edge))
    if len(answer.paths) > MAX_PATHS:
        tree.add(Text(f"and {len(answer.paths) - MAX_PATHS} more paths", style="dim"))
    return tree


def _edge_text(edge: PathEdge) -> Text:
    from rich.text import Text

    sources = edge.source.split("; ")
    more = f"; {len(sources) - MAX_SOURCES} more" if len(sources) > MAX_SOURCES else ""
    source = f"  [{'; '.join(sources[:MAX_SOURCES])}{more}]" if edge.source else ""
    return Text.assemble(
        edge.subject,
        (f" ─ {edge.relation} → ", "green"),
        edge.object,
        (f"  {edge.weight:.2f}{_parts(edge.parts)}", "cyan"),
        (source, "dim"),
    )


def _parts(parts: Mapping[str, float]) -> str:
    return f" ({', '.join(f'{name} {part:.2f}' for name, part in parts.items())})" if parts else ""


def _print_list(console: Console, title: str, items: Sequence[str], num_left: int = 0) -> None:
    """Print items below each other, the title before the first; long ones go on below their start."""
    from rich.text import Text

    width = max(MIN_WIDTH, console.width - INDENT)
    lines = [line for item in items for line in Text(item).wrap(console, width)]
    for place, line in enumerate(lines):
        line.rstrip()
        console.print(Text.assemble((f"{title if place == 0 else '':{INDENT}}", "bold"), line))
    if num_left > 0:
        console.print(Text(f"{'':{INDENT}}and {num_left} more", style="dim"))
