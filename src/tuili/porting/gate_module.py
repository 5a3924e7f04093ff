"""The gates of a frozen decoder as one module that returns its loss, for a training loop other than tuili's own.

What `tuili distill` learns layer by layer, here as a sum over the layers with one optimiser step for all: for
`transformers.Trainer`, accelerate or a loop of one's own. The decoder is not part of the module: it is neither trained
nor moved nor saved with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tuili.attention.gate import Gate
from tuili.attention.offset import kept_log_mass
from tuili.attention.plan import LayerPlan
from tuili.attention.target import attention_targets, bias_loss, distillation_loss, sample_positions
from tuili.errors import UsageError
from tuili.porting.adapter import Adapter, fingerprint
from tuili.porting.distill import DistillConfig, gate_for, watched_attention

NAME = "tuili-gate-module"


@dataclass(frozen=True, slots=True)
class _Frozen:
    """Holds a model out of the sight of `nn.Module`."""

    model: PreTrainedModel


class GateModule(nn.Module):
    """Gates that learn a decoder's own attention.

    Args:
        model: a decoder that is not ported, on the device it is to run on; it is not changed.
        layers: those that get a gate.
        config: shapes, budget, samples and seed count; steps and rates are the trainer's.
        text: token ids [1, N] whose queries and keys the gates begin with; N above the budget's keys.

    Raises:
        UsageError: a layer does not exist.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int], config: DistillConfig, text: Tensor) -> None:
        super().__init__()
        num_layers = model.config.num_hidden_layers
        if not layers or not set(layers) <= set(range(num_layers)):
            raise UsageError(f"layers must be some of 0 .. {num_layers - 1}, not {list(layers)}")
        self.how = config  # not `config`, which trainers take for a model's
        self.gates = nn.ModuleDict()
        self._frozen = _Frozen(model.eval().requires_grad_(False))

        def begin(layer: int, q: Tensor, k: Tensor, scale: float) -> None:
            if layer in layers:
                self.gates[str(layer)] = gate_for(config, layer, q, k, scale)

        self._watch(text, begin)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the mean loss over the layers in nats, under "loss".

        Args:
            input_ids: [B, N] without padding, N above the budget's keys.

        Raises:
            InputError: the texts are too short to learn from.
        """
        losses: list[Tensor] = []

        def learn(layer: int, q: Tensor, k: Tensor, scale: float) -> None:
            if str(layer) in self.gates:
                losses.append(self._loss(cast(Gate, self.gates[str(layer)]), q, k, scale))

        self._watch(input_ids, learn)
        return {"loss": torch.stack(losses).mean()}

    def adapter(self, plan: LayerPlan) -> Adapter:
        """Return what was learned, to be written by `tuili.porting.adapter.save` and given to `tuili.port`."""
        gates = {int(layer): cast(Gate, gate) for layer, gate in self.gates.items()}
        return Adapter(gates=gates, low_rank={}, plan=plan, base_sha256=fingerprint(self._frozen.model), info={})

    def _watch(self, ids: Tensor, on_layer: Callable[[int, Tensor, Tensor, float], None]) -> None:
        model = self._frozen.model

        def watch(module: nn.Module, q: Tensor, k: Tensor, scale: float) -> None:
            on_layer(int(module.layer_idx), q.detach().float(), k.detach().float(), scale)  # type: ignore[arg-type]

        with watched_attention(model, NAME, watch), torch.no_grad():
            model(ids.to(model.device), use_cache=False, logits_to_keep=1)

    def _loss(self, gate: Gate, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """Return one layer's loss on sampled queries."""
        budget = self.how.budget
        positions = sample_positions(k.shape[2], self.how.samples, budget).to(q.device)
        asked = q[:, :, positions]
        offset = kept_log_mass(asked, k, positions, budget, scale=scale, num_gate_queries=gate.shape.queries)
        (wanted,) = attention_targets(asked, k, positions, budget, scale=scale, pools=("max",))
        z = gate(asked, k, budget.block, offset)
        return distillation_loss(z, wanted, by_share=True) + bias_loss(z, gate.bias, wanted, budget)
