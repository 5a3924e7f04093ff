"""The BERT encoder (Devlin et al. 2019) for inference, small and quick to import.

Shapes: B batch, T tokens, D model, N heads, H head dim, L layers.
Covered: absolute positions, exact GELU, layer norm after each block. Not covered: dropout, training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

LAYER_NAMES = {
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
EMBEDDING_NAMES = {
    "word_embeddings.weight": "word_embeddings.weight",
    "position_embeddings.weight": "position_embeddings.weight",
    "token_type_embeddings.weight": "token_type_embeddings.weight",
    "norm.weight": "LayerNorm.weight",
    "norm.bias": "LayerNorm.bias",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """The sizes of a BERT encoder, under Hugging Face's names."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float


class _Linear(nn.Linear):
    """A linear layer whose weights are always loaded, so no time goes into random ones."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class _Embedding(nn.Embedding):
    """An embedding whose weights are always loaded."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class BertLayer(nn.Module):
    """Self-attention and a two-layer network, each followed by a residual sum and a layer norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.query_key_value = _Linear(width, 3 * width)
        self.attention_output = _Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = _Linear(width, config.intermediate_size)
        self.output = _Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x_BTD: Tensor, mask_B11T: Tensor) -> Tensor:
        """Return the layer's output [B, T, D]; `mask_B11T` is true where a token may be attended to."""
        q_BNTH, k_BNTH, v_BNTH = self._project(x_BTD)
        context_BNTH = nn.functional.scaled_dot_product_attention(q_BNTH, k_BNTH, v_BNTH, attn_mask=mask_B11T)
        return self.finish(x_BTD, context_BNTH)

    def attend(self, x_BTD: Tensor, mask_B11T: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the heads read [B, N, T, H] and their attention [B, N, T, T], rows summing to 1."""
        q_BNTH, k_BNTH, v_BNTH = self._project(x_BTD)
        scores_BNTT = q_BNTH @ k_BNTH.transpose(-1, -2) * q_BNTH.shape[-1] ** -0.5
        attention_BNTT = scores_BNTT.masked_fill(~mask_B11T, -torch.inf).softmax(dim=-1)
        return attention_BNTT @ v_BNTH, attention_BNTT

    def finish(self, x_BTD: Tensor, context_BNTH: Tensor) -> Tensor:
        """Return the layer's output [B, T, D], given what its heads read."""
        merged_BTD = context_BNTH.transpose(1, 2).flatten(2)
        x_BTD = self.attention_norm(x_BTD + self.attention_output(merged_BTD))
        return self.output_norm(x_BTD + self.output(nn.functional.gelu(self.intermediate(x_BTD))))

    def _project(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        heads_BT3NH = self.query_key_value(x_BTD).unflatten(-1, (3, self.num_heads, -1))
        return heads_BT3NH.permute(2, 0, 3, 1, 4).unbind(0)


class Bert(nn.Module):
    """Embeddings and a stack of layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = _Embedding(config.vocab_size, width)
        self.position_embeddings = _Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = _Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.layers = cast("list[BertLayer]", layers)

    def forward(self, ids_BT: Tensor, types_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the last hidden states [B, T, D]; `mask_BT` is true for real tokens."""
        x_BTD = self._embed(ids_BT, types_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_BT[:, None, None, :])
        return x_BTD

    def attention(self, ids_BT: Tensor, types_BT: Tensor, mask_BT: Tensor, num_layers: int) -> Tensor:
        """Return the attention of the first `num_layers` layers, averaged over heads: [B, L, T, T]."""
        x_BTD, mask_B11T = self._embed(ids_BT, types_BT), mask_BT[:, None, None, :]
        maps_BTT = []
        for layer in self.layers[: num_layers - 1]:
            context_BNTH, attention_BNTT = layer.attend(x_BTD, mask_B11T)
            maps_BTT.append(attention_BNTT.mean(dim=1))
            x_BTD = layer.finish(x_BTD, context_BNTH)
        _, attention_BNTT = self.layers[num_layers - 1].attend(x_BTD, mask_B11T)
        maps_BTT.append(attention_BNTT.mean(dim=1))
        return torch.stack(maps_BTT, dim=1)

    def _embed(self, ids_BT: Tensor, types_BT: Tensor) -> Tensor:
        positions_TD = self.position_embeddings.weight[: ids_BT.shape[1]]
        return self.norm(self.word_embeddings(ids_BT) + self.token_type_embeddings(types_BT) + positions_TD)


def load_bert(weights: dict[str, Tensor], config: BertConfig) -> Bert:
    """Return a BERT that holds `weights`, which are under Hugging Face's names.

    Raises:
        KeyError: a weight is missing.
        RuntimeError: a weight has another shape than the config says.
    """
    renamed = _rename(weights, config.num_hidden_layers)
    network = Bert(config)
    network.load_state_dict(renamed, assign=True)
    return network.float().eval()


def _rename(weights: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Map Hugging Face's names to ours and join query, key and value into one matrix."""
    ours = {name: weights[f"embeddings.{theirs}"] for name, theirs in EMBEDDING_NAMES.items()}
    for layer in range(num_layers):
        for part in ("weight", "bias"):
            source = f"encoder.layer.{layer}"
            joined = [weights[f"{source}.attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            ours[f"layers.{layer}.query_key_value.{part}"] = torch.cat(joined)
            for name, theirs in LAYER_NAMES.items():
                ours[f"layers.{layer}.{name}.{part}"] = weights[f"{source}.{theirs}.{part}"]
    return ours
