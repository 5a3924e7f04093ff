"""Adapters: what was learned for one model (gates, low-rank weights), with the layer plan it was learned under.

A file names its base by a fingerprint of that model's query and key projections and of all others that it adds low-rank
weights to, so that nothing is ever put into another model. The fingerprint is the same for float32 and bfloat16
weights, ported or not. Tensors are stored in float16.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from tuili.attention.gate import Gate, GateShape
from tuili.attention.plan import LayerPlan
from tuili.errors import InputError, ModelFileError, UsageError
from tuili.files import TensorEntry, atomic_path, read_safetensors_header
from tuili.porting.lowrank import PROJECTIONS, LowRank, find, projection

FORMAT = "tuili-adapter-1"
DTYPES = ("F32", "F16", "BF16")
SHA256 = re.compile("[0-9a-f]{64}")
SHIPPED = Path(__file__).parent / "data"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What was learned for one model.

    Attributes:
        gates: by layer; a sparse layer without one scores training-free.
        low_rank: weights added to projections, by module name such as "model.layers.5.self_attn.q_proj".
        plan: how the layers read their context.
        base_sha256: `fingerprint` of the model, with the names in `low_rank`.
        info: facts about the training, as JSON can hold them.

    Raises:
        UsageError: there are neither gates nor low-rank weights, or the fingerprint is none.
    """

    gates: Mapping[int, Gate]
    low_rank: Mapping[str, LowRank] = field(default_factory=dict)
    plan: LayerPlan
    base_sha256: str
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.gates and not self.low_rank:
            raise UsageError("an adapter must hold at least one gate or low-rank weight, this one holds none")
        if not SHA256.fullmatch(self.base_sha256):
            raise UsageError(f"base_sha256 must be the fingerprint of a model, not {self.base_sha256!r}")

    def __str__(self) -> str:
        parts = {"gates of {} layers": len(self.gates), "low-rank weights in {} projections": len(self.low_rank)}
        return ", ".join(text.format(count) for text, count in parts.items() if count)


def fingerprint(model: PreTrainedModel, adapted: Iterable[str] = ()) -> str:
    """Return the sha256 of a model's query, key and adapted projections in bfloat16, layer by layer.

    Args:
        model: a decoder, or its body.
        adapted: names of the projections with low-rank weights; one that the model does not have changes nothing.
    """
    digest = hashlib.sha256()
    others = {id(find(model, name)) for name in adapted if name.endswith(PROJECTIONS)}
    projections = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (name.endswith((".q_proj", ".k_proj")) or id(module) in others)
    ]
    for module in projections:
        weight = module.weight.detach().to(device="cpu", dtype=torch.bfloat16).contiguous()
        digest.update(str(tuple(weight.shape)).encode())
        digest.update(weight.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def shipped(model: PreTrainedModel) -> Path | None:
    """Return the adapter that comes with tuili for a model, by its fingerprint; None: there is none.

    Reads headers only, and hashes the model only if the sizes in one of them are the model's.
    """
    return next((path for path in sorted(SHIPPED.glob("*.safetensors")) if _is_for(path, model)), None)


def save(path: str | PathLike[str], adapter: Adapter) -> None:
    """Write an adapter in half precision, atomically: the old file or the whole new one is there.

    Raises:
        UsageError: a weight is no finite number in float16, or `info` is not for JSON.
        StoreError: the file can't be written.
    """
    named: dict[str, Tensor] = {
        f"gates.{layer}.{name}": parameter
        for layer, gate in adapter.gates.items()
        for name, parameter in gate.named_parameters()
    }
    for name, each in adapter.low_rank.items():
        named |= {f"low_rank.{name}.a": each.a, f"low_rank.{name}.b": each.b}
    tensors = {name: each.detach().to("cpu", torch.float16).contiguous() for name, each in named.items()}
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UsageError(f"the adapter is not finite in float16 ({bad[0]}); nothing was written")
    metadata = {
        "format": FORMAT,
        "base_sha256": adapter.base_sha256,
        "shapes": json.dumps({str(layer): asdict(gate.shape) for layer, gate in sorted(adapter.gates.items())}),
        "scales": json.dumps({name: each.scale for name, each in adapter.low_rank.items()}),
        "plan": json.dumps(adapter.plan.to_dict()),
        "info": _to_json(adapter.info),
    }
    with atomic_path(Path(path)) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=metadata)


def load(path: Path, model: PreTrainedModel) -> Adapter:
    """Read an adapter, float32 on the CPU; header, names, shapes, values and base are checked before use.

    Raises:
        ModelFileError: the file is missing, cut off, no adapter, not sound, or for another model.
    """
    entries = read_safetensors_header(path)
    metadata, tensors = _read(path)
    if metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{path} is no adapter: its format is {metadata.get('format')!r}, not {FORMAT!r}; name a file that "
            "`tuili distill` of this version wrote"
        )
    if wrong := _another_base(metadata.get("base_sha256"), model, _adapted(tensors)):
        raise ModelFileError(f"{path} {wrong}")
    try:
        adapter = _parse(metadata, entries, tensors)
        check(adapter, model)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, InputError, UsageError) as error:
        raise ModelFileError(f"{path} is no sound adapter, write or fetch it anew: {error}") from error
    return adapter


def check(adapter: Adapter, model: PreTrainedModel) -> None:
    """Check that an adapter was made for a model and that all its parts fit.

    Raises:
        UsageError: with what does not fit.
    """
    if wrong := _another_base(adapter.base_sha256, model, adapter.low_rank):
        raise UsageError(f"the adapter {wrong}")
    for layer, gate in adapter.gates.items():
        if layer >= model.config.num_hidden_layers or not _has_sizes_of(asdict(gate.shape), model):
            raise UsageError(f"the gate of layer {layer} is for {gate.shape}, the model has other layers or heads")
    for name, each in adapter.low_rank.items():
        projection(model, name, each)


def _another_base(base_sha256: str | None, model: PreTrainedModel, adapted: Iterable[str]) -> str:
    """Return what tells that a model is not the one an adapter was made for; nothing if it is."""
    if base_sha256 == (found := fingerprint(model, adapted)):
        return ""
    if base_sha256 == fingerprint(model):
        return (
            "does not tell whether its low-rank weights are for this model, an earlier tuili wrote it; distil it anew"
        )
    return f"was made for another model (fingerprint {base_sha256}, yours has {found}); distil one for this model"


def _adapted(names: Iterable[str]) -> set[str]:
    """Return the names of the projections with low-rank weights, from those of a file's tensors."""
    return {name.removeprefix("low_rank.").rpartition(".")[0] for name in names if name.startswith("low_rank.")}


def _is_for(path: Path, model: PreTrainedModel) -> bool:
    """Tell whether a file was made for a model, from its header: first by the number of heads, then by fingerprint."""
    try:
        with safe_open(path, "pt") as opened:
            metadata, names = opened.metadata() or {}, list(opened.keys())
        shapes = _object(metadata["shapes"])
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise ModelFileError(f"{path}, which comes with tuili, can't be read ({error}); install tuili again") from error
    may_fit = all(_has_sizes_of(each, model) for each in shapes.values())
    return may_fit and metadata.get("base_sha256") == fingerprint(model, _adapted(names))


def _has_sizes_of(shape: Mapping[str, Any], model: PreTrainedModel) -> bool:
    """Return whether what a gate's shape says of the attention holds for a model."""
    config = model.config
    heads = config.num_attention_heads
    sizes = {
        "heads": heads,
        "groups": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
    }
    return all(shape.get(name, size) == size for name, size in sizes.items())


def _parse(metadata: Mapping[str, str], entries: Mapping[str, TensorEntry], tensors: Mapping[str, Tensor]) -> Adapter:
    shapes = {int(layer): GateShape(**sizes) for layer, sizes in _object(metadata["shapes"]).items()}
    scales = _object(metadata["scales"])
    if shapes and min(shapes) < 0:
        raise ValueError(f"it has gates for the layers {sorted(shapes)}")
    _check_entries(entries, shapes, list(scales))
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"it holds values that are no finite numbers, in {bad[0]}")
    gates = {layer: _fill(Gate(shape), tensors, f"gates.{layer}.") for layer, shape in shapes.items()}
    factors = {name: [tensors[f"low_rank.{name}.{part}"].float() for part in "ab"] for name in scales}
    return Adapter(
        gates=gates,
        low_rank={name: LowRank(a=a, b=b, scale=float(scales[name])) for name, (a, b) in factors.items()},
        plan=LayerPlan.from_dict(json.loads(metadata["plan"])),
        base_sha256=metadata["base_sha256"],
        info=_object(metadata["info"]),
    )


def _check_entries(entries: Mapping[str, TensorEntry], shapes: Mapping[int, GateShape], names: list[str]) -> None:
    expected: dict[str, tuple[int, ...] | None] = {
        f"gates.{layer}.{name}": size for layer, shape in shapes.items() for name, size in shape.parameters().items()
    }
    expected |= {f"low_rank.{name}.{part}": None for name in names for part in "ab"}
    if differing := sorted(expected.keys() ^ entries.keys()):
        raise ValueError(f"the tensor {differing[0]!r} is missing or has no place in it")
    for name, entry in entries.items():
        wanted = entry.shape if expected[name] is None else expected[name]
        if entry.dtype not in DTYPES or entry.shape != wanted:
            raise ValueError(
                f"the tensor {name!r} is {entry.dtype} {list(entry.shape)}, not {' or '.join(DTYPES)} {wanted}"
            )


def _fill(gate: Gate, tensors: Mapping[str, Tensor], prefix: str) -> Gate:
    gate.load_state_dict({name: tensors[prefix + name].float() for name, _ in gate.named_parameters()})
    return gate


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("its metadata is no JSON object")
    return value


def _to_json(info: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(info), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"an adapter's info must be what JSON can hold: {error}") from error


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file whose header has been checked."""
    try:
        with safe_open(path, "pt") as opened:
            return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelFileError(f"can't read {path}: {error}") from error
