"""`tiny_gguf`: a tiny Llama as a GGUF file, laid out as llama.cpp does, and its weights."""

from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from tokenizers.pre_tokenizers import ByteLevel

WIDTH, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "he", "ll", "hell"]
MERGES = ["h e", "l l", "he ll"]
KV_WIDTH = WIDTH // HEADS * KV_HEADS


def interleave(weight, num_heads):
    """The row order of GGUF: in each head row i of the first half, then row i of the second, and so on."""
    half = len(weight) // num_heads // 2
    rows = [head * 2 * half + part * half + i for head in range(num_heads) for i in range(half) for part in range(2)]
    return weight[rows]


def make_weights():
    """Random weights under Hugging Face's names."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (len(TOKENS), WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm": (WIDTH,),
            "self_attn.q_proj": (WIDTH, WIDTH),
            "self_attn.k_proj": (KV_WIDTH, WIDTH),
            "self_attn.v_proj": (KV_WIDTH, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH),
            "post_attention_layernorm": (WIDTH,),
            "mlp.gate_proj": (INNER, WIDTH),
            "mlp.up_proj": (INNER, WIDTH),
            "mlp.down_proj": (WIDTH, INNER),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{GGUF_NAMES[stem]}.weight"
    layer, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{GGUF_NAMES[part]}.weight"


def write(path, weights, kind=GGMLQuantizationType.F32, **changes):
    """Write the file; `changes` replace metadata or, under a tensor's GGUF name, a tensor (None drops it)."""
    writer = GGUFWriter(path, changes.pop("architecture", "llama"))
    sizes = {
        "context_length": 128,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "block_count": LAYERS,
        "head_count": HEADS,
        "head_count_kv": KV_HEADS,
        "vocab_size": len(TOKENS),
    }
    for name, size in sizes.items():
        value = changes.pop(name, size)
        if value is not None:
            getattr(writer, f"add_{name}")(value)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(changes.pop("tokenizer_model", "gpt2"))
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(changes.pop("tokens", TOKENS))
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(changes.pop("merges", MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    tensors = {}
    for name, weight in weights.items():
        heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else None
        tensors[gguf_name(name)] = interleave(weight, heads) if heads else weight
    for name, weight in {**tensors, **changes}.items():
        if weight is None:
            continue
        packed = kind if weight.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(name, quantize(weight, packed), raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def tiny_gguf():
    return SimpleNamespace(write=write, weights=make_weights(), interleave=interleave)
