"""The loop of a run: steps, evaluations, checkpoints, metrics, and at the end the model's folder.

A run that was stopped at any moment goes on from its newest whole checkpoint and makes the same losses.
"""

from __future__ import annotations

import functools
import resource
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import torch

from tuili.errors import InputError, LimitError, StoreError, TuiliError, UsageError, is_out_of_memory
from tuili.train import curves, metrics
from tuili.train.batch import estimate, largest_micro_batch
from tuili.train.checkpoint import Checkpointer, Origin, Progress, newest, open_checkpoint, restore
from tuili.train.data import Data, Reader, batches_of, open_data
from tuili.train.engine import Engine, StepReport, build_engine
from tuili.train.export import export
from tuili.train.initial import begin
from tuili.train.mesh import check_layout
from tuili.train.metrics import Metrics
from tuili.train.models import Source, describe
from tuili.train.processes import Session
from tuili.train.rates import share_of_peak
from tuili.train.recipe import Recipe
from tuili.train.spec import ParallelSpec

RECENT = 20
"""Steps that the speed is a mean of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is told of a step; `step` counts from 1."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    rate: float
    tokens: int
    tokens_per_s: float
    memory_mib: float
    left_s: float
    skipped: bool


class Watcher(Protocol):
    """Whom a run tells what it does; only the first process tells."""

    def on_step(self, step: Step) -> None:
        """Hear of a step."""

    def on_evaluation(self, step: int, loss: float) -> None:
        """Hear of an evaluation."""

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Hear how far the preparation is."""

    def tell(self, text: str) -> None:
        """Hear what else people should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        model: the folder with the trained model.
        curves: the picture, where matplotlib is installed.
        loss: of the last step that was made by this call; None if there was nothing left to do.
        held_out_loss: of the last evaluation; None if nothing is held out.
    """

    model: Path
    curves: Path | None
    progress: Progress
    loss: float | None
    held_out_loss: float | None


def train(
    recipe: Recipe, session: Session, watcher: Watcher, *, fresh: bool = False, stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Make a run or go on with one; every process of it calls this.

    Args:
        recipe: what to do.
        session: this process among the others.
        watcher: told what happens, on the first process.
        fresh: begin anew and remove the checkpoints that are there.
        stop: asked after every step; True saves and raises KeyboardInterrupt.

    Raises:
        TuiliError: the data, the layout or the model can't be used, a checkpoint is of another run, the losses are not
            finite, or the last checkpoint can't be written.
    """
    run = _Run(recipe, session, watcher if session.control.rank == 0 else _Nobody(), fresh)
    try:
        run.go(stop)
        return run.end()
    finally:
        run.checkpointer.close()


class _Nobody:
    """Hears nothing; the watcher of all processes but the first."""

    def on_step(self, step: Step) -> None:
        pass

    def on_evaluation(self, step: int, loss: float) -> None:
        pass

    def on_progress(self, stage: str, done: int, total: int) -> None:
        pass

    def tell(self, text: str) -> None:
        pass


class _Run:
    """One run, from its data to its end."""

    def __init__(self, recipe: Recipe, session: Session, watcher: Watcher, fresh: bool) -> None:
        self.recipe, self.session, self.watcher = recipe, session, watcher
        self.is_first = session.control.rank == 0
        self.folder = recipe.out / "checkpoints"
        self.data = self._open_data()
        source = describe(recipe.model, self.data.tokenizer, recipe.data.length, recipe.seed)
        layout = self._layout(source)
        check = functools.partial(check_layout, layout, recipe.training)
        with begin(source, check, recipe.out, session.control, session.device) as (make, fill):
            self.engine: Engine = build_engine(make, layout, recipe.training, device=session.device, fill=fill)
        sharing = {"dp_rank": self.engine.dp_rank, "dp_size": self.engine.dp_size}
        self.sharing = sharing
        self.reader = Reader(self.data.train, recipe.seed, **sharing)
        self.origin = Origin(model=source.config, data=self.data.content, length=recipe.data.length, seed=recipe.seed)
        if fresh and self.is_first:  # not before all that could refuse the run: it would lose them for nothing
            shutil.rmtree(self.folder, ignore_errors=True)
        keep = recipe.checkpoints.keep
        self.checkpointer = Checkpointer(self.folder, session.control, self.origin, keep)
        self.progress = self._resume()
        self.metrics = (
            Metrics(recipe.out / "metrics.jsonl", self.progress.step, watcher.tell) if self.is_first else None
        )
        self.loss: float | None = None
        self.held_out_loss: float | None = None
        self.num_skipped = 0
        self.recent: deque[tuple[float, int]] = deque(maxlen=RECENT + 1)

    def _open_data(self) -> Data:
        """Open the data; a model that is gone on with brings its tokenizer, where the recipe names none.

        Raises:
            InputError: the processes do not read the same.
        """
        recipe, config = self.recipe, self.recipe.data
        if recipe.model.start is not None and config.tokenizer is None:
            config = replace(config, tokenizer=recipe.model.start)
        data = open_data(config, recipe.out / "data", recipe.seed, self.watcher.on_progress)
        contents = self.session.control.gather(data.content)
        if others := [rank for rank, content in enumerate(contents) if content != contents[0]]:
            raise InputError(
                f"process {others[0]} reads other texts than process 0, or with another tokenizer; give every host the "
                "same files, and remove data.cache where it is old"
            )
        return data

    def _layout(self, source: Source) -> ParallelSpec:
        """Return the layout; with fit_memory its micro-batch is the largest that every process can hold."""
        recipe, spec = self.recipe, self.recipe.parallel
        if not recipe.fit_memory:
            return spec

        def memory_of(layout: ParallelSpec) -> int:
            sizes = SimpleNamespace(**source.config)
            return estimate(sizes, layout, recipe.training, length=recipe.data.length).total

        fitted = largest_micro_batch(recipe.batch // spec.dp_size, spec, memory_of, self.session.device)
        gib = memory_of(fitted) / 2**30
        left_out = "" if source.config.get("layer_plan") is None else ", gates and picked blocks left out"
        self.watcher.tell(f"micro-batches of {fitted.micro_batch} rows, {gib:.2f} GiB a process by estimate{left_out}")
        return fitted

    def _resume(self) -> Progress:
        found = newest(self.folder, self.session.control, self.watcher.tell)
        if found is None:
            return Progress()
        if found.progress.step > self.recipe.steps:
            raise UsageError(
                f"steps is {self.recipe.steps}, this run has made {found.progress.step} already; set steps to at least "
                "that, remove the newer checkpoints, or --fresh to begin anew"
            )
        restore(self.engine, found, self.origin)
        self.reader.position = found.progress.position
        self.watcher.tell(f"going on after step {found.progress.step} of {self.recipe.steps}")
        return found.progress

    def go(self, stop: Callable[[], bool]) -> None:
        """Make the steps that are left."""
        recipe = self.recipe
        self.recent.append((time.monotonic(), self.progress.tokens))
        while self.progress.step < recipe.steps:
            self._step()
            step = self.progress.step
            is_last = step == recipe.steps
            if self.data.held_out is not None and (is_last or step % recipe.evaluate_every == 0):
                self._evaluate()
            if not is_last and not self.num_skipped and step % recipe.checkpoints.every == 0:
                self._save()
            else:
                self._guarded(self.checkpointer.poll)
            if stop() and not is_last:
                self.checkpointer.begin(self.engine, self.progress)
                self.checkpointer.finish()
                raise KeyboardInterrupt

    def _step(self) -> None:
        recipe, before = self.recipe, self.progress
        rate = recipe.training.learning_rate * share_of_peak(recipe.rate, before.step, recipe.steps)
        for optimizer in self.engine.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        torch.manual_seed(_seed(recipe.seed, before.step, self.engine.dp_rank))
        try:
            report = self.engine.step(self.reader.next(recipe.batch))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise LimitError(
                f"out of memory in step {before.step + 1}, with micro-batches of {self.engine.spec.micro_batch} rows "
                f"of {recipe.data.length} tokens; set parallel.micro_batch to less, or "
                "training.activation_checkpointing=true; the same command then goes on from the last checkpoint "
                f"({str(error).splitlines()[0]})"
            ) from error
        self.progress = Progress(
            step=before.step + 1, position=self.reader.position, tokens=before.tokens + report.num_tokens
        )
        self._note(report, rate)
        self._check(report)

    def _note(self, report: StepReport, rate: float) -> None:
        self.loss = report.loss
        self.recent.append((time.monotonic(), self.progress.tokens))
        (begin, first), (now, last) = self.recent[0], self.recent[-1]
        seconds = max(now - begin, 1e-9)
        left = (self.recipe.steps - self.progress.step) * seconds / (len(self.recent) - 1)
        told = Step(
            step=self.progress.step,
            steps=self.recipe.steps,
            loss=report.loss,
            grad_norm=report.grad_norm,
            rate=rate,
            tokens=self.progress.tokens,
            tokens_per_s=(last - first) / seconds,
            memory_mib=memory_mib(self.session.device),
            left_s=left,
            skipped=report.skipped,
        )
        self.watcher.on_step(told)
        if self.metrics is not None:
            row = {name: getattr(told, name) for name in Step.__slots__ if name not in ("steps", "left_s")}
            self.metrics.add(row)

    def _check(self, report: StepReport) -> None:
        """Stop a run whose losses are not finite.

        Raises:
            TuiliError: as many steps as the recipe allows, one after the other.
        """
        self.num_skipped = self.num_skipped + 1 if report.skipped else 0
        if self.num_skipped >= self.recipe.max_skipped:
            raise TuiliError(
                f"{self.num_skipped} steps in a row had a loss or a gradient that is not finite, the last one step "
                f"{self.progress.step} with a loss of {report.loss}; they changed nothing and were not saved. Lower "
                "training.learning_rate, raise rate.warm_up, or set training.precision=float32; the same command then "
                f"goes on from the last checkpoint, or from the one before if you remove the newest in {self.folder}"
            )

    def _evaluate(self) -> None:
        if self.data.held_out is None:
            return
        recipe, sums, num_tokens = self.recipe, 0.0, 0
        for batch in batches_of(self.data.held_out, recipe.batch, recipe.evaluate_most, **self.sharing):
            loss, num = self.engine.evaluate(batch)
            sums, num_tokens = sums + loss, num_tokens + num
        self.held_out_loss = sums / num_tokens
        self.watcher.on_evaluation(self.progress.step, self.held_out_loss)
        if self.metrics is not None:
            row = {"step": self.progress.step, "tokens": self.progress.tokens, "held_out_loss": self.held_out_loss}
            self.metrics.add(row)
        # The time that it took is none of the next step's.
        self.recent = deque([(time.monotonic(), self.progress.tokens)], maxlen=RECENT + 1)

    def _save(self) -> None:
        self._guarded(lambda: self.checkpointer.begin(self.engine, self.progress))
        if self.recipe.checkpoints.wait:
            self._guarded(self.checkpointer.finish)

    def _guarded(self, save: Callable[[], object]) -> None:
        """Do what may fail on a full disk; go on if the recipe says so, on every process alike."""
        try:
            save()
        except StoreError as error:
            if self.recipe.checkpoints.on_failure == "stop":
                raise
            self.watcher.tell(f"warning: {error}. The training goes on")

    def end(self) -> Outcome:
        """Save the last step, and write the model's folder and the picture."""
        self._guarded(self.checkpointer.finish)
        last = self.folder / f"step-{self.progress.step:08}"
        if self.loss is not None:
            self.checkpointer.begin(self.engine, self.progress)
            self.checkpointer.finish()
        model, picture = self.recipe.out / "model", None
        if self.is_first:
            export(open_checkpoint(last), self.data.tokenizer, model)
            picture = self._draw()
        self.session.control.share(None)  # nobody ends before the model is there
        return Outcome(
            model=model,
            curves=picture,
            progress=self.progress,
            loss=self.loss,
            held_out_loss=self.held_out_loss,
        )

    def _draw(self) -> Path | None:
        path = self.recipe.out / "curves.png"
        try:
            curves.draw(metrics.read(self.recipe.out / "metrics.jsonl"), path, f"{self.recipe.out.name}: training")
        except (TuiliError, OSError) as error:  # the model is there; a picture is no reason to fail
            self.watcher.tell(f"no curves.png: {error}")
            return None
        return path


def _seed(seed: int, step: int, dp_rank: int) -> int:
    """Return the seed of a step's random numbers; processes that share rows have the same."""
    return ((seed << 44) ^ (step << 14) ^ dp_rank) % 2**63


def memory_mib(device: torch.device) -> float:
    """Return the most memory that this process has used so far: of the GPU if it trains on one, else its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
