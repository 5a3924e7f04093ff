"""`tuili verify`: check an answer again, from the base alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuili.cli.output import print_json, progress
from tuili.errors import InputError, LimitError, TuiliError

if TYPE_CHECKING:
    from tuili.reason.audit import Audit
    from tuili.reasoner import Reasoner

MAX_BYTES = 64 << 20


class UnprovenError(TuiliError):
    """An answer does not hold."""


@click.command(name="verify")
@click.argument("answers", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="ANSWER.json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each answer.")
def command(answers: Path, as_json: bool) -> None:
    """Check every fact, source, step and weight of ANSWER.json, which `tuili ask --json` printed.

    \b
      tuili ask "default of maxsize in functools.lru_cache" --json > answer.json
      tuili verify answer.json
    """
    documents = list(read(answers))
    with progress() as on_progress:
        from tuili.reasoner import Reasoner

        reasoner = Reasoner(on_progress=on_progress)
        num_failed = 0
        for done, document in enumerate(documents):
            on_progress("checking", done, len(documents))
            found = check(document, reasoner)
            num_failed += bool(found.failed)
            print_json(found.to_json()) if as_json else _show(found)
    if num_failed:
        raise UnprovenError(f"{num_failed} of {len(documents)} answers don't hold")


def check(document: Mapping[str, Any], reasoner: Reasoner) -> Audit:
    """Check one answer on the base that it names."""
    from tuili.reason.audit import audit
    from tuili.reason.audit_steps import is_from_talk
    from tuili.reason.document import text

    kb, question = text(document, "kb"), text(document, "question")
    graph = reasoner.base(kb).graph
    return audit(document, graph, None if is_from_talk(document) else reasoner.ask(question, kb=kb))


def read(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the answers of a file: one JSON object, or one on each line.

    Raises:
        InputError: a line is no JSON object.
        LimitError: the file is too large.
    """
    if path.stat().st_size > MAX_BYTES:
        raise LimitError(f"{path} has {path.stat().st_size:,} bytes, at most {MAX_BYTES:,} are read; split it")
    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty; give what `tuili ask --json` printed")
    is_whole = len(lines) > 1 and lines[0].strip() == b"{"
    for number, line in enumerate([b"\n".join(lines)] if is_whole else lines, 1):
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"line {number} of {path} is no JSON: {error}") from error
        if not isinstance(document, dict):
            raise InputError(f"line {number} of {path} is no JSON object; give what `tuili ask --json` printed")
        yield document


def _show(found: Audit) -> None:
    state = "does NOT hold" if found.failed else "holds"
    num_passed = sum(check.holds is True for check in found.checks)
    click.echo(f"{state}: {found.question} ({num_passed} of {len(found.checks)} checks)")
    for check in (*found.failed, *found.unproven):
        click.echo(f"  {'wrong' if check.holds is False else 'unproven'}: {check.what}: {check.detail}")
