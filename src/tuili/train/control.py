"""What the processes of a run tell each other besides tensors: small objects, over a group of their own on the CPU."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


class Control:
    """Exchanges objects between all processes; on one process each method returns at once.

    Every process makes one and calls the same methods in the same order. Objects are pickled on the way, between the
    run's own processes only.
    """

    def __init__(self) -> None:
        is_many = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if is_many else 0
        self.size = dist.get_world_size() if is_many else 1
        self._group = dist.new_group(backend="gloo") if self.size > 1 else None

    def gather(self, value: Value) -> list[Value]:
        """Return the value of every process, in the order of their ranks."""
        if self._group is None:
            return [value]
        found: list[Value | None] = [None] * self.size
        dist.all_gather_object(found, value, group=self._group)
        return found  # type: ignore[return-value]

    def share(self, value: Value) -> Value:
        """Return what the first process gives."""
        if self._group is None:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, group=self._group)
        return held[0]

    def least(self, value: int) -> int:
        """Return the smallest number that a process gives."""
        if self._group is None:
            return value
        held = torch.tensor(value)
        dist.all_reduce(held, dist.ReduceOp.MIN, group=self._group)
        return int(held)
