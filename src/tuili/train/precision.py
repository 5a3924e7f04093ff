"""Precision: what is computed in, while parameters, gradients' sums and the optimiser's state stay float32.

Where data parallelism manages the parameters, they are cast as they are gathered (`policy`). Elsewhere torch's autocast
picks the dtype of each operation; the two are never both on, since autocast keeps casts of gathered parameters that are
gone by the next micro-batch, which gives wrong gradients without an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

from tuili.errors import UsageError
from tuili.train.spec import TrainingConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FIRST_SCALE, GROWTH_STEPS = 2.0**16, 2000


def policy(training: TrainingConfig) -> MixedPrecisionPolicy:
    """Return how managed parameters are cast: gradients are summed over processes in float32."""
    if training.precision == "float32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=DTYPES[training.precision], reduce_dtype=torch.float32)


@contextmanager
def computing(training: TrainingConfig, device: torch.device, *, is_managed: bool) -> Iterator[None]:
    """Have passes compute in the precision asked for; in float32, and where a policy casts, nothing is cast here.

    Autocast's cache of cast weights is off, since a pipeline has many passes in one context. torch's warning that a
    managed module returns a view is for callers who change it in place, which nobody does here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
        if training.precision == "float32" or is_managed:
            yield
        else:
            with torch.autocast(device.type, DTYPES[training.precision], cache_enabled=False):
                yield


def check_no_autocast(device: torch.device) -> None:
    """Check that a step is not under somebody else's autocast.

    Raises:
        UsageError: it is.
    """
    if torch.is_autocast_enabled(device.type):
        raise UsageError(
            "the engine is called under torch.autocast, which gives wrong gradients with sharded parameters; leave it "
            "and set the training's precision"
        )


def set_tf32(training: TrainingConfig, device: torch.device) -> None:
    """Let float32 products have 10 bits of mantissa, or all 23; a process has one setting.

    Raises:
        UsageError: it is asked for on another device than a GPU.
    """
    if training.tf32 and device.type != "cuda":
        raise UsageError(f"tf32 has no effect on the device {device.type}; leave it out")
    torch.set_float32_matmul_precision("high" if training.tf32 else "highest")


class LossScale:
    """The factor of the loss in float16: halved when a gradient overflows, doubled after many steps that went well.

    In other precisions it is 1. Every process sees the same gradient norm, so all have the same factor.

    Source: Micikevicius et al. 2018, Mixed precision training, section 3.2.
    """

    def __init__(self, training: TrainingConfig) -> None:
        self.is_on = training.precision == "float16"
        self.factor = FIRST_SCALE if self.is_on else 1.0
        self.good_steps = 0

    def update(self, *, overflowed: bool) -> None:
        """Adapt the factor after a step."""
        if not self.is_on:
            return
        self.good_steps = 0 if overflowed else self.good_steps + 1
        if overflowed:
            self.factor /= 2
        elif self.good_steps % GROWTH_STEPS == 0:
            self.factor *= 2
