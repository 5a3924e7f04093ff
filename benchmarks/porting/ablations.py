"""The port as shipped with one part changed: random gates, none, or a prior set as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from porting.decoding import MODEL, Way

PENALTY = 0.5
"""What a block outside the prior set loses of its log mass."""


def _random(adapter: Any) -> tuple[Any, Any]:
    """Return the shipped plan with frozen random weights of the learned gates' sizes and scales."""
    import torch

    from tuili.attention.gate import Gate

    def random(gate: Any, layer: int) -> Any:
        found, generator = Gate(gate.shape), torch.Generator().manual_seed(layer)
        with torch.no_grad():
            for name, parameter in found.named_parameters():
                size = getattr(gate, name).pow(2).mean().sqrt()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
        return found

    return adapter.plan, {layer: random(gate, layer) for layer, gate in adapter.gates.items()}


def _training_free(adapter: Any) -> tuple[Any, Any]:
    """Return the shipped budgets without gates: every key is scored by the attention's own queries and keys."""
    return _sparse(adapter.plan, sub=1), {}


def _prior(adapter: Any) -> tuple[Any, Any]:
    """Return what is shipped with a prior set: the blocks that the sparse layer below kept."""
    return _sparse(adapter.plan, penalty=PENALTY, prior="layer"), adapter.gates


ABLATIONS: Mapping[str, Callable[[Any], tuple[Any, Any]]] = {
    "random_gate": _random,
    "training_free": _training_free,
    "prior_of_layer": _prior,
}


def ablation(name: str) -> Way:
    """Return the way to run a model with one part of what is shipped for it changed."""

    @contextmanager
    def way(model: Any) -> Iterator[Any]:
        import tuili
        from tuili.porting.adapter import load, shipped

        path = shipped(model)
        if path is None:
            raise RuntimeError(f"no adapter comes with tuili for {MODEL}")
        plan, gates = ABLATIONS[name](load(path, model))
        tuili.port(model, plan, gates=gates)
        try:
            yield model
        finally:
            tuili.unport(model)

    return way


def _sparse(plan: Any, **changes: Any) -> Any:
    """Return a plan whose sparse layers are changed."""
    from tuili.attention.plan import Sparse

    def changed(entry: Any) -> Any:
        return replace(entry, **changes) if isinstance(entry, Sparse) else entry

    layers = {index: changed(entry) for index, entry in plan.layers.items()}
    return replace(plan, default=changed(plan.default), layers=layers)
