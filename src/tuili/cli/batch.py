"""Answering a file of questions: one line out for each line in, everything loaded once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuili.cli.ask import ask
from tuili.cli.output import print_json
from tuili.errors import InputError

if TYPE_CHECKING:
    from tuili.cli.output import OnProgress
    from tuili.reasoner import Reasoner

MAX_LINE = 1 << 20


def answer_file(reasoner: Reasoner, path: Path, *, as_json: bool, llm: bool, on_progress: OnProgress) -> int:
    """Answer every line of a JSON Lines file and return how many failed.

    Each line holds `question` and optionally `id` and `kb`; more keys are ignored, so that a set of
    questions with their answers can be asked as it is. A line that fails gives an object with
    `id` and `error` (`type`, `message`), and the next one is answered.
    """
    lines = list(_lines(path))
    num_failed = 0
    for done, (number, line) in enumerate(lines):
        on_progress("answering", done, len(lines))
        result = _result(reasoner, number, line, llm)
        num_failed += "error" in result
        _print(result, as_json)
    return num_failed


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _result(reasoner: Reasoner, number: int, line: bytes, llm: bool) -> dict[str, Any]:
    """Return one line's answer or error; even a defect met by one question doesn't end the run."""
    row: dict[str, Any] = {}
    try:
        row = _object(line, number)
        answer = ask(reasoner, _text(row, "question", number), kb=_text(row, "kb", number), llm=llm)
    except Exception as error:
        failure = {"type": type(error).__name__, "message": str(error), "line": number}
        return {"id": row.get("id", number), "error": failure}
    return {"id": row.get("id", number), **answer.to_json()}


def _object(line: bytes, number: int) -> dict[str, Any]:
    """Return a line's object.

    Raises:
        InputError: the line is too long or no JSON object.
    """
    if len(line) > MAX_LINE:
        raise InputError(f"line {number} has {len(line)} bytes, the limit is {MAX_LINE}; split it")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f'line {number} is no JSON object; write {{"id": ..., "question": ...}}')
    return row


def _text(row: dict[str, Any], key: str, number: int) -> Any:
    """Return the text under a key; `kb` may be missing.

    Raises:
        InputError: it is missing or no text.
    """
    value = row.get(key)
    if isinstance(value, str) or (value is None and key == "kb"):
        return value
    if value is None:
        raise InputError(f'line {number} has no "{key}"; write {{"id": ..., "question": ...}}')
    raise InputError(f'line {number}: "{key}" must be a text, not {str(value)[:40]}')


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
    elif "error" in result:
        click.echo(f"{result['id']}\terror: {result['error']['message']}")
    else:
        click.echo(f"{result['id']}\t{result['answer']}")
