"""Is a Hugging Face model folder safe to load? Checked without torch and without running anything.

Covered: remote code, pickled weights, safetensors headers, shards that point out of the folder.
Not covered: what the weights make the model say, and the time a chat template takes to render.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tuili.errors import ModelFileError
from tuili.files import read_safetensors_header

MAX_JSON_BYTES = 10_000_000
INDEX_FILE = "model.safetensors.index.json"
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    INDEX_FILE,
)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
WORD_KEYS = frozenset(
    {
        "_name_or_path",
        "activation_function",
        "architectures",
        "classifier_dropout",
        "dtype",
        "feed_forward_proj",
        "finetuning_task",
        "hidden_act",
        "hidden_activation",
        "id2label",
        "label2id",
        "layer_norm_type",
        "layer_plan",
        "layer_types",
        "model_type",
        "norm_type",
        "position_embedding_type",
        "problem_type",
        "rope_parameters",
        "rope_scaling",
        "rope_type",
        "summary_type",
        "task_specific_params",
        "text_config",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "vision_config",
    }
)
"""The keys of config.json that may hold text, lists of text or objects; any key may hold numbers."""


def check_model_dir(folder: Path) -> dict[str, Any]:
    """Return config.json of a model folder that is safe to load: safetensors only, no code of its own.

    Raises:
        ModelFileError: what is wrong, and what to do.
    """
    config = read_json(folder / "config.json")
    _check_config(config, folder / "config.json")
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (folder / name).exists() and "auto_map" in read_json(folder / name):
            raise _remote_code(folder / name, "auto_map")
    for path in weight_files(folder):
        read_safetensors_header(path)
    return config


def read_json(path: Path, max_bytes: int | None = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return a JSON object, of at most 10 MB by default; `max_bytes` None: of any size.

    Raises:
        ModelFileError: the file is missing, too large, or no JSON object.
    """
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise ModelFileError(f"{path} has {path.stat().st_size} bytes, the limit is {max_bytes}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no sound JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} holds a {type(value).__name__}, a JSON object is needed")
    return value


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder, the shards of an index included.

    Raises:
        ModelFileError: there are none, only pickles, or the index names other files.
    """
    weights = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if not weights:
        raise _no_weights(folder)
    if (folder / INDEX_FILE).exists():
        _check_shards(folder, {path.name for path in weights})
    return weights


def _no_weights(folder: Path) -> ModelFileError:
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if not pickles:
        return ModelFileError(f"{folder} holds no *.safetensors file")
    return ModelFileError(
        f"{folder} holds only pickled weights ({', '.join(pickles)}), which can run code when they are read; "
        "get the model's safetensors instead"
    )


def _check_shards(folder: Path, present: set[str]) -> None:
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelFileError(f"{folder / INDEX_FILE} has no sound weight_map")
    if missing := sorted(set(weight_map.values()) - present):
        raise ModelFileError(f"{folder / INDEX_FILE} names {missing[0]!r}, which is not there")


def _check_config(config: dict[str, Any], path: Path) -> None:
    if not isinstance(config.get("model_type"), str):
        raise ModelFileError(f"{path} has no model_type")
    for key, value in config.items():
        if key in WORD_KEYS:
            if key.endswith("_config") and isinstance(value, dict):
                _check_nested(value, path)
        elif not _is_number_like(value) or not re.fullmatch(r"[a-z][a-zA-Z0-9_]*", key):
            raise _remote_code(path, key)


def _check_nested(config: dict[str, Any], path: Path) -> None:
    _check_config({"model_type": "nested", **config}, path)


def _is_number_like(value: Any) -> bool:
    """Return whether a value can't name code or an address: numbers, booleans, null, lists of them."""
    if isinstance(value, list):
        return all(_is_number_like(item) for item in value)
    return value is None or isinstance(value, (bool, int, float))


def _remote_code(path: Path, key: str) -> ModelFileError:
    return ModelFileError(
        f"{path} has the key {key!r}, which tuili doesn't know and which could name code; "
        "remove the key if the model works without it, or take another model"
    )
