"""Tensors that lie on many processes, written as safetensors and read back onto any other layout.

PyTorch's checkpoint planners say which process writes which part of a tensor and which parts a process needs; the parts
lie in one safetensors file a process, and one JSON table says where. PyTorch's own storage pickles that table, so a
checkpoint could run code when it is read; here nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem

from tuili.errors import ModelFileError, StoreError
from tuili.files import read_safetensors_header, sync
from tuili.train.control import Control

Table = dict[str, Any]
"""For each tensor its dtype, shape and chunks; of each chunk the file, where it begins and its sizes."""


@dataclass(frozen=True, slots=True)
class Staged:
    """What this process has to write, copied to the CPU, and the table of what all processes write."""

    file: str
    tensors: Mapping[str, Tensor]
    table: Table


def stage(state: Mapping[str, Tensor], control: Control) -> Staged:
    """Copy what this process has to write of a state; every process calls it with what it holds of the state.

    A part that several processes hold is written by one of them.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(state), is_coordinator=control.rank == 0)
    local = control.gather(planner.create_local_plan())
    made = planner.create_global_plan(local) if control.rank == 0 else None
    plans, metadata = control.share(made)  # type: ignore[misc]
    plan = planner.finish_plan(plans[control.rank])
    tensors = {
        chunk_name(item.index.fqn, item.index.offset or ()): _copied(planner.resolve_data(item)) for item in plan.items
    }
    return Staged(file_name(control.rank), tensors, _table(plans, metadata))


def _copied(tensor: Any) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def file_name(rank: int) -> str:
    """Return the name of the file that a process writes."""
    return f"rank-{rank:05}.safetensors"


def chunk_name(tensor: str, offsets: Any) -> str:
    """Return the name in a file of the part of a tensor that begins at `offsets`."""
    return f"{tensor}@{','.join(str(offset) for offset in offsets)}"


def _table(plans: list[Any], metadata: Metadata) -> Table:
    table: Table = {
        name: {"dtype": str(entry.properties.dtype).removeprefix("torch."), "shape": list(entry.size), "chunks": []}
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    for rank, plan in enumerate(plans):
        for item in plan.items:
            chunk = item.tensor_data.chunk
            table[item.index.fqn]["chunks"].append(
                {"file": file_name(rank), "offsets": list(chunk.offsets), "sizes": list(chunk.sizes)}
            )
    return table


def write(folder: Path, staged: Staged) -> None:
    """Write this process's file and flush it to the disk.

    Raises:
        StoreError: the disk is full, or the folder is not there, which on several hosts means that it is not shared.
    """
    path = folder / staged.file
    try:
        save_file(dict(staged.tensors), path)
        path.chmod(0o644)
        sync(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"can't write {path}: {error}") from error


def read(folder: Path, table: Table, state: Mapping[str, Tensor]) -> None:
    """Fill the tensors of a state from a folder; each process reads only what it holds of them.

    Raises:
        ModelFileError: a tensor is missing or has another shape, or a file is missing or damaged.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(state), _metadata(table), is_coordinator=False)
    _check_names(folder, table, state)
    try:
        plan = planner.finish_plan(planner.create_local_plan())
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"{folder} does not fit this model: {error}") from error
    with Files(folder) as files:
        for item in plan.items:
            target = planner.resolve_tensor(item).detach()
            name = chunk_name(item.storage_index.fqn, item.storage_index.offset or ())
            spans = list(zip(item.storage_offsets, item.lengths, strict=True))
            target.copy_(files.part(_file_of(table, item), name, spans))
            planner.commit_tensor(item, target)


def _check_names(folder: Path, table: Table, state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if name not in table:
            raise ModelFileError(f"{folder} has no tensor {name!r}, so it is of another model; --fresh begins anew")
        if table[name]["shape"] != list(tensor.shape):
            raise ModelFileError(
                f"{folder} holds {name!r} of shape {table[name]['shape']}, this model's is {list(tensor.shape)}; "
                "--fresh begins anew"
            )
        check_whole(folder, table, name)


def check_whole(folder: Path, table: Table, name: str) -> None:
    """Check that the parts of a tensor, which do not overlap, add up to it.

    Raises:
        ModelFileError: they don't.
    """
    num_there = sum(math.prod(chunk["sizes"]) for chunk in table[name]["chunks"])
    if num_there != math.prod(table[name]["shape"]):
        raise ModelFileError(f"the parts of {name!r} in {folder} hold {num_there} numbers of {table[name]['shape']}")


def _metadata(table: Table) -> Metadata:
    return Metadata({name: _tensor_metadata(entry) for name, entry in table.items()})


def _tensor_metadata(entry: dict[str, Any]) -> TensorStorageMetadata:
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=dtype_of(entry)),
        size=torch.Size(entry["shape"]),
        chunks=[
            ChunkStorageMetadata(torch.Size(each["offsets"]), torch.Size(each["sizes"])) for each in entry["chunks"]
        ],
    )


def dtype_of(entry: dict[str, Any]) -> torch.dtype:
    """Return the dtype of a tensor of the table."""
    found = getattr(torch, str(entry["dtype"]), None)
    if not isinstance(found, torch.dtype):
        raise ModelFileError(f"{entry['dtype']!r} is no dtype")
    return found


def _file_of(table: Table, item: ReadItem) -> str:
    offsets = list(item.storage_index.offset or ())
    return next(str(chunk["file"]) for chunk in table[item.storage_index.fqn]["chunks"] if chunk["offsets"] == offsets)


class Files:
    """The files of a checkpoint, each opened and checked once; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._open: dict[str, Any] = {}

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def part(self, file: str, name: str, spans: list[tuple[int, int]] | None = None) -> Tensor:
        """Return a part by its name, or of that what lies in the (begin, size) spans.

        Raises:
            ModelFileError: the file is missing, damaged or lacks the part.
        """
        path = self.folder / file
        try:
            if file not in self._open:
                read_safetensors_header(path)
                self._open[file] = self._stack.enter_context(safe_open(path, framework="pt"))
            if not spans:
                return self._open[file].get_tensor(name)
            within = tuple(slice(begin, begin + size) for begin, size in spans)
            return self._open[file].get_slice(name)[within]
        except (OSError, SafetensorError) as error:
            raise ModelFileError(f"{path} lacks {name!r}: {error}") from error


def whole(files: Files, table: Table, name: str) -> Tensor:
    """Return a tensor put together from its parts; no process group is needed.

    Raises:
        ModelFileError: a part is missing or damaged.
    """
    check_whole(files.folder, table, name)
    entry = table[name]
    full = torch.empty(entry["shape"], dtype=dtype_of(entry))
    for chunk in entry["chunks"]:
        spans = zip(chunk["offsets"], chunk["sizes"], strict=True)
        part = files.part(chunk["file"], chunk_name(name, chunk["offsets"]))
        full[tuple(slice(begin, begin + size) for begin, size in spans)] = part
    return full
