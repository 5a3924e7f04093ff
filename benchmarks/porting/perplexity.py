"""Perplexity of one text at one length: by position, against peers, with the same adaptation, on key tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from porting.peers import slug
from runner import Result, half_width

TARGET, TARGET_LENGTH = 0.012, 8192
BLOCK = 128
MARGIN = 2.0
"""A key token's loss in nats falls by so much when the context is whole and not short."""
NUM_QUARTERS = 4
HALF_OF_PEERS = 0.5


def size(length: int) -> str:
    """Return a length as names of results have it: 2k, 4k, 8k."""
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def increases(place: str, dense: np.ndarray, sparse: np.ndarray, peers: Mapping[str, np.ndarray]) -> Iterator[Result]:
    """Yield the perplexity increase over the second half, beside that of the peers, and by quarters of the text.

    All arrays are losses [N] in nats. The oracle looks at all attention, so it is no baseline.
    """
    num_tokens, half = len(dense), len(dense) // 2
    target = TARGET if num_tokens == TARGET_LENGTH else None
    by_peer = {name: increase(f"peer.{slug(name)}.{place}.ppl_increase", dense, each) for name, each in peers.items()}
    yield from by_peer.values()
    real = {name: row.value for name, row in by_peer.items() if name != "oracle"}
    best = min(real, key=real.__getitem__) if real else None
    baseline = {"name": best, "value": real[best]} if best else None
    yield Result(f"quality.{place}.dense.ppl", math.exp(float(dense[half:].mean())), "", None, num_tokens - half)
    ours = increase(f"quality.{place}.ppl_increase", dense, sparse, baseline=baseline, target=target)
    yield ours
    scorers = [value for name, value in real.items() if name != "sink+window"]
    if scorers and min(scorers) > 0:
        goal = HALF_OF_PEERS if target else None
        share = ours.value / min(scorers)
        yield Result(f"quality.{place}.share_of_peers_loss", share, "fraction", None, len(scorers), None, goal)
    edges = [max(1, num_tokens * quarter // NUM_QUARTERS) for quarter in range(NUM_QUARTERS + 1)]
    for quarter in range(NUM_QUARTERS):
        part = slice(edges[quarter], edges[quarter + 1])
        yield increase(f"quality.{place}.ppl_increase.q{quarter + 1}", dense, sparse, part)


def increase(
    name: str,
    dense: np.ndarray,
    sparse: np.ndarray,
    part: slice | None = None,
    *,
    baseline: dict[str, object] | None = None,
    target: float | None = None,
) -> Result:
    """Return the relative increase of perplexity over a part of a text, by default its second half.

    The spread is the 95 % interval over blocks of `BLOCK` tokens, in which losses hang together.
    """
    part = part or slice(len(dense) // 2, len(dense))
    gaps = sparse[part] - dense[part]
    blocks = np.array([block.mean() for block in np.array_split(gaps, max(1, len(gaps) // BLOCK))])
    spread = 1.96 * float(blocks.std() / math.sqrt(len(blocks)))
    return Result(name, math.expm1(float(gaps.mean())), "fraction", spread, len(gaps), baseline, target)


def key_tokens(dense: np.ndarray, short: np.ndarray) -> np.ndarray:
    """Return the places in the second half whose loss is lower by `MARGIN` nats in the whole than in a short context.

    Source: Fang et al. 2024, "What is Wrong with Perplexity for Long-context Language Modeling?" (LongPPL), here with
    the model as its own judge.
    """
    half = len(dense) // 2
    return half + np.flatnonzero(short[half:] - dense[half:] >= MARGIN)


def on_key_tokens(
    place: str, dense: np.ndarray, sparse: np.ndarray, short: np.ndarray, peers: Mapping[str, np.ndarray]
) -> Iterator[Result]:
    """Yield the mean increase of the loss on key tokens in nats, beside that of the peers."""
    at = key_tokens(dense, short)
    if not len(at):
        return
    gains = [float((each - dense)[at].mean()) for name, each in peers.items() if name != "oracle"]
    names = [name for name in peers if name != "oracle"]
    best = min(range(len(gains)), key=gains.__getitem__) if gains else None
    baseline = None if best is None else {"name": names[best], "value": gains[best]}
    gaps = (sparse - dense)[at]
    name = f"quality.{place}.key_tokens.loss_increase"
    yield Result(name, float(gaps.mean()), "nats", half_width(gaps, (at // BLOCK).tolist()), len(at), baseline)
    for method, each in peers.items():
        gaps = (each - dense)[at]
        name = f"peer.{slug(method)}.{place}.key_tokens.loss_increase"
        yield Result(name, float(gaps.mean()), "nats", half_width(gaps, (at // BLOCK).tolist()), len(at))
