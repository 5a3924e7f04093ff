"""The processes of a run: one, or those that torchrun started on one or several hosts."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tuili.errors import TuiliError, UsageError
from tuili.train.control import Control
from tuili.train.heartbeat import Heartbeat
from tuili.train.spec import ParallelSpec

TIMEOUT_S = 1800.0
"""The longest that one collective operation may take; a dead process is noticed by its heartbeat long before."""
JOIN_S = 600.0
"""The longest that processes wait for each other at the beginning."""
POLL_S = 0.05
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
        yield Session(_device(), Control())
        return
    device = _device()
    timeout = timedelta(seconds=TIMEOUT_S)
    shared, rank, _ = next(iter(dist.rendezvous("env://", timeout=timeout)))
    attempt = meet(shared, rank, size)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = dist.PrefixStore(f"{attempt}/training", shared)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    # A store of its own, so that the heartbeat does not wait for what the main thread waits for.
    heartbeat = Heartbeat(dist.PrefixStore(f"{attempt}/heartbeat", shared.clone()), rank, size, patience_s)
    try:
        with _explained(patience_s):
            yield Session(device, Control())
    finally:
        heartbeat.close()
        dist.destroy_process_group()


def _device() -> torch.device:
    """Return the GPU of this process, or the CPU; other devices lack the float64 that sums are made in."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def meet(store: Any, rank: int, size: int, timeout_s: float = JOIN_S) -> str:
    """Return a name for this attempt of a run that all its processes agree on.

    torchrun keeps the store when it starts processes anew, and its count of restarts differs between hosts, so what is
    in the store may come from processes that are dead. Each process says a word that nobody said before. The first one
    answers what it hears with its own word, again when it hears another one, until everybody has repeated that.

    Raises:
        TuiliError: not all processes came in time.
    """
    word = uuid.uuid4().hex
    deadline = time.monotonic() + timeout_s
    if rank:
        store.set(f"meet/{rank}/says", word)
        while not (answer := _heard(store, f"meet/{rank}/answer")).startswith(word):
            _wait(deadline, "the first process did not come", timeout_s)
        attempt = answer.removeprefix(word)
        store.set(f"meet/{attempt}/{rank}", "")
        return attempt
    missing = set(range(1, size))
    while missing := {other for other in missing if not store.check([f"meet/{word}/{other}"])}:
        for other in missing:
            store.set(f"meet/{other}/answer", _heard(store, f"meet/{other}/says") + word)
        _wait(deadline, f"the processes {sorted(missing)} did not come", timeout_s)
    return word


def _heard(store: Any, key: str) -> str:
    return str(store.get(key).decode()) if store.check([key]) else ""


def _wait(deadline: float, problem: str, timeout_s: float) -> None:
    if time.monotonic() > deadline:
        raise TuiliError(f"{problem} within {timeout_s:.0f} s; see that all hosts were started and reach each other")
    time.sleep(POLL_S)


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
