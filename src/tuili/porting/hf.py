"""Dynamic sparse attention in a Hugging Face decoder: `port`, `unport`, `report`.

A ported model is the same object with the same weights, to which an adapter may add low-rank ones; its configuration
names tuili's attention, registered with the library together with a mask function. Without the latter the library
would hand over no mask at all, and padding would be lost silently. Ours returns the padding mask [B, N] or None and
refuses what that can't express; causality and windows are the attention's own.

Covered: decoders whose attention has `q_proj`, `k_proj`, `v_proj` and goes through the library's interface: Llama,
Qwen2, Qwen3, Mistral, Gemma, Gemma 2 without softcapping, Gemma 3 text, and what is built like them. Not covered:
static caches, packed sequences, attention weights as output, attention dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from tuili.attention import kernels, native
from tuili.attention.gate import Gate
from tuili.attention.plan import Entry, LayerPlan, Sparse, sandwich
from tuili.attention.reader import Reader, chain
from tuili.attention.recall import note_cache
from tuili.errors import UsageError
from tuili.model.reading import NAME, register
from tuili.porting import lowrank
from tuili.porting.adapter import Adapter, check, load, shipped
from tuili.porting.ported import Origin, PortedLayer

PARTS = ("layer_idx", "q_proj", "k_proj", "v_proj", "num_key_value_groups")
LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """What one layer does, and what it did since `port`; counts leave padding out.

    Attributes:
        index: the layer.
        kind: "dense", "sparse", "pooled", or "sliding": a window of the model's own.
        entry: the layer's plan; None for a sliding layer.
        num_tokens: query tokens.
        num_dense_tokens: those of them for which the dense path ran.
        num_keys: keys read, summed over the tokens.
    """

    index: int
    kind: str
    entry: Entry | None
    num_tokens: int
    num_dense_tokens: int
    num_keys: float

    @property
    def keys_per_token(self) -> float:
        """Keys that a query token read on average; 0 before the first forward."""
        return self.num_keys / self.num_tokens if self.num_tokens else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a ported model does.

    Attributes:
        kernel: which kernel runs, and why not a faster one.
        adapter: where gates and low-rank weights came from, and how many there are.
        crossover: tokens before this one read every key in sparse layers.
        layers: the layers in order.
    """

    kernel: str
    adapter: str
    crossover: int
    layers: tuple[LayerReport, ...]

    def __str__(self) -> str:
        lines = [f"kernel: {self.kernel}", f"adapter: {self.adapter}", f"dense up to {self.crossover} tokens"]
        lines.append("layer  reads    keys/token  dense")
        for each in self.layers:
            share = each.num_dense_tokens / each.num_tokens if each.num_tokens else 0.0
            lines.append(f"{each.index:>5}  {each.kind:<7} {each.keys_per_token:>11.1f} {share:>5.0%}")
        return "\n".join(lines)


def port(
    model: PreTrainedModel,
    layers: LayerPlan | None = None,
    *,
    gates: Mapping[int, Gate] | None = None,
    adapter: str | PathLike[str] | Adapter | None = None,
) -> PreTrainedModel:
    """Give a decoder dynamic sparse attention in place and return it; nothing has to be trained.

    Given the model alone, the adapter that comes with tuili for it is used; where there is none, nothing trained.
    Without low-rank weights, logits are the same as before (up to rounding) where a token's budget holds all keys up
    to it.

    Args:
        model: a decoder, with or without a language model head.
        layers: how each layer reads its context; by default the adapter's plan, or two dense layers, then sparse ones.
        gates: distilled gates by layer; a sparse layer without one scores by the attention's own queries and keys.
        adapter: a file of gates and low-rank weights, or what `tuili.porting.adapter.load` returns; instead of gates.

    Raises:
        UsageError: the model is ported already or can't be, with the reason, or plan, gates or adapter don't fit it.
        ModelFileError: the adapter's file is missing, damaged, or for another model.
    """
    modules = _attention_modules(model)
    if any(isinstance(getattr(module, NAME, None), Reader) and _ported(module) is None for module in modules):
        raise UsageError("the model is a sandwich: it reads by the plan of its configuration, layer_plan; change that")
    if any(_ported(module) for module in modules):
        raise UsageError("the model is ported already; call tuili.unport(model) before another plan")
    whole = whole_layers(model)
    windows = _own_windows(model.config, len(modules))
    found, source = _adapter(model, layers, gates, adapter)
    gates = dict(found.gates if found is not None else gates or {})
    plan = layers or (found.plan if found is not None else sandwich(whole))
    _check_plan(plan, windows)
    for index, gate in gates.items():
        _check_gate(model.config, index, gate, plan.at(index) if index in whole else None)
    lowrank.put(model, found.low_rank if found is not None else {})
    register()
    original = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    for index, (module, window) in enumerate(zip(modules, windows, strict=True)):
        hook = module.register_forward_pre_hook(note_cache, with_kwargs=True)
        known = None if index else getattr(model.config, "max_position_embeddings", None)
        origin = Origin(original, hook, source)
        layer = PortedLayer(plan.at(index), plan.crossover, window, origin, gates.get(index), known)
        module.add_module(NAME, layer.to(module.q_proj.weight.device).train(module.training))
    chain(ported_layers(model))
    return model


def unport(model: PreTrainedModel) -> PreTrainedModel:
    """Take tuili's attention and low-rank weights out of a model, in place; all is as it was before `port`.

    Raises:
        UsageError: the model is not ported.
    """
    ported = _ported_layers(model)
    for module, layer in ported:
        layer.origin.hook.remove()
        delattr(module, NAME)
    lowrank.take_out(model)
    model.set_attn_implementation(ported[0][1].origin.implementation)
    return model


def report(model: PreTrainedModel) -> Report:
    """Return what a ported model's layers do, and what they read since `port`.

    Raises:
        UsageError: the model is not ported.
    """
    layers = ported_layers(model)
    blocks = [layer.entry.budget.block for layer in layers if isinstance(layer.entry, Sparse)]
    return Report(
        kernel=kernels.runs_on(model.device, model.dtype, block=max(blocks, default=native.STRIP)),
        adapter=layers[0].origin.adapter,
        crossover=layers[0].crossover,
        layers=tuple(
            LayerReport(
                index=index,
                kind=layer.kind,
                entry=None if layer.kind == "sliding" else layer.entry,
                num_tokens=layer.tally.num_tokens,
                num_dense_tokens=layer.tally.num_dense_tokens,
                num_keys=layer.tally.num_keys,
            )
            for index, layer in enumerate(layers)
        ),
    )


def whole_layers(model: PreTrainedModel) -> list[int]:
    """Return the layers that read the whole context, and not a window of the model's own.

    Raises:
        UsageError: the model can't be ported, with the reason, or every layer has a window.
    """
    modules = _attention_modules(model)
    _check_model(model, modules)
    windows = _own_windows(model.config, len(modules))
    whole = [index for index, window in enumerate(windows) if window is None]
    if not whole:
        raise UsageError(f"every layer of this model reads a window of {windows[0]} keys: there is nothing to port")
    return whole


def ported_layers(model: PreTrainedModel) -> list[PortedLayer]:
    """Return how each layer of a ported model reads, in order.

    Raises:
        UsageError: the model is not ported.
    """
    return [layer for _, layer in _ported_layers(model)]


def plan_of(model: PreTrainedModel) -> LayerPlan:
    """Return the plan of a ported model; its default is what most layers do.

    Raises:
        UsageError: the model is not ported.
    """
    layers = ported_layers(model)
    entries = {index: layer.entry for index, layer in enumerate(layers) if layer.own_window is None}
    default = max(entries.values(), key=list(entries.values()).count)
    others = {index: entry for index, entry in entries.items() if entry != default}
    return LayerPlan(default=default, layers=others, crossover=layers[0].crossover)


def _adapter(
    model: PreTrainedModel,
    layers: LayerPlan | None,
    gates: Mapping[int, Gate] | None,
    adapter: str | PathLike[str] | Adapter | None,
) -> tuple[Adapter | None, str]:
    """Return the adapter to use, if any, and what the report says of it."""
    if gates is not None and adapter is not None:
        raise UsageError("an adapter holds its own gates: give either gates or an adapter")
    if isinstance(adapter, Adapter):
        check(adapter, model)
        return adapter, f"{adapter}"
    if adapter is not None:
        found = load(Path(adapter), model)
        return found, f"{adapter} ({found})"
    if layers is None and gates is None and (path := shipped(model)) is not None:
        found = load(path, model)
        return found, f"{path.name}, which comes with tuili ({found})"
    return None, f"none (gates of {len(gates)} layers were given)" if gates else "none (training-free gates)"


def _ported(module: nn.Module) -> PortedLayer | None:
    layer = getattr(module, NAME, None)
    return layer if isinstance(layer, PortedLayer) else None


def _attention_modules(model: PreTrainedModel) -> list[Any]:
    """Return the attention modules of a model in the order of its layers.

    Raises:
        UsageError: this is no model of the library.
    """
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"a {type(model).__name__} can't be ported, a transformers model is needed; "
            "of a wrapper give what is inside, such as model.get_base_model()"
        )
    found: list[Any] = [module for module in model.modules() if all(hasattr(module, part) for part in PARTS)]
    return sorted(found, key=lambda module: module.layer_idx)


def _ported_layers(model: PreTrainedModel) -> list[tuple[nn.Module, PortedLayer]]:
    modules = _attention_modules(model)
    layers = [(module, layer) for module in modules if (layer := _ported(module)) is not None]
    if not layers:
        raise UsageError("the model is not ported; call tuili.port(model) first")
    return layers


def _check_model(model: PreTrainedModel, modules: list[Any]) -> None:
    """Raise a UsageError with the reason if the model can't be ported."""
    config = model.config
    types = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    num_layers = getattr(config, "num_hidden_layers", 0)
    reasons = {
        "it has an encoder": config.is_encoder_decoder,
        "it is no decoder alone; port its text decoder": config.get_text_config(decoder=True) is not config,
        "its attention does not go through the library's interface": not model._supports_attention_backend,
        f"it has layers of the type {', '.join(sorted(types))}": types,
        "it reads in chunks": getattr(config, "attention_chunk_size", None),
        "it caps the attention's logits (attn_logit_softcapping)": getattr(config, "attn_logit_softcapping", None),
        "it has attention sinks": any(getattr(module, "sinks", None) is not None for module in modules),
        "its attention is not causal": any(not getattr(module, "is_causal", True) for module in modules)
        or not getattr(config, "is_causal", True),
        "it is set to return attention weights": config.output_attentions,
        f"{len(modules)} of its {num_layers} layers have an attention that tuili knows": [
            module.layer_idx for module in modules
        ]
        != list(range(num_layers)),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UsageError(f"a {config.model_type} model like this can't be ported: {reason}")


def _own_windows(config: Any, num_layers: int) -> list[int | None]:
    """Return the sliding window that the model itself gives to each layer."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * num_layers
    return [window if each == "sliding_attention" else None for each in types]


def _check_plan(plan: LayerPlan, windows: list[int | None]) -> None:
    if not isinstance(plan, LayerPlan):
        raise UsageError(f"layers must be a LayerPlan, not {plan!r}")
    for index in plan.layers:
        if index >= len(windows):
            raise UsageError(f"the plan names layer {index}, the model's last one is {len(windows) - 1}")
        if windows[index] is not None:
            raise UsageError(
                f"the plan names layer {index}, which reads a window of {windows[index]} keys in this model and keeps "
                "it; leave it out"
            )


def _check_gate(config: Any, index: int, gate: Gate, entry: Entry | None) -> None:
    if not isinstance(entry, Sparse):
        raise UsageError(f"there is a gate for layer {index}, which is no sparse layer of the plan")
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    wanted = (heads, groups, getattr(config, "head_dim", None) or config.hidden_size // heads, entry.sub)
    found = (gate.shape.heads, gate.shape.groups, gate.shape.head_dim, gate.shape.sub)
    if found != wanted:
        raise UsageError(
            f"the gate of layer {index} is for (heads, groups, head dim, keys per gate key) {found}, "
            f"model and plan have {wanted}"
        )
