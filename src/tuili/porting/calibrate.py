"""Choosing a layer plan from measured loss: the fewest keys whose loss stays below a budget.

Each layer is changed alone, in each way that it could be, and the loss of the text's second half is measured. The sum
of these increases predicts that of a whole plan; layers act on each other, so the plan that is chosen is measured as a
whole, on other text.

Complexity, with C ways, L layers and W texts: C L / 2 forwards a text, for the layers below the changed one are not
run again. Memory: the hidden states of one text between all layers, L N D.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tuili.attention.gate import Gate
from tuili.attention.plan import DENSE_UP_TO, Dense, Entry, LayerPlan, Pooled, Sparse, wide
from tuili.attention.select import Budget
from tuili.errors import InputError, UsageError
from tuili.porting.hf import port, ported_layers, unport, whole_layers
from tuili.porting.passes import decoder_layers, losses, replaced_forward

KEEPS = (32, 48, 64, 96)
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateConfig:
    """What a layer may become, and what all of them may cost.

    Attributes:
        max_loss: by which fraction the perplexity may grow, 0.012 is 1.2 %.
        keeps: blocks that a sparse layer may keep.
        crossover: of the plan: tokens before it read every key.

    Raises:
        UsageError: a value is out of its bounds.
    """

    max_loss: float = 0.012
    keeps: Sequence[int] = KEEPS
    crossover: int = DENSE_UP_TO

    def __post_init__(self) -> None:
        if not 0 <= self.max_loss < 1:
            raise UsageError(f"the loss must be at least 0 and below 1, not {self.max_loss}; 0.012 is 1.2 %")
        if not self.keeps:
            raise UsageError("there must be at least one number of blocks that a sparse layer may keep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way in which a layer could read.

    Attributes:
        entry: its plan.
        keys_per_token: keys that a token of the calibration texts reads on average.
        increase: of the loss in nats if this layer alone reads so; may be below 0 by chance.
    """

    entry: Entry
    keys_per_token: float
    increase: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A plan and what it costs.

    Attributes:
        plan: what was chosen.
        predicted: by which fraction the perplexity grows, from the increases of the single layers.
        measured: the same, of the whole plan on other text.
        keys_per_token: keys that a token reads on average, over the layers that had a choice.
        keys_dense: the same for the dense model.
        ways: what was measured, by layer.
        length: tokens of the texts.
    """

    plan: LayerPlan
    predicted: float
    measured: float
    keys_per_token: float
    keys_dense: float
    ways: Mapping[int, Sequence[Way]] = field(repr=False)
    length: int


def split(corpora: Mapping[str, Tensor], length: int, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return texts [length] to choose by and other ones to check by, up to `count` of each, from all corpora.

    Raises:
        InputError: the corpora do not hold two.
    """
    pieces = [
        [ids[begin : begin + length] for begin in range(0, len(ids) - length + 1, length)]
        for _, ids in sorted(corpora.items())
    ]
    # One corpus after the other, so that a few texts are of as many kinds as they can be.
    depth = max(map(len, pieces), default=0)
    texts = [each[index] for index in range(depth) for each in pieces if index < len(each)]
    if len(texts) < 2:
        sizes = ", ".join(f"{name} has {len(ids)}" for name, ids in sorted(corpora.items()))
        raise InputError(
            f"the texts hold {len(texts)} pieces of {length} tokens ({sizes}), at least 2 are needed: one to choose "
            "by, one to check by; give more text, or a smaller length"
        )
    number = min(count, len(texts) // 2)
    return texts[:number], texts[number : 2 * number]


@torch.no_grad()
def calibrate(
    model: PreTrainedModel,
    choose: Sequence[Tensor],
    check: Sequence[Tensor],
    config: CalibrateConfig,
    *,
    gates: Mapping[int, Gate] | None = None,
    on_progress: OnProgress | None = None,
) -> Calibrated:
    """Choose what each layer reads; the same texts give the same plan.

    Args:
        model: a decoder with a language model head that is not ported; it is not changed.
        choose: token ids [N] of the texts to choose by, all of one length.
        check: other ones to measure the chosen plan on.
        config: what may be chosen.
        gates: distilled gates by layer; a layer without one is measured training-free.
        on_progress: called with stage, measurements done and in all.

    Raises:
        InputError: a text is too short to have a choice.
        UsageError: the model can't be ported, or gates and ways do not fit.
    """
    on_progress = on_progress or (lambda stage, done, total: None)
    length = _common_length([*choose, *check], config)
    gates = dict(gates or {})
    ways = _measure_ways(model, choose, config, gates, on_progress)
    chosen = choose_ways(ways, math.log1p(config.max_loss))
    plan = _plan({layer: way.entry for layer, way in chosen.items()}, config.crossover)
    kept = {layer: gate for layer, gate in gates.items() if isinstance(plan.at(layer), Sparse)}
    increases = []
    for done, ids in enumerate(check):
        on_progress("checking the whole plan", done, len(check))
        dense = _mean_loss(model, ids)
        with _ported(model, plan, kept):
            increases.append(_mean_loss(model, ids) - dense)
    number = len(chosen)
    return Calibrated(
        plan=plan,
        predicted=math.expm1(sum(max(0.0, way.increase) for way in chosen.values())),
        measured=math.expm1(sum(increases) / len(increases)),
        keys_per_token=sum(way.keys_per_token for way in chosen.values()) / number,
        keys_dense=sum(max(way.keys_per_token for way in each) for each in ways.values()) / number,
        ways=ways,
        length=length,
    )


def choose_ways(ways: Mapping[int, Sequence[Way]], max_increase: float) -> dict[int, Way]:
    """Return a way for each layer: few keys, the increases in all at most `max_increase` nats.

    Greedy: from the way of the most keys, take again and again the change that costs the least loss for the keys it
    saves and still fits. Increases below 0 are noise and count as 0.
    """
    chosen = {layer: max(each, key=lambda way: way.keys_per_token) for layer, each in ways.items()}
    while True:
        spent = sum(max(0.0, way.increase) for way in chosen.values())
        best: tuple[float, float, int, Way] | None = None
        for layer, each in ways.items():
            for way in each:
                saved = chosen[layer].keys_per_token - way.keys_per_token
                cost = max(0.0, way.increase) - max(0.0, chosen[layer].increase)
                if saved <= 0 or spent + cost > max_increase:
                    continue
                rank = (cost / saved, -saved, layer, way)
                if best is None or rank[:3] < best[:3]:
                    best = rank
        if best is None:
            return chosen
        chosen[best[2]] = best[3]


# -- measuring -----------------------------------------------------------------------------------


def _measure_ways(
    model: PreTrainedModel,
    texts: Sequence[Tensor],
    config: CalibrateConfig,
    gates: Mapping[int, Gate],
    on_progress: OnProgress,
) -> dict[int, list[Way]]:
    layers = whole_layers(model)
    entries = {layer: _entries(config, gates.get(layer)) for layer in layers}
    total = len(texts) * sum(map(len, entries.values()))
    sums = {layer: [0.0] * len(each) for layer, each in entries.items()}
    keys = {layer: [0.0] * len(each) for layer, each in entries.items()}
    done = 0
    for ids in texts:
        outputs, dense = _run_dense(model, ids)
        for layer, each in entries.items():
            for at, entry in enumerate(each):
                on_progress("measuring each layer alone", done, total)
                plan = LayerPlan(default=Dense(), layers={layer: entry}, crossover=config.crossover)
                own = {layer: gates[layer]} if layer in gates and isinstance(entry, Sparse) else {}
                with _ported(model, plan, own), _replayed(model, outputs[:layer]):
                    num_keys = ported_layers(model)[layer].keys_of_first(len(ids))
                    keys[layer][at] = num_keys / len(ids)
                    if num_keys < len(ids) * (len(ids) + 1) // 2:  # who reads every key loses nothing
                        sums[layer][at] += _mean_loss(model, ids) - dense
                done += 1
    return {
        layer: [
            Way(entry=entry, keys_per_token=keys[layer][at], increase=sums[layer][at] / len(texts))
            for at, entry in enumerate(each)
        ]
        for layer, each in entries.items()
    }


def _entries(config: CalibrateConfig, gate: Gate | None) -> list[Entry]:
    """Return what a layer may become."""
    sub = Sparse().sub if gate is None else gate.shape.sub
    sparse = [Sparse(budget=Budget(keep=keep), sub=sub) for keep in sorted(config.keeps, reverse=True)]
    return [wide(), *sparse, Pooled()]


def _run_dense(model: PreTrainedModel, ids: Tensor) -> tuple[list[Any], float]:
    """Return what each layer of the dense model puts out, and the mean loss."""
    outputs: list[Any] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, output: outputs.append(output))
        for layer in decoder_layers(model)
    ]
    try:
        dense = _mean_loss(model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs[: len(decoder_layers(model))], dense


@contextlib.contextmanager
def _replayed(model: PreTrainedModel, outputs: Sequence[Any]) -> Iterator[None]:
    """Have the first layers put out what they did before, without running them."""
    with contextlib.ExitStack() as stack:
        for layer, output in zip(decoder_layers(model), outputs, strict=False):
            stack.enter_context(replaced_forward(layer, lambda *args, output=output, **kwargs: output))
        yield


@contextlib.contextmanager
def _ported(model: PreTrainedModel, plan: LayerPlan, gates: Mapping[int, Gate]) -> Iterator[None]:
    port(model, plan, gates=gates)
    try:
        yield
    finally:
        unport(model)


def _mean_loss(model: PreTrainedModel, ids: Tensor) -> float:
    """Return the mean loss of a text's second half in nats."""
    hidden_ND = model.base_model(ids[None].to(model.device), use_cache=False).last_hidden_state[0]
    return float(losses(model, hidden_ND[len(ids) // 2 - 1 :], ids.to(model.device)).mean())


def _common_length(texts: Sequence[Tensor], config: CalibrateConfig) -> int:
    """Return the length of all texts.

    Raises:
        InputError: there is none, they differ, or no token of theirs has a choice.
    """
    lengths = {len(ids) for ids in texts}
    if len(lengths) != 1:
        raise InputError(f"the texts must have one length, not {sorted(lengths)}")
    length = lengths.pop()
    least = max(config.crossover, min(config.keeps) * Budget().block)
    if length <= least:
        raise InputError(
            f"texts of {length} tokens have nothing to choose: tokens before {least} read every key (crossover, and "
            f"the smallest budget); give longer ones"
        )
    return length


def _plan(entries: Mapping[int, Entry], crossover: int) -> LayerPlan:
    """Return a plan of single layers; its default is what most of them do."""
    default = max(entries.values(), key=list(entries.values()).count)
    return LayerPlan(
        default=default,
        layers={layer: entry for layer, entry in entries.items() if entry != default},
        crossover=crossover,
    )
