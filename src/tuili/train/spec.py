"""How a run is laid out over processes, and how it trains. Standard library only, so a recipe starts without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from tuili.errors import UsageError

ONE_STAGE = ("GPipe", "1F1B")
"""Schedules in which a process holds one stage."""
MANY_STAGES = ("Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble")
"""Schedules in which it holds several; in ZBVZeroBubble exactly two, the first and the last process the ends."""
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSpec:
    """How many processes share a model, and how: pp * dp_replicate * dp_shard * tp of them.

    Attributes:
        pp: pipeline stages are spread over so many processes.
        dp_replicate: copies of the model, each with its own rows of a batch.
        dp_shard: processes that share one copy's parameters and each have their own rows (ZeRO 3).
        tp: processes that share each matrix.
        micro_batch: rows of one forward pass; what a step has beyond them is accumulated.
        schedule: in which order a pipeline works; one of ONE_STAGE and MANY_STAGES.
        virtual: stages a process holds.
        micro_batches: passes of one run of the pipeline; None: as many as there are stages. Further ones accumulate.
        layers_per_stage: decoder layers of each stage; None: as even as it goes.

    Raises:
        UsageError: a value is out of its bounds, has no effect, or fits no other one.
    """

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    tp: int = 1
    micro_batch: int = 1
    schedule: str = "1F1B"
    virtual: int = 1
    micro_batches: int | None = None
    layers_per_stage: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("pp", "dp_replicate", "dp_shard", "tp", "micro_batch", "virtual"):
            _check_count(name, getattr(self, name))
        if self.schedule not in ONE_STAGE + MANY_STAGES:
            raise UsageError(
                f"there is no schedule {self.schedule!r}; choose one of {', '.join(ONE_STAGE + MANY_STAGES)}"
            )
        if self.pp == 1:
            self._check_no_pipeline()
        else:
            self._check_pipeline()

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.pp * self.dp_size * self.tp

    @property
    def dp_size(self) -> int:
        """Processes that have rows of their own."""
        return self.dp_replicate * self.dp_shard

    @property
    def num_stages(self) -> int:
        """Pipeline stages in all."""
        return self.pp * self.virtual

    @property
    def passes(self) -> int:
        """Micro-batches of one run of the pipeline; 1 without one."""
        return self.micro_batches or (self.num_stages if self.pp > 1 else 1)

    @property
    def row_unit(self) -> int:
        """The rows of a process must be a multiple of this."""
        return self.passes * self.micro_batch

    def _check_no_pipeline(self) -> None:
        only_pipelined = ("schedule", "virtual", "micro_batches", "layers_per_stage")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in only_pipelined and value != field.default:
                raise UsageError(f"{field.name} is {value!r}, which has no effect with pp=1; leave it out or raise pp")

    def _check_pipeline(self) -> None:
        wanted = "1" if self.schedule in ONE_STAGE else "2" if self.schedule == "ZBVZeroBubble" else "2 or more"
        if (self.virtual == 1) != (wanted == "1") or (wanted == "2" and self.virtual != 2):
            raise UsageError(
                f"with {self.schedule} a process holds {wanted} stages, not {self.virtual}; set virtual to that"
            )
        if self.micro_batches is not None:
            _check_count("micro_batches", self.micro_batches)
        self._check_passes()
        if self.layers_per_stage is not None:
            self._check_layers(self.layers_per_stage)

    def _check_passes(self) -> None:
        """Check what torch's schedules ask of the number of micro-batches."""
        is_looped = self.schedule.startswith("Interleaved")
        least = {"GPipe": 1, "1F1B": self.pp}.get(self.schedule, self.pp if is_looped else 2 * self.pp)
        if self.passes < least or (is_looped and self.passes % self.pp):
            wanted = f"a multiple of {self.pp} and at least {least}" if is_looped else f"at least {least}"
            raise UsageError(f"{self.schedule} over pp={self.pp} needs micro_batches to be {wanted}, not {self.passes}")

    def _check_layers(self, counts: tuple[int, ...]) -> None:
        if len(counts) != self.num_stages:
            raise UsageError(f"layers_per_stage has {len(counts)} numbers, there are {self.num_stages} stages")
        for count in counts:
            _check_count("each of layers_per_stage", count)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How an engine makes its steps (AdamW). A loop may change the learning rate of `Engine.optimizers` at any step.

    Attributes:
        learning_rate: at the beginning.
        weight_decay: of matrices; vectors (norms, biases) have none.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of their squares.
        epsilon: added to the root of the latter.
        clip_norm: the largest norm of all gradients together; None: any.
        precision: what is computed in; parameters and the optimiser's state stay float32. float16 scales the loss.
        activation_checkpointing: forget what is inside decoder layers, compute it again in the backward pass.
        tf32: let a GPU compute float32 products with 10 bits of mantissa.

    Raises:
        UsageError: a value is out of its bounds.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float | None = 1.0
    precision: str = "float32"
    activation_checkpointing: bool = False
    tf32: bool = False

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon", "clip_norm"):
            value = getattr(self, name)
            if not (value is None and name == "clip_norm") and not (_is_number(value) and 0 < value < math.inf):
                raise UsageError(f"{name} must be a finite number over 0, not {value!r}")
        if not (_is_number(self.weight_decay) and 0 <= self.weight_decay < math.inf):
            raise UsageError(f"weight_decay must be a finite number, at least 0, not {self.weight_decay!r}")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < 1):
                raise UsageError(f"{name} must be in 0 .. 1, 1 excluded, not {value!r}")
        if self.precision not in PRECISIONS:
            raise UsageError(f"there is no precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}")


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise UsageError(f"{name} must be a whole number, at least 1, not {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
