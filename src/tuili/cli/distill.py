"""`tuili distill`: train gates for a decoder from its own attention."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tuili.cli.decoders import FILE, as_json_option, encode_corpora, plan_option, read_plan, texts_option, time_left
from tuili.cli.output import UTF8, print_json, progress, say
from tuili.errors import LimitError


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line gives."""

    model: str
    out: Path
    texts: tuple[Path, ...]
    steps: int
    length: int
    plan: Path | None
    low_rank: int
    low_rank_steps: int
    resume: bool
    as_json: bool


@click.command(name="distill")
@click.argument("model", type=UTF8)
@click.option("--out", type=FILE, required=True, metavar="FILE", help="The adapter to write, *.safetensors.")
@texts_option("What to learn from")
@click.option(
    "--steps", type=click.IntRange(min=1), default=40, show_default=True, help="Pieces of text to learn from."
)
@click.option(
    "--length", type=click.IntRange(min=1), default=4096, show_default=True, metavar="N", help="Tokens of a piece."
)
@plan_option
@click.option(
    "--low-rank",
    type=click.IntRange(min=0),
    default=0,
    metavar="R",
    help="After the gates, train low-rank weights of this rank, so that the model does with the keys it still sees.",
)
@click.option(
    "--low-rank-steps", type=click.IntRange(min=0), default=0, metavar="N", help="Pieces of text that these read."
)
@click.option(
    "--resume/--restart",
    default=True,
    help="Go on with a run that was stopped (the default), or begin anew and replace what there is.",
)
@as_json_option
def command(**given: Any) -> None:
    """Train the gates of the decoder MODEL from its own attention; the model's own weights are not changed.

    Ctrl-C stops it; the same command goes on. What was learnt is used by `tuili port MODEL --adapter FILE`.

    \b
      tuili distill smollm2-135m --text book.txt --text src --out gates.safetensors
      tuili distill ./my-model --text notes --low-rank 8 --low-rank-steps 100 --out adapter.safetensors
    """
    options = Options(**given)
    from tuili.model.hf import LanguageModel
    from tuili.porting.training import Training, default_plan, distil, is_begun

    training = Training(
        steps=options.steps, length=options.length, rank=options.low_rank, rank_steps=options.low_rank_steps
    )
    plan = read_plan(options.plan)
    with progress() as on_progress:
        loaded = LanguageModel.load(options.model, on_progress=on_progress)
    if options.length > loaded.window:
        raise LimitError(f"--length is {options.length} tokens, the model's window is {loaded.window}; give less")
    corpora = encode_corpora(loaded.tokenizer, options.texts)
    if options.resume and is_begun(options.out):
        say(f"going on with the run that was begun for {options.out}")
    telling = _Telling()
    try:
        adapter = distil(
            loaded.model,
            corpora,
            options.out,
            plan or default_plan(loaded.model),
            training,
            restart=not options.resume,
            on_step=telling,
        )
    except KeyboardInterrupt:
        say(f"stopped after {telling.where}; the same command goes on from there")
        raise
    result = {
        "out": str(options.out),
        "layers": sorted(adapter.gates),
        "steps": options.steps,
        "size_mib": options.out.stat().st_size / 2**20,
        **telling.last,
    }
    print_json(result) if options.as_json else click.echo(str(options.out))


class _Telling:
    """Says what each step did, and when the stage will be done."""

    def __init__(self) -> None:
        self.where = "no step"
        self.last: dict[str, float] = {}
        self._stage, self._begin, self._first = "", time.monotonic(), 0

    def __call__(self, stage: str, step: Any) -> None:
        if stage != self._stage:
            # The first step of a stage ran before it was told, so the clock began with the one before.
            self._stage, self._first = stage, step.index - 1
        left = time_left(time.monotonic() - self._begin, step.index - self._first, step.total - self._first)
        self.where = f"step {step.index} of {step.total} of the {stage}"
        if stage == "gates":
            self.last |= {"loss": step.loss, "recall": step.recall.kept, "recall_of_best": step.recall.of_oracle}
            what = (
                f"loss {step.loss:.4f}, keeps {step.recall.kept:.3f} of the attention, {step.recall.of_oracle:.3f} of "
                "what the best choice would"
            )
        else:
            self.last |= {"drift": step.drift.loss, "agreement": step.drift.agreement}
            what = f"KL {step.drift.loss:.4f} nats, the same likeliest token after {step.drift.agreement:.1%}"
        say(f"{stage}, step {step.index} of {step.total}: {what}, {left}")
        if step.index == step.total:
            self._begin = time.monotonic()
