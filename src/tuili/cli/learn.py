"""`tuili learn`: train a walk that answers questions over a base."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuili.cli.output import UTF8, OnProgress, print_json, progress, say
from tuili.errors import InputError, UsageError

if TYPE_CHECKING:
    from tuili.reason.learning import Report
    from tuili.reason.reading import Reader
    from tuili.reason.rulebook import BaseRule, Rulebook
    from tuili.reason.worlds.questions import Asked
    from tuili.reasoner import Base, Reasoner

FILE = click.Path(path_type=Path, dir_okay=False)
NUM_COLD = 2_000
MAX_NODES = 20_000
SAY_EVERY_S = 5.0
MAX_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line gives."""

    kb: str
    questions: Path | None
    out: Path | None
    start: Path | None
    updates: int
    seed: int
    words_only: bool
    skip_bad: bool
    resume: bool
    curves: Path | None
    as_json: bool


@click.command(name="learn")
@click.argument("kb", type=UTF8)
@click.option(
    "--questions",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help='JSON Lines with "question", "answers" and perhaps "start"; or *.tsv as MetaQA has it. '
    "Without it, questions are made from the base's own relations.",
)
@click.option("--out", type=FILE, metavar="FILE", help="Where to write the walk; by default where `tuili ask` looks.")
@click.option(
    "--from", "start", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A walk to start from."
)
@click.option("--updates", type=click.IntRange(min=1), default=40, show_default=True, help="Updates of PPO.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed, the same walk.")
@click.option("--words-only", is_flag=True, help="Read questions without the encoder: faster, knows fewer wordings.")
@click.option("--skip-bad", is_flag=True, help="Leave out questions that name nothing of the base.")
@click.option("--resume/--restart", default=True, help="Go on with a run that was stopped (default), or begin anew.")
@click.option("--curves", type=FILE, metavar="FILE", help="Draw the training curves: .svg or .png.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**given: Any) -> None:
    """Learn to answer questions over the base KB by walking from what they name to the answers.

    A fifth of the questions is kept out to judge and calibrate. Ctrl-C stops; the same command goes on.

    \b
      tuili learn films --questions films.jsonl --curves films.png
      tuili ask --kb films "who wrote the films directed by Ridley Scott"
    """
    options = Options(**given)
    if options.curves is not None and options.curves.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"--curves can't write {options.curves.name!r}; its name must end in .svg or .png")
    with progress() as on_progress:
        report, rules, out = _learn(options, on_progress)
    if options.curves is not None:
        from tuili.reason.curves import draw_curves

        draw_curves(report.curve, options.curves)
    if options.as_json:
        print_json({"out": str(out), **report.to_json(), "rules": [_rule(one) for one in rules.rules]})
    else:
        _show(report, rules, out)


def _learn(options: Options, on_progress: OnProgress) -> tuple[Report, Rulebook, Path]:
    from tuili.files import ensure_dir, walk_path
    from tuili.reason.learn import LearnConfig
    from tuili.reason.learning import Files, Watch, learn_base
    from tuili.reason.ppo import PPOConfig
    from tuili.reason.rulebook import mine_base, save_rules
    from tuili.reason.walk_file import fingerprint, load
    from tuili.reason.worlds.hops import GraphHops
    from tuili.reasoner import Reasoner

    reasoner = Reasoner(options.kb, on_progress=on_progress)
    base = reasoner.base(options.kb)
    out = options.out or walk_path(options.kb)
    ensure_dir(out.parent)
    files = Files(out=out)
    if not options.resume:
        files.clear()
    elif files.stage1.exists():
        say(f"going on with the run that was begun for {out}")
    reader = _reader(options, reasoner)
    hops = GraphHops(base.graph)
    on_progress("reading the questions", 0, 0)
    questions = _questions(options, base, hops)
    report = learn_base(
        hops,
        questions,
        fingerprint(base.graph),
        reader,
        files,
        LearnConfig(seed=options.seed, ppo=PPOConfig(num_updates=options.updates, seed=options.seed)),
        load(options.start) if options.start else None,
        Watch(on_stage=on_progress, on_update=_Telling()),
    )
    rules = mine_base(base.graph, options.seed, on_progress)
    save_rules(rules, out.with_suffix(".rules.json"))
    return report, rules, out


def _reader(options: Options, reasoner: Reasoner) -> Reader:
    from tuili.reason.reading import EncoderReader, WordReader

    return WordReader() if options.words_only else EncoderReader(reasoner.encoder)


def _questions(options: Options, base: Base, hops: Any) -> Sequence[Asked]:
    """Return the questions to learn from; lines that can't be used are refused, or left out and counted."""
    from tuili.reason.cold_start import cold_questions
    from tuili.reason.questions_file import link, read_rows
    from tuili.reason.walk_answer import find

    if options.questions is None:
        kinds = sorted(base.graph.kinds)
        nodes = [one for kind in kinds for one in base.graph.members(kind, MAX_NODES // max(1, len(kinds)))]
        made = cold_questions(hops, nodes, NUM_COLD, options.seed)
        say(f"{len(made)} questions made from the base's relations; real ones teach more (--questions)")
        return made
    linked = link(list(read_rows(options.questions)), base.graph, lambda question: find(question, base.linker))
    if linked.bad:
        shown = "; ".join(f"line {line}: {reason}" for line, reason in linked.bad[:MAX_SHOWN])
        told = f"{len(linked.bad)} of {len(linked.bad) + len(linked.questions)} questions can't be used ({shown})"
        if not options.skip_bad:
            raise InputError(f"{told}; mend them, or leave them out with --skip-bad")
        say(f"{told}; they are left out")
    return linked.questions


class _Telling:
    """Says every few seconds how PPO does."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, update: Any) -> None:
        if time.monotonic() - self._last < SAY_EVERY_S and update.index != update.total:
            return
        self._last = time.monotonic()
        say(
            f"PPO, update {update.index} of {update.total}: reward {update.reward:.3f}, "
            f"{update.length:.2f} hops a walk, entropy {update.entropy:.3f} nats, {update.seconds_left:.0f} s left"
        )


def _show(report: Report, rules: Rulebook, out: Path) -> None:
    policy = report.policy
    click.echo(str(out))
    num = report.prior.num_questions
    click.echo(f"on {num} questions kept out, after training on {report.num_trained}:")
    for name, one in (("question alone", report.prior), ("with PPO", policy)):
        if one is not None:
            shown = f"best answer right {one.hits1:.1%}, answer set F1 {one.f1:.1%}, {one.edges:.1f} edges a question"
            click.echo(f"  {name:15} {shown}")
    kept = "what PPO learned" if report.kept == "policy" else "the question alone, since PPO did no better"
    click.echo(f"kept: {kept}")
    click.echo(f"calibration error {report.ece:.1%} on the same questions")
    click.echo(f"{len(rules.rules)} rules of the base hold surely enough to infer by")
    for rule in rules.rules[:MAX_SHOWN]:
        click.echo(f"  {_rule(rule)}")


def _rule(rule: BaseRule) -> str:
    return f"{rule.show()}  {rule.counted()}"
