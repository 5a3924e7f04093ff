"""Checkpoints of a run: complete or absent, written while the training goes on, resumed under any other layout.

A checkpoint is a folder `step-NNNNNNNN` with one safetensors file a process (`tuili.train.shards`) and
`checkpoint.json`: the model's configuration, what was trained on, where the data stand, and where each tensor lies. It
is written under another name and renamed when all processes are done, so a folder of that name is whole; what a killed
run left is removed by the next one. Random numbers need no state: each step seeds them from the run's seed and its own
number. On several hosts the folder must be one that all of them see.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from tuili.errors import ModelFileError, StoreError, TuiliError, UsageError
from tuili.files import ensure_dir, sync, write_text
from tuili.model.local import read_json
from tuili.train import shards
from tuili.train.control import Control
from tuili.train.engine import Engine
from tuili.train.shards import Staged, Table

VERSION = 1
MANIFEST = "checkpoint.json"
NAME = re.compile(r"step-(\d{8,})")
FILE = re.compile(r"rank-\d{5,}\.safetensors")
PENDING, DONE, FAILED = 1, 2, 0
MODEL, OPTIMIZER = "model/", "optimizer/"
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
UNIMPORTANT = frozenset({"transformers_version", "dtype", "_name_or_path", "architectures"})
"""What may differ between two descriptions of the same model."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a checkpoint belongs to; a run of another origin doesn't resume from it.

    Attributes:
        model: the model's configuration, as its config.json has it.
        data: identifies the tokenizer and the texts, see `tuili.train.data.Data.content`.
        length: tokens of a sequence.
        seed: of the run.
    """

    model: Mapping[str, Any]
    data: str
    length: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimiser steps made.
        position: sequences read, see `tuili.train.data.Reader`.
        tokens: labelled tokens trained on.
    """

    step: int = 0
    position: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on the disk."""

    folder: Path
    origin: Origin
    progress: Progress
    engine: Mapping[str, Any]
    table: Table


# -- what is in it -------------------------------------------------------------------------------


def model_state(engine: Engine) -> dict[str, Tensor]:
    """Return what this process holds of the model, by the names of the whole one."""
    state: dict[str, Tensor] = {}
    for part in engine.parts:
        named: dict[str, Any] = get_model_state_dict(part)
        state |= {f"{MODEL}{name}": value for name, value in named.items()}
    return state


def optimizer_state(engine: Engine) -> dict[str, Tensor]:
    """Return what this process holds of the optimisers' state; rates and other settings are the recipe's."""
    state: dict[str, Tensor] = {}
    for part, optimizer in zip(engine.parts, engine.optimizers, strict=True):
        flat: dict[str, Any] = get_optimizer_state_dict(part, optimizer, options=FLAT)
        state |= {f"{OPTIMIZER}{name}": value for name, value in flat.items() if isinstance(value, Tensor)}
    return state


def restore(engine: Engine, checkpoint: Checkpoint, origin: Origin) -> None:
    """Give an engine the weights and the optimiser's state of a checkpoint, however that was laid out.

    Raises:
        UsageError: the checkpoint is of another model, other data or another seed.
        ModelFileError: it is damaged.
    """
    check_origin(checkpoint, origin)
    state = model_state(engine) | optimizer_state(engine)
    shards.read(checkpoint.folder, checkpoint.table, state)
    for part, optimizer in zip(engine.parts, engine.optimizers, strict=True):
        names = get_model_state_dict(part).keys()
        set_model_state_dict(part, {name: state[f"{MODEL}{name}"] for name in names})
        flat: dict[str, Any] = get_optimizer_state_dict(part, optimizer, options=FLAT)
        flat |= {name: state[f"{OPTIMIZER}{name}"] for name in flat if f"{OPTIMIZER}{name}" in state}
        set_optimizer_state_dict(part, optimizer, flat, options=FLAT)
    engine.load_state_dict(dict(checkpoint.engine))


def check_origin(checkpoint: Checkpoint, origin: Origin) -> None:
    """Refuse a checkpoint of another origin.

    Raises:
        UsageError: what differs.
    """
    there, how = checkpoint.origin, "set it back, choose another folder with out=, or --fresh to begin anew"
    for name in sorted({*there.model, *origin.model} - UNIMPORTANT):
        old, new = there.model.get(name), origin.model.get(name)
        if old != new:
            raise UsageError(
                f"{checkpoint.folder} is of another model: {name} is {old!r} there and {new!r} here; {how}"
            )
    for name, what in (
        ("data", "the texts, the tokenizer or what is held out"),
        ("length", "data.length"),
        ("seed", "the seed"),
    ):
        if getattr(there, name) != getattr(origin, name):
            raise UsageError(f"{checkpoint.folder} was trained with something else: {what} changed; {how}")


# -- which there are -----------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run by name, the newest first."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's name tells."""
    return int(checkpoint.name.removeprefix("step-"))


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint and check that it is whole.

    Raises:
        ModelFileError: its manifest or a file is missing or damaged.
    """
    manifest = read_json(folder / MANIFEST, max_bytes=None)
    if manifest.get("version") != VERSION:
        raise ModelFileError(f"{folder} has the version {manifest.get('version')!r}, this tuili reads {VERSION}")
    try:
        for name, num_bytes in manifest["files"].items():
            if not FILE.fullmatch(name):
                raise ModelFileError(f"{folder / MANIFEST} names the file {name!r}, which is none of a checkpoint")
            if (found := (folder / name).stat().st_size) != num_bytes:
                raise ModelFileError(f"{folder / name} has {found} bytes, {num_bytes} were written")
        for entry in manifest["tensors"].values():
            if strange := {chunk["file"] for chunk in entry["chunks"]} - set(manifest["files"]):
                raise ModelFileError(f"{folder / MANIFEST} names the file {strange.pop()!r}, which is none of its own")
        origin, progress = Origin(**manifest["origin"]), Progress(**manifest["progress"])
        return Checkpoint(folder, origin, progress, dict(manifest["engine"]), dict(manifest["tensors"]))
    except (KeyError, TypeError, AttributeError, OSError) as error:
        raise ModelFileError(f"{folder / MANIFEST} is not sound: {error!r}") from error


def newest(folder: Path, control: Control, tell: Tell) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, the same on every process; tell of those that are not.

    Raises:
        StoreError: another process sees it, this one does not.
    """
    chosen = control.share(_newest(folder, tell) if control.rank == 0 else None)
    if chosen is None:
        return None
    try:
        opened = open_checkpoint(chosen)
        problem = ""
    except ModelFileError as error:
        problem = f"process {control.rank} can't read {chosen}: {error}; every host must see the folder of the run"
    if problems := [each for each in control.gather(problem) if each]:
        raise StoreError(problems[0])
    return opened


def _newest(folder: Path, tell: Tell) -> Path | None:
    for path in checkpoints(folder):
        try:
            return open_checkpoint(path).folder
        except ModelFileError as error:
            tell(f"passing over a damaged checkpoint: {error}")
    return None


# -- writing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pending:
    """A checkpoint that is being written; `written` gives the size of this process's file."""

    written: Future[int]
    progress: Progress
    engine: Mapping[str, Any]
    table: Table


class Checkpointer:
    """Writes the checkpoints of a run. Every process makes one and calls the same methods in the same order.

    Args:
        folder: of the checkpoints.
        control: of the run's processes.
        origin: what the checkpoints belong to.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, control: Control, origin: Origin, keep: int = 2) -> None:
        self.folder = folder
        self.control = control
        self.origin = origin
        self.keep = keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: _Pending | None = None
        if control.rank == 0:
            ensure_dir(folder)
            for left in folder.glob("step-*.tmp"):
                shutil.rmtree(left, ignore_errors=True)
        control.share(None)  # nobody goes on before the folder is there

    def begin(self, engine: Engine, progress: Progress) -> None:
        """Copy the state and begin to write it; `poll` or `finish` says how that went.

        The weights may change as soon as it returns.

        Raises:
            StoreError: the one before could not be written.
        """
        self.finish()
        temporary = self._temporary(progress)
        if self.control.rank == 0:
            with contextlib.suppress(OSError):  # what is not there is told by whom writes there
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
        staged = shards.stage(model_state(engine) | optimizer_state(engine), self.control)
        written = self._writer.submit(_write, temporary, staged)
        self._pending = _Pending(written, progress, engine.state_dict(), staged.table)

    def poll(self) -> Progress | None:
        """Return what was saved if a checkpoint became complete now.

        Raises:
            StoreError: it could not be written; the older ones are as they were.
        """
        if self._pending is None:
            return None
        future = self._pending.written
        status = PENDING if not future.done() else FAILED if future.exception() else DONE
        return None if self.control.least(status) == PENDING else self._complete(self._pending)

    def finish(self) -> Progress | None:
        """Wait for the checkpoint that is being written, if one is, and return what was saved.

        Raises:
            StoreError: it could not be written; the older ones are as they were.
        """
        return None if self._pending is None else self._complete(self._pending)

    def close(self) -> None:
        """End the thread that writes; what is being written is not waited for by others."""
        self._writer.shutdown(wait=True)

    def _complete(self, pending: _Pending) -> Progress:
        self._pending = None
        future, progress = pending.written, pending.progress
        error = future.exception()
        outcomes = self.control.gather((str(error) if error else "", 0 if error else future.result()))
        problems = [message for message, _ in outcomes if message]
        if not problems:
            sizes = {shards.file_name(rank): num_bytes for rank, (_, num_bytes) in enumerate(outcomes)}
            problems = [each for each in [self._publish(pending, sizes)] if each]
        if problems:
            if self.control.rank == 0:
                shutil.rmtree(self._temporary(progress), ignore_errors=True)
            raise StoreError(
                f"the checkpoint of step {progress.step} was not written: {problems[0]}; the older ones are as they "
                "were. Make room, and see that every host can write to the folder of the run"
            )
        return progress

    def _publish(self, pending: _Pending, sizes: Mapping[str, int]) -> str:
        """Have the first process write the manifest and rename the folder; return what went wrong, on every process."""
        problem = ""
        if self.control.rank == 0:
            try:
                self._rename(pending, sizes)
            except (TuiliError, OSError) as error:
                problem = str(error)
        return self.control.share(problem)

    def _rename(self, pending: _Pending, sizes: Mapping[str, int]) -> None:
        temporary = self._temporary(pending.progress)
        final = temporary.with_suffix("")
        manifest = {
            "version": VERSION,
            "origin": {name: getattr(self.origin, name) for name in Origin.__slots__},
            "progress": {name: getattr(pending.progress, name) for name in Progress.__slots__},
            "engine": dict(pending.engine),
            "files": dict(sizes),
            "tensors": pending.table,
        }
        write_text(temporary / MANIFEST, json.dumps(manifest) + "\n")
        if final.exists():  # of the same step, from before it was resumed from an older one
            shutil.rmtree(final)
        os.replace(temporary, final)
        sync(self.folder)
        # Newer ones are there only if they were damaged and passed over, so they don't count.
        sound = [path for path in checkpoints(self.folder) if step_of(path) <= pending.progress.step]
        for old in sound[self.keep :]:
            shutil.rmtree(old, ignore_errors=True)

    def _temporary(self, progress: Progress) -> Path:
        return self.folder / f"step-{progress.step:08}.tmp"


def _write(folder: Path, staged: Staged) -> int:
    shards.write(folder, staged)
    return (folder / staged.file).stat().st_size
