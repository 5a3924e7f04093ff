"""The forward and backward passes of a step: micro-batches through a whole model, or through a pipeline of stages.

A loss is a sum over tokens times a factor that the engine gives (one over the labelled tokens of the global batch), so
it does not matter how tokens are spread over micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    FORWARD,
    RECV_F,
    RESHARD,
    SEND_F,
    UNSHARD,
    _PipelineSchedule,
    _PipelineScheduleRuntime,
    get_schedule_class,
)

from tuili.errors import InputError
from tuili.train.spec import ONE_STAGE, ParallelSpec

IGNORED = -100
"""The label of a token that has no loss."""
Context = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of tokens.

    Attributes:
        ids_BT: token ids.
        labels_BT: the token to be predicted at each, which is the next one; IGNORED where there is no loss.

    Raises:
        InputError: the shapes differ, or are not those of rows of tokens.
    """

    ids_BT: Tensor
    labels_BT: Tensor

    def __post_init__(self) -> None:
        if self.ids_BT.ndim != 2 or self.ids_BT.shape != self.labels_BT.shape:
            raise InputError(
                f"ids have the shape {list(self.ids_BT.shape)}, labels {list(self.labels_BT.shape)}; both must be the "
                "same [rows, tokens]"
            )

    def split(self, size: int) -> list[Batch]:
        """Return batches of `size` rows."""
        pairs = zip(self.ids_BT.split(size), self.labels_BT.split(size), strict=True)
        return [Batch(ids_BT=ids_bT, labels_BT=labels_bT) for ids_bT, labels_bT in pairs]


def loss_of(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Return the summed cross-entropy of the labelled tokens, in nats; computed in float32 at least."""
    logits_MV = logits_BTV.flatten(0, 1)
    return nn.functional.cross_entropy(
        logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32)),
        labels_BT.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )


class Passes:
    """Micro-batches one after the other through a whole model."""

    def __init__(self, model: nn.Module, spec: ParallelSpec, context: Context) -> None:
        self.model, self.spec, self.context = model, spec, context

    def train(self, batch: Batch, factor: float) -> Tensor:
        """Add the gradients of the summed loss times `factor`; return the summed loss."""
        total = torch.zeros((), dtype=torch.float64)
        passes = batch.split(self.spec.micro_batch)
        for index, each in enumerate(passes):
            self._sync_gradients(index == len(passes) - 1)
            with self.context():
                loss = loss_of(self.model(input_ids=each.ids_BT, use_cache=False).logits, each.labels_BT)
            (loss * factor).backward()
            total = total.to(loss.device) + loss.detach()
        return total

    def evaluate(self, batch: Batch) -> Tensor:
        """Return the summed loss."""
        total = torch.zeros((), dtype=torch.float64)
        for each in batch.split(self.spec.micro_batch):
            with self.context():
                loss = loss_of(self.model(input_ids=each.ids_BT, use_cache=False).logits, each.labels_BT)
            total = total.to(loss.device) + loss
        return total

    def _sync_gradients(self, is_last: bool) -> None:
        """Have copies sum their gradients after the last pass only; shards are summed after each, to free the rest."""
        if isinstance(self.model, FSDPModule) and self.spec.dp_replicate > 1:
            if self.spec.dp_shard > 1:
                self.model.set_requires_all_reduce(is_last)
            else:
                self.model.set_requires_gradient_sync(is_last)


class Pipeline:
    """Runs of a pipeline, each over some micro-batches; further rows are further runs, whose gradients add up.

    torch's own schedules. They infer shapes at their first run, so a batch with rows of another length gets new ones,
    and training and evaluation have one each.
    """

    def __init__(
        self,
        parts: dict[int, nn.Module],
        spec: ParallelSpec,
        group: ProcessGroup,
        device: torch.device,
        context: Context,
    ) -> None:
        self.parts, self.spec, self.group, self.device, self.context = parts, spec, group, device, context
        self._factor = 1.0
        self._schedules: dict[bool, tuple[int, _PipelineSchedule]] = {}

    def train(self, batch: Batch, factor: float) -> Tensor:
        """Add the gradients of the summed loss times `factor`; return the summed loss, 0 without the last stage."""
        self._factor = factor
        return self._run(batch, is_training=True) / factor

    def evaluate(self, batch: Batch) -> Tensor:
        """Return the summed loss, 0 without the last stage."""
        self._factor = 1.0
        return self._run(batch, is_training=False)

    def _run(self, batch: Batch, *, is_training: bool) -> Tensor:
        schedule = self._schedule(batch.ids_BT.shape[1], is_training=is_training)
        run = schedule.step if is_training else schedule.eval
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for each in batch.split(self.spec.row_unit):
            losses: list[Tensor] = []
            inputs = (each.ids_BT,) if 0 in self.parts else ()
            target = each.labels_BT if self.spec.num_stages - 1 in self.parts else None
            with self.context():
                run(*inputs, target=target, losses=losses, return_outputs=False)
            for loss in losses:
                total += loss.detach()
        return total

    def _schedule(self, length: int, *, is_training: bool) -> _PipelineSchedule:
        if is_training not in self._schedules or self._schedules[is_training][0] != length:
            self._schedules[is_training] = length, self._make_schedule(is_training=is_training)
        return self._schedules[is_training][1]

    def _make_schedule(self, *, is_training: bool) -> _PipelineSchedule:
        stages = [
            PipelineStage(part, index, self.spec.num_stages, self.device, group=self.group)
            for index, part in self.parts.items()
        ]
        make = get_schedule_class(self.spec.schedule)
        held = stages[0] if self.spec.schedule in ONE_STAGE else stages
        # Gradients are not divided by the number of micro-batches: the factor of the loss is right already.
        schedule = make(held, self.spec.passes, loss_fn=self._loss, scale_grads=False)
        if isinstance(schedule, _PipelineScheduleRuntime) and not is_training:
            _forget_backward(schedule)
        return schedule

    def _loss(self, logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
        return loss_of(logits_BTV, labels_BT) * self._factor


def _forget_backward(schedule: _PipelineScheduleRuntime) -> None:
    """Have a schedule go forward only; torch's own evaluation fails where neighbouring stages share a process."""
    kept = (FORWARD, SEND_F, RECV_F, UNSHARD, RESHARD)
    for rank, actions in schedule.pipeline_order_with_comms.items():
        schedule.pipeline_order_with_comms[rank] = [each for each in actions if each.computation_type in kept]
