"""Tiny random decoders of every family that can be ported."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 24}
FAMILIES = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {**WINDOW, "use_sliding_window": True, "max_window_layers": 2}),
    "qwen3": (Qwen3Config, {}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "gemma": (GemmaConfig, {}),
    "gemma2": (Gemma2Config, {**WINDOW, "attn_logit_softcapping": None, "query_pre_attn_scalar": 16}),
    "gemma3": (
        Gemma3TextConfig,
        {
            **WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
        },
    ),
}


def make(family, **changes):
    kind, own = FAMILIES[family]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(kind(**{**SIZES, **own, **changes})).eval()


@pytest.fixture(autouse=True)
def _small_work():
    """No gradients, and one thread: more of them only wait for each other where the models are so small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@pytest.fixture
def make_decoder():
    """A function that makes a decoder of a family in evaluation mode, its configuration changed by keywords."""
    return make


@pytest.fixture(params=FAMILIES)
def decoder(request):
    """A decoder of each family."""
    return make(request.param)


@pytest.fixture
def tokens():
    """A function that returns token ids [rows, length] without the padding token."""

    def draw(rows, length):
        return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))

    return draw
