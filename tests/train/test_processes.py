import threading

import pytest
import torch.distributed as dist

from tuili.errors import TuiliError, UsageError
from tuili.train.processes import join, meet
from tuili.train.spec import ParallelSpec


def meeting(store, size, late=()):
    """What each of some processes gets, those in `late` after the others."""
    found = {}
    threads = [
        threading.Thread(target=lambda rank=rank: found.__setitem__(rank, meet(store, rank, size, 20.0)))
        for rank in sorted(range(size), key=lambda rank: (rank in late, rank))
    ]
    for number, thread in enumerate(threads):
        if number == size - len(late):
            threading.Event().wait(0.3)
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(size)]


@pytest.mark.parametrize("late", [(), (0,), (2,), (0, 1)])
def test_processes_agree_though_the_store_remembers_earlier_ones(late):
    store = dist.HashStore()
    attempts = []
    for _ in range(3):
        found = meeting(store, 3, late)
        assert len(set(found)) == 1
        attempts.append(found[0])
    assert len(set(attempts)) == 3


def test_a_process_that_does_not_come_is_told():
    with pytest.raises(TuiliError, match=r"the processes \[1\] did not come within 0 s"):
        meet(dist.HashStore(), 0, 2, 0.2)
    with pytest.raises(TuiliError, match="the first process did not come"):
        meet(dist.HashStore(), 1, 2, 0.2)


def test_the_number_of_processes_must_be_that_of_the_layout(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(UsageError, match=r"needs 2 processes \(pp 1 x dp 2 x tp 1\), 4 were started"),
        join(ParallelSpec(dp_shard=2), 1.0),
    ):
        pass


def test_one_process_joins_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join(ParallelSpec(), 1.0) as session:
        assert not dist.is_initialized() and session.control.gather(3) == [3]
