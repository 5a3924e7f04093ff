"""From a planned layout to a recipe: what to set so that `tuili train` lays a run out as the plan says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuili.train.planning.cost import Job, Step

SCHEDULES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved": "Interleaved1F1B",
    "zero-bubble": "ZBVZeroBubble",
}
"""The planner's names and those of the schedules that run; ZB-H1, which is priced, does not run itself."""
HELD_BY_ZBV = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a recipe by their path, and what a run does otherwise than the plan, in sentences."""

    values: dict[str, Any]
    otherwise: tuple[str, ...]

    @property
    def options(self) -> str:
        """The options of `tuili train`."""
        return " ".join(f"--set {name}={_text(value)}" for name, value in self.values.items())


def settings(job: Job, step: Step) -> Settings:
    """Return the settings of a step's layout; those that have a recipe's default value are left out."""
    layout = step.layout
    values: dict[str, Any] = {"batch": job.batch, "data.length": job.seq, "training.precision": "bfloat16"}
    for name in ("pp", "dp_replicate", "dp_shard", "tp", "micro_batch"):
        if (size := getattr(layout, name)) > 1:
            values[f"parallel.{name}"] = size
    if layout.recompute == "full":
        values["training.activation_checkpointing"] = True
    if layout.pp > 1:
        values |= _of_pipeline(step)
    return Settings(values, tuple(_otherwise(job, step)))


def _of_pipeline(step: Step) -> dict[str, Any]:
    layout = step.layout
    values: dict[str, Any] = {"parallel.schedule": SCHEDULES[layout.schedule], "parallel.micro_batches": step.num_micro}
    if layout.schedule == "zero-bubble":
        return values | {"parallel.virtual": HELD_BY_ZBV}
    if layout.virtual > 1:
        values["parallel.virtual"] = layout.virtual
    if len(set(step.counts)) > 1:
        values["parallel.layers_per_stage"] = list(step.counts)
    return values


def _otherwise(job: Job, step: Step) -> list[str]:
    layout, found = step.layout, []
    if layout.recompute == "selective":
        found.append("a run computes whole layers again or nothing (training.activation_checkpointing)")
    if layout.tp > 1 and layout.sequence_parallel:
        found.append("its tensor slices keep activations whole (--whole-tokens plans that)")
    if layout.tp > 1 and job.model.vocab % layout.tp:
        found.append(f"it needs a vocabulary that tp={layout.tp} divides, not {job.model.vocab}")
    if job.practice.fp8:
        found.append("it has no 8-bit products")
    if layout.schedule == "zero-bubble" and layout.pp > 1:
        found.append("its zero-bubble schedule is the V-shaped one, two stages a process, not ZB-H1")
        if layout.recompute == "full":
            found.append("no zero-bubble schedule runs with layers computed again")
    least = {"1f1b": layout.pp, "zero-bubble": 2 * layout.pp}.get(layout.schedule, 1)
    if layout.pp > 1 and step.num_micro < least:
        found.append(f"{SCHEDULES[layout.schedule]} needs at least {least} micro-batches, not {step.num_micro}")
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
