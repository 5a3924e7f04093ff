"""Turn a Llama GGUF file into a folder that plain Hugging Face loads: weights, config, tokenizer.

Covered: the `llama` architecture with a byte-level BPE tokenizer of the `smollm` kind, tied embeddings.
Weights become float32: a 4-bit value times its scale plus its minimum needs more bits than float16 has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuili.errors import DependencyError, ModelFileError
from tuili.model.fetch import Progress
from tuili.model.gguf_guard import check_gguf

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader
    from tokenizers import Tokenizer

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
CONTROL_TOKEN = 3
"""The format's number for a token that is never part of a text, such as the end of a turn."""


def convert(path: Path, folder: Path, on_progress: Progress) -> None:
    """Write model.safetensors, config.json, tokenizer.json and tokenizer_config.json into `folder`.

    Raises:
        ModelFileError: the file is damaged or of a kind that is not covered.
        DependencyError: gguf, safetensors or tokenizers is not installed.
    """
    check_gguf(path)
    try:
        from gguf import GGUFReader
        from safetensors import SafetensorError
        from safetensors.numpy import save_file
    except ImportError as error:
        raise DependencyError("gguf, safetensors", "models", "converting a GGUF file") from error
    try:
        reader = GGUFReader(path)
        config = llama_config(reader)
        tokenizer = build_tokenizer(reader)
        tokenizer_config = _tokenizer_config(reader, tokenizer)
        weights = read_weights(reader, config, on_progress)
    except (ValueError, LookupError, TypeError, ArithmeticError, NotImplementedError) as error:
        raise ModelFileError(f"{path} is no GGUF file tuili can convert: {error}") from error
    try:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise ModelFileError(f"can't write {folder / 'model.safetensors'}: {error}") from error
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", tokenizer_config)


def llama_config(reader: GGUFReader) -> dict[str, Any]:
    """Return the Hugging Face config of a Llama GGUF file.

    Raises:
        ValueError: the file is of another architecture.
        KeyError: a needed key is missing.
    """
    if (architecture := _value(reader, "general.architecture")) != "llama":
        raise ValueError(f"its architecture is {architecture!r}, only 'llama' is covered")
    num_heads = _size(reader, "attention.head_count")
    hidden_size = _size(reader, "embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": _size(reader, "feed_forward_length"),
        "num_hidden_layers": _size(reader, "block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": _size(reader, "attention.head_count_kv"),
        "head_dim": hidden_size // num_heads,
        "max_position_embeddings": _size(reader, "context_length"),
        "rope_theta": _shortest(_value(reader, "llama.rope.freq_base")),
        "rms_norm_eps": _shortest(_value(reader, "llama.attention.layer_norm_rms_epsilon")),
        "vocab_size": _size(reader, "vocab_size"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": _value(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _value(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _value(reader, "tokenizer.ggml.padding_token_id"),
    }


def read_weights(reader: GGUFReader, config: dict[str, Any], on_progress: Progress) -> dict[str, np.ndarray]:
    """Return the float32 weights under Hugging Face's names, every shape checked against the config.

    Raises:
        ValueError: a tensor is missing, unknown, of the wrong shape, or holds NaN or infinity.
    """
    import numpy as np
    from gguf.quants import dequantize

    names = _hugging_face_names(reader, config)
    shapes = _shapes(config)
    weights = {}
    for done, tensor in enumerate(reader.tensors, start=1):
        name = names[tensor.name]
        with np.errstate(all="ignore"):
            weight = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if weight.shape != shapes[name.removeprefix(_layer_prefix(name))]:
            raise ValueError(f"{tensor.name} has the shape {weight.shape}")
        if not np.isfinite(weight).all():
            raise ValueError(f"{tensor.name} holds NaN or infinity")
        if name.endswith("q_proj.weight"):
            weight = undo_rope_permutation(weight, config["num_attention_heads"])
        elif name.endswith("k_proj.weight"):
            weight = undo_rope_permutation(weight, config["num_key_value_heads"])
        weights[name] = weight
        on_progress("converting", done, len(reader.tensors))
    return weights


def undo_rope_permutation(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Put the rows of a query or key projection back in the order of Hugging Face.

    GGUF interleaves each head's rows (0, H/2, 1, H/2+1, ...) for its rotary embedding;
    Hugging Face rotates the two halves of a head. `weight`: [N*H, D].
    """
    num_rows, width = weight.shape
    pairs = weight.reshape(num_heads, num_rows // num_heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(num_rows, width).copy()


def build_tokenizer(reader: GGUFReader) -> Tokenizer:
    """Return the byte-level BPE tokenizer of the file; digits stand alone, as the model was trained.

    Raises:
        ValueError: the tokenizer is of another kind.
    """
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise DependencyError("tokenizers", "models", "converting a GGUF file") from error
    kind = (_value(reader, "tokenizer.ggml.model"), _value(reader, "tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"its tokenizer is of the kind {kind}, only ('gpt2', 'smollm') is covered")
    tokens = _value(reader, "tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in _value(reader, "tokenizer.ggml.merges")]
    if len(set(tokens)) != len(tokens) or len(tokens) != _size(reader, "vocab_size"):
        raise ValueError("its tokens are not one per row of the embedding")
    if any(len(pair) != 2 for pair in merges):
        raise ValueError("a merge does not join two tokens")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if any("".join(pair) not in vocabulary or not set(pair) <= vocabulary.keys() for pair in merges):
        raise ValueError("a merge joins unknown tokens")
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = _value(reader, "tokenizer.ggml.token_type")
    special = [token for token, number in zip(tokens, kinds, strict=True) if number == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


def _tokenizer_config(reader: GGUFReader, tokenizer: Tokenizer) -> dict[str, Any]:
    special = {
        name: tokenizer.id_to_token(_value(reader, f"tokenizer.ggml.{key}_token_id"))
        for name, key in SPECIAL_TOKENS.items()
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _size(reader, "context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": _value(reader, "tokenizer.chat_template"),
        **special,
    }


def _hugging_face_names(reader: GGUFReader, config: dict[str, Any]) -> dict[str, str]:
    num_layers = config["num_hidden_layers"]
    if len(reader.tensors) != num_layers * len(LAYER_TENSORS) + 2:
        raise ValueError(f"{len(reader.tensors)} tensors don't make {num_layers} layers with tied embeddings")
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    for layer in range(num_layers):
        for ours, theirs in LAYER_TENSORS.items():
            names[f"blk.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    return names


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight, without the prefix of its layer."""
    width, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query = config["num_attention_heads"] * head_dim
    key = config["num_key_value_heads"] * head_dim
    return {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "self_attn.q_proj.weight": (query, width),
        "self_attn.k_proj.weight": (key, width),
        "self_attn.v_proj.weight": (key, width),
        "self_attn.o_proj.weight": (width, query),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
    }


def _layer_prefix(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:3]) + "." if parts[1] == "layers" else ""


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise KeyError(f"it has no key {key!r}")
    return field.contents()


def _size(reader: GGUFReader, key: str) -> int:
    value = _value(reader, f"llama.{key}")
    if type(value) is not int or not 1 <= value <= 2**20:
        raise ValueError(f"llama.{key} is {value!r}, it must be a whole number from 1 to {2**20}")
    return value


def _shortest(value: float) -> float:
    """Return the shortest decimal that is the same float32: 1e-05 for 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
