"""The engine: optimiser steps over a global batch, in any layout of processes.

A step's loss is the mean over all labelled tokens of the global batch, and so is its gradient, however rows are cut
into processes and micro-batches and however many tokens of each are padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from tuili.errors import InputError, UsageError
from tuili.train.spec import ParallelSpec, TrainingConfig

IGNORED = -100
"""The label of a token that has no loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of tokens.

    Attributes:
        ids_BT: token ids.
        labels_BT: the token to be predicted at each, which is the next one; IGNORED where there is no loss.
    """

    ids_BT: Tensor
    labels_BT: Tensor

    def __post_init__(self) -> None:
        if self.ids_BT.ndim != 2 or self.ids_BT.shape != self.labels_BT.shape:
            raise InputError(
                f"ids have the shape {list(self.ids_BT.shape)}, labels {list(self.labels_BT.shape)}; both must be the "
                "same [rows, tokens]"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step did; the same on every process.

    Attributes:
        loss: mean cross-entropy over the labelled tokens of the global batch, in nats.
        grad_norm: of all gradients together, before clipping.
        num_tokens: labelled tokens of the global batch.
        skipped: a gradient was not finite, so nothing was changed.
    """

    loss: float
    grad_norm: float
    num_tokens: int
    skipped: bool


class Engine:
    """A model under training. `build_engine` makes one.

    Attributes:
        parts: what this process holds of the model, with the names of the whole one.
        optimizers: one for each part.
        mesh: of the processes; None on one process.
        dp_rank: which of the dp_size shares of a global batch this process computes.
    """

    def __init__(self, parts: list[nn.Module], spec: ParallelSpec, training: TrainingConfig) -> None:
        self.parts = parts
        self.spec = spec
        self.training = training
        self.optimizers: list[Optimizer] = [make_optimizer(part, training) for part in parts]
        self.mesh: DeviceMesh | None = None
        self.dp_rank, self.dp_size = 0, spec.dp_size

    def step(self, batch: Batch) -> StepReport:
        """Make one optimiser step over this process's rows of a global batch.

        Every process calls it, those with the same dp_rank with the same rows; all with equally many.

        Raises:
            InputError: the rows don't divide into micro-batches, or no token of the global batch has a label.
        """
        num_tokens = self._num_tokens(batch)
        for part in self.parts:
            part.train()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss_sum = 0.0
        for ids_bT, labels_bT in self._passes(batch):
            loss = loss_of(self.parts[0](input_ids=ids_bT, use_cache=False).logits, labels_bT)
            (loss / num_tokens).backward()
            loss_sum += loss.item()
        norm = self._finish()
        return StepReport(
            loss=loss_sum / num_tokens, grad_norm=norm, num_tokens=num_tokens, skipped=not math.isfinite(norm)
        )

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> tuple[float, int]:
        """Return the summed loss of a global batch in nats and its labelled tokens; called as `step` is."""
        num_tokens = self._num_tokens(batch)
        self.parts[0].eval()
        losses = [
            loss_of(self.parts[0](input_ids=ids_bT, use_cache=False).logits, labels_bT).item()
            for ids_bT, labels_bT in self._passes(batch)
        ]
        return math.fsum(losses), num_tokens

    def _num_tokens(self, batch: Batch) -> int:
        if len(batch.ids_BT) % self.spec.row_unit:
            raise InputError(
                f"{len(batch.ids_BT)} rows a process don't divide into micro-batches of {self.spec.row_unit}; change "
                "the batch or micro_batch"
            )
        num_tokens = int((batch.labels_BT != IGNORED).sum())
        if not num_tokens:
            raise InputError("no token of the global batch has a label, so there is no loss; give other rows")
        return num_tokens

    def _passes(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        size = self.spec.micro_batch
        return list(zip(batch.ids_BT.split(size), batch.labels_BT.split(size), strict=True))

    def _finish(self) -> float:
        """Clip the gradients and let the optimisers step, unless a gradient is not finite; return the norm before."""
        parameters = [parameter for part in self.parts for parameter in part.parameters()]
        norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        if torch.isfinite(norm):
            if self.training.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.training.clip_norm, norm)
            for optimizer in self.optimizers:
                optimizer.step()
        return norm.item()


def build_engine(
    make_model: Callable[[], nn.Module],
    spec: ParallelSpec,
    training: TrainingConfig,
    *,
    device: torch.device | None = None,
) -> Engine:
    """Return an engine for a model, which every process must make alike.

    Args:
        make_model: returns a Hugging Face decoder: `model(input_ids=..., use_cache=False).logits`.
        spec: the layout.
        training: how to train.
        device: of this process; None: the CPU.
    """
    if spec.world_size > 1:
        raise UsageError(f"the layout needs {spec.world_size} processes, this is one")
    return Engine([make_model().to(device or torch.device("cpu"))], spec, training)


def make_optimizer(part: nn.Module, training: TrainingConfig) -> Optimizer:
    """Return AdamW over a part; vectors have no weight decay."""
    parameters = [each for each in part.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
    )


def loss_of(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Return the summed cross-entropy of the labelled tokens, in nats and float32."""
    return nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1).float(), labels_BT.flatten(), ignore_index=IGNORED, reduction="sum"
    )
