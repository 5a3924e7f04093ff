"""Recipes: Python functions that return a whole `Recipe`, found by file or by name.

`recipes/NAME.py:FUNCTION` (FUNCTION is `recipe` if left out) or just NAME, which is looked for in the folder `recipes`
here. A recipe is code that the user names and that runs with the user's rights; nothing else is run. Imports no torch.
"""

from __future__ import annotations

import importlib.util
import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from tuili.config import closest
from tuili.errors import TuiliError, UsageError
from tuili.train.spec import ParallelSpec, TrainingConfig

FOLDER = Path("recipes")
SANDWICH_SETTINGS = ("layer_plan", "gate_width", "gate_queries")
DEFAULT_FUNCTION = "recipe"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The model: a new one of given sizes, or one to go on with.

    Attributes:
        family: `sandwich`, or the model type of a Hugging Face decoder such as `llama`.
        settings: of its configuration, by name; what is left out has the family's default. The vocabulary's size is
            that of the tokenizer where it is left out.
        start: a folder with a model (config.json and safetensors) to continue from, instead of a family. Of settings it
            takes only those in `SANDWICH_SETTINGS`, which make a sandwich of a Llama decoder. Its tokenizer.json is
            used where data.tokenizer is not set.
    """

    family: str = "sandwich"
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: Path | None = None

    def __post_init__(self) -> None:
        others = [name for name in self.settings if name not in SANDWICH_SETTINGS]
        if self.start is not None and others:
            raise UsageError(
                f"model.settings.{others[0]} has no effect beside model.start, whose config.json counts; leave one out "
                f"({', '.join(SANDWICH_SETTINGS)} make a sandwich of it)"
            )
        if self.start is not None:
            _no_effect(self, "model", "model.start", "family")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is read.

    Attributes:
        files: texts to train on, or folders of them (see `tuili.train.documents`).
        held_out: texts to evaluate on; none: a share of the sequences of `files`, chosen at random.
        held_out_share: that share; 0 evaluates nothing.
        field: the key or column of the text in JSONL and parquet files.
        length: tokens of a sequence.
        tokenizer: a tokenizer.json or a folder with one; None trains one on the files, or takes that of model.start.
        vocab_size: of the tokenizer that is trained.
        end_token: what ends a text; None: the one that is known, such as <|endoftext|>.
        cache: where token streams are kept; None: in the folder of the run.
    """

    files: tuple[Path, ...]
    held_out: tuple[Path, ...] = ()
    held_out_share: float = 0.01
    field: str = "text"
    length: int = 512
    tokenizer: Path | None = None
    vocab_size: int = 4096
    end_token: str | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        _at_least("data.length", self.length, 1)
        if not 0 <= self.held_out_share < 1:
            raise UsageError(f"data.held_out_share must be in 0 .. 1, 1 excluded, not {self.held_out_share!r}")
        if self.held_out:
            _no_effect(self, "data", "data.held_out", "held_out_share")
        if self.tokenizer is not None:
            _no_effect(self, "data", "data.tokenizer", "vocab_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateConfig:
    """How the learning rate goes: up over `warm_up` steps, then down from its peak.

    Attributes:
        kind: `cosine`, `linear`, or `wsd` (constant, and linear only over the last `decay` steps).
        warm_up: steps from 0 to the peak, which is training.learning_rate.
        decay: for wsd, the steps at the end over which it falls.
        floor: the share of the peak that it ends with.
    """

    kind: Literal["cosine", "linear", "wsd"] = "cosine"
    warm_up: int = 0
    decay: int = 0
    floor: float = 0.1

    def __post_init__(self) -> None:
        _at_least("rate.warm_up", self.warm_up, 0)
        _at_least("rate.decay", self.decay, 0)
        if self.kind not in ("cosine", "linear", "wsd"):
            raise UsageError(f"rate.kind can't be {self.kind!r}; choose cosine, linear or wsd")
        if not 0 <= self.floor <= 1:
            raise UsageError(f"rate.floor must be in 0 .. 1, not {self.floor!r}")
        if (self.kind == "wsd") != bool(self.decay):
            raise UsageError(f"rate.decay is {self.decay} with rate.kind {self.kind}; wsd needs it, others have none")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When a run is saved.

    Attributes:
        every: steps between checkpoints; the last step is always saved.
        keep: how many of the newest stay.
        wait: write while the training goes on (False), or wait for the disk (True).
        on_failure: when a checkpoint can't be written, `warn` and go on (the older ones stay), or `stop`.
    """

    every: int = 100
    keep: int = 2
    wait: bool = False
    on_failure: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        _at_least("checkpoints.every", self.every, 1)
        _at_least("checkpoints.keep", self.keep, 1)
        if self.on_failure not in ("warn", "stop"):
            raise UsageError(f"checkpoints.on_failure can't be {self.on_failure!r}; choose warn or stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole run.

    Attributes:
        out: the folder of the run: checkpoints, metrics, curves, at the end the model.
        steps: optimiser steps in all.
        batch: rows of the global batch, over all processes.
        fit_memory: whether micro-batches are as large as every process can hold by estimate, instead of
            parallel.micro_batch. The global batch stays, by accumulation.
        seed: of weights, order and everything random.
        evaluate_every: steps between evaluations; the last step is always evaluated.
        evaluate_most: sequences of an evaluation.
        max_skipped: steps in a row with a gradient or loss that is not finite, before the run stops.
        patience_s: seconds that a process may be silent before it is taken for dead.
    """

    out: Path
    model: ModelConfig
    data: DataConfig
    steps: int
    batch: int
    training: TrainingConfig = field(default_factory=TrainingConfig)
    parallel: ParallelSpec = field(default_factory=ParallelSpec)
    rate: RateConfig = field(default_factory=RateConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    fit_memory: bool = False
    seed: int = 0
    evaluate_every: int = 100
    evaluate_most: int = 64
    max_skipped: int = 10
    patience_s: float = 20.0

    def __post_init__(self) -> None:
        self._check_tokenizer()
        for name in ("steps", "batch", "evaluate_every", "evaluate_most", "max_skipped"):
            _at_least(name, getattr(self, name), 1)
        _at_least("seed", self.seed, 0)
        if not 1 <= self.patience_s < math.inf:
            raise UsageError(f"patience_s must be at least 1, not {self.patience_s!r}")
        if self.fit_memory and self.parallel.micro_batch != 1:
            size = self.parallel.micro_batch
            raise UsageError(f"parallel.micro_batch is {size}, which has no effect with fit_memory; leave one out")
        unit = self.parallel.dp_size * self.parallel.row_unit
        if self.batch % unit:
            raise UsageError(
                f"batch is {self.batch}; this layout needs a multiple of {unit} ({self.parallel.dp_size} data-parallel "
                f"shares of {self.parallel.row_unit} rows); change batch or parallel.micro_batch"
            )
        if self.rate.warm_up + self.rate.decay > self.steps:
            raise UsageError(
                f"rate.warm_up and rate.decay are {self.rate.warm_up + self.rate.decay} steps together, the run has "
                f"{self.steps}; change one of them"
            )

    def _check_tokenizer(self) -> None:
        """Refuse settings of a tokenizer that another one takes the place of."""
        if self.model.start is not None:
            _no_effect(self.data, "data", "model.start, whose tokenizer is used", "vocab_size")
        elif self.data.tokenizer is None:
            _no_effect(self.data, "data", "a tokenizer that is trained here", "end_token")


def _no_effect(config: ModelConfig | DataConfig, part: str, beside: str, name: str) -> None:
    """Refuse a setting that another one makes pointless."""
    if _is_set(config, name):
        raise UsageError(
            f"{part}.{name} is {getattr(config, name)!r}, which has no effect beside {beside}; leave one out"
        )


def _is_set(config: ModelConfig | DataConfig, name: str) -> bool:
    return bool(getattr(config, name) != next(each.default for each in fields(config) if each.name == name))


def find_recipe(name: str) -> Recipe:
    """Return what the recipe of a name or a file gives.

    Raises:
        UsageError: there is no such file or function, it fails, or what it gives is no Recipe.
    """
    place, _, function = name.partition(":")
    path = Path(place)
    if path.suffix != ".py":
        path = FOLDER / f"{place}.py"
    if not path.is_file():
        known = sorted(file.stem for file in FOLDER.glob("*.py"))
        raise UsageError(f"there is no recipe {path}; {closest(Path(place).stem, known)}")
    made = _called(path, function or DEFAULT_FUNCTION)
    if not isinstance(made, Recipe):
        raise UsageError(f"{path}:{function or DEFAULT_FUNCTION} gives a {type(made).__name__}, a Recipe is needed")
    return made


def _called(path: Path, name: str) -> Any:
    """Run a recipe's file and call one of its functions; what that raises becomes a message with file and line."""
    spec = importlib.util.spec_from_file_location(f"tuili_recipe_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} can't be run as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = getattr(module, name, None)
        if callable(found):
            return found()
    except TuiliError:
        raise
    except Exception as error:
        own = str(path.resolve())
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
        where = f"{path}:{lines[-1]}" if lines else path
        raise UsageError(f"the recipe fails: {where}: {type(error).__name__}: {error}") from error
    functions = [key for key, value in vars(module).items() if callable(value) and not isinstance(value, type)]
    raise UsageError(f"{path} has no function {name!r}; {closest(name, functions)}")


def _at_least(name: str, value: object, least: int) -> None:
    if type(value) is not int or value < least:
        raise UsageError(f"{name} must be a whole number, at least {least}, not {value!r}")
