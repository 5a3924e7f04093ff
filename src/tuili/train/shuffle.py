"""A random order of n things that needs no memory: the place of each is computed when it is asked for.

The order is that of a Feistel network over the next larger power of four; a number that falls outside of n goes through
it again until it falls inside. It depends on n and the key alone, not on a library's random numbers.

Source: Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains, sections 3 (cycle walking) and 5 (Feistel).
"""

from __future__ import annotations

from typing import Any

import numpy as np

ROUNDS = 8
Integers = np.ndarray[Any, np.dtype[np.int64]]


def shuffled(places_N: Integers, n: int, *key: int) -> Integers:
    """Return which of n things is at each place of the order that belongs to a key.

    Args:
        places_N: of 0 .. n - 1.
        n: how many things there are.
        key: whole numbers, such as a seed and an epoch.
    """
    half = max(1, -(-max(1, (n - 1).bit_length()) // 2))
    round_keys = _round_keys(key)
    values_N = _feistel(places_N.astype(np.uint64), half, round_keys)
    while (outside_N := values_N >= n).any():
        values_N[outside_N] = _feistel(values_N[outside_N], half, round_keys)
    return values_N.astype(np.int64)


def _feistel(values_N: Any, half: int, round_keys: Any) -> Any:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left_N, right_N = values_N >> shift, values_N & mask
    for round_key in round_keys:
        left_N, right_N = right_N, left_N ^ (_mixed(right_N ^ round_key) & mask)
    return (left_N << shift) | right_N


def _round_keys(key: tuple[int, ...]) -> Any:
    state = np.zeros(1, dtype=np.uint64)
    for number in key:
        state = _mixed(state ^ np.uint64(number % 2**64))
    return _mixed(state + np.arange(1, ROUNDS + 1, dtype=np.uint64))


def _mixed(values_N: Any) -> Any:
    """Spread the bits of 64-bit numbers. Source: Steele, Lea and Flood 2014, SplittableRandom, mix64variant13."""
    values_N = values_N + np.uint64(0x9E3779B97F4A7C15)
    values_N = (values_N ^ (values_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values_N = (values_N ^ (values_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values_N ^ (values_N >> np.uint64(31))
