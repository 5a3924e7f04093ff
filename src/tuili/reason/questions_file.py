"""Questions with answers to learn from, read from a file and tied to a base's entities.

JSON Lines: {"question": "who directed Alien", "answers": ["Ridley Scott"], "start": ["Alien"]}; without "start" the
names are looked for in the question. Or tab-separated, as MetaQA has it: the question with its topic in [brackets],
answers joined by a bar; further columns are not needed and not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuili.errors import InputError, LimitError, SourceError
from tuili.knowledge.graph import Graph
from tuili.knowledge.records import normalise
from tuili.knowledge.store import check_text
from tuili.knowledge.text import MAX_QUESTION
from tuili.reason.reading import masked
from tuili.reason.worlds.questions import Asked

MAX_BYTES = 256 << 20
MAX_QUESTIONS = 1_000_000
_TOPIC = re.compile(r"\[([^\]\[]+)\]")

# Finds what a question names: the character ranges, and the entities.
Finder = Callable[[str], tuple[list[tuple[int, int]], list[int]]]


@dataclass(frozen=True, slots=True)
class Row:
    """A question as a file has it: `spans` are the character ranges that name what it is about."""

    line: int
    question: str
    answers: tuple[str, ...]
    start: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Linked:
    """Questions tied to a base, and the lines that could not be, with the reason."""

    questions: tuple[Asked, ...]
    bad: tuple[tuple[int, str], ...]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the questions of a file.

    Raises:
        SourceError: a line can't be read.
        LimitError: the file is too large.
    """
    if path.stat().st_size > MAX_BYTES:
        raise LimitError(f"{path} has {path.stat().st_size:,} bytes, at most {MAX_BYTES:,} are read; split it")
    read = _tsv if path.suffix == ".tsv" else _json
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number > MAX_QUESTIONS:
                raise LimitError(f"{path} has more than {MAX_QUESTIONS:,} lines; split it")
            if line.strip():
                try:
                    yield read(number, line.decode("utf-8").strip("\r\n"))
                except (InputError, UnicodeDecodeError, ValueError, RecursionError) as error:
                    raise SourceError(f"line {number} of {path} is no question with answers: {error}") from error


def _tsv(number: int, line: str) -> Row:
    cells = line.split("\t")
    if len(cells) < 2:
        raise InputError("it needs a question, a tab, and answers joined by |")
    topic = _TOPIC.search(cells[0])
    question = check_text("question", _TOPIC.sub(r"\1", cells[0]), MAX_QUESTION)
    answers = tuple(answer for answer in cells[1].split("|") if answer)
    if topic is None:
        return _row(number, question, answers, ())
    span = (topic.start(), topic.start() + len(topic[1]))
    return _row(number, question, answers, (topic[1],), (span,))


def _json(number: int, line: str) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise InputError('it must be an object with "question" and "answers"')
    question = row.get("question")
    if not isinstance(question, str):
        raise InputError(f'"question" must be a text, not {question!r}')
    start = _texts(row.get("start", []), "start")
    return _row(number, check_text("question", question, MAX_QUESTION), _texts(row.get("answers"), "answers"), start)


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise InputError(f'"{name}" must be a list of names, not {value!r}')
    return tuple(value)


def _row(
    number: int, question: str, answers: tuple[str, ...], start: tuple[str, ...], spans: Sequence[tuple[int, int]] = ()
) -> Row:
    if not answers:
        raise InputError("it has no answer; questions without one teach nothing")
    places = [re.search(re.escape(name), question, re.IGNORECASE) for name in start] if not spans else []
    return Row(number, question, answers, start, tuple(spans) or tuple(one.span() for one in places if one))


def link(rows: Sequence[Row], graph: Graph, find: Finder) -> Linked:
    """Tie questions to entities by their names; `find` finds what a question without a start is about."""
    names = {normalise(name) for row in rows for name in (*row.answers, *row.start)}
    by_label = graph.by_label(names)
    questions, bad = [], []
    for row in rows:
        spans, start = (list(row.spans), _ids(by_label, row.start)) if row.start else find(row.question)
        answers = _ids(by_label, row.answers)
        if not start:
            bad.append((row.line, "nothing that the question names is in the base"))
        elif not answers:
            bad.append((row.line, f"the base knows none of the answers {', '.join(row.answers[:3])}"))
        else:
            questions.append(Asked(masked(row.question, spans), _array(start), _array(answers)))
    return Linked(tuple(questions), tuple(bad))


def _ids(by_label: dict[str, list[int]], names: Sequence[str]) -> list[int]:
    return [number for name in names for number in by_label.get(normalise(name), ())]


def _array(ids: Sequence[int]) -> np.ndarray:
    return np.unique(np.array(ids, dtype=np.int64))
