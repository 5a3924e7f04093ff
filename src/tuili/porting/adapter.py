"""Adapters: files of distilled gates, and which model each is for.

A file names its base by a fingerprint of that model's attention projections, so that gates are never put into another
model. The fingerprint is the same for float32 and bfloat16 weights.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from tuili.attention.gate import GateFile, load_gates, save_gates


def fingerprint(model: PreTrainedModel) -> str:
    """Return the sha256 of a model's query and key projections in bfloat16, layer by layer."""
    digest = hashlib.sha256()
    projections = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.endswith((".q_proj", ".k_proj"))
    ]
    for _, module in projections:
        weight = module.weight.detach().to(device="cpu", dtype=torch.bfloat16).contiguous()
        digest.update(str(tuple(weight.shape)).encode())
        digest.update(weight.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def load(path: Path, model: PreTrainedModel) -> GateFile:
    """Return the gates in a file.

    Raises:
        ModelFileError: the file is missing, damaged, or for another model.
    """
    return load_gates(path, fingerprint(model))


def save(path: Path, gates: GateFile) -> None:
    """Write gates in half precision."""
    save_gates(path, gates, torch.float16)
