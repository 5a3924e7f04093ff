import threading
import time

import pytest
import torch.distributed as dist

from tuili.train import heartbeat
from tuili.train.heartbeat import PREFIX, Heartbeat

PATIENCE_S = 0.5


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)


class Heard:
    """What a heartbeat said of the death of another."""

    def __init__(self):
        self.message, self._done = "", threading.Event()

    def __call__(self, message):
        self.message = message
        self._done.set()

    def within(self, seconds):
        return self._done.wait(seconds)


def test_a_process_that_falls_silent_is_named(quick):
    store, heard = dist.HashStore(), Heard()
    store.set(f"{PREFIX}/1/who", "process 1 (pid 77 on node7)")
    store.add(f"{PREFIX}/1/count", 1)
    beating = Heartbeat(store, 0, 2, PATIENCE_S, heard)
    assert heard.within(20)
    assert "process 1 (pid 77 on node7) has been silent" in heard.message
    beating.close()


def test_a_process_that_never_came_is_told(quick):
    heard = Heard()
    beating = Heartbeat(dist.HashStore(), 0, 2, PATIENCE_S, heard)
    assert heard.within(20) and "process 1, which never began, has been silent" in heard.message
    beating.close()


def test_processes_that_beat_or_ended_well_are_not_dead(quick):
    store, heard = dist.HashStore(), Heard()
    first, second = (Heartbeat(store, rank, 2, PATIENCE_S, heard) for rank in range(2))
    assert not heard.within(4 * PATIENCE_S)
    second.close()
    assert not heard.within(4 * PATIENCE_S), "it said that it ended"
    first.close()


def test_a_process_that_was_stopped_itself_blames_nobody(quick, monkeypatch):
    store, heard = dist.HashStore(), Heard()
    clock = {"skip": 0.0}
    real = time.monotonic
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: real() + clock["skip"])
    first, second = (Heartbeat(store, rank, 2, 100.0, heard) for rank in range(2))
    clock["skip"] = 1000.0
    assert not heard.within(1)
    first.close()
    second.close()


def test_a_store_that_is_gone_is_told(quick):
    class Gone(dist.Store):
        calls = 0

        def set(self, key, value):
            pass

        def add(self, key, value):
            Gone.calls += 1
            if Gone.calls > 5:
                raise dist.DistNetworkError("broken")
            return Gone.calls

        def check(self, keys):
            return False

    heard = Heard()
    Heartbeat(Gone(), 0, 1, PATIENCE_S, heard)
    assert heard.within(20) and "the store that the processes met in is gone" in heard.message
