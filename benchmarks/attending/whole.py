"""Whole prefill and decode, ported, with SDPA and with FlexAttention; growth with the length; memory."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from attending.flex import flex_attention
from attending.footprint import footprint
from attending.inputs import decoder, text_ids
from attending.timing import MIB, Side, alternate, memory, seconds, slope, speedup
from runner import Options, Result, say

TARGETS = {8: 1.4, 16: 2.3, 32: 4.0}
SLOPE_TARGET, SLOPE_FROM = 1.1, 8
STEPS = 24
NOTHING, FLEX = "tuili-benchmark-nothing", "tuili-benchmark-flex"


@dataclass(frozen=True, slots=True)
class Plan:
    """Pairs of prefills by length in thousands of tokens, 0: tuili alone; and the lengths after which to decode.

    Of prefills of the lengths in `memory` the memory is measured too, each side in a process of its own; at the lengths
    in `flex` FlexAttention takes its turn in every round.
    """

    prefill: Mapping[int, int]
    decode: tuple[int, ...]
    memory: tuple[int, ...] = ()
    flex: tuple[int, ...] = ()


@dataclass(slots=True)
class Models:
    """Both sides, what stands for attention where FlexAttention is the third, and the caches of the last prefills."""

    dense: Any
    tuili: Any
    flex: Callable[..., Any] | None = None
    caches: dict[str, Any] = field(default_factory=dict)


SMOKE = {dtype: Plan({2: 1}, (2,), (2,)) for dtype in ("fp32", "bf16")}
DEFAULT = {"fp32": Plan({4: 1, 8: 1, 16: 1, 32: 1, 64: 0}, (8, 32), (8,), (4,)), "bf16": Plan({8: 1}, (8,))}
FULL_PREFILL = {4: 3, 8: 3, 16: 3, 32: 1, 64: 1}
FULL = {dtype: Plan(FULL_PREFILL, (8, 32), (8, 16), tuple(FULL_PREFILL)) for dtype in ("fp32", "bf16")}


def whole(options: Options) -> Iterator[Result]:
    """Yield prefill and decode at each length, and the slope."""
    for dtype, plan in _plans(options).items():
        slope_name = "prefill.slope" if dtype == "fp32" else f"prefill.{dtype}.slope"
        chosen = _chosen(plan, dtype, options, slope_name)
        if not chosen.prefill and not chosen.decode:
            continue
        models = _models(dtype, flex_attention() if chosen.flex else None)
        times: dict[int, float] = {}
        for length in sorted({*chosen.prefill, *chosen.decode}):
            found = _prefill(models, length, chosen.prefill.get(length, 0), is_three=length in chosen.flex)
            if length in chosen.prefill:
                times[length] = found["tuili"].median
                yield from _prefill_results(models, f"prefill.{length}k.{dtype}", length, found)
                if length in chosen.memory:
                    sides = (footprint(side, dtype, length * 1024) for side in ("tuili", "dense"))
                    yield from memory(f"prefill.{length}k.{dtype}", *sides)
            if length in chosen.decode:
                yield from _decode(models, f"decode.{length}k.{dtype}", length)
            models.caches.clear()
        late = {length: value for length, value in times.items() if length >= SLOPE_FROM}
        if len(late) > 2:
            yield Result(slope_name, slope(late), "", None, len(late), None, SLOPE_TARGET)


def _plans(options: Options) -> Mapping[str, Plan]:
    """Return by dtype what an extent holds; say what a default one leaves out."""
    if options.smoke or options.full:
        return SMOKE if options.smoke else FULL
    say("  left out without --full: prefill beside FlexAttention above 4k and in bf16, bf16 at other lengths than 8k,")
    say("  SDPA at 64k")
    return DEFAULT


def _chosen(plan: Plan, dtype: str, options: Options, slope_name: str) -> Plan:
    """Return the part of a plan that is asked for; of the slope alone tuili's side."""
    if options.only == slope_name:
        return Plan({length: 0 for length in plan.prefill if length >= SLOPE_FROM}, ())
    prefill = {length: pairs for length, pairs in plan.prefill.items() if options.wants(f"prefill.{length}k.{dtype}")}
    decode = tuple(length for length in plan.decode if options.wants(f"decode.{length}k.{dtype}"))
    flex = tuple(length for length in plan.flex if options.wants(f"prefill.{length}k.{dtype}.flex"))
    return Plan(prefill, decode, plan.memory, flex)


def _models(dtype: str, flex: Callable[..., Any] | None) -> Models:
    import tuili

    models = Models(decoder(dtype), decoder(dtype), flex)
    tuili.port(models.tuili)
    ids = text_ids(256)
    for side in ("dense", "tuili"):
        _fill(models, side, ids)
    if flex is not None:
        _fill_flex(models, ids)
    models.caches.clear()
    return models


def _prefill(models: Models, length: int, pairs: int, *, is_three: bool) -> dict[str, Side]:
    """Run prefills in turn, or tuili alone once without pairs; all caches but FlexAttention's stay in `models`."""
    say(f"  prefill of {length}k tokens, {models.dense.dtype}")
    ids = text_ids(length * 1024)
    chosen = ("dense", "tuili") if pairs else ("tuili",)
    sides = {side: partial(_fill, models, side, ids) for side in chosen}
    if is_three and pairs and models.flex is not None:
        sides["flex"] = partial(_fill_flex, models, ids)
    return alternate(sides, max(1, pairs))


def _fill(models: Models, side: str, ids: Any) -> None:
    import torch

    models.caches.pop(side, None)
    with torch.no_grad():
        models.caches[side] = getattr(models, side)(ids, use_cache=True, logits_to_keep=1).past_key_values


def _fill_flex(models: Models, ids: Any) -> Any:
    """Run a prefill of the dense model with FlexAttention in place of SDPA and return what the model gives."""

    def flex(_: Any, q: Any, k: Any, v: Any, *__: Any, **___: Any) -> tuple[Any, None]:
        return models.flex(q, k, v).transpose(1, 2), None

    return _swapped(models.dense, FLEX, flex, ids)


def _swapped(model: Any, name: str, attention: Callable[..., tuple[Any, None]], ids: Any) -> Any:
    """Run a prefill with another attention."""
    import torch

    from tuili.porting.swap import attention_swapped

    with torch.no_grad(), attention_swapped(model, name, attention):
        return model(ids, use_cache=True, logits_to_keep=1)


def _prefill_results(models: Models, name: str, length: int, found: Mapping[str, Side]) -> Iterator[Result]:
    if "dense" in found:
        linear = _linear(models.dense, length)
        yield from speedup(name, found, target=TARGETS.get(length))
        yield seconds(f"{name}.linear.time", linear)
        yield Result(f"{name}.ceiling", found["dense"].median / linear.median, "x", None, 1)
    if "flex" in found:
        yield from speedup(f"{name}.flex", found, peer="flex", shown="FlexAttention")
    yield seconds(f"{name}.tuili.time", found["tuili"])


def _linear(model: Any, length: int) -> Side:
    """Time the model with attention left out: each head's query stands for its output."""

    def nothing(module: Any, q: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        return q.transpose(1, 2), None

    ids = text_ids(length * 1024)
    return alternate({"linear": partial(_swapped, model, NOTHING, nothing, ids)}, 1)["linear"]


def _decode(models: Models, name: str, length: int) -> Iterator[Result]:
    """Decode after the caches that the prefill left; where only tuili ran, both go on from a copy of its."""
    say(f"  decode after {length}k tokens, {models.dense.dtype}")
    caches = models.caches
    caches.setdefault("dense", copy.deepcopy(caches["tuili"]))
    token = text_ids(length * 1024)[:, -1:]
    sides = {side: partial(_step, getattr(models, side), token, caches[side]) for side in ("dense", "tuili")}
    found = alternate(sides, STEPS, warm_up=True)
    yield from speedup(name, found)
    yield seconds(f"{name}.tuili.time", found["tuili"])
    dense, tuili = (_cache_bytes(caches[side]) / MIB for side in ("dense", "tuili"))
    yield from memory(name, tuili + _gate_bytes() / MIB, dense)


def _step(model: Any, token: Any, cache: Any) -> None:
    """Decode one token after the cache's."""
    import torch

    with torch.no_grad():
        model(token, past_key_values=cache, use_cache=True)


def _cache_bytes(cache: Any) -> int:
    return sum(x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values))


def _gate_bytes() -> int:
    """Return the memory of all gate keys that are kept beside caches."""
    from tuili.attention.cache import GatePool

    gc.collect()
    return sum(each.num_bytes for each in gc.get_objects() if type(each) is GatePool)
