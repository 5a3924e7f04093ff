"""A decoder's sizes out of a Hugging Face config.json, without transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuili.errors import InputError, ModelFileError, UsageError
from tuili.train.planning.models import DENSE, Model, Reading, gpt

MAX_CONFIG_BYTES = 4 << 20
GATED = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2", "granite",
    "tuili_sandwich",
)  # fmt: skip
"""Model types with Llama's matrices: grouped queries, and a feed-forward part of three."""


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
    kind = config.get("model_type", "llama")
    if kind != "gpt2" and kind not in GATED:
        raise ModelFileError(
            f"{file} is of the model type {kind!r}; known here are gpt2, {', '.join(GATED)}; for another give --sizes"
        )
    try:
        return _gpt2(config, file) if kind == "gpt2" else _llama(config, file)
    except UsageError as error:
        raise ModelFileError(f"the layers of {file} can't be read: {error}") from error
    except KeyError as error:
        raise ModelFileError(f"{file} has no {error.args[0]!r}; give the config.json of a decoder") from error
    except (TypeError, InputError) as error:
        raise ModelFileError(f"{file} has sizes or layers that can't be: {error}") from error
    except AttributeError as error:
        raise ModelFileError(f"{file} has a layer plan of a wrong form: {error}") from error


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
    head_dim = config.get("head_dim") or hidden // max(num_heads, 1)
    return Model(
        name=str(file),
        num_layers=config["num_hidden_layers"],
        hidden=hidden,
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=head_dim,
        mlp=config["intermediate_size"],
        vocab=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        layer_plan=_readings(config, head_dim),
    )


def _readings(config: dict[str, Any], head_dim: int) -> tuple[Reading, ...]:
    """Return what each layer reads; empty if all layers read every key."""
    num_layers = config["num_hidden_layers"]
    if (plan := config.get("layer_plan")) is not None:
        gate = (config.get("gate_width") or max(1, head_dim // 2)) * config.get("gate_queries", 1)
        own = {int(index): _of_plan(entry, gate) for index, entry in plan["layers"].items()}
        default = _of_plan(plan["default"], gate)
        return tuple(own.get(index, default) for index in range(num_layers))
    window = config.get("sliding_window")
    if not window or config.get("use_sliding_window") is False:
        return ()
    of_type = {"sliding_attention": Reading(kind="window", keys=window), "full_attention": DENSE}
    types = config.get("layer_types") or ["sliding_attention"] * num_layers
    return tuple(of_type[name] for name in types)


def _of_plan(entry: dict[str, Any], gate: int) -> Reading:
    """Return an entry of a sandwich's layer plan (`tuili.attention.plan`) as the planner reads it."""
    kind = entry["kind"]
    if kind == "dense":
        if entry["window"] is None:
            return DENSE
        return Reading(kind="window", keys=entry["window"] + entry["sink"], past=entry["past"])
    if kind == "pooled":
        return Reading(kind="pooled", keys=entry["window"] + entry["sink"], block=entry["block"])
    budget = entry["budget"]
    keys = budget["keep"] * budget["block"]
    return Reading(kind=kind, keys=keys, block=entry["sub"], gate_width=gate, beam=budget["beam"] or 0)
