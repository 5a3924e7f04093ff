"""Write the tables of figures in the documents from the benchmarks' results; `--check` compares only.

A table stands between `<!-- table: FILE [PREFIX ...] -->` and `<!-- end of table -->`: the results of
benchmarks/results/FILE.json whose names start with one of the prefixes, and what they were measured on.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TABLE = re.compile(r"(<!-- table: (?P<file>[\w-]+)(?P<prefixes>[^>]*?) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
NOT_MEASURED = "Not measured yet: `make bench`.\n"


def documents() -> list[Path]:
    """Return every document that may hold a table."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """Return a document with its tables written anew."""
    return TABLE.sub(lambda found: found[1] + table(found["file"], found["prefixes"].split()) + found[5], text)


def table(name: str, prefixes: list[str]) -> str:
    """Return one table with its caption."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return NOT_MEASURED
    rows = json.loads(path.read_text(encoding="utf-8"))
    results = [row for row in rows if "name" in row and row["name"].startswith(tuple(prefixes) or "")]
    if not results:
        return NOT_MEASURED
    lines = ["| result | value | n | best baseline |", "| --- | ---: | ---: | --- |"]
    lines += [f"| {row['name']} | {value(row)} | {row['n']} | {baseline(row)} |" for row in results]
    return "\n".join((*lines, "", *(caption(name, row) for row in rows if "hardware" in row), ""))


def value(row: dict[str, Any]) -> str:
    """Return a value with its spread, fractions as percentages."""
    if row["value"] is None:
        return "-"
    factor, unit = (100, "%") if row["unit"] == "fraction" else (1, row["unit"])
    spread = f" ± {row['spread'] * factor:.2g}" if row["spread"] else ""
    return f"{row['value'] * factor:.4g}{spread} {unit}".strip()


def baseline(row: dict[str, Any]) -> str:
    """Return the best baseline of the same run."""
    best = row["baseline"]
    return f"{best['name']}: {value({**row, **best, 'spread': None})}" if best else ""


def caption(name: str, row: dict[str, Any]) -> str:
    """Return what the results were measured on."""
    hardware, versions = row["hardware"], row["versions"]
    return (
        f"`python benchmarks/{name}.py`, {row['date'][:10]}, commit {str(row['commit'])[:9]}: {hardware['cpu']}, "
        f"{hardware['cores']} cores, Python {versions['python']}, torch {versions.get('torch') or 'none'}.\n"
    )


def main(arguments: list[str]) -> int:
    """Write every table, or name the documents whose tables are not up to date."""
    stale = []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        wanted = filled(text)
        if wanted != text:
            stale.append(path)
            if "--check" not in arguments:
                path.write_text(wanted, encoding="utf-8")
    if stale and "--check" in arguments:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        print(f"tables are not what the results say: {names}; run: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
