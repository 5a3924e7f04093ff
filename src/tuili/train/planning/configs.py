"""A decoder's sizes out of a Hugging Face config.json, without transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuili.errors import InputError, ModelFileError
from tuili.train.planning.models import Model, gpt

MAX_CONFIG_BYTES = 4 << 20


def read_config(path: Path) -> Model:
    """Return the model that a Hugging Face config.json (or the folder that holds it) describes.

    Raises:
        ModelFileError: the file can't be read, or is no configuration of a decoder this planner knows.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelFileError(f"{file} has more than {MAX_CONFIG_BYTES >> 20} MiB, too much for a config.json")
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(f"can't read {file}: {error.strerror}; give a config.json") from error
    except ValueError as error:
        raise ModelFileError(f"{file} is no JSON: {error}; give the config.json of a model") from error
    if not isinstance(config, dict):
        raise ModelFileError(f"{file} holds no object; give the config.json of a model")
    return _from_config(config, file)


def _from_config(config: dict[str, Any], file: Path) -> Model:
    if any(config.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ModelFileError(f"{file} is a mixture of experts; only dense feed-forward layers are known here")
    try:
        return _gpt2(config, file) if config.get("model_type") == "gpt2" else _llama(config, file)
    except KeyError as error:
        raise ModelFileError(f"{file} has no {error.args[0]!r}; give the config.json of a decoder") from error
    except (TypeError, InputError) as error:
        raise ModelFileError(f"{file} has sizes that can't be: {error}") from error


def _gpt2(config: dict[str, Any], file: Path) -> Model:
    return gpt(
        str(file),
        num_layers=config["n_layer"],
        hidden=config["n_embd"],
        num_heads=config["n_head"],
        vocab=config["vocab_size"],
        positions=config["n_positions"],
    )


def _llama(config: dict[str, Any], file: Path) -> Model:
    hidden, num_heads = config["hidden_size"], config["num_attention_heads"]
    return Model(
        name=str(file),
        num_layers=config["num_hidden_layers"],
        hidden=hidden,
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=config.get("head_dim") or hidden // max(num_heads, 1),
        mlp=config["intermediate_size"],
        vocab=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
    )
