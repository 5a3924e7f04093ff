"""Sets of questions with their right answers: one JSON object a line.

`id`, `kb`, `kind`, `question`, `wordings` (the same question in other words), `answerable`, and one of
`entities` (all names of the answer), `value` (`magnitude`, `unit`), `yes`, `first` (the best ranked name).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "questions"
BASES = ("python", "formulas", "hpo")


@dataclass(frozen=True, slots=True)
class Gold:
    """A right number with its pint unit, "" if it has none."""

    magnitude: float
    unit: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its right answer; of the four forms of an answer one is there, or none."""

    id: str
    kb: str
    kind: str
    text: str
    wordings: tuple[str, ...] = ()
    answerable: bool = True
    entities: frozenset[str] | None = None
    value: Gold | None = None
    yes: bool | None = None
    first: str | None = None


def question(row: dict[str, Any]) -> Question:
    """Return a question from its JSON object; keys that other tools use are passed over."""
    value = row.get("value")
    entities = row.get("entities")
    return Question(
        id=str(row["id"]),
        kb=row["kb"],
        kind=row.get("kind") or "any",
        text=row["question"],
        wordings=tuple(row.get("wordings") or ()),
        answerable=bool(row.get("answerable", True)),
        entities=None if entities is None else frozenset(entities),
        value=None if value is None else Gold(float(value["magnitude"]), value.get("unit") or ""),
        yes=row.get("yes"),
        first=row.get("first"),
    )


def read(paths: Iterable[Path]) -> list[Question]:
    """Return the questions of some files in order."""
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [question(json.loads(line)) for line in lines if line.strip()]


def development() -> list[Question]:
    """Return the questions that tuili was made with."""
    return read(FOLDER / f"{base}_dev.jsonl" for base in BASES)


def held_out() -> list[Question]:
    """Return the questions that were kept apart."""
    return read(path for base in BASES if (path := FOLDER / f"{base}_test.jsonl").is_file())


def read_test(path: Path) -> list[Question]:
    """Return the questions of a file, or of all files of a folder."""
    return read(sorted(path.glob("*.jsonl")) if path.is_dir() else [path])


def few_of_each(questions: Iterable[Question], num: int) -> list[Question]:
    """Return the first `num` questions of every base and kind."""
    seen: dict[tuple[str, str], int] = {}
    kept = []
    for item in questions:
        key = item.kb, item.kind
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= num:
            kept.append(item)
    return kept
