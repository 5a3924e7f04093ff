"""Batch size from memory: how many rows of a micro-batch a device holds, keeping the global batch by accumulation.

Three steps: an estimate from the model's sizes (`estimate`); a dry run that counts what torch would allocate, without
allocating it (`dry_run`); and a look at each device (`agree`), whose smallest answer all processes take. A real step
that runs out of memory is no test: its peers wait in a sum for a process that is not coming.

Shapes: M tokens of a micro-batch, D model width, I width of the network, V vocabulary, H heads of head dim h.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tuili.errors import LimitError, UsageError
from tuili.train.mesh import build_mesh, check_layout
from tuili.train.optim import local
from tuili.train.parallelize import lay_out
from tuili.train.precision import DTYPES, computing
from tuili.train.schedule import loss_of
from tuili.train.spec import ParallelSpec, TrainingConfig
from tuili.train.split import stage_layers, stages_of

FLOAT32 = 4
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "tie_word_embeddings",
    "vocab_size",
)
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
KEPT_FREE = 0.9
"""The part of a device's free memory that is used; the rest is for fragments and for what is not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on the fullest device at its fullest moment, when it turns from forward to backward passes.

    Attributes:
        parameters: in float32.
        gradients: in float32.
        optimizer: both moments of AdamW.
        gathered: parameters that are sharded, while they are whole; in a pipeline their gradients too.
        activations: kept for the backward pass, of all micro-batches that are under way; log-probabilities too.
        working: gradients of logits or of a layer's activations, whichever is more; with activation checkpointing the
            layer that is computed again too.
    """

    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


def estimate(config: Any, spec: ParallelSpec, training: TrainingConfig, *, length: int) -> Memory:
    """Return the memory of training a Llama-like decoder, from its sizes.

    Args:
        config: the model's, with Hugging Face's names.
        spec: the layout, its micro_batch included.
        training: how to train.
        length: tokens of a row.

    Raises:
        UsageError: the model can't be laid out so, or is no Llama-like one.

    Source: counted from torch's saved tensors; compared with `dry_run` in the tests.
    """
    _check_like_llama(config)
    check_layout(spec, training, config)
    layers = stage_layers(spec, config.num_hidden_layers)
    found = [_of_process(config, spec, training, length, layers, rank) for rank in range(spec.pp)]
    return max(found, key=lambda memory: memory.total)


def _check_like_llama(config: Any) -> None:
    instead = "set fit_memory=false, and parallel.micro_batch to what the devices hold"
    if missing := [name for name in SIZES if getattr(config, name, None) is None]:
        raise UsageError(f"memory is estimated for Llama-like decoders, this one has no {missing[0]}; {instead}")
    if experts := [name for name in EXPERTS if getattr(config, name, None)]:
        raise UsageError(f"memory is not estimated for decoders with experts ({experts[0]}); {instead}")


def _of_process(
    config: Any, spec: ParallelSpec, training: TrainingConfig, length: int, layers: list[range], pp_rank: int
) -> Memory:
    stages = stages_of(spec, pp_rank)
    num_layers = sum(len(layers[stage]) for stage in stages)
    is_first, is_last = 0 in stages, spec.num_stages - 1 in stages
    width = DTYPES[training.precision].itemsize if spec.dp_size > 1 else FLOAT32
    matrix = config.vocab_size * config.hidden_size // spec.tp
    num_matrices = int(is_first) + int(is_last and not (is_first and config.tie_word_embeddings))
    of_layer = _layer_parameters(config) // spec.tp
    held = (num_layers * of_layer + num_matrices * matrix) // spec.dp_shard
    num_whole = min(2, num_layers) if spec.pp == 1 else num_layers
    each = width + FLOAT32 if spec.pp > 1 else width
    gathered = each * (num_whole * of_layer + num_matrices * matrix) if spec.dp_shard > 1 else 0
    activations, working = _of_passes(config, spec, training, length, pp_rank, num_layers, is_last=is_last, width=width)
    staying = gathered if spec.pp > 1 else num_matrices * matrix * width if spec.dp_shard > 1 else 0
    staying += activations - activations // _stages_under_way(spec, pp_rank)
    last = _of_last_gradients(config, spec, num_matrices * matrix, of_layer, width, is_first=is_first)
    working = max(working, staying + last - gathered - activations)
    return Memory(
        parameters=FLOAT32 * held,
        gradients=FLOAT32 * held,
        optimizer=2 * FLOAT32 * held,
        gathered=gathered,
        activations=activations,
        working=working,
    )


def _of_last_gradients(
    config: Any, spec: ParallelSpec, matrices: int, of_layer: int, width: int, *, is_first: bool
) -> int:
    """Return the bytes that the gradients which come last take, when the activations of their pass are gone.

    Those of embeddings and head, which are sharded as one, each whole and once more as it is sent, beside a layer.
    Under tensor parallelism that of the embeddings is dense, and whole on every process before each gets its share:
    2.65 times its size was counted for that by `dry_run`.
    """
    dense = config.vocab_size * config.hidden_size * FLOAT32 if is_first else 0
    sharded = matrices * (width + FLOAT32) + of_layer * width if spec.dp_shard > 1 and spec.pp == 1 else 0
    if spec.tp > 1:
        return sharded + int(2.65 * dense)
    return sharded if spec.dp_shard > 1 else dense


def _of_passes(
    config: Any,
    spec: ParallelSpec,
    training: TrainingConfig,
    length: int,
    pp_rank: int,
    num_layers: int,
    *,
    is_last: bool,
    width: int,
) -> tuple[int, int]:
    """Return the bytes of a process's activations and of what it works with."""
    tokens = spec.micro_batch * length
    rounds = _stages_under_way(spec, pp_rank) / spec.virtual
    parameters = _layer_parameters(config) // spec.tp
    whole = tokens * _layer_bytes(config, spec.tp, width)
    of_layer = tokens * width * (3 * config.intermediate_size // spec.tp + 4 * config.hidden_size)
    kept = whole
    if training.activation_checkpointing:
        kept, of_layer = tokens * width * config.hidden_size, whole + of_layer
    elif spec.dp_size == 1 and training.precision != "float32":
        kept += parameters * DTYPES[training.precision].itemsize  # cast anew in every pass
    words = tokens * config.vocab_size * FLOAT32 if is_last else 0
    gradients = parameters * (width + FLOAT32) if spec.dp_shard > 1 and spec.pp == 1 else 0
    return int(rounds * (num_layers * kept + words)), max(2 * words, of_layer) + gradients


def _layer_parameters(config: Any) -> int:
    heads, groups = config.num_attention_heads * _head_dim(config), config.num_key_value_heads * _head_dim(config)
    return config.hidden_size * (2 * heads + 2 * groups + 3 * config.intermediate_size)


def _layer_bytes(config: Any, tp: int, width: int) -> int:
    """Return what a layer keeps of a token: 2 norms, attention over repeated keys and values, a gated network.

    A norm keeps its input in float32, what it normalised and its output; attention keeps q, k, v, its output and the
    logarithm of a head's sum; the network its two branches, the activated one and their product.
    """
    norms = 2 * config.hidden_size * (FLOAT32 + 2 * width)
    attention = config.num_attention_heads * (4 * width * _head_dim(config) + FLOAT32)
    return norms + (attention + 4 * width * config.intermediate_size) // tp


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _stages_under_way(spec: ParallelSpec, pp_rank: int) -> int:
    """Return how many forward passes of its stages a process has made at most before it goes back through one.

    Source: Narayanan et al. 2021, section 2.2 (1F1B, interleaved); Qi et al. 2024, Pipeline parallelism with
    controllable memory, section 4 (the V schedule keeps what 1F1B keeps).
    """
    left = spec.pp - 1 - pp_rank
    most = {
        "GPipe": spec.passes,
        "1F1B": left + 1,
        "Interleaved1F1B": (spec.virtual - 1) * spec.pp + 2 * left + 1,
        "InterleavedZeroBubble": (spec.virtual - 1) * spec.pp + 2 * left + 1,
        "ZBVZeroBubble": 2 * spec.pp,
    }
    return min(most[spec.schedule], spec.passes * spec.virtual)


def dry_run(
    make_model: Callable[[], nn.Module], spec: ParallelSpec, training: TrainingConfig, *, length: int, rank: int = 0
) -> int:
    """Return the bytes that a process of a layout holds at its peak, for which one process is enough and no memory.

    The model is built without storage, laid out over a group of processes that is not there, and taken through the
    passes that are under way at the fullest moment; torch counts what it would allocate.

    Args:
        make_model: returns the model, called under `torch.device("meta")`.
        spec: the layout, its micro_batch included.
        training: how to train.
        length: tokens of a row.
        rank: which process.

    Raises:
        UsageError: this process is in a group already, or the model can't be laid out so.
    """
    if dist.is_initialized():
        raise UsageError("a dry run needs a process that is in no group; call it before the group is made")
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=spec.world_size)
    try:
        # Fake tensors come after the mesh and the model: torch can't build those from them.
        mesh = build_mesh(spec, "cpu")
        with torch.device("meta"):
            model = make_model()
        config: Any = model.config
        stages = lay_out(model, spec, training, mesh, torch.device("meta"))
        pp_rank = mesh.get_local_rank("pp") if mesh is not None else 0
        return _peak(stages, spec, training, length, config.hidden_size, pp_rank)
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # it holds groups that are gone, and would hand them to the next run


class _UnderWay(nn.Module):
    """The passes that a process has under way at its fullest moment, as one module."""

    def __init__(self, stages: dict[int, nn.Module], spec: ParallelSpec, num_passes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({str(stage): part for stage, part in stages.items()})
        self.spec, self.num_passes = spec, num_passes

        if spec.pp > 1:
            for part in stages.values():
                _as_in_a_pipeline(part)

    def forward(self, ids_BT: Tensor, hidden_BTD: Tensor) -> list[Tensor]:
        """Return the loss of each pass; of stages before the last one, the summed hidden states."""
        return [self._pass(index, ids_BT, hidden_BTD) for index in range(self.num_passes)]

    def _pass(self, index: int, ids_BT: Tensor, hidden_BTD: Tensor) -> Tensor:
        stage = list(self.stages)[index % len(self.stages)]
        part, x = self.stages[stage], ids_BT if stage == "0" else hidden_BTD
        output = part(x) if self.spec.pp > 1 else part(input_ids=x, use_cache=False).logits
        return loss_of(output, ids_BT) if int(stage) == self.spec.num_stages - 1 else output.sum()


def _as_in_a_pipeline(part: nn.Module) -> None:
    """Have sharded parameters and their gradients stay whole between passes, as torch's schedules do."""
    if isinstance(part, FSDPModule):
        part.set_requires_gradient_sync(False)
        part.set_reshard_after_backward(False)


def _peak(
    stages: dict[int, nn.Module], spec: ParallelSpec, training: TrainingConfig, length: int, width: int, pp_rank: int
) -> int:
    """Return the peak of a process that accumulates gradients; both moments of AdamW are added to what is counted."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    under_way = _UnderWay(stages, spec, _stages_under_way(spec, pp_rank))
    dtype = DTYPES[training.precision] if spec.dp_size > 1 else torch.float32
    with FakeTensorMode(allow_non_fake_inputs=True):
        under_way.to_empty(device="cpu")
        held = sum(local(each).numel() * FLOAT32 for each in under_way.parameters())
        for each in under_way.parameters():  # of earlier passes
            each.grad = torch.zeros_like(each)
        ids_BT = torch.zeros(spec.micro_batch, length, dtype=torch.long)
        hidden_BTD = torch.zeros(spec.micro_batch, length, width, dtype=dtype, requires_grad=True)
        tracker = MemTracker()
        tracker.track_external(under_way, ids_BT, hidden_BTD)
        with tracker, computing(training, torch.device("cpu"), is_managed=spec.dp_size > 1):
            last = under_way(ids_BT, hidden_BTD)[-1]
            last.backward()
        of_device = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    return int(of_device["Total"]) + 2 * held


def largest_micro_batch(
    rows: int, spec: ParallelSpec, memory_of: Callable[[ParallelSpec], int], device: torch.device
) -> ParallelSpec:
    """Return the layout with the largest micro-batch that every process can hold; called by all of them.

    The global batch stays: what a step has beyond its micro-batches is accumulated, so losses stay as well.

    Args:
        rows: of each process in a step.
        spec: the layout; its micro_batch is replaced.
        memory_of: returns the bytes of a layout, such as `estimate(...).total`.
        device: of this process.

    Raises:
        LimitError: not even one row fits.
    """
    sizes = [size for size in range(rows, 0, -1) if rows % (size * spec.passes) == 0]
    if not sizes:
        raise UsageError(f"{rows} rows a process don't divide into {spec.passes} micro-batches; give a multiple")
    layouts = [replace(spec, micro_batch=size) for size in sizes]
    fitting = next((each for each in layouts if can_hold(memory_of(each), device)), None)
    agreed = agree(fitting.micro_batch if fitting is not None else 0, device)
    if not agreed:
        raise LimitError(
            f"a micro-batch of {sizes[-1]} rows needs {memory_of(layouts[-1]) / 2**30:.2f} GiB, more than a device has "
            "free; raise dp_shard, tp or pp, turn on activation_checkpointing, or shorten rows"
        )
    return replace(spec, micro_batch=agreed)


def agree(size: int, device: torch.device) -> int:
    """Return the smallest of the processes' numbers."""
    if not dist.is_initialized():
        return size
    smallest = torch.tensor(size, device=device)
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return int(smallest)


def can_hold(num_bytes: int, device: torch.device) -> bool:
    """Tell whether a device has so much memory free, by taking it from a GPU, by asking the system elsewhere."""
    if device.type != "cuda":
        return num_bytes <= KEPT_FREE * free_bytes()
    try:
        torch.empty(int(num_bytes / KEPT_FREE), dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        return False
    return True


def free_bytes() -> int:
    """Return this host's free memory, shared by its processes."""
    pages, page = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * page // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
