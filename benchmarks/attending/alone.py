"""Attention alone: three layers as shipped, selection included, against SDPA and FlexAttention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from attending.flex import flex_attention
from attending.inputs import some_layers
from attending.timing import alternate, seconds, speedup
from runner import Options, Result, say

DTYPES = ("fp32", "bf16")
TARGETS = {8: 3.0, 16: 6.0, 32: 12.0}
ROUNDS = {4: 3, 8: 3, 16: 1, 32: 1}
ROUNDS_FULL = {4: 5, 8: 5, 16: 3, 32: 1, 64: 1}
FLEX = {"fp32": (4, 8), "bf16": ()}  # thousand tokens, in a default run


def alone(options: Options) -> Iterator[Result]:
    """Yield speedups, times, ceilings and the selection's part at each length."""
    rounds = ROUNDS_FULL if options.full else ROUNDS
    lengths = (4,) if options.smoke else tuple(rounds)
    wanted = {dtype: [n for n in lengths if options.wants(f"attention.{n}k.{dtype}")] for dtype in DTYPES}
    if not any(wanted.values()):
        return
    longest = max(max(each, default=0) for each in wanted.values())
    say(f"  three layers' queries and keys for {longest}k tokens of text")
    layers = some_layers(longest * 1024)
    flex = flex_attention()
    if not options.full:
        say(f"  left out without --full: 64k tokens; FlexAttention above {max(FLEX['fp32'])}k and in bf16")
    for dtype, chosen in wanted.items():
        for place, length in enumerate(chosen):
            say(f"  attention over {length}k tokens, {dtype}")
            some = [(module, _first(inputs, length, dtype)) for module, inputs in layers]
            peer = flex if options.full or length in FLEX[dtype] else None
            yield from _length(some, f"attention.{length}k.{dtype}", peer, rounds[length], is_first=place == 0)


def _first(inputs: Sequence[Any], length: int, dtype: str) -> list[Any]:
    """Return the first tokens of queries, keys and values, in the memory order that a model has."""
    import torch

    to = torch.float32 if dtype == "fp32" else torch.bfloat16
    return [x[:, :, : length * 1024].transpose(1, 2).to(to).contiguous().transpose(1, 2) for x in inputs]


Layers = Sequence[tuple[Any, Sequence[Any]]]


def _length(
    layers: Layers, name: str, flex: Callable[..., Any] | None, rounds: int, *, is_first: bool
) -> Iterator[Result]:
    import torch

    num_keys = layers[0][1][1].shape[2]
    length = num_keys // 1024
    sdpa = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    sides: dict[str, Callable[[], Any]] = {
        "dense": lambda: [sdpa(*inputs) for _, inputs in layers],
        "tuili": lambda: [module.tuili(*inputs, None, module.scaling) for module, inputs in layers],
    }
    if flex is not None:
        sides["flex"] = lambda: [flex(*inputs) for _, inputs in layers]
    with torch.no_grad():
        found = alternate(sides, rounds, warm_up=is_first or rounds > 1)
    yield from speedup(name, found, target=TARGETS.get(length))
    yield seconds(f"{name}.tuili.time", found["tuili"])
    if flex is not None:
        yield from speedup(f"{name}.flex", found, peer="flex", shown="FlexAttention")
    kept = sum(budget.keep * budget.block for module, _ in layers for budget in (module.tuili.entry.budget,))
    yield Result(f"{name}.ceiling", max(1.0, num_keys / 2 * len(layers) / kept), "x", None, 1)
    spent = [each for module, inputs in layers if (each := _selection(module, inputs, rounds)) is not None]
    if spent:
        yield Result(f"{name}.selection.time", sum(spent), "s", None, rounds)


def _selection(module: Any, inputs: Sequence[Any], rounds: int) -> float | None:
    """Return what choosing blocks takes: the late tokens' call less attention over the blocks it chose, in seconds."""
    import torch

    from tuili.attention import reader
    from tuili.attention.kernels import sparse_attention

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    gated = reader.gated_attention

    def note(*args: Any, **keywords: Any) -> Any:
        calls.append((args, keywords))
        return gated(*args, **keywords)

    with torch.no_grad():
        reader.gated_attention = note  # type: ignore[assignment]
        try:
            module.tuili(*inputs, None, module.scaling)
        finally:
            reader.gated_attention = gated
        if not calls:  # all tokens lie before the crossover
            return None
        args, keywords = calls[0]
        _, blocks = gated(*args, **{**keywords, "return_blocks": True})
        budget = module.tuili.entry.budget
        attend = partial(sparse_attention, *args[:3], blocks, block=budget.block, scale=module.scaling)
        sides = {"both": partial(gated, *args, **keywords), "attend": attend}
        found = alternate(sides, rounds)
    return max(0.0, found["both"].median - found["attend"].median)
