"""Report the size of the code by folder; fail where a file or a function is over its hard bound.

Tests are counted; their files may be long, their functions not.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "benchmarks", "scripts", "examples", "recipes")
SOFT_FILE, HARD_FILE = 400, 600
SOFT_FUNCTION, HARD_FUNCTION = 40, 80


def functions(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """Yield name, line and number of lines of every function, without decorators and docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = node.body[0] if ast.get_docstring(node) is not None else None
            num_doc = (doc.end_lineno or 0) - doc.lineno + 1 if doc else 0
            yield node.name, node.lineno, (node.end_lineno or 0) - node.lineno + 1 - num_doc


def measure(path: Path) -> tuple[int, list[tuple[int, int, str]]]:
    """Return a file's number of lines and what is long in it, as (size, hard bound, description)."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    num_lines = text.count("\n")
    is_long = num_lines > SOFT_FILE and name.parts[0] != "tests"
    long = [(num_lines, HARD_FILE, f"{name}")] if is_long else []
    for function, line, size in functions(ast.parse(text)):
        if size > SOFT_FUNCTION:
            long.append((size, HARD_FUNCTION, f"{name}:{line} {function}()"))
    return num_lines, long


def main() -> int:
    """Print the report; return 1 if something is over its hard bound."""
    totals: Counter[str] = Counter()
    long: list[tuple[int, int, str]] = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            num_lines, found = measure(path)
            totals[str(path.parent.relative_to(ROOT))] += num_lines
            long += found
    for name, num_lines in sorted(totals.items()):
        print(f"{num_lines:7} {name}")
    print(f"{totals.total():7} in all")
    for size, bound, what in sorted(long, reverse=True):
        print(f"{size:7} {what}" + (f"  OVER {bound}" if size > bound else ""))
    return int(any(size > bound for size, bound, _ in long))


if __name__ == "__main__":
    sys.exit(main())
