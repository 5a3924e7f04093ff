"""`tuili port`: give a decoder sparse attention, measure it, and keep how in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuili.cli.decoders import FILE, as_json_option, plan_option, read_plan
from tuili.cli.output import UTF8, print_json, progress, say

if TYPE_CHECKING:
    from tuili.cli.output import OnProgress

LENGTH = 8192
"""Most tokens that are read by default: a dense pass costs the square of their number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line gives."""

    model: str
    out: Path
    text: Path | None
    adapter: str | None
    plan: Path | None
    length: int | None
    force: bool
    as_json: bool


@click.command(name="port")
@click.argument("model", type=UTF8)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The folder to write; a new one."
)
@click.option(
    "--text",
    type=FILE,
    metavar="FILE",
    help='Text to measure on, *.json by its field "text"; without it source that comes with Python.',
)
@click.option(
    "--adapter",
    metavar="FILE",
    help='Gates that `tuili distill` made, or "shipped"; without it and --plan: the shipped ones, if there are any.',
)
@plan_option
@click.option(
    "--length",
    type=click.IntRange(min=16),
    metavar="N",
    help=f"Read the text's first N tokens; without it the model's window, at most {LENGTH}.",
)
@click.option("--force", is_flag=True, help="Replace a folder that `tuili port` made.")
@as_json_option
def command(**given: Any) -> None:
    """Give the decoder MODEL sparse attention; write plan, gates, report and a picture to DIR.

    MODEL is a packaged model, a folder, or an id on a model hub; its weights stay where they are. A text is read
    densely and sparsely, and the report says what each layer read, what was lost and what was saved.

    \b
      tuili port smollm2-135m --out ported
      tuili port ./my-model --text book.txt --plan plan.json --out ported
      tuili generate ported --file book.txt --prompt "Who is the narrator?"
    """
    options = Options(**given)
    with progress() as on_progress:
        report, text = _port(options, on_progress)
    print_json(report) if options.as_json else click.echo(f"{text}\n{options.out}")


def _port(options: Options, on_progress: OnProgress) -> tuple[dict[str, Any], str]:
    """Measure, write the folder, and return the report as JSON and as text."""
    from tuili.porting import adapter as adapters
    from tuili.porting import folder, heat
    from tuili.porting.measure import measure
    from tuili.porting.report import to_json, to_text

    folder.check_target(options.out, force=options.force)
    heat.check()
    plan = read_plan(options.plan)
    name, text = _text(options.text)
    loaded = folder.LanguageModel.load(options.model, on_progress=on_progress)
    model, tokenizer = loaded.model, loaded.tokenizer
    adapter = folder.find_adapter(model, options.adapter, plan)
    ids = _ids(options, text, tokenizer, loaded.window)
    how: dict[str, Any] = {"layers": plan} if adapter is None else {"adapter": adapter}
    measured = measure(model, ids, on_progress, **how)
    title = f"{options.model} reads {name}, {len(ids):,} tokens"
    about = {"model": options.model, "text": name, "adapter": folder.ADAPTER if adapter is not None else None}
    report = about | to_json(measured)
    shown = to_text(report, title)
    record = folder.Record(
        model=folder.lasting_name(options.model),
        fingerprint=adapters.fingerprint(model),
        plan=measured.plan,
        adapter=about["adapter"],
        versions=folder.versions(),
    )
    with folder.staged(options.out, force=options.force) as staged:
        if adapter is not None:
            adapters.save(staged / folder.ADAPTER, adapter)
        folder.write_json(staged / folder.RECORD, record.to_json())
        folder.write_json(staged / "report.json", report)
        (staged / "report.txt").write_text(shown, encoding="utf-8")
        heat.draw(measured, heat.words_along(tokenizer, ids.tolist()), staged / "layers.png", title)
    return report, shown


def _text(path: Path | None) -> tuple[str, str]:
    from tuili.porting.texts import bundled_text, read_text

    if path is not None:
        return path.name, read_text(path)
    name, text = bundled_text()
    say(f"no --text: measuring on {name}")
    return name, text


def _ids(options: Options, text: str, tokenizer: Any, window: int) -> Any:
    """Return the token ids that are read.

    Raises:
        LimitError: more are asked for than the model's window or the text hold.
    """
    from tuili.errors import LimitError
    from tuili.porting.texts import encode

    ids = encode(tokenizer, text)
    wanted = options.length
    if wanted is not None and wanted > min(window, len(ids)):
        raise LimitError(
            f"--length is {wanted} tokens, the text has {len(ids)} and the model's window is {window}; give a "
            "smaller one"
        )
    num_read = min(window, LENGTH) if wanted is None else wanted
    if num_read < len(ids):
        say(f"reading the first {num_read:,} of the text's {len(ids):,} tokens")
    return ids[:num_read]
