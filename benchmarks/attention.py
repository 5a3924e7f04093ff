"""Speed of dynamic sparse attention on SmolLM2-135M: attention alone, whole prefill, decode, growth with the length.

Dense and sparse runs alternate in one process; a speedup is the median of the paired ratios. Lengths above the
model's window of 8,192 measure speed only. `--full` is set by TUILI_FULL=1: every length paired.
"""

from __future__ import annotations

import copy
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from runner import Options, Result, run, say

DTYPES = ("fp32", "bf16")
ATTENTION_TARGETS = {8: 3.0, 16: 6.0, 32: 12.0}
PREFILL_TARGETS = {8: 1.4, 16: 2.3, 32: 4.0}
SLOPE_TARGET = 1.1
MODEL = "smollm2-135m"
HEADS, GROUPS, HEAD_DIM = 9, 3, 64
DECODE_STEPS = 24


@dataclass(frozen=True, slots=True)
class Paired:
    """Seconds of runs that alternated; the other side may be missing."""

    dense: tuple[float, ...]
    sparse: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times as long the dense run of each pair took."""
        return [dense / sparse for dense, sparse in zip(self.dense, self.sparse, strict=True)]


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for."""
    if options.test is not None:
        say("--test changes nothing here: speed hangs on the length alone; benchmarks/port_quality.py reads texts")
    lengths = (2,) if options.smoke else (4, 8, 16, 32)
    if options.wants("attention."):
        yield from _attention(lengths, options)
    if options.wants("prefill."):
        yield from _prefill(options)
    if options.wants("decode."):
        yield from _decode((2,) if options.smoke else (8, 32), options)


def paired(dense: Callable[[], Any], sparse: Callable[[], Any], pairs: int) -> Paired:
    """Run both sides in turn after one unmeasured run of each."""
    if pairs > 1:
        dense(), sparse()
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for call, seconds in zip((dense, sparse), spent, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return Paired(tuple(spent[0]), tuple(spent[1]))


def speedup(
    name: str, found: Paired, target: float | None, peer: str, ceiling: float | None = None
) -> Iterator[Result]:
    """Yield the median ratio with the quartiles' distance, both times, and the ceiling that stands beside it."""
    ratios = found.ratios
    yield Result(
        f"{name}.speedup",
        statistics.median(ratios),
        "x",
        _quartiles(ratios),
        len(ratios),
        {"name": peer, "value": 1.0},
        target,
    )
    for side, seconds in (("dense", found.dense), ("tuili", found.sparse)):
        yield Result(f"{name}.{side}.time", statistics.median(seconds), "s", _quartiles(seconds), len(seconds))
    if ceiling is not None:
        yield Result(f"{name}.ceiling", ceiling, "x", None, 1)


def _quartiles(values: Sequence[float]) -> float | None:
    if len(values) < 3:
        return None
    first, _, third = statistics.quantiles(values, n=4)
    return third - first


# -- attention alone -----------------------------------------------------------------------------


def _attention(lengths: Sequence[int], options: Options) -> Iterator[Result]:
    import torch

    from tuili.attention.gate import Gate
    from tuili.attention.kernels import gated_attention
    from tuili.porting.layers import Sparse

    entry = Sparse()
    budget, gate = entry.budget, Gate.training_free(HEADS, GROUPS, HEAD_DIM, entry.sub)
    for dtype in DTYPES:
        for length in lengths:
            if not options.wants(f"attention.{length}k.{dtype}"):
                continue
            q, k, v = _inputs(length * 1024, dtype)

            def sparse(q: Any = q, k: Any = k, v: Any = v) -> Any:
                return gated_attention(q, k, v, gate.queries(q), gate.keys(k), budget)

            def dense(q: Any = q, k: Any = k, v: Any = v) -> Any:
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

            with torch.no_grad():
                found = paired(dense, sparse, 1 if length > 16 else 3 if length > 8 else 7)
            kept = budget.keep * budget.block
            ceiling = max(1.0, length * 1024 / 2 / kept)
            yield from speedup(f"attention.{length}k.{dtype}", found, ATTENTION_TARGETS.get(length), "SDPA", ceiling)


def _inputs(num_keys: int, dtype: str) -> tuple[Any, Any, Any]:
    """Return q, k, v whose neighbours are alike, as a text's are."""
    import torch

    generator = torch.Generator().manual_seed(num_keys)
    to = torch.float32 if dtype == "fp32" else torch.bfloat16

    def draw(heads: int) -> Any:
        steps = torch.randn(1, heads, num_keys, HEAD_DIM, generator=generator)
        return (0.8 * steps + steps.roll(1, 2) + steps.roll(2, 2)).to(to)

    return draw(HEADS), draw(GROUPS), draw(GROUPS)


# -- whole prefill -------------------------------------------------------------------------------


def _prefill(options: Options) -> Iterator[Result]:
    full = bool(os.environ.get("TUILI_FULL"))
    for dtype in DTYPES:
        plan = [(2, 1)] if options.smoke else [(4, 3), (8, 3), (16, 1), (32, 1), (64, 1 if full else 0)]
        plan = [(length, pairs) for length, pairs in plan if options.wants(f"prefill.{length}k.{dtype}")]
        slopes = options.wants(f"prefill.{dtype}.slope") or options.wants("prefill.slope")
        if not plan and not slopes:
            continue
        dense, sparse = _model(dtype), _model(dtype)
        _port(sparse)
        seconds: dict[int, float] = {}
        for length, pairs in plan:
            say(f"  prefill of {length}k tokens, {dtype}")
            ids = _ids(length * 1024)
            if pairs:
                found = paired(partial(_run, dense, ids), partial(_run, sparse, ids), pairs)
                yield from speedup(f"prefill.{length}k.{dtype}", found, PREFILL_TARGETS.get(length), "SDPA")
                seconds[length] = statistics.median(found.sparse)
            elif dtype == "fp32" or full:
                start = time.perf_counter()
                _run(sparse, ids)
                seconds[length] = time.perf_counter() - start
                yield Result(f"prefill.{length}k.{dtype}.tuili.time", seconds[length], "s", None, 1)
        late = {length: value for length, value in seconds.items() if length >= 8}
        if len(late) > 2:
            name = "prefill.slope" if dtype == "fp32" else f"prefill.{dtype}.slope"
            yield Result(name, slope(late), "", None, len(late), None, SLOPE_TARGET)


def slope(seconds: dict[int, float]) -> float:
    """Return the slope of log time over log length, by least squares."""
    xs = [math.log(length) for length in seconds]
    ys = [math.log(value) for value in seconds.values()]
    return statistics.linear_regression(xs, ys).slope


# -- decode --------------------------------------------------------------------------------------


def _decode(lengths: Sequence[int], options: Options) -> Iterator[Result]:
    import torch

    for dtype in DTYPES:
        lengths = [length for length in lengths if options.wants(f"decode.{length}k.{dtype}")]
        if not lengths:
            continue
        dense, sparse = _model(dtype), _model(dtype)
        _port(sparse)
        for length in lengths:
            say(f"  decode after {length}k tokens, {dtype}")
            ids = _ids(length * 1024)
            with torch.no_grad():
                cache = sparse(ids, logits_to_keep=1, use_cache=True).past_key_values
            caches = copy.deepcopy(cache), cache
            found = paired(
                partial(_step, dense, ids, caches[0]),
                partial(_step, sparse, ids, caches[1]),
                DECODE_STEPS,
            )
            yield from speedup(f"decode.{length}k.{dtype}", found, None, "SDPA")


def _step(model: Any, ids: Any, cache: Any) -> None:
    """Decode one token after the cache's."""
    import torch

    with torch.no_grad():
        model(ids[:, -1:], past_key_values=cache, use_cache=True)


# -- the model -----------------------------------------------------------------------------------


def _model(dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from tuili.model.packaged import ensure

    to = torch.float32 if dtype == "fp32" else torch.bfloat16
    return AutoModelForCausalLM.from_pretrained(ensure(MODEL), dtype=to).eval()


def _port(model: Any) -> None:
    import tuili

    tuili.port(model)


def _ids(length: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(length)
    return torch.randint(100, 40_000, (1, length), generator=generator)


def _run(model: Any, ids: Any) -> None:
    import torch

    with torch.no_grad():
        model(ids, use_cache=False, logits_to_keep=1)


if __name__ == "__main__":
    run("Speed of sparse attention", measure)
