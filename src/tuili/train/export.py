"""A checkpoint as a folder of plain safetensors, which `from_pretrained` loads bit for bit.

The weights are put together from the checkpoint's files, so one process exports what any number of them trained.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tuili.errors import ModelFileError, StoreError
from tuili.files import ensure_dir, sync, write_text
from tuili.model.local import INDEX_FILE
from tuili.train.checkpoint import MODEL, Checkpoint
from tuili.train.models import save_tokenizer
from tuili.train.shards import Files, dtype_of, whole
from tuili.train.tokens import TextTokenizer

MAX_FILE_BYTES = 4 << 30
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def export(checkpoint: Checkpoint, tokenizer: TextTokenizer, folder: Path) -> None:
    """Write a model's folder as a whole or not at all; one that is there is replaced.

    Raises:
        ModelFileError: the checkpoint is damaged.
        StoreError: the folder can't be written.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    ensure_dir(temporary)
    try:
        _write(checkpoint, temporary)
        save_tokenizer(tokenizer, temporary)
        write_text(temporary / "config.json", json.dumps(dict(checkpoint.origin.model), indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"can't write the model to {folder}: {error}; make room and run the command again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    names = _names(checkpoint)
    groups = _groups(checkpoint, names)
    weight_map: dict[str, str] = {}
    with Files(checkpoint.folder) as files:
        for number, group in enumerate(groups, start=1):
            file = f"model-{number:05}-of-{len(groups):05}.safetensors" if len(groups) > 1 else "model.safetensors"
            tensors = {name: whole(files, checkpoint.table, f"{MODEL}{name}") for name in group}
            save_file(tensors, folder / file, metadata={"format": "pt"})
            (folder / file).chmod(0o644)
            sync(folder / file)
            weight_map |= dict.fromkeys(group, file)
    if len(groups) > 1:
        total = sum(_num_bytes(checkpoint, name) for name in names)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(folder / INDEX_FILE, json.dumps(index, indent=2) + "\n")


def _names(checkpoint: Checkpoint) -> list[str]:
    """Return the weights to write: all, but a head that is the embedding only once."""
    names = [name.removeprefix(MODEL) for name in checkpoint.table if name.startswith(MODEL)]
    if not (checkpoint.origin.model.get("tie_word_embeddings") and {HEAD, EMBEDDING} <= set(names)):
        return names
    with Files(checkpoint.folder) as files:
        head, embedding = (whole(files, checkpoint.table, f"{MODEL}{name}") for name in (HEAD, EMBEDDING))
    if not _are_equal(head, embedding):
        raise ModelFileError(f"{checkpoint.folder} has a head that is tied to the embedding and differs from it")
    return [name for name in names if name != HEAD]


def _are_equal(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors have the same bytes, NaN included."""
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def _groups(checkpoint: Checkpoint, names: list[str]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name in names:
        num_bytes = _num_bytes(checkpoint, name)
        if groups[-1] and size + num_bytes > MAX_FILE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += num_bytes
    return groups


def _num_bytes(checkpoint: Checkpoint, name: str) -> int:
    entry: dict[str, Any] = checkpoint.table[f"{MODEL}{name}"]
    return torch.Size(entry["shape"]).numel() * dtype_of(entry).itemsize
