"""What the verbs about decoders share: plans, texts, models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuili.errors import InputError

if TYPE_CHECKING:
    from tuili.attention.plan import LayerPlan
    from tuili.cli.output import OnProgress

FILE = click.Path(path_type=Path, dir_okay=False)
TEXT = click.Path(path_type=Path)

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
plan_option = click.option(
    "--plan", type=FILE, metavar="PLAN.json", help="A layer plan, as `tuili calibrate` writes it."
)


def texts_option(what: str) -> Callable[..., Any]:
    """Return the option `--text`, which can be repeated."""
    return click.option(
        "--text",
        "texts",
        type=TEXT,
        multiple=True,
        required=True,
        metavar="FILE",
        help=f'{what}: *.txt, *.py, *.md, *.json with a field "text", or a folder of those; repeat it for more.',
    )


def read_plan(path: Path | None) -> LayerPlan | None:
    """Return the layer plan in a file; None without one.

    Raises:
        InputError: the file can't be read or holds no plan.
    """
    if path is None:
        return None
    from tuili.attention.plan import LayerPlan

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"can't read the layer plan {path}: {error}") from error
    try:
        return LayerPlan.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def encode_corpora(tokenizer: Any, paths: Sequence[Path]) -> dict[str, Any]:
    """Return the token ids [n] of each text, by its name."""
    from tuili.porting.texts import encode, read_corpora

    return {name: encode(tokenizer, text) for name, text in read_corpora(paths).items()}


def time_left(seconds: float, done: int, total: int) -> str:
    """Return in words how long the rest takes, if it goes on as before."""
    if not done:
        return "time left unknown"
    left = seconds / done * (total - done)
    if left < 90:
        return f"{left:.0f} s left"
    return f"{left / 60:.0f} min left" if left < 5400 else f"{left / 3600:.1f} h left"


def with_time_left(on_progress: OnProgress) -> OnProgress:
    """Return a callback that adds to each stage how long it will still take."""
    begun: dict[str, float] = {}

    def on_each(stage: str, done: int, total: int) -> None:
        begin = begun.setdefault(stage, time.monotonic())
        on_progress(f"{stage}, {time_left(time.monotonic() - begin, done, total)}", done, total)

    return on_each
