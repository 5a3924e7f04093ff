"""The processes of a run: one, or those that torchrun started on one or several hosts."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tuili.errors import TuiliError, UsageError
from tuili.runtime import choose_device
from tuili.train.control import Control
from tuili.train.heartbeat import Heartbeat
from tuili.train.spec import ParallelSpec

TIMEOUT_S = 1800.0
"""The longest that one collective operation may take; a dead process is noticed by its heartbeat long before."""
COLLECTIVE_ERROR = re.compile(r"gloo|nccl|connection|socket|timed? ?out", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Session:
    """This process among those of a run."""

    device: torch.device
    control: Control


@contextlib.contextmanager
def join(spec: ParallelSpec, patience_s: float) -> Iterator[Session]:
    """Join the processes of a run for a block: RANK and WORLD_SIZE say which there are, as torchrun sets them.

    A process that dies while the block runs ends it on all others, with its name (`tuili.train.heartbeat`).

    Raises:
        UsageError: the layout needs another number of processes.
        TuiliError: another process ended.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != spec.world_size:
        raise UsageError(
            f"the layout needs {spec.world_size} processes (pp {spec.pp} x dp {spec.dp_size} x tp {spec.tp}), {size} "
            f"were started; start {spec.world_size} with torchrun, or change parallel"
        )
    if size == 1:
        yield Session(choose_device(), Control())
        return
    device = _device()
    store, rank, _ = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=TIMEOUT_S))))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group(
        backend, store=dist.PrefixStore("training", store), rank=rank, world_size=size, timeout=timeout
    )
    heartbeat = Heartbeat(_own(store), rank, size, patience_s)
    try:
        with _explained(patience_s):
            yield Session(device, Control())
    finally:
        heartbeat.close()
        dist.destroy_process_group()


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _own(store: Any) -> Any:
    """Return a store of the heartbeat's own, so that it does not wait for what the main thread waits for."""
    return dist.PrefixStore("heartbeat", store.clone())


@contextlib.contextmanager
def _explained(patience_s: float) -> Iterator[None]:
    """Turn a broken connection into an error for people; of a process that died the heartbeat tells first."""
    try:
        yield
    except RuntimeError as error:
        if not COLLECTIVE_ERROR.search(str(error)):
            raise
        time.sleep(patience_s + 5)
        raise TuiliError(
            f"another process of the run ended; its own message says why. Here this was seen: {str(error)[:300]}"
        ) from error
