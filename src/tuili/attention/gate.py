"""The gate: two small projections that score blocks of keys, and the file that holds a model's gates.

z = max over gate queries r and sub-blocks i of (W_q q)_r . (W_k mean k_i) - c_r + bias, M = sigmoid(z), with c_r what
the query's heads spend on the keys that are always kept (`tuili.attention.offset`). Queries and keys are those of the
attention itself, position already applied. How a gate is taught: `tuili.attention.target`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends.cpu import get_cpu_capability

from tuili.attention.pooling import gate_keys
from tuili.errors import DependencyError, InputError, ModelFileError, UsageError
from tuili.files import TensorEntry, atomic_path, read_safetensors_header

FORMAT = "tuili-gates-1"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_SIZE = 1 << 12
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateShape:
    """The sizes of a gate.

    Attributes:
        heads: query heads of the attention, H.
        groups: its key-value groups, G; divides the heads.
        head_dim: d.
        queries: gate queries a group, 1 .. H / G.
        width: of a gate query and a gate key, e.
        sub: keys per gate key; must divide the budget's block.

    Raises:
        UsageError: a size is out of its bounds.
    """

    heads: int
    groups: int
    head_dim: int
    queries: int
    width: int
    sub: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or not 1 <= value <= MAX_SIZE:
                raise UsageError(f"{field.name} must be a whole number in 1 .. {MAX_SIZE}, not {value!r}")
        if self.heads % self.groups:
            raise UsageError(f"{self.groups} groups do not divide {self.heads} heads")
        if self.queries > self.heads // self.groups:
            raise UsageError(
                f"queries must be at most heads / groups = {self.heads // self.groups}, not {self.queries}"
            )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter."""
        group_width = self.heads // self.groups * self.head_dim
        return {
            "q_proj": (self.groups, group_width, self.queries * self.width),
            "k_proj": (self.groups, self.head_dim, self.width),
            "bias": (self.groups,),
        }


class Gate(nn.Module):
    """The gate of one layer. `Gate.low_rank` and `Gate.training_free` set its weights; `Gate(shape)` has zeros."""

    q_proj: nn.Parameter
    k_proj: nn.Parameter
    bias: nn.Parameter

    def __init__(self, shape: GateShape) -> None:
        super().__init__()
        self.shape = shape
        for name, size in shape.parameters().items():
            self.register_parameter(name, nn.Parameter(torch.zeros(size)))

    @classmethod
    def low_rank(cls, shape: GateShape, scale: float | None = None) -> Gate:
        """Return a gate of any width that estimates the attention's own score of the mean key of a sub-block.

        Queries and keys share one random orthonormal basis: the score is exact up to the directions it leaves out.
        Heads that share a gate query are averaged. `scale` is the attention's; None: head_dim ** -0.5.
        """
        return cls(shape).start_low_rank(scale)

    @classmethod
    def training_free(cls, heads: int, groups: int, head_dim: int, sub: int, scale: float | None = None) -> Gate:
        """Return the gate whose score is the attention's own scaled score of the mean key of a sub-block."""
        shape = GateShape(
            heads=heads, groups=groups, head_dim=head_dim, queries=heads // max(1, groups), width=head_dim, sub=sub
        )
        return cls(shape)._set(torch.eye(head_dim), scale)

    @classmethod
    @torch.no_grad()
    def balanced(cls, shape: GateShape, q: Tensor, k: Tensor, scale: float | None = None) -> Gate:
        """Return the gate whose dot products come nearest to the attention's own, in mean square over q and k.

        A start for distillation: the strongest directions of C_q^1/2 C_k^1/2, with the second moments C of the queries
        and the pooled keys of a text; heads that share a gate query are averaged.

        Args:
            shape: its sizes; the width is at most the head dim.
            q: queries [H, T, d] of a text.
            k: keys [G, N, d] of it.
            scale: the attention's; None: head_dim ** -0.5.

        Raises:
            UsageError: the width is above the head dim.
        """
        if shape.width > shape.head_dim:
            raise UsageError(f"there are {shape.head_dim} directions at most, the width is {shape.width}")
        pooled_GNd = gate_keys(k[None].float(), None, shape.sub)[0].transpose(0, 1)
        root_q, inverse_q = _roots(q.float().unflatten(0, (shape.groups, -1)).flatten(1, 2))
        root_k, inverse_k = _roots(pooled_GNd)
        left, strength, right = torch.linalg.svd(root_q @ root_k)
        share = strength.sqrt()[:, None, : shape.width]
        basis_q_Gde = inverse_q @ left[..., : shape.width] * share
        basis_k_Gde = inverse_k @ right.transpose(1, 2)[..., : shape.width] * share
        return cls(shape)._set(basis_q_Gde, scale, basis_k_Gde)

    def start_low_rank(self, scale: float | None = None) -> Gate:
        """Set the weights to those of `Gate.low_rank` and return the gate."""
        size = max(self.shape.head_dim, self.shape.width), self.shape.width
        square_de = torch.linalg.qr(torch.randn(size, dtype=torch.float32, device=self.bias.device))[0]
        return self._set(square_de[: self.shape.head_dim], scale)

    @torch.no_grad()
    def _set(self, basis: Tensor, scale: float | None, basis_k: Tensor | None = None) -> Gate:
        """Set the weights from a basis [d, e] or [G, d, e] for queries and, if none is given, for keys; no bias."""
        shape, per_group = self.shape, self.shape.heads // self.shape.groups
        heads_R = torch.arange(per_group, device=basis.device)
        share_RQ = nn.functional.one_hot(heads_R * shape.queries // per_group, shape.queries).float()
        factor = shape.head_dim**-0.5 if scale is None else scale
        basis_Gde = basis.expand(shape.groups, -1, -1)
        q_proj = torch.einsum("rq,gde->grdqe", share_RQ / share_RQ.sum(0), basis_Gde * factor)
        self.q_proj.copy_(q_proj.flatten(3).flatten(1, 2))
        self.k_proj.copy_(basis_Gde if basis_k is None else basis_k)
        self.bias.zero_()
        return self

    def queries(self, q: Tensor) -> Tensor:
        """Return the gate queries [B, T, G, Q, e] of queries [B, H, T, d], in the dtype of `q`.

        Where a gate's groups are spread over devices, those here are meant by H and G.

        Raises:
            InputError: `q` has another number of heads or head dim.
        """
        shape, groups = self.shape, self.q_proj.shape[0]
        heads = shape.heads // shape.groups * groups
        if q.ndim != 4 or (q.shape[1], q.shape[3]) != (heads, shape.head_dim):
            raise InputError(
                f"the gate is for {heads} heads of {shape.head_dim}, the queries have the shape {list(q.shape)}"
            )
        group_BGTf = q.unflatten(1, (groups, -1)).transpose(2, 3).flatten(3)
        return _product(group_BGTf, self.q_proj).transpose(1, 2).unflatten(3, (shape.queries, shape.width))

    def keys(self, k: Tensor) -> Tensor:
        """Return the gate keys [B, ceil(N / sub), G, e] of keys [B, G, N, d], in the dtype of `k`.

        Raises:
            InputError: `k` has another number of groups or head dim.
        """
        return gate_keys(k, self.k_proj, self.shape.sub)

    def forward(self, q: Tensor, k: Tensor, block: int, offset: Tensor | None = None) -> Tensor:
        """Return the scores z of every whole block [B, T, G, N // block] in float32, future ones included.

        For training on sampled queries: O(N / sub) a query, with gradients.

        Args:
            q: queries [B, H, T, d].
            k: keys [B, G, N, d].
            block: keys per block.
            offset: [B, T, G, Q], taken off the scores; None: 0.

        Raises:
            UsageError: the sub-block does not divide the block.
            InputError: shapes do not fit.
        """
        self.check_block(block)
        num_blocks = k.shape[2] // block
        keys_BNGe = self.keys(k[:, :, : num_blocks * block]).float()
        q_BGTQe = self.queries(q).float().transpose(1, 2)
        dots_BGTQN = (q_BGTQe.flatten(2, 3) @ keys_BNGe.permute(0, 2, 3, 1)).unflatten(2, q_BGTQe.shape[2:4])
        z_BGTQJ = dots_BGTQN.unflatten(4, (num_blocks, block // self.shape.sub)).amax(5)
        z_BGTJ = (z_BGTQJ if offset is None else z_BGTQJ - offset.transpose(1, 2)[..., None]).amax(3)
        return z_BGTJ.transpose(1, 2) + self.bias[:, None]

    def check_block(self, block: int) -> None:
        """Check that the gate can score blocks of this size.

        Raises:
            UsageError: the sub-block does not divide the block.
        """
        if block % self.shape.sub:
            raise UsageError(
                f"a gate with one key for {self.shape.sub} keys can't score blocks of {block}; choose a multiple"
            )


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """Return the matrix product in the dtype of `x`; in float32 in between where bfloat16 is slow, without AVX-512."""
    is_slow = x.dtype == torch.bfloat16 and x.device.type == "cpu" and get_cpu_capability() != "AVX512"
    if not is_slow:
        return x @ weight.to(x.dtype)
    return (x.float() @ weight.to(x.dtype).float()).to(x.dtype)


def _roots(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square root of the second moments of vectors [G, N, d], and its inverse; tiny ones are raised."""
    values, vectors = torch.linalg.eigh(x.transpose(1, 2) @ x / x.shape[1])
    values = values.clamp_min(1e-5 * float(values.amax())).sqrt()[:, None]
    return vectors * values @ vectors.transpose(1, 2), vectors / values @ vectors.transpose(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFile:
    """What a file of gates holds.

    Attributes:
        gates: the gate of each sparse layer, by the layer's index.
        plan: what the caller wrote beside them (layers, budgets), as JSON holds it.
        base_sha256: of the weights of the model they were made for.
    """

    gates: dict[int, Gate]
    plan: dict[str, Any]
    base_sha256: str


def save_gates(path: Path, file: GateFile, dtype: torch.dtype = torch.float32) -> None:
    """Write gates as safetensors, atomically: the old file or the whole new one is there.

    Raises:
        UsageError: there is no gate, the base's hash is none, a weight is no finite number in `dtype`, or `dtype`
            can't be stored.
        DependencyError: safetensors is not installed.
        StoreError: the file can't be written.
    """
    safetensors = _import_safetensors()
    if not file.gates or not SHA256.fullmatch(file.base_sha256) or dtype not in DTYPES.values():
        raise UsageError(
            f"can't save {len(file.gates)} gates as {dtype} for the base {file.base_sha256!r}: there must be at least "
            "one gate, a float dtype and the base's sha256 in lower-case hex"
        )
    tensors = {
        f"layers.{layer}.{name}": parameter.detach().to(device="cpu", dtype=dtype).contiguous()
        for layer, gate in file.gates.items()
        for name, parameter in gate.named_parameters()
    }
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UsageError(f"the gates are not finite in {dtype} ({bad[0]}); nothing was written")
    metadata = {
        "format": FORMAT,
        "base_sha256": file.base_sha256,
        "shapes": json.dumps({layer: asdict(gate.shape) for layer, gate in sorted(file.gates.items())}),
        "plan": json.dumps(file.plan, allow_nan=False),
    }
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=metadata)


def load_gates(path: Path, base_sha256: str | None = None) -> GateFile:
    """Read a file of gates, float32 on the CPU; header, shapes, dtypes and values are checked before use.

    Args:
        path: the file.
        base_sha256: of the weights of the model they are for; None takes gates of any.

    Raises:
        ModelFileError: the file is missing, cut off, no file of gates, or for another model.
        DependencyError: safetensors is not installed.
    """
    entries = read_safetensors_header(path)
    metadata, tensors = _read(path)
    if metadata.get("format") != FORMAT:
        raise ModelFileError(f"{path} is no file of gates: its format is {metadata.get('format')!r}, not {FORMAT!r}")
    made_for = metadata.get("base_sha256", "")
    if base_sha256 is not None and made_for != base_sha256:
        raise ModelFileError(
            f"the gates in {path} were made for another model (weights' sha256 {made_for}, yours {base_sha256}); "
            "distil gates for this model"
        )
    try:
        shapes = _parse_shapes(metadata["shapes"])
        plan = _parse_object(metadata["plan"])
        _check_entries(entries, shapes)
    except (KeyError, TypeError, ValueError, RecursionError, UsageError) as error:
        raise ModelFileError(f"{path} is no sound file of gates: {error}") from error
    return GateFile(gates=_fill(path, tensors, shapes), plan=plan, base_sha256=made_for)


def _fill(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[int, GateShape]) -> dict[int, Gate]:
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ModelFileError(f"{path} holds values that are no finite numbers, in {bad[0]}")
    gates = {}
    for layer, shape in shapes.items():
        gate = Gate(shape)
        gate.load_state_dict({name: tensors[f"layers.{layer}.{name}"].float() for name in shape.parameters()})
        gates[layer] = gate
    return gates


def _parse_shapes(text: str) -> dict[int, GateShape]:
    shapes = {int(layer): GateShape(**sizes) for layer, sizes in _parse_object(text).items()}
    if not shapes or min(shapes) < 0:
        raise ValueError(f"it has gates for the layers {sorted(shapes)}")
    return shapes


def _parse_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("its metadata is no JSON object")
    return value


def _check_entries(entries: Mapping[str, TensorEntry], shapes: Mapping[int, GateShape]) -> None:
    expected = {
        f"layers.{layer}.{name}": size for layer, shape in shapes.items() for name, size in shape.parameters().items()
    }
    if differing := sorted(expected.keys() ^ entries.keys()):
        raise ValueError(f"the tensor {differing[0]!r} is missing or has no place in it")
    for name, entry in entries.items():
        if entry.dtype not in DTYPES or entry.shape != expected[name]:
            raise ValueError(
                f"the tensor {name!r} is {entry.dtype} {list(entry.shape)}, not "
                f"{' or '.join(DTYPES)} {list(expected[name])}"
            )


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file whose header has been checked."""
    safetensors = _import_safetensors()
    try:
        with safetensors.safe_open(path, "pt") as opened:
            return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise ModelFileError(f"can't read {path}: {error}") from error


def _import_safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise DependencyError("safetensors", "models", "reading or writing gates") from error
    return safetensors
