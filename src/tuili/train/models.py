"""The models that can be trained: Hugging Face decoders and the sandwich, new or continued; their tokenizers' files."""

from __future__ import annotations

import functools
import importlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from tuili.config import closest
from tuili.errors import ModelFileError, UsageError
from tuili.model.local import check_model_dir
from tuili.train.recipe import ModelConfig
from tuili.train.tokens import TextTokenizer

SANDWICH = "tuili_sandwich"
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Source:
    """A model to be trained.

    Attributes:
        make: returns it, with the same weights on every process.
        skeleton: returns it without storage for parameters and buffers, on the meta device.
        config: what its config.json holds.
    """

    make: Callable[[], nn.Module]
    skeleton: Callable[[], nn.Module]
    config: Mapping[str, Any]


def describe(model: ModelConfig, tokenizer: TextTokenizer, length: int, seed: int) -> Source:
    """Return the source of a model that fits a tokenizer and a length of sequences.

    Raises:
        UsageError: the family or a setting is unknown, a value is out of its bounds, or the vocabulary or the window is
            too small.
        ModelFileError: the folder to continue from holds no model that is safe to load.
    """
    config = _new_config(model, tokenizer) if model.start is None else _config_of(model.start)
    if model.start is not None and model.settings:
        config = _sandwich_of(config, model.settings)
    if config.vocab_size < tokenizer.vocab_size:
        raise UsageError(
            f"the model's vocab_size is {config.vocab_size}, the tokenizer has {tokenizer.vocab_size} tokens; raise "
            "the one or take another tokenizer"
        )
    window = getattr(config, "max_position_embeddings", None)
    if window is not None and window < length:
        raise UsageError(
            f"data.length is {length}, the model's max_position_embeddings {window}; change one of the two"
        )
    heads, groups = (getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    if heads and groups and heads % groups:
        raise UsageError(
            f"the model's num_attention_heads is {heads}, its num_key_value_heads {groups} (the family's own if none "
            "is set); the second must divide the first"
        )
    described = json.loads(config.to_json_string(use_diff=False))
    architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    described |= {"architectures": [architecture.__name__], "dtype": "float32"}
    start = model.start
    make = (
        functools.partial(_new, config, seed)
        if start is None
        else functools.partial(_loaded, start, config, seed, becomes_sandwich=bool(model.settings))
    )
    return Source(make, functools.partial(_skeleton, config), described)


def _new_config(model: ModelConfig, tokenizer: TextTokenizer) -> PretrainedConfig:
    family = _known(model.family)
    try:
        kind = type(AutoConfig.for_model(family))
    except ValueError as error:
        raise UsageError(
            f"there is no model family {model.family!r}; give `sandwich` or the model_type of a Hugging Face decoder"
        ) from error
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UsageError(f"the model family {model.family!r} has no decoder that predicts the next token")
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(model.settings) - set(known)):
        raise UsageError(f"{model.family} has no setting {unknown[0]!r}; {closest(unknown[0], known)}")
    own = {"vocab_size": tokenizer.vocab_size, "bos_token_id": None, "eos_token_id": tokenizer.end_id}
    try:
        return kind(**{**own, "pad_token_id": None, **model.settings})
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UsageError(f"model.settings make no {model.family}: {' '.join(str(error).split())}") from error


def _known(family: str) -> str:
    """Return the model type of a family; transformers knows it afterwards if there is one."""
    if family not in ("sandwich", SANDWICH):
        return family
    importlib.import_module("tuili.model.sandwich")
    return SANDWICH


def _config_of(folder: Path) -> PretrainedConfig:
    _known(check_model_dir(folder)["model_type"])
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise ModelFileError(f"{folder} holds no model that transformers knows: {error}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelFileError(f"{folder} holds a {config.model_type}, which is no decoder that predicts the next token")
    return config


def _sandwich_of(config: PretrainedConfig, settings: Mapping[str, Any]) -> PretrainedConfig:
    sandwich = importlib.import_module("tuili.model.sandwich")
    try:
        made: PretrainedConfig = sandwich.SandwichConfig.of_llama(config, **settings)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UsageError(f"model.settings make no sandwich: {' '.join(str(error).split())}") from error
    return made


def _new(config: PretrainedConfig, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except Exception as error:  # whatever the code of a family makes of settings that it does not check
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UsageError(f"no {config.model_type} can be built of model.settings; {reason}") from error
    return model


def _skeleton(config: PretrainedConfig) -> nn.Module:
    with no_init_weights(), torch.device("meta"):
        made: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        made.tie_weights()
    model: nn.Module = made
    return model


def _loaded(folder: Path, config: PretrainedConfig, seed: int, *, becomes_sandwich: bool) -> nn.Module:
    """Load a folder's weights; what becomes a sandwich may lack gates, which then begin by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelFileError(f"{folder} holds no decoder that transformers can load: {error}") from error
    model: nn.Module = loaded[0]
    gates = ".self_attn.tuili.gate."
    missing = sorted(name for name in loaded[1]["missing_keys"] if not (becomes_sandwich and gates in name))
    if missing:
        raise ModelFileError(f"{folder} lacks {len(missing)} of its weights, such as {missing[0]}")
    return model


def save_tokenizer(tokenizer: TextTokenizer, folder: Path) -> None:
    """Write the files of a tokenizer into a model's folder; those that it was brought with, or new ones."""
    beside = tokenizer.path.parent
    if (beside / TOKENIZER_FILES[0]).is_file():
        shutil.copy(tokenizer.path, folder / "tokenizer.json")
        for name in TOKENIZER_FILES:
            if (beside / name).is_file():
                shutil.copy(beside / name, folder / name)
        return
    end = tokenizer.tokenizer.id_to_token(tokenizer.end_id)
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer.path), eos_token=end).save_pretrained(folder)
