"""Write the tables of figures in the documents from the benchmarks' results; `--check` compares only.

A table stands between `<!-- table: FILE [PREFIX ...] -->` and `<!-- end of table -->`: the results of
benchmarks/results/FILE.json whose names start with one of the prefixes, and what they were measured on.
`<!-- grid: FILE PREFIX COLUMN ... -->` begins one whose rows are what stands between PREFIX and COLUMN in a name.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TABLE = re.compile(
    r"(?P<begin><!-- (?P<form>table|grid): (?P<file>[\w-]+)(?P<words>[^>]*?) -->\n).*?(?P<end><!-- end of table -->)",
    re.DOTALL,
)
NOT_MEASURED = "Not measured yet: `make bench`.\n"


def documents() -> list[Path]:
    """Return every document that may hold a table."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """Return a document with its tables written anew."""
    return TABLE.sub(lambda found: found["begin"] + table(*found.group("form", "file", "words")) + found["end"], text)


def table(form: str, name: str, words: str) -> str:
    """Return one table with its caption."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return NOT_MEASURED
    rows = json.loads(path.read_text(encoding="utf-8"))
    lines = (grid if form == "grid" else flat)([row for row in rows if "name" in row], words.split())
    if not lines:
        return NOT_MEASURED
    return "\n".join((*lines, "", *(caption(name, row) for row in rows if "hardware" in row), ""))


def flat(results: list[dict[str, Any]], prefixes: list[str]) -> list[str]:
    """Return a table of one result a line; targets are shown where there are some."""
    chosen = [row for row in results if row["name"].startswith(tuple(prefixes) or "")]
    has_target = any("target" in row for row in chosen)
    lines = ["| result | value | n | best baseline |", "| --- | ---: | ---: | --- |"]
    lines += [f"| {row['name']} | {value(row)} | {row['n']} | {baseline(row)} |" for row in chosen]
    if has_target:
        targets = ["target |", "---: |", *(f"{target(row)} |" for row in chosen)]
        lines = [f"{line} {more}" for line, more in zip(lines, targets, strict=True)]
    return lines if chosen else []


def grid(results: list[dict[str, Any]], words: list[str]) -> list[str]:
    """Return a table of one row for each part of a name between a prefix and a column, without baselines."""
    prefix, *columns = words
    by_name = {row["name"]: row for row in results}
    parts = [
        name.removeprefix(f"{prefix}.").removesuffix(f".{column}")
        for name in by_name
        for column in columns
        if name.startswith(f"{prefix}.") and name.endswith(f".{column}")
    ]
    found = [part for part in dict.fromkeys(parts) if "." not in part]
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for part in found:
        cells = [by_name.get(f"{prefix}.{part}.{column}") for column in columns]
        lines.append(f"| {part} | " + " | ".join(cell(row) for row in cells) + " |")
    return lines if found else []


def cell(row: dict[str, Any] | None) -> str:
    """Return a value with its number of measurements."""
    return f"{value(row)} ({row['n']})" if row else ""


def target(row: dict[str, Any]) -> str:
    """Return what the result is to reach."""
    return value({**row, "value": row["target"], "spread": None}) if "target" in row else ""


def value(row: dict[str, Any]) -> str:
    """Return a value with its spread, fractions as percentages."""
    if row["value"] is None:
        return "-"
    factor, unit = (100, "%") if row["unit"] == "fraction" else (1, row["unit"])
    spread = f" ± {short(row['spread'] * factor, 2)}" if row["spread"] else ""
    return f"{short(row['value'] * factor)}{spread} {unit}".strip()


def short(number: float, digits: int = 4) -> str:
    """Return a number with so many significant digits, a large one without an exponent."""
    return f"{number:.{digits}g}" if abs(number) < 10_000 else f"{float(f'{number:.{digits}g}'):,.0f}"


def baseline(row: dict[str, Any]) -> str:
    """Return the best baseline of the same run."""
    best = row["baseline"]
    return f"{best['name']}: {value({**row, **best, 'spread': None})}" if best else ""


def caption(name: str, row: dict[str, Any]) -> str:
    """Return what the results were measured on."""
    hardware, versions = row["hardware"], row["versions"]
    wall_s = row.get("duration", {}).get("wall_s")
    took = f", {wall_s / 60:.1f} minutes" if wall_s else ""
    return (
        f"`python benchmarks/{name}.py`, {row['date'][:10]}, commit {str(row['commit'])[:9]}: {hardware['cpu']}, "
        f"{hardware['cores']} cores, Python {versions['python']}, torch {versions.get('torch') or 'none'}{took}.\n"
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
