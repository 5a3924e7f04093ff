"""Adapters: files of distilled gates, and which model each is for.

A file names its base by a fingerprint of that model's attention projections, so that gates are never put into another
model. The fingerprint is the same for float32 and bfloat16 weights.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tuili.attention.gate import Gate, GateFile, load_gates, save_gates
from tuili.porting.layers import LayerPlan


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Distilled gates, the plan they were made for, and the hash of the base they fit."""

    gates: dict[int, Gate]
    low_rank: dict[str, Tensor] = field(default_factory=dict)
    plan: LayerPlan
    base_sha256: str
    info: dict[str, Any] = field(default_factory=dict)


def load(path: Path, model: PreTrainedModel) -> Adapter:
    """Return what a file holds.

    Raises:
        ModelFileError: the file is missing, damaged, or for another model.
    """
    file = load_gates(path, fingerprint(model))
    return Adapter(gates=file.gates, plan=LayerPlan.from_dict(file.plan), base_sha256=file.base_sha256)


def save(path: Path, adapter: Adapter) -> None:
    """Write gates in half precision."""
    file = GateFile(gates=adapter.gates, plan=adapter.plan.to_dict(), base_sha256=adapter.base_sha256)
    save_gates(path, file, torch.float16)


def shipped(model: PreTrainedModel) -> Path | None:
    """Return the adapter that comes with tuili for this model, if there is one."""
    return None
