"""Distillation, stage 1: gates learn from a frozen model's own attention.

Each text runs through the model once, with its dense attention. In every layer that is to become sparse, queries are
sampled, their attention is computed (O(N) a query, no map of queries by keys), and the layer's gate takes a few steps
towards it. Layers do not depend on each other, so nothing but the gates is kept. The loss is KL, queries weighted by
the share of attention that candidates get: where everything lies in the sink or close by, nothing is to be chosen.

Sources: DeepSeek-AI 2025, DeepSeek-V3.2-Exp (indexer warm-up); Gao et al. 2024, SeerAttention (gate distillation).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tuili.attention.dense import dense_attention
from tuili.attention.gate import Gate, GateShape
from tuili.attention.offset import kept_log_mass
from tuili.attention.select import Budget, select_at
from tuili.attention.target import (
    Recall,
    Target,
    attention_targets,
    bias_loss,
    distillation_loss,
    recall,
    sample_positions,
)
from tuili.errors import InputError, ModelFileError, UsageError
from tuili.files import atomic_path, read_safetensors_header
from tuili.porting.swap import Attention, attention_swapped

NAME = "tuili-distill"
FORMAT = "tuili-distill-1"
BETAS = (0.9, 0.98)
OnStep = Callable[["Step"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """How gates are distilled.

    Attributes:
        width: of gate queries and keys, e.
        sub: keys per gate key; divides the budget's block.
        shapes: width and sub of single layers, where they differ.
        queries: gate queries a group.
        budget: says which blocks are candidates.
        samples: queries sampled per text and layer.
        rows: of them, how many one step takes.
        inner_steps: steps per text and layer.
        lr: at the beginning, in units of a weight's root mean square; falls to 0 along a cosine.
        seed: of sampling.

    Raises:
        UsageError: a value is out of its bounds.
    """

    width: int = 32
    sub: int = 1
    shapes: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    queries: int = 3
    budget: Budget = field(default_factory=Budget)
    samples: int = 256
    rows: int = 96
    inner_steps: int = 6
    lr: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "sub", "queries", "samples", "rows", "inner_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.lr < 1:
            raise UsageError(f"lr must lie between 0 and 1, not {self.lr}")
        for width, sub in ((self.width, self.sub), *self.shapes.values()):
            if width < 1 or sub < 1 or self.budget.block % sub:
                raise UsageError(
                    f"a gate needs a width of at least 1, not {width}, and a sub that divides the block of "
                    f"{self.budget.block} keys, not {sub}"
                )

    def shape_of(self, layer: int) -> tuple[int, int]:
        """Return width and sub of a layer's gate."""
        return self.shapes.get(layer, (self.width, self.sub))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One text done: the step (from 1), of how many, mean loss in nats, and what the gates keep of the attention."""

    index: int
    total: int
    loss: float
    recall: Recall


class Distiller:
    """Distils the gates of some layers of one model.

    Args:
        model: a decoder that is not ported; it is not changed.
        layers: the layers that get a gate.
        config: how.

    Raises:
        UsageError: a layer does not exist.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], config: DistillConfig) -> None:
        num_layers = model.config.num_hidden_layers
        if not layers or not set(layers) <= set(range(num_layers)):
            raise UsageError(f"layers must be some of 0 .. {num_layers - 1}, not {list(layers)}")
        self.model = model
        self.layers = sorted(set(layers))
        self.config = config
        self.gates: dict[int, Gate] = {}
        self.index = 0
        self._optimizers: dict[int, torch.optim.Adam] = {}
        self._total = 1
        self._generator = torch.Generator()
        self._losses: list[float] = []
        self._recalls: list[Recall] = []

    def run(self, texts: Callable[[int], Tensor], total: int, on_step: OnStep | None = None) -> dict[int, Gate]:
        """Distil until step `total` and return the gates; goes on where the last call or `load` ended.

        Args:
            texts: the token ids [1, N] of a step, by its index from 0; N above the budget's keys.
            total: steps in all.
            on_step: called after each text.

        Raises:
            InputError: a text is too short to learn from.
        """
        self._total = total
        with watched_attention(self.model, NAME, self._learn):
            while self.index < total:
                self._losses, self._recalls = [], []
                ids = texts(self.index).to(self.model.device)
                self._generator.manual_seed(hash((self.config.seed, self.index)) % 2**31)
                with torch.no_grad():
                    self.model(ids, use_cache=False, logits_to_keep=1)
                self.index += 1
                if on_step is not None:
                    on_step(self._step())
        return self.gates

    def _step(self) -> Step:
        kept, oracle = (sum(getattr(one, name) for one in self._recalls) for name in ("kept", "oracle"))
        number = len(self._recalls)
        mean = Recall(kept=kept / number, oracle=oracle / number)
        return Step(index=self.index, total=self._total, loss=sum(self._losses) / len(self._losses), recall=mean)

    def _learn(self, module: nn.Module, q: Tensor, k: Tensor, scale: float) -> None:
        """Take some steps with one layer's queries [1, H, N, d] and keys [1, G, N, d]."""
        layer, config = int(module.layer_idx), self.config  # type: ignore[arg-type]
        if layer not in self.layers:
            return
        q, k = q.detach().float(), k.detach().float()
        gate = self.gates.get(layer) or self._begin(layer, q, k, scale)
        optimizer = self._optimizers[layer]
        for group in optimizer.param_groups:
            size = 1.0 if group["params"][0] is gate.bias else float(group["params"][0].detach().pow(2).mean().sqrt())
            group["lr"] = size * config.lr * 0.5 * (1 + math.cos(math.pi * self.index / self._total))
        positions = sample_positions(k.shape[2], config.samples, config.budget, self._generator).to(q.device)
        asked = q[:, :, positions]
        offset = kept_log_mass(asked, k, positions, config.budget, scale=scale, num_gate_queries=gate.shape.queries)
        wanted, target = attention_targets(asked, k, positions, config.budget, scale=scale, pools=("max", "sum"))
        blocks = select_at(
            gate.queries(asked).detach(),
            gate.keys(k).detach(),
            config.budget,
            positions=positions,
            num_keys=k.shape[2],
            offset=offset,
        )
        self._recalls.append(recall(blocks, target, config.budget))
        order = torch.randperm(len(positions), generator=self._generator)
        for step in range(config.inner_steps):
            rows = order.roll(-step * config.rows)[: config.rows]
            z = gate(asked[:, :, rows], k, config.budget.block, offset[:, rows])
            loss = distillation_loss(z, _rows(wanted, rows), by_share=True)
            optimizer.zero_grad()
            (loss + bias_loss(z, gate.bias, _rows(wanted, rows), config.budget)).backward()
            optimizer.step()
            self._losses.append(float(loss.detach()))

    def _begin(self, layer: int, q: Tensor, k: Tensor, scale: float) -> Gate:
        """Return a new gate that scores like the model's own queries and keys, as far as its sizes allow."""
        self._adopt(layer, gate_for(self.config, layer, q, k, scale))
        return self.gates[layer]

    def _adopt(self, layer: int, gate: Gate) -> None:
        self.gates[layer] = gate.to(self.model.device)
        groups = [{"params": [parameter]} for parameter in gate.parameters()]
        self._optimizers[layer] = torch.optim.Adam(groups, lr=self.config.lr, betas=BETAS, foreach=False)

    # -- resuming ------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write all that a later run needs to go on, as safetensors, atomically."""
        from safetensors.torch import save_file

        tensors = {
            f"{layer}.{name}.{part}": tensor
            for layer, gate in self.gates.items()
            for name, parameter in gate.named_parameters()
            for part, tensor in self._parts(layer, parameter).items()
        }
        metadata = {
            "format": FORMAT,
            "index": str(self.index),
            "config": json.dumps(asdict(self.config)),
            "layers": json.dumps(self.layers),
            "shapes": json.dumps({layer: asdict(gate.shape) for layer, gate in self.gates.items()}),
        }
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    def _parts(self, layer: int, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self._optimizers[layer].state[parameter]
        parts = {"value": parameter, "mean": state["exp_avg"], "square": state["exp_avg_sq"], "step": state["step"]}
        return {name: tensor.detach().clone().contiguous() for name, tensor in parts.items()}

    def load(self, path: Path) -> None:
        """Take up what `save` wrote.

        Raises:
            ModelFileError: the file is missing, cut off, or of a run with other settings.
        """
        from safetensors import safe_open

        read_safetensors_header(path)
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            settings = {"config": json.dumps(asdict(self.config)), "layers": json.dumps(self.layers)}
            if metadata.get("format") != FORMAT or any(metadata.get(key) != text for key, text in settings.items()):
                raise ModelFileError(f"{path} is not from a run with these settings; name another file to begin anew")
            for layer, shape in json.loads(metadata["shapes"]).items():
                self._adopt(int(layer), Gate(GateShape(**shape)))
                gate = self.gates[int(layer)]
                for name, parameter in gate.named_parameters():
                    part = {
                        key: opened.get_tensor(f"{layer}.{name}.{key}") for key in ("value", "mean", "square", "step")
                    }
                    with torch.no_grad():
                        parameter.copy_(part["value"])
                    state = {"step": part["step"], "exp_avg": part["mean"], "exp_avg_sq": part["square"]}
                    self._optimizers[int(layer)].state[parameter] = state
        self.index = int(metadata["index"])


def gate_for(config: DistillConfig, layer: int, q: Tensor, k: Tensor, scale: float) -> Gate:
    """Return a new gate that scores like queries [1, H, N, d] and keys [1, G, N, d], as far as its sizes allow."""
    width, sub = config.shape_of(layer)
    heads, groups, head_dim = q.shape[1], k.shape[1], k.shape[3]
    sizes = {"queries": config.queries, "width": min(width, head_dim), "sub": sub}
    return Gate.balanced(GateShape(heads=heads, groups=groups, head_dim=head_dim, **sizes), q[0], k[0], scale)


def watched_attention(
    model: PreTrainedModel, name: str, watch: Callable[[nn.Module, Tensor, Tensor, float], None]
) -> AbstractContextManager[None]:
    """Have a model show `watch` each layer's module, queries, keys and scale, with gradients, and attend densely."""
    return attention_swapped(model, name, _teaching(watch))


def windows(corpora: Mapping[str, Tensor], length: int, seed: int = 0) -> Callable[[int], Tensor]:
    """Return the texts for `Distiller.run`: step by step another corpus, at a random place.

    A step's text depends on its index and the seed alone, so that a run can be resumed.

    Args:
        corpora: token ids [n] by name.
        length: tokens of a text.
        seed: of the places.

    Raises:
        InputError: a corpus is shorter than `length`.
    """
    names = sorted(corpora)
    if short := [name for name in names if len(corpora[name]) < length]:
        raise InputError(
            f"{short[0]} has {len(corpora[short[0]])} tokens, at least {length} are needed; give more text"
        )

    def text(index: int) -> Tensor:
        ids = corpora[names[index % len(names)]]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        first = int(torch.randint(len(ids) - length + 1, (1,), generator=generator))
        return ids[first : first + length][None]

    return text


def _rows(target: Target, rows: Tensor) -> Target:
    return replace(
        target, mass=target.mass[:, rows], is_candidate=target.is_candidate[:, rows], share=target.share[:, rows]
    )


def _teaching(learn: Callable[[nn.Module, Tensor, Tensor, float], None]) -> Attention:
    """Return dense attention, within a layer's own window if it has one, that shows queries and keys to `learn`."""

    def attention(
        module: nn.Module,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        with torch.enable_grad():
            learn(module, q, k, scale)
        return dense_attention(q, k, v, scale=scale, window=sliding_window).contiguous(), None

    return attention
