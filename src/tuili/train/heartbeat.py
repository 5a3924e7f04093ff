"""Every process of a run tells the others that it lives; one that falls silent is named, and the run ends to resume.

Without this a process that was stopped or whose host is gone keeps the others waiting in a collective operation for as
long as their time-out, half an hour by default, and nobody says which one it was. The processes count up a key each in
the store that they met in; nothing is sent over the group that trains.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

BEAT_S = 1.0
"""Between two beats; a tenth of the patience if that is less."""
PREFIX = "tuili/beat"
DEAD = 70
"""The exit code of a process that found another one silent."""


class Heartbeat:
    """Beats for this process and watches the others, in a thread of its own, until it is closed.

    Covered: processes that were killed or stopped, hosts that are gone. Not covered: a process that lives but computes
    for ever; the group's time-out ends that one.

    Args:
        store: that the processes met in.
        rank: of this process.
        size: how many processes there are.
        patience_s: seconds of silence after which a process is taken for dead.
        on_death: called once with what happened; by default it is printed and this process ends with DEAD, since its
            main thread may wait for the dead one for ever.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        patience_s: float,
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        self._store, self._rank, self._size, self._patience_s = store, rank, size, patience_s
        self._beat_s = min(BEAT_S, patience_s / 10)
        self._on_death = on_death or _end
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        store.set(f"{PREFIX}/{rank}/who", f"process {rank} (pid {os.getpid()} on {socket.gethostname()})")
        self._beat()
        self._thread.start()

    def close(self) -> None:
        """Stop beating, and tell the others that this is the end of the run and no death."""
        self._closed.set()
        self._thread.join(timeout=10 * BEAT_S)
        try:
            self._store.set(f"{PREFIX}/{self._rank}/closed", "")
        except (dist.DistError, RuntimeError):
            return  # the store is gone, so nobody is left who could wonder

    def _beat(self) -> None:
        self._store.add(f"{PREFIX}/{self._rank}/count", 1)

    def _run(self) -> None:
        counts, heard = [0] * self._size, [time.monotonic()] * self._size
        last = time.monotonic()
        while not self._closed.wait(self._beat_s):
            try:
                self._beat()
                now = time.monotonic()
                if now - last > self._patience_s / 2:  # this process itself was stopped, and heard nothing meanwhile
                    heard = [now] * self._size
                last = now
                self._listen(counts, heard, now)
            except (dist.DistError, RuntimeError) as error:
                if not self._closed.is_set():
                    self._on_death(f"the store that the processes met in is gone, with the host that had it: {error}")
                return
            silent = [rank for rank in range(self._size) if last - heard[rank] > self._patience_s]
            if silent:
                self._tell(silent[0], last - heard[silent[0]])
                return

    def _listen(self, counts: list[int], heard: list[float], now: float) -> None:
        for rank in range(self._size):
            count = self._store.add(f"{PREFIX}/{rank}/count", 0)
            if count != counts[rank] or self._store.check([f"{PREFIX}/{rank}/closed"]):
                counts[rank], heard[rank] = count, now

    def _tell(self, rank: int, silence_s: float) -> None:
        key = f"{PREFIX}/{rank}/who"
        who = self._store.get(key).decode() if self._store.check([key]) else f"process {rank}, which never began,"
        self._on_death(f"{who} has been silent for {silence_s:.0f} s and is taken for dead")


def _end(message: str) -> None:
    os.write(
        2,
        f"error: {message}; the run ends here and resumes from its last checkpoint when it is started again\n".encode(),
    )
    os._exit(DEAD)
