"""What the verbs about decoders share: plans, texts, models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuili.errors import InputError

if TYPE_CHECKING:
    from tuili.porting.layers import LayerPlan

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
    from tuili.porting.layers import LayerPlan

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
