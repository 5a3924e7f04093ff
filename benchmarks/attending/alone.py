"""Attention alone: three layers as shipped, selection included, against SDPA and FlexAttention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from attending.inputs import some_layers
from attending.timing import alternate, seconds, speedup
from runner import Options, Result, say

DTYPES = ("fp32", "bf16")
TARGETS = {8: 3.0, 16: 6.0, 32: 12.0}
ROUNDS = {4: 5, 8: 5, 16: 2, 32: 1, 64: 1}
FLEX_UP_TO = 8  # thousand tokens, in a default run
TILE = 128


def alone(options: Options) -> Iterator[Result]:
    """Yield speedups, times, ceilings and the selection's part at each length."""
    lengths = (4,) if options.smoke else (4, 8, 16, 32, 64) if options.full else (4, 8, 16, 32)
    wanted = {dtype: [n for n in lengths if options.wants(f"attention.{n}k.{dtype}")] for dtype in DTYPES}
    if not any(wanted.values()):
        return
    longest = max(max(each, default=0) for each in wanted.values())
    say(f"  three layers' queries and keys for {longest}k tokens of text")
    layers = some_layers(longest * 1024)
    flex = flex_attention()
    if not options.full and max(lengths) > FLEX_UP_TO:
        say(f"  left out without --full: FlexAttention above {FLEX_UP_TO}k tokens")
    for dtype, chosen in wanted.items():
        for place, length in enumerate(chosen):
            say(f"  attention over {length}k tokens, {dtype}")
            some = [(module, _first(inputs, length, dtype)) for module, inputs in layers]
            peer = flex if options.full or length <= FLEX_UP_TO else None
            yield from _length(some, f"attention.{length}k.{dtype}", peer, place == 0)


def _first(inputs: Sequence[Any], length: int, dtype: str) -> list[Any]:
    """Return the first tokens of queries, keys and values, in the memory order that a model has."""
    import torch

    to = torch.float32 if dtype == "fp32" else torch.bfloat16
    return [x[:, :, : length * 1024].transpose(1, 2).to(to).contiguous().transpose(1, 2) for x in inputs]


Layers = Sequence[tuple[Any, Sequence[Any]]]


def _length(layers: Layers, name: str, flex: Callable[..., Any] | None, is_first: bool) -> Iterator[Result]:
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
        found = alternate(sides, ROUNDS[length], warm_up=is_first or ROUNDS[length] > 1)
    yield from speedup(name, found, target=TARGETS.get(length))
    yield seconds(f"{name}.tuili.time", found["tuili"])
    if flex is not None:
        yield from speedup(f"{name}.flex", found, peer="flex", shown="FlexAttention")
    kept = sum(budget.keep * budget.block for module, _ in layers for budget in (module.tuili.entry.budget,))
    yield Result(f"{name}.ceiling", max(1.0, num_keys / 2 * len(layers) / kept), "x", None, 1)
    spent = [each for module, inputs in layers if (each := _selection(module, inputs)) is not None]
    if spent:
        yield Result(f"{name}.selection.time", sum(spent), "s", None, 3)


def _selection(module: Any, inputs: Sequence[Any]) -> float | None:
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
        found = alternate(sides, 3, warm_up=True)
    return max(0.0, found["both"].median - found["attend"].median)


# -- FlexAttention -------------------------------------------------------------------------------


def flex_attention() -> Callable[..., Any] | None:
    """Return FlexAttention, causal and compiled for this processor, or None where it can't be, which is said."""
    import torch
    from torch.nn.attention.flex_attention import flex_attention as uncompiled

    compiled = torch.compile(uncompiled, dynamic=True)

    def attend(q: Any, k: Any, v: Any) -> Any:
        return compiled(q, k, v, block_mask=causal(k.shape[2]), enable_gqa=True)

    try:
        small = torch.zeros(1, 3, 2 * TILE, 64), *(torch.zeros(1, 1, 2 * TILE, 64) for _ in range(2))
        with torch.no_grad():
            attend(*small)
    except RuntimeError as error:
        say(f"  FlexAttention does not compile here and is left out: {str(error).splitlines()[0]}")
        return None
    return attend


def causal(num_keys: int) -> Any:
    """Return the causal block mask, made from indices: only the tiles on the diagonal ask the mask function."""
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    num_tiles = -(-num_keys // TILE)
    at = torch.arange(num_tiles, dtype=torch.int32)
    diagonal = torch.nn.functional.pad(at[:, None], (0, num_tiles - 1))[None, None]
    return BlockMask.from_kv_blocks(
        torch.ones_like(at)[None, None],
        diagonal,
        at[None, None],
        at.expand(1, 1, num_tiles, num_tiles).contiguous(),
        BLOCK_SIZE=TILE,
        mask_mod=lambda b, h, q, k: q >= k,
        seq_lengths=(num_keys, num_keys),
        compute_q_blocks=False,
    )
