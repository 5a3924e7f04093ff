"""A whole run of distillation, both stages: from texts to the file of an adapter, stopped and gone on with at any step.

Beside the file lie, until it is done, the state of the run and what it was begun with. A step's text depends on its
index and the seed alone and the state is written after every step, so a run that was interrupted ends with the same
gates as one that was not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from tuili.attention.gate import Gate
from tuili.attention.plan import LayerPlan, Sparse, sandwich
from tuili.errors import ModelFileError, UsageError
from tuili.files import write_text
from tuili.model.local import read_json
from tuili.porting.adapt import AdaptConfig, Adapting
from tuili.porting.adapter import Adapter, fingerprint, save
from tuili.porting.distill import DistillConfig, Distiller, windows
from tuili.porting.hf import whole_layers

Result = TypeVar("Result", covariant=True)
OnStep = Callable[[str, Any], None]
MAX_QUERIES = 4
"""Gate queries a group at most: more heads share some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long, and on what.

    Attributes:
        steps: texts that the gates learn from.
        length: tokens of a text.
        width: of gate queries and keys; at most the head dim counts.
        widths: those of single layers, where they differ.
        seed: of texts and sampling.
        rank: of the low-rank weights that the model then learns; 0: none, the gates alone.
        rank_steps: texts that these learn from.

    Raises:
        UsageError: a value is out of its bounds, or there is a rank without steps or steps without a rank.
    """

    steps: int = 40
    length: int = 4096
    width: int = 32
    widths: Mapping[int, int] = field(default_factory=dict)
    seed: int = 0
    rank: int = 0
    rank_steps: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("length", 1), ("width", 1), ("seed", 0), ("rank", 0), ("rank_steps", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if bool(self.rank) != bool(self.rank_steps):
            raise UsageError(
                f"low-rank weights need a rank and steps, not {self.rank} and {self.rank_steps}; give both or neither"
            )


class Trainer(Protocol[Result]):
    """What can be run, stopped and gone on with: `Distiller` and what has its shape."""

    index: int

    def run(self, texts: Callable[[int], Tensor], total: int, on_step: Callable[[Any], None] | None = None) -> Result:
        """Train until step `total`."""

    def save(self, path: Path) -> None:
        """Write the state."""

    def load(self, path: Path) -> None:
        """Take up a state."""


def default_plan(model: PreTrainedModel) -> LayerPlan:
    """Return the plan that a model is distilled under if none is given: two dense layers, then sparse ones."""
    return sandwich(whole_layers(model))


def distil(
    model: PreTrainedModel,
    corpora: Mapping[str, Tensor],
    out: Path,
    plan: LayerPlan,
    training: Training,
    *,
    restart: bool = False,
    on_step: OnStep | None = None,
) -> Adapter:
    """Distil the gates of a plan's sparse layers, then low-rank weights if asked for; write and return the adapter.

    Args:
        model: a decoder that is not ported; it is not changed.
        corpora: token ids [n] by name.
        out: the file to write.
        plan: its sparse layers get gates.
        training: how long.
        restart: begin anew, and replace what there is, instead of going on.
        on_step: called with the stage and its `Step` after each text.

    Raises:
        UsageError: the file exists, a run of other settings was begun beside it, or the plan can't be distilled.
        InputError: a text is too short.
        ModelFileError: the state of the run that was begun is damaged.
    """
    on_step = on_step or (lambda stage, step: None)
    texts = windows(corpora, training.length, training.seed)
    distiller = Distiller(model, sparse_layers(model, plan), distill_config(model, plan, training))
    facts = _facts(model, corpora, plan, training)
    _begin(out, facts, restart=restart)
    gates: dict[int, Gate] = resumed(
        distiller, texts, training.steps, state_path(out, "gates"), lambda step: on_step("gates", step)
    )
    info = {"texts": sorted(corpora), "distill": asdict(training)}
    adapter = Adapter(gates=gates, plan=plan, base_sha256=facts["model"], info=info)
    if training.rank:
        adapting = Adapting(model, plan, AdaptConfig(rank=training.rank, seed=training.seed), gates=gates)
        state = state_path(out, "low-rank")
        resumed(adapting, texts, training.rank_steps, state, lambda step: on_step("low-rank", step))
        adapter = adapting.adapter(info)
    save(out, adapter)
    _clear(out)
    return adapter


def resumed(
    trainer: Trainer[Result],
    texts: Callable[[int], Tensor],
    total: int,
    state: Path,
    on_step: Callable[[Any], None],
) -> Result:
    """Run a trainer until step `total`, from the state in a file if there is one; each step leaves its state there."""
    if state.is_file():
        trainer.load(state)
    if trainer.index > total:
        raise UsageError(f"{state} is of a run that made {trainer.index} steps already, {total} are asked for")

    def on_each(step: Any) -> None:
        trainer.save(state)
        on_step(step)

    return trainer.run(texts, total, on_each)


def sparse_layers(model: PreTrainedModel, plan: LayerPlan) -> list[int]:
    """Return the layers of a model that a plan makes sparse.

    Raises:
        UsageError: it makes none sparse, or the model can't be ported.
    """
    layers = [index for index in whole_layers(model) if isinstance(plan.at(index), Sparse)]
    if not layers:
        raise UsageError("the plan makes no layer sparse, so there is no gate to distil; give another one")
    return layers


def distill_config(model: PreTrainedModel, plan: LayerPlan, training: Training) -> DistillConfig:
    """Return how the gates of a plan are distilled: candidates as for the smallest of its budgets.

    Raises:
        UsageError: its sparse layers have blocks of different sizes, or a width is for a layer that is not sparse.
    """
    layers = sparse_layers(model, plan)
    entries = {index: entry for index in layers if isinstance(entry := plan.at(index), Sparse)}
    if len(sizes := {entry.budget.block for entry in entries.values()}) > 1:
        raise UsageError(f"the plan's sparse layers have blocks of {sorted(sizes)} keys; distil each kind by itself")
    if extra := sorted(set(training.widths) - set(layers)):
        raise UsageError(f"there is a width for layer {extra[0]}, which the plan does not make sparse")
    smallest = min(entries.values(), key=lambda entry: entry.budget.keep)
    heads, groups = model.config.num_attention_heads, model.config.num_key_value_heads
    head_dim = getattr(model.config, "head_dim", None) or model.config.hidden_size // heads
    widths = {index: min(training.widths.get(index, training.width), head_dim) for index in layers}
    return DistillConfig(
        budget=smallest.budget,
        sub=smallest.sub,
        shapes={index: (widths[index], entry.sub) for index, entry in entries.items()},
        queries=min(MAX_QUERIES, heads // groups),
        width=min(training.width, head_dim),
        seed=training.seed,
    )


# -- what was begun ------------------------------------------------------------------------------


def state_path(out: Path, stage: str) -> Path:
    """Return where the state of a stage lies while `out` is in the making."""
    return out.with_name(f"{out.name}.{stage}.state")


def _settings_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.run.json")


def is_begun(out: Path) -> bool:
    """Tell whether a run for this file was begun and not finished."""
    return _settings_path(out).is_file()


def _facts(
    model: PreTrainedModel, corpora: Mapping[str, Tensor], plan: LayerPlan, training: Training
) -> dict[str, Any]:
    """Return what must not change while a run is gone on with; the number of steps may."""
    digest = hashlib.sha256()
    for name, ids in sorted(corpora.items()):
        digest.update(f"{name} {len(ids)}\n".encode() + ids.numpy().tobytes())
    return {
        "model": fingerprint(model),
        "plan": plan.to_dict(),
        "texts": digest.hexdigest(),
        "length": training.length,
        "widths": {str(index): width for index, width in sorted(training.widths.items())} | {"": training.width},
        "seed": training.seed,
    }


def _begin(out: Path, facts: Mapping[str, Any], *, restart: bool) -> None:
    """Note what a run is begun with, or check that it is what it was begun with."""
    if restart:
        _clear(out)
        out.unlink(missing_ok=True)
    if out.exists():
        raise UsageError(f"{out} exists; name another file, or --restart to replace it")
    if is_begun(out):
        try:
            begun = read_json(_settings_path(out))
        except ModelFileError as error:
            raise ModelFileError(f"{error}; --restart begins anew") from error
        if differing := [name for name, value in facts.items() if begun.get(name) != value]:
            raise UsageError(
                f"a run for {out} was begun with other settings (the {differing[0]} differs); give the same ones to "
                "go on, or --restart to begin anew"
            )
        return
    write_text(_settings_path(out), json.dumps(facts, indent=2) + "\n")


def _clear(out: Path) -> None:
    """Remove what a run left beside its file."""
    for path in (_settings_path(out), *(state_path(out, stage) for stage in ("gates", "low-rank"))):
        path.unlink(missing_ok=True)
