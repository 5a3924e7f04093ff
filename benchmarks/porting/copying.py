"""Copying at a distance: passages, filler, and the passages again in another order; loss on the second copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner import Result, half_width

NUM_PASSAGES, PASSAGE = 8, 64
UNSURE = 8
"""First tokens of a copy that do not count: they decide which passage it is."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Token ids, and the places that count: those of the second copies [P, PASSAGE - UNSURE]."""

    ids: list[int]
    at: np.ndarray


def copies(ids: Sequence[int], length: int, seed: int = 0) -> Copies:
    """Return a task of `length` tokens made of a text's.

    Passages are evenly spread stretches of the text's last part, filler is its beginning, so that neither holds the
    other. The distance between a passage and its copy is at least `length` - 2 * NUM_PASSAGES * PASSAGE.

    Raises:
        ValueError: the text is too short.
    """
    num_copied = NUM_PASSAGES * PASSAGE
    num_filler = length - 2 * num_copied
    if num_filler < 0 or len(ids) < num_filler + num_copied:
        raise ValueError(f"{len(ids)} tokens are too few for a task of {length} with {num_copied} copied ones")
    starts = np.linspace(num_filler, len(ids) - PASSAGE, NUM_PASSAGES).astype(int)
    passages = [list(ids[start : start + PASSAGE]) for start in starts]
    order = np.random.default_rng(seed).permutation(NUM_PASSAGES)
    first = [token for passage in passages for token in passage]
    second = [token for place in order for token in passages[place]]
    at = length - num_copied + np.arange(num_copied).reshape(NUM_PASSAGES, PASSAGE)
    return Copies([*first, *ids[:num_filler], *second], at[:, UNSURE:])


def copying(prefix: str, task: Copies, losses: Mapping[str, np.ndarray]) -> Iterator[Result]:
    """Yield the loss on the second copies, dense, and how much it rises in each other way to run.

    Args:
        prefix: of the rows' names.
        task: what was read.
        losses: [N] in nats by way; "dense" is one.
    """
    dense = losses["dense"][task.at]
    passages = [passage for passage in range(len(task.at)) for _ in range(task.at.shape[1])]
    yield Result(f"{prefix}.dense.loss", float(dense.mean()), "nats", None, dense.size)
    for way, found in losses.items():
        if way != "dense":
            gaps = (found[task.at] - dense).ravel()
            name = f"{prefix}.loss_increase" if way == "tuili" else f"peer.{way}.{prefix}.loss_increase"
            yield Result(name, float(gaps.mean()), "nats", half_width(gaps, passages), gaps.size)
