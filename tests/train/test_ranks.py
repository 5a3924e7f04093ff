import multiprocessing
import os
import time

import pytest
import ranks
import torch
import torch.distributed as dist
from ranks import run_ranks


def add_up(offset):
    total = torch.tensor(dist.get_rank() + offset)
    dist.all_reduce(total)
    return int(total), dist.get_rank()


def fail_on_one():
    if dist.get_rank() == 1:
        raise ValueError("no luck here")
    dist.barrier()


def die_on_one():
    if dist.get_rank() == 1:
        os._exit(3)
    dist.barrier()


def test_each_rank_returns_its_result():
    assert run_ranks(3, add_up, 10) == [(33, 0), (33, 1), (33, 2)]


def test_tensors_come_back_after_their_process_is_gone():
    results = run_ranks(2, torch.full, (2, 2), 7.0)
    assert all(torch.equal(each, torch.full((2, 2), 7.0)) for each in results)


def test_a_rank_that_raises_fails_the_test_with_its_traceback():
    with pytest.raises(pytest.fail.Exception, match=r"(?s)rank 1 raised.*fail_on_one.*ValueError: no luck here"):
        run_ranks(2, fail_on_one)
    assert not multiprocessing.active_children()


def test_a_rank_that_dies_is_named():
    with pytest.raises(pytest.fail.Exception, match="rank 1 died"):
        run_ranks(2, die_on_one)
    assert not multiprocessing.active_children()


def test_ranks_that_take_too_long_are_named_and_gone(monkeypatch):
    monkeypatch.setattr(ranks, "TIMEOUT_S", 0.3)
    with pytest.raises(pytest.fail.Exception, match=r"the ranks \[0, 1\] were not done after 0.3 s"):
        run_ranks(2, time.sleep, 60)
    assert not multiprocessing.active_children()
