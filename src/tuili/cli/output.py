"""What every verb prints with: JSON on stdout, progress and messages on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

HEARTBEAT_S = 10.0

# Stage, things done, things in all (0 if nobody knows).
OnProgress = Callable[[str, int, int], None]


class Utf8(click.types.StringParamType):
    """A text argument: UTF-8 is read as such even where the locale says otherwise."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text; bytes that are no UTF-8 stay lone surrogates, which are refused later."""
        text = super().convert(value, param, ctx)
        try:
            return text if text.isascii() else os.fsencode(text).decode("utf-8")
        except UnicodeError:
            return text


UTF8 = Utf8()


def print_json(value: Any) -> None:
    """Print one JSON document on one line; ASCII only, so that any terminal can show it."""
    click.echo(json.dumps(value, allow_nan=False, default=str))


def say(text: str) -> None:
    """Print a message for people on stderr."""
    click.echo(text, err=True)


def is_terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal; a closed one is none."""
    try:
        return bool(stream is not None and stream.isatty())
    except ValueError:
        return False


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[OnProgress]:
    """Yield a callback that shows what is done on stderr: a bar on a terminal, else a line every 10 s."""
    if quiet:
        yield lambda stage, done, total: None
    elif is_terminal(sys.stderr):
        with _bar() as on_progress:
            yield on_progress
    else:
        yield _Heartbeat()


@contextlib.contextmanager
def _bar() -> Iterator[OnProgress]:
    """Yield a callback that draws a bar from its first call on, and clears it at the end."""
    with contextlib.ExitStack() as stack:
        tasks: dict[str, Any] = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if not tasks:
                tasks["bar"] = stack.enter_context(_rich_bar())
                tasks["task"] = tasks["bar"].add_task("", total=None)
            tasks["bar"].update(tasks["task"], description=stage[:60], completed=done, total=total or None)

        yield on_progress


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


class _Heartbeat:
    """Prints a line at most every `HEARTBEAT_S`."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last >= HEARTBEAT_S:
            self.last = now
            say(f"{stage}: {done}{f' of {total}' if total else ''}")
