"""Processes for a test: forked after one import, so that many start in no time, and gone when it ends."""

from __future__ import annotations

import multiprocessing as mp
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.pipelining
import torch.distributed.tensor.parallel  # so that it is imported once, not in each process

TIMEOUT_S = 120
GRACE_S = 1.0
"""How long others may take to say what went wrong, once one has failed."""


def run_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Run `function(*args)` on so many processes of a gloo group; return what each returned.

    The test fails with the traceback of the first rank that raised, or died, or when it takes over TIMEOUT_S.
    """
    context = mp.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ends = [context.Pipe(duplex=False) for _ in range(world_size)]
        ranks = [
            context.Process(target=_run, args=(rank, world_size, Path(folder) / "store", sending, function, args))
            for rank, (_, sending) in enumerate(ends)
        ]
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
                for each in ranks:
                    each.start()
            for _, sending in ends:
                sending.close()
            return _collect([receiving for receiving, _ in ends])
        finally:
            for each in ranks:
                each.kill()
                each.join()


def _collect(connections: list[Connection]) -> list[Any]:
    """Return the result of each rank, or fail with what went wrong first, which peers that lost it only follow."""
    outcomes: dict[int, tuple[float, bool, Any]] = {}
    deadline = time.monotonic() + TIMEOUT_S
    while len(outcomes) < len(connections):
        waiting = {connection: rank for rank, connection in enumerate(connections) if rank not in outcomes}
        if not (ready := wait(waiting, max(0.0, deadline - time.monotonic()))):
            break
        for connection in ready:
            outcome = _receive(connection)  # type: ignore[arg-type]
            outcomes[waiting[connection]] = outcome  # type: ignore[index]
            if not outcome[1]:
                deadline = min(deadline, time.monotonic() + GRACE_S)
    if failed := sorted((when, rank) for rank, (when, is_done, _) in outcomes.items() if not is_done):
        rank = failed[0][1]
        pytest.fail(f"rank {rank} {outcomes[rank][2]}", pytrace=False)
    if len(outcomes) < len(connections):
        pytest.fail(f"the ranks {sorted(waiting.values())} were not done after {TIMEOUT_S} s")
    return [outcomes[rank][2] for rank in range(len(connections))]


def _receive(connection: Connection) -> tuple[float, bool, Any]:
    """Return when a rank was done, whether it went well, and its result or what went wrong; death comes first."""
    try:
        return pickle.loads(connection.recv_bytes())
    except EOFError:
        return 0.0, False, "died"


def _run(
    rank: int, world_size: int, store: Path, sending: Connection, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
        )
        result, is_done = function(*args), True
    except BaseException:
        result, is_done = f"raised\n{traceback.format_exc()}", False
    # Pickled here, since a connection would share the memory of tensors with a process that is gone soon.
    sending.send_bytes(pickle.dumps((time.monotonic(), is_done, result)))
    if is_done:
        time.sleep(TIMEOUT_S)  # peers may still need this rank; the parent ends it
