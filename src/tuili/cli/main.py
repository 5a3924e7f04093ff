"""The command line: one module per verb, imported only when it is chosen."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from tuili import __version__
from tuili.errors import TuiliError, is_out_of_memory

VERBS = {
    "ask": "Answer a question, with the path that leads to the answer.",
    "verify": "Check an answer again from the base alone: facts, sources, steps, weights.",
    "chat": "Ask question after question; each may refer to the ones before.",
    "learn": "Learn to answer questions over a base by walking, from questions and answers.",
    "kb": "Build, list, inspect, check and export knowledge bases.",
    "models": "List, bring, remove and look at models.",
    "port": "Give a decoder sparse attention; report what it reads, loses and saves.",
    "generate": "Have a decoder read a long document and answer, sparsely and faster.",
    "distill": "Train gates for a decoder from its own attention.",
    "calibrate": "Choose what each layer of a decoder reads, from measured loss.",
    "train": "Train a model by a recipe, on one process or many; can be stopped and gone on with.",
    "plan": "Rank the ways to lay out training on a cluster, by predicted step time.",
    "doctor": "Check the installation and say how to mend it.",
}
INTERRUPTED = 130
BROKEN_PIPE = 141


class Verbs(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the help text."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's module and return its command."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"tuili.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which one may be meant."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(_no_such_verb(args))
        return super().resolve_command(ctx, args)


def _no_such_verb(args: list[str]) -> str:
    word = args[0]
    if " " in word.strip() or word.endswith("?") or len(args) > 2:
        return f'to ask a question, say: tuili ask "{" ".join(args)[:200]}"'
    near = difflib.get_close_matches(word, VERBS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(VERBS)}"
    return f'{word!r} is no verb; {hint} To ask a question, say: tuili ask "{word}"'


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tuili", message="%(prog)s %(version)s")
def command() -> None:
    """Ask a question; get an answer with a path that can be checked.

    \b
      tuili ask "which parameter of json.dumps controls indentation"
      tuili ask "kinetic energy of a 1500 kg car at 90 km/h" --explain

    Data is kept in $TUILI_HOME (default: ~/.local/share/tuili).
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; users see messages, never a traceback.

    0 done, 1 failed, 2 wrong usage, 3 bad input, 4 a file is refused, 130 interrupted, 141 nobody reads.
    `TUILI_DEBUG=1` lets errors through with their traceback.
    """
    _make_streams_printable()
    if os.environ.get("TUILI_DEBUG") not in (None, "", "0"):
        return int(command.main(args=_listed(args), prog_name="tuili", standalone_mode=False) or 0)
    try:
        status = int(command.main(args=_listed(args), prog_name="tuili", standalone_mode=False) or 0)
        _flush()
        return status
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except TuiliError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        return _abandon_stdout()
    except SystemExit as error:
        return _exit_code(error)
    except OSError as error:
        click.echo(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", err=True)
        _abandon_stdout()
        return 1
    except Exception as error:
        if is_out_of_memory(error):
            click.echo("error: out of memory; ask for less at once, or give the process more", err=True)
            return 5
        click.echo(
            f"error: {type(error).__name__}: {error}\n"
            "This is a defect of tuili. TUILI_DEBUG=1 shows where it happened; "
            "`tuili doctor` prints what a report needs.",
            err=True,
        )
        return 1


def _listed(args: Sequence[str] | None) -> list[str] | None:
    return None if args is None else list(args)


def _exit_code(error: SystemExit) -> int:
    """Return the code of a `sys.exit` inside click: 1 there means that nobody reads our output."""
    if error.code == 1 and sys.stdout is not None:
        return _abandon_stdout()
    return error.code if isinstance(error.code, int) else 1


def _make_streams_printable() -> None:
    """Print "?" for characters that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _abandon_stdout() -> int:
    """Point stdout at nothing, so that the interpreter's last flush can't fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
