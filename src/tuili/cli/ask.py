"""`tuili ask`: one question, or a file of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuili.cli.output import UTF8, is_terminal, print_json, progress, say
from tuili.errors import InputError, UsageError

if TYPE_CHECKING:
    from tuili.cli.output import OnProgress
    from tuili.reason.answer import Answer
    from tuili.reasoner import Reasoner

GRAPH_SUFFIXES = (".html", ".svg", ".png")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line gives."""

    question: str | None
    kb: str | None
    as_json: bool
    explain: bool
    graph: Path | None
    llm: bool
    questions: Path | None
    max_nodes: int | None
    time_limit: float | None
    quiet: bool


@click.command(name="ask")
@click.argument("words", nargs=-1, type=UTF8, metavar="[QUESTION]")
@click.option("--kb", help="The knowledge base; without it the one that fits the question.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with everything that is known.")
@click.option(
    "--explain", is_flag=True, help="Show the path, what was pruned, links and timings; on a terminal: always."
)
@click.option(
    "--graph",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the reasoning graph: .html, .svg or .png.",
)
@click.option("--llm", is_flag=True, help="Have a small language model word the answer; it can't change it.")
@click.option(
    "--file",
    "questions",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="QUESTIONS.jsonl",
    help='Answer a batch: lines with "id", "question" and optionally "kb".',
)
@click.option("--max-nodes", type=click.IntRange(min=1), help="How many entities a search may touch.")
@click.option(
    "--time-limit", type=click.FloatRange(min=0), metavar="SECONDS", help="Then the best so far is the answer."
)
@click.option("--quiet", is_flag=True, help="Print the answer only; no progress, no explanation.")
def command(words: Sequence[str], **given: Any) -> None:
    """Answer QUESTION, with the path that leads to the answer.

    \b
      tuili ask "default of maxsize in functools.lru_cache"
      tuili ask "Is arthritis a kind of gout?" --kb hpo --graph gout.html
    """
    options = Options(question=_question(words), **given)
    _check_usage(options)
    with progress(quiet=options.quiet) as on_progress:
        reasoner = _reasoner(options, on_progress)
        if options.questions is not None:
            _answer_batch(reasoner, options.questions, options, on_progress)
            return
        if options.llm:
            on_progress("answering and wording", 0, 0)
        answer = ask(reasoner, options.question or "", llm=options.llm)
    if options.graph is not None:
        from tuili.reason.picture import draw

        draw(answer, options.graph)
    is_wanted = options.explain or (not options.quiet and is_terminal(sys.stdout))
    show(answer, as_json=options.as_json, explain=is_wanted, with_notes=not options.quiet)


def _question(words: Sequence[str]) -> str | None:
    """Return the question, if there is one.

    Raises:
        UsageError: it stands without quotes, where the shell may change it.
    """
    if len(words) > 1:
        raise UsageError(f'put the question into quotes: tuili ask "{" ".join(words)[:200]}"')
    return words[0] if words else None


def _answer_batch(reasoner: Reasoner, path: Path, options: Options, on_progress: OnProgress) -> None:
    from tuili.cli.batch import answer_file

    num_failed = answer_file(reasoner, path, as_json=options.as_json, llm=options.llm, on_progress=on_progress)
    if num_failed:
        raise InputError(f"{num_failed} questions of {path.name} got no answer; their lines hold the errors")


def ask(reasoner: Reasoner, question: str, *, llm: bool = False, kb: str | None = None) -> Answer:
    """Answer one question; with `llm` the language model words the answer."""
    answer = reasoner.ask(question, kb=kb)
    if not llm:
        return answer
    from tuili.reason.voice import Voice

    return Voice.shared(reasoner.on_progress).word(answer)


def show(answer: Answer, *, as_json: bool, explain: bool, with_notes: bool = True) -> None:
    """Print an answer: as JSON, or its text and how it came about, or its text with the notes on stderr."""
    if as_json:
        print_json(answer.to_json())
        return
    click.echo(answer.text)
    if explain:
        from tuili.cli.explanation import print_explanation

        print_explanation(answer)
    elif with_notes:
        for note in answer.notes:
            say(f"({note})")


def _reasoner(options: Options, on_progress: OnProgress) -> Reasoner:
    from tuili.reasoner import Reasoner, ReasonerConfig

    given: dict[str, Any] = {"max_nodes": options.max_nodes, "time_limit_s": options.time_limit}
    config = ReasonerConfig(**{name: value for name, value in given.items() if value is not None})
    return Reasoner(options.kb, config=config, on_progress=on_progress)


def _check_usage(options: Options) -> None:
    """Refuse options that contradict each other or have no effect.

    Raises:
        UsageError: the first that does.
    """
    graph = options.graph
    if (options.question is None) == (options.questions is None):
        raise UsageError('give a QUESTION, or --file QUESTIONS.jsonl: tuili ask "which parameter of json.dumps ..."')
    if options.questions is not None and (graph is not None or options.explain):
        raise UsageError("--graph and --explain show one answer and have no effect with --file; leave them out")
    if graph is not None and graph.suffix.lower() not in GRAPH_SUFFIXES:
        raise UsageError(f"--graph can't write {graph.name!r}; its name must end in {', '.join(GRAPH_SUFFIXES)}")
    if options.explain and (options.as_json or options.quiet):
        raise UsageError("--explain has no effect with --json, which holds the explanation, or --quiet; leave one out")
