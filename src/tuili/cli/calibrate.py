"""`tuili calibrate`: choose what each layer of a decoder reads, from measured loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuili.cli.decoders import FILE, as_json_option, encode_corpora, texts_option, with_time_left
from tuili.cli.output import UTF8, print_json, progress, say
from tuili.errors import LimitError, UsageError

if TYPE_CHECKING:
    from tuili.cli.output import OnProgress
    from tuili.porting.calibrate import Calibrated


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line gives."""

    model: str
    texts: tuple[Path, ...]
    max_loss: float
    length: int
    count: int
    crossover: int | None
    adapter: str | None
    out: Path | None
    as_json: bool


@click.command(name="calibrate")
@click.argument("model", type=UTF8)
@texts_option("What to measure on; one half to choose by, the other to check by")
@click.option(
    "--max-loss",
    type=click.FloatRange(min=0, max=100, max_open=True),
    default=1.2,
    show_default=True,
    metavar="PERCENT",
    help="By how much the perplexity may grow.",
)
@click.option(
    "--length", type=click.IntRange(min=2), default=4096, show_default=True, metavar="N", help="Tokens of a piece."
)
@click.option(
    "--pieces",
    "count",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    metavar="N",
    help="Pieces to choose by, and as many to check by, if the texts hold as many.",
)
@click.option(
    "--crossover", type=click.IntRange(min=0), metavar="N", help="Tokens before this one read every key; default: 1024."
)
@click.option(
    "--adapter", metavar="FILE", help='Gates that `tuili distill` made, or "shipped"; default: training-free.'
)
@click.option("--out", type=FILE, metavar="PLAN.json", help="Where to write the plan; without it it is printed.")
@as_json_option
def command(**given: Any) -> None:
    """Choose a layer plan for the decoder MODEL: the fewest keys whose loss stays below a budget.

    Every layer is changed alone, in every way it could be, and the loss is measured; that takes as long as reading a
    piece densely some 60 times for a model of 30 layers. The plan is used by `tuili port MODEL --plan PLAN.json`.

    \b
      tuili calibrate smollm2-135m --text book.txt --out plan.json
      tuili calibrate ./my-model --text notes --max-loss 0.5 --adapter gates.safetensors --out plan.json
    """
    options = Options(**given)
    with progress() as on_progress:
        found = _calibrate(options, on_progress)
    if options.out is not None:
        from tuili.files import write_text

        write_text(options.out, found.plan.to_json())
    if options.as_json:
        print_json(_to_json(found))
        return
    _print(found)
    click.echo(str(options.out) if options.out is not None else found.plan.to_json(), nl=options.out is not None)
    if found.measured > options.max_loss / 100:
        say(
            f"the plan as a whole loses {found.measured:.2%} on other text, more than the {options.max_loss:g} % asked "
            "for: the layers' losses add up to more than their sum; give a smaller --max-loss, or more --pieces"
        )


def _calibrate(options: Options, on_progress: OnProgress) -> Calibrated:
    from tuili.attention.plan import DENSE_UP_TO
    from tuili.model.hf import LanguageModel
    from tuili.porting import folder
    from tuili.porting.calibrate import CalibrateConfig, calibrate, split

    loaded = LanguageModel.load(options.model, on_progress=on_progress)
    if options.length > loaded.window:
        raise LimitError(f"--length is {options.length} tokens, the model's window is {loaded.window}; give less")
    crossover = DENSE_UP_TO if options.crossover is None else options.crossover
    config = CalibrateConfig(max_loss=options.max_loss / 100, crossover=crossover)
    adapter = None if options.adapter is None else folder.find_adapter(loaded.model, options.adapter, None)
    choose, check = split(encode_corpora(loaded.tokenizer, options.texts), options.length, options.count)
    if adapter is not None and adapter.low_rank:
        raise UsageError(
            f"{options.adapter} has low-rank weights, under which layers would lose otherwise than alone; calibrate "
            "with an adapter of gates"
        )
    gates = None if adapter is None else adapter.gates
    return calibrate(loaded.model, choose, check, config, gates=gates, on_progress=with_time_left(on_progress))


def _print(found: Calibrated) -> None:
    click.echo("layer  reads         keys/token  loss alone")
    for layer, ways in found.ways.items():
        entry = found.plan.at(layer)
        way = next(way for way in ways if way.entry == entry)
        click.echo(f"{layer:>5}  {_name(entry):<12}  {way.keys_per_token:>10,.1f}  {way.increase:>+10.3%}")
    click.echo(
        f"keys a token: {found.keys_per_token:,.1f} of {found.keys_dense:,.1f}; loss: {found.predicted:.2%} predicted, "
        f"{found.measured:+.2%} measured as a whole on other text"
    )


def _name(entry: Any) -> str:
    budget = getattr(entry, "budget", None)
    return type(entry).__name__.lower() + (f" {budget.keep}" if budget is not None else "")


def _to_json(found: Calibrated) -> dict[str, Any]:
    """Return a calibration as JSON holds it; losses are fractions of the perplexity, single layers' in nats."""
    chosen = {layer: found.plan.at(layer) for layer in found.ways}
    return {
        "plan": found.plan.to_dict(),
        "predicted": found.predicted,
        "measured": found.measured,
        "keys_per_token": found.keys_per_token,
        "keys_dense": found.keys_dense,
        "length": found.length,
        "layers": [
            {
                "layer": layer,
                "ways": [
                    {
                        "reads": _name(way.entry),
                        "keys_per_token": way.keys_per_token,
                        "increase": way.increase,
                        "chosen": way.entry == chosen[layer],
                    }
                    for way in ways
                ],
            }
            for layer, ways in found.ways.items()
        ],
    }
