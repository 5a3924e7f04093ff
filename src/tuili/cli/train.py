"""`tuili train`: train a model by a recipe, on one process or under torchrun."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from tuili.cli.output import HEARTBEAT_S, UTF8, is_terminal, print_json, progress, say
from tuili.errors import TuiliError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tuili.cli.output import OnProgress
    from tuili.train.loop import Outcome, Step
    from tuili.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line gives."""

    recipe: str
    assignments: tuple[str, ...]
    fresh: bool
    show: bool
    as_json: bool


@click.command(name="train")
@click.argument("recipe", type=UTF8)
@click.option(
    "--set",
    "assignments",
    type=UTF8,
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting of the recipe, such as training.learning_rate=1e-3; repeat it for more.",
)
@click.option(
    "--resume/--fresh",
    "resume",
    default=True,
    help="Go on from the newest checkpoint of the run (the default), or begin anew and remove its checkpoints.",
)
@click.option("--show", is_flag=True, help="Print the recipe with all its settings as JSON, and train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(resume: bool, **given: Any) -> None:
    """Train a model by RECIPE: a file recipes/NAME.py, one of its functions (FILE.py:FUNCTION), or just NAME.

    A recipe is Python code that you name; it is run. The run's folder (its setting `out`) gets checkpoints,
    metrics.jsonl, curves.png and at the end the folder `model`. Ctrl-C saves and stops (several processes stop without
    saving); the same command goes on, also after a crash, and under another number of processes.

    \b
      tuili train sandwich_tiny
      tuili train recipes/sandwich_tiny.py --set steps=50 --set out=runs/short
      torchrun --nproc-per-node 4 -m tuili train sandwich_tiny --set parallel.dp_shard=2 --set parallel.tp=2
    """
    options = Options(fresh=not resume, **given)
    with _said_once(0):
        recipe = _recipe(options)
    if options.show:
        if _rank() == 0:
            from tuili.config import to_dict

            print_json(to_dict(recipe))
        return
    outcome = _run(recipe, options)
    if _rank() == 0:
        print_json(_told(outcome)) if options.as_json else click.echo(str(outcome.model))
    if recipe.parallel.world_size > 1:
        _leave()


def _leave() -> None:
    """End this process of a run that is done without taking the interpreter apart.

    A thread of torch's that still asks for it then aborts the process (seen once: "terminate called without an active
    exception"), which torchrun takes for a failure of the run.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def _recipe(options: Options) -> Recipe:
    from tuili.config import override
    from tuili.train.recipe import find_recipe

    return override(find_recipe(options.recipe), options.assignments)


def _run(recipe: Recipe, options: Options) -> Outcome:
    from tuili.runtime import import_torch

    import_torch()
    from tuili.train.loop import train
    from tuili.train.processes import join

    watcher = _Watcher()
    try:
        with (
            _said_once(1.0),
            join(recipe.parallel, recipe.patience_s) as session,
            watcher.showing(),
            _asked_to_stop(session.control.size) as stop,
        ):
            return train(recipe, session, watcher, fresh=options.fresh, stop=stop)
    except KeyboardInterrupt:
        if _rank() == 0:
            say(f"stopped after {watcher.where}; the same command goes on")
        raise


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "model": str(outcome.model),
        "curves": None if outcome.curves is None else str(outcome.curves),
        "step": outcome.progress.step,
        "tokens": outcome.progress.tokens,
        "loss": outcome.loss,
        "held_out_loss": outcome.held_out_loss,
    }


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


@contextlib.contextmanager
def _said_once(delay_s: float) -> Iterator[None]:
    """Have one process tell an error that all of them see.

    The others say it with their number, and a while later, if torchrun has not ended them by then: what only they saw
    would be lost otherwise.
    """
    try:
        yield
    except TuiliError as error:
        if _rank() == 0:
            raise
        threading.Event().wait(delay_s)
        if delay_s:
            say(f"error: process {_rank()}: {error}")
        raise click.exceptions.Exit(error.exit_code) from error


@contextlib.contextmanager
def _asked_to_stop(num_processes: int) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C was pressed; a second one ends the run at once.

    With several processes Ctrl-C ends them as it does by default: they would not see it at the same step.
    """
    asked = threading.Event()
    if num_processes > 1 or threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def on_signal(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


class _Watcher:
    """Shows a run on stderr: a bar on a terminal, else a line every 10 s; each evaluation has a line."""

    def __init__(self) -> None:
        self.where = "no step"
        self.on_progress: OnProgress = lambda stage, done, total: None
        self._preparing = contextlib.ExitStack()
        self._bar: Any = None
        self._task: Any = None
        self._last = monotonic()

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """Show for a block what the run tells."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._preparing)
            self.on_progress = self._preparing.enter_context(progress(quiet=_rank() != 0))
            if is_terminal(sys.stderr) and _rank() == 0:
                self._bar = stack.enter_context(_bar())
            yield

    def on_step(self, step: Step) -> None:
        self.where = f"step {step.step} of {step.steps}"
        if self._bar is not None:
            if self._task is None:
                self._preparing.close()
                self._task = self._bar.add_task("training", total=step.steps, what="")
            self._bar.update(self._task, completed=step.step, what=_facts(step))
        elif monotonic() - self._last >= HEARTBEAT_S or step.step == step.steps:
            self._last = monotonic()
            say(f"{self.where}: {_facts(step)}")

    def on_evaluation(self, step: int, loss: float) -> None:
        self.tell(f"step {step}: held-out loss {loss:.4f}")

    def tell(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False) if self._bar is not None else say(text)


def _facts(step: Step) -> str:
    loss = f"loss {step.loss:.4f}" + (" (skipped: not finite)" if step.skipped else "")
    return f"{loss}, {step.tokens_per_s:,.0f} tokens/s, {step.memory_mib:,.0f} MiB, {_left(step.left_s)} left"


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[what]}"),
        console=Console(stderr=True),
        transient=True,
    )
