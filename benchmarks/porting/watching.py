"""What the gates of a ported model keep while it reads a text: which blocks, and how much of the attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porting.peers import pooled
from porting.source import CLASSES, OTHER, lifts
from runner import Result, half_width

NUM_SAMPLES = 128


@dataclass(frozen=True, slots=True)
class LayerWatch:
    """What one layer kept, the blocks that are always kept left out.

    `block`: keys a block. `kept`, `offered`: how often each block was kept and could have been, [J]. `recall`: share
    of the candidates' attention that its gate keeps over the share that the best choice keeps; `pooled`: the same of
    mean-pooled keys.
    """

    block: int
    kept: np.ndarray
    offered: np.ndarray
    recall: float
    pooled: float


@dataclass(slots=True)
class Watch:
    """What the sparse layers kept during one forward, by layer."""

    layers: dict[int, LayerWatch] = field(default_factory=dict)


@contextmanager
def watching(model: Any) -> Iterator[Watch]:
    """Note what the sparse layers of a ported model keep; for one forward without a cache."""
    watch = Watch()
    found = [module for module in model.modules() if hasattr(module, "tuili")]
    sparse = [module for module in found if module.tuili.kind == "sparse"]
    hooks = []
    for module in sparse:
        observer = _Observer(watch, module.layer_idx, module.tuili.entry.budget)
        hooks.append(module.tuili.register_forward_pre_hook(observer.note))
        module.tuili.on_blocks = observer.on_blocks
    try:
        yield watch
    finally:
        for hook, module in zip(hooks, sparse, strict=True):
            hook.remove()
            module.tuili.on_blocks = None


class _Observer:
    """Compares what one layer keeps with its queries and keys; nothing of them is held after that."""

    def __init__(self, watch: Watch, index: int, budget: Any) -> None:
        self.watch, self.index, self.budget = watch, index, budget
        self.inputs: tuple[Any, ...] = ()

    def note(self, _: Any, inputs: tuple[Any, ...]) -> None:
        """Take what the layer is called with: module, q [1, H, T, d], k [1, G, N, d], v, padding, scale."""
        self.inputs = inputs

    def on_blocks(self, blocks_BTGK: Any, first: int, num_keys: int) -> None:
        """Take what it keeps for the tokens from `first` on."""
        q, k, _, _, scale = self.inputs
        self.inputs = ()
        kept, offered = histogram(blocks_BTGK, first, num_keys, self.budget)
        ours, theirs = recalls(q[:, :, -blocks_BTGK.shape[1] :], k, blocks_BTGK, first, self.budget, scale)
        self.watch.layers[self.index] = LayerWatch(self.budget.block, kept, offered, ours, theirs)


def histogram(blocks_BTGK: Any, first: int, num_keys: int, budget: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each block was kept by choice and could have been, [J] each, over tokens and groups."""
    groups, num_blocks = blocks_BTGK.shape[2], -(-num_keys // budget.block)
    blocks_TF = blocks_BTGK[0].flatten(1).numpy()
    ends_T = np.arange(first, first + len(blocks_TF)) // budget.block - budget.local + 1
    is_free = (blocks_TF >= budget.sink) & (blocks_TF < ends_T[:, None])
    at_J = np.arange(num_blocks)
    offered = groups * (len(ends_T) - np.searchsorted(ends_T, at_J, side="right")) * (at_J >= budget.sink)
    return np.bincount(blocks_TF[is_free], minlength=num_blocks), offered


def recalls(q: Any, k: Any, blocks: Any, first: int, budget: Any, scale: float) -> tuple[float, float]:
    """Return the recall of what was kept, and of mean-pooled keys, both relative to the best choice.

    On a sample of the queries `q` [1, H, T, d], whose first one has the index `first`; O(N) for each.
    """
    import torch

    from tuili.attention.target import attention_target, recall

    num_queries = blocks.shape[1]
    picked = torch.randperm(num_queries, generator=torch.Generator().manual_seed(0))[:NUM_SAMPLES].sort().values
    positions, asked = picked + first, q[:, :, picked]
    target = attention_target(asked, k, positions, budget, scale=scale)
    ours = recall(blocks[:, picked], target, budget)
    theirs = recall(pooled(asked, k, positions, budget, scale), target, budget)
    return ours.of_oracle, theirs.of_oracle


def recall_row(watches: Sequence[Watch]) -> Iterator[Result]:
    """Yield the mean recall of all sparse layers on all texts; the spread is over layers."""
    layers = [(index, layer) for watch in watches for index, layer in watch.layers.items()]
    if not layers:
        return
    values, places = [layer.recall for _, layer in layers], [index for index, _ in layers]
    peer = {"name": "pooled keys", "value": float(np.mean([layer.pooled for _, layer in layers]))}
    yield Result("gate.recall", float(np.mean(values)), "fraction", half_width(values, places), len(values), peer)


def lift_rows(watch: Watch, classes_N: np.ndarray) -> Iterator[Result]:
    """Yield for each class of token how much denser it lies in the kept blocks than in the text; 1 is no preference.

    The mean over the sparse layers, the spread over them.
    """
    by_layer = [_lifts(layer, classes_N) for layer in watch.layers.values()]
    if not by_layer:
        return
    for place, name in enumerate(CLASSES):
        values = [float(each[place]) for each in by_layer if np.isfinite(each[place])]
        if place != OTHER and values:
            yield Result(f"kept.{name}.lift", float(np.mean(values)), "x", half_width(values), len(values))


def _lifts(layer: LayerWatch, classes_N: np.ndarray) -> np.ndarray:
    num_blocks = len(classes_N) // layer.block
    blocks_Jb = classes_N[: num_blocks * layer.block].reshape(num_blocks, layer.block)
    counts_Jc = (blocks_Jb[:, :, None] == np.arange(len(CLASSES))).sum(1)
    return lifts(layer.kept[:num_blocks], layer.offered[:num_blocks], counts_Jc)
