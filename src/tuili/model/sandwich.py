"""The sandwich: a decoder whose layer plan is its configuration. Dense bottom, dynamic sparse middle, pooled top.

A Llama decoder (RMSNorm, rotary positions, grouped queries, gated network; Touvron et al. 2023) whose attention layers
each have a `Reader`: projections, cache, generation, saving and loading are the library's, what a layer reads is the
plan's. Gates are weights like others: they are saved, loaded and trained. A gate learns with the model by the gradient
of `tuili.attention.teach`, past the plan's crossover, where it selects.

One device's code: `tuili.train` applies parallelism from outside, by the plans that the configuration carries.

Shapes: B batch, T tokens, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaModel, LlamaPreTrainedModel

from tuili.attention.gate import Gate, GateShape
from tuili.attention.plan import Dense, LayerPlan, Pooled, Sparse
from tuili.attention.reader import Reader, chain
from tuili.attention.recall import note_cache
from tuili.attention.select import Budget
from tuili.errors import InputError, UsageError
from tuili.model.reading import NAME, register

MODEL_TYPE = "tuili_sandwich"


def default_plan(num_layers: int) -> LayerPlan:
    """Return the plan of a decoder that is given none: a dense bottom, a sparse middle, a pooled top.

    A sixth of the layers, at least one, is dense and reads the sink and a window of 2,048 keys past token 4,096; the
    last layer is pooled; the others keep 32 blocks of 16 keys a token. A decoder of two layers has no pooled one.

    Raises:
        UsageError: fewer than two layers.
    """
    if num_layers < 2:
        raise UsageError(f"a sandwich has a dense and a sparse layer at least, not {num_layers} layers in all")
    bottom = dict.fromkeys(range(max(1, num_layers // 6)), Dense(window=2048, past=4096, sink=16))
    top = {num_layers - 1: Pooled(block=32, window=512, sink=16)} if num_layers > 2 else {}
    middle = Sparse(budget=Budget(block=16, keep=32, sink=1, local=4), sub=4)
    return LayerPlan(default=middle, layers={**bottom, **top}, crossover=512)


class SandwichConfig(LlamaConfig):
    """The sizes of a sandwich, under Llama's names, and its plan.

    Args:
        layer_plan: what each layer reads, as `LayerPlan.to_dict` returns it; by default `default_plan`.
        gate_width: e, of the gates of sparse layers; by default half of the head dim.
        gate_queries: Q, gate queries a key-value group; at most the heads of a group.

    Raises:
        UsageError, InputError: the plan or the gates are not sound, or name layers that the decoder does not have.
    """

    model_type = MODEL_TYPE
    base_model_tp_plan: ClassVar[dict[str, str]] = {
        **LlamaConfig.base_model_tp_plan,
        f"layers.*.self_attn.{NAME}.gate": "group_shard",
    }

    layer_plan: dict[str, Any] | None = None
    gate_width: int | None = None
    gate_queries: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.layer_plan is None:
            self.layer_plan = default_plan(self.num_hidden_layers).to_dict()
        if self.gate_width is None:
            self.gate_width = max(1, cast(int, self.head_dim) // 2)
        last = max(self.plan.layers, default=0)
        if last >= self.num_hidden_layers:
            raise UsageError(f"the plan names layer {last}, the decoder's last one is {self.num_hidden_layers - 1}")
        for entry in {self.plan.at(index) for index in range(self.num_hidden_layers)}:
            if isinstance(entry, Sparse):
                self.gate_shape(entry)

    @classmethod
    def of_llama(cls, config: PretrainedConfig, **settings: Any) -> SandwichConfig:
        """Return the configuration of a sandwich with the sizes of a Llama decoder, or of a sandwich with another plan.

        `SandwichForCausalLM.from_pretrained(folder, config=…)` then reads the decoder's weights; gates that the folder
        lacks begin anew.

        Args:
            config: of the decoder.
            settings: `layer_plan`, `gate_width`, `gate_queries`; what is left out is the sandwich's own or the default.

        Raises:
            UsageError: the decoder is of another family, or the plan names layers that it does not have.
            InputError: the plan is not sound.
        """
        if config.model_type not in ("llama", MODEL_TYPE):
            raise UsageError(f"a sandwich can be made of a Llama decoder, not of the family {config.model_type!r}")
        left_out = {"model_type", "architectures", "transformers_version", "_name_or_path", "dtype"}
        kept = {name: value for name, value in config.to_dict().items() if name not in left_out}
        return cls(**{**kept, **settings})

    @property
    def plan(self) -> LayerPlan:
        """The plan that `layer_plan` spells out."""
        return LayerPlan.from_dict(self.layer_plan)

    def gate_shape(self, entry: Sparse) -> GateShape:
        """Return the sizes of a sparse layer's gate."""
        return GateShape(
            heads=self.num_attention_heads,
            groups=cast(int, self.num_key_value_heads),
            head_dim=cast(int, self.head_dim),
            queries=self.gate_queries,
            width=cast(int, self.gate_width),
            sub=entry.sub,
        )


class _Initialised(LlamaPreTrainedModel):
    """What both faces of a sandwich share: its configuration, and how weights that a checkpoint lacks begin."""

    config_class = SandwichConfig

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module; a gate estimates the attention's own score."""
        if isinstance(module, Gate):
            module.start_low_rank()
        else:
            super()._init_weights(module)


class SandwichModel(_Initialised, LlamaModel):
    """A sandwich without a head: ids [B, T] to hidden states [B, T, D]; the library's arguments and outputs.

    Raises:
        UsageError: another attention implementation is asked for; the plan is the attention.
    """

    def __init__(self, config: SandwichConfig) -> None:
        _claim_attention(config)
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            attention = cast(nn.Module, layer.self_attn)
            attention.add_module(NAME, _reader(config, index))
            attention.register_forward_pre_hook(note_cache, with_kwargs=True)
        chain(list(self.readers()))
        self.post_init()

    def readers(self) -> Iterator[Reader]:
        """Yield how each layer reads, in order."""
        for layer in self.layers:
            yield getattr(layer.self_attn, NAME)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return one vector for each row: [B, D], the mean of the last hidden states, a token's weight its place.

        Later tokens have read more of the text, so they weigh more; padding weighs nothing.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 0 where a token is padding.

        Raises:
            InputError: a row holds no token.

        Source: Muennighoff 2022, SGPT, equation 2.
        """
        valid_BT = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        place_BT = valid_BT.cumsum(1) * valid_BT
        if not bool((place_BT.amax(1) > 0).all()):
            raise InputError("a row without a token has no vector; leave empty texts out")
        hidden_BTD = self(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        weight_BT = place_BT.to(hidden_BTD.dtype) / place_BT.sum(1, keepdim=True)
        return torch.einsum("bt,btd->bd", weight_BT, hidden_BTD)


class SandwichForCausalLM(_Initialised, LlamaForCausalLM):
    """A sandwich with a language model head: ids [B, T] to logits [B, T, V]; the library's arguments and outputs.

    Raises:
        UsageError: another attention implementation is asked for; the plan is the attention.
    """

    def __init__(self, config: SandwichConfig) -> None:
        _claim_attention(config)
        LlamaPreTrainedModel.__init__(self, config)  # not LlamaForCausalLM's, which makes layers without readers
        self.model = SandwichModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def _claim_attention(config: SandwichConfig) -> None:
    register()
    if config._attn_implementation not in (None, NAME):
        raise UsageError(
            f"a sandwich reads by its plan, attn_implementation={config._attn_implementation!r} has no place in "
            "it; leave it out (a plan of dense layers reads every key)"
        )
    config._attn_implementation = NAME


def _reader(config: SandwichConfig, index: int) -> Reader:
    entry = config.plan.at(index)
    gate = Gate.low_rank(config.gate_shape(entry)) if isinstance(entry, Sparse) else None
    reader = Reader(entry, config.plan.crossover, gate=gate)
    reader.teaches = gate is not None
    return reader


AutoConfig.register(MODEL_TYPE, SandwichConfig, exist_ok=True)
AutoModel.register(SandwichConfig, SandwichModel, exist_ok=True)
AutoModelForCausalLM.register(SandwichConfig, SandwichForCausalLM, exist_ok=True)
