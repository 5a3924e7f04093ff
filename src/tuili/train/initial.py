"""The weights that a run of several processes begins with: one process makes the model, each reads what it holds.

A model is laid out without weights, and every layer is filled, cut and shared before the next one is read, so that no
process but the first ever holds more than its own part and one whole layer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tuili.errors import StoreError, TuiliError
from tuili.files import ensure_dir
from tuili.train.control import Control
from tuili.train.models import Source
from tuili.train.parallelize import Fill

FOLDER, FILE = ".initial", "weights.safetensors"
Make = Callable[[], nn.Module]


@contextmanager
def begin(
    source: Source, check: Callable[[Any], None], out: Path, control: Control, device: torch.device
) -> Iterator[tuple[Make, Fill | None]]:
    """Give what `build_engine` makes a model of: on one process the model, on several what lays it out and fills it.

    The first process writes the model's tensors below `out` for the time of the block; every host must see that folder.

    Args:
        source: the model.
        check: raises if a model of a configuration can't be laid out; called before anything is written.
        out: the folder of the run.
        control: of the run's processes.
        device: of this process.

    Raises:
        TuiliError: the model can't be made or laid out, or its tensors can't be written or read.
    """
    if control.size == 1:
        yield source.make, None
        return
    skeleton = source.skeleton()
    check(skeleton.config)
    folder = out / FOLDER
    if control.rank == 0:
        try:
            _write(source.make(), folder)
        except TuiliError as error:
            control.share(str(error))
            raise
        control.share("")
    elif problem := control.share(""):
        raise TuiliError(problem)
    try:
        yield lambda: skeleton, filler(folder, device)
        control.share(None)  # everybody has read
    finally:
        if control.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def filler(folder: Path, device: torch.device) -> Fill:
    """Return what gives a module of a model, named by its path, all tensors that it lacks, on a device."""
    path = folder / FILE

    def fill(module: nn.Module, name: str) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                _fill(module, name, lambda each: file.get_tensor(each).to(device))
        except (OSError, SafetensorError) as error:
            raise StoreError(f"can't read {path}: {error}; every host must see the folder of the run") from error

    return fill


def _fill(module: nn.Module, name: str, read: Callable[[str], Tensor]) -> None:
    """Replace the tensors without storage in a module and those below it; one that has several names stays one."""
    filled: dict[int, Any] = {}
    for path, owner in module.named_modules(prefix=name):
        for kind in (owner._parameters, owner._buffers):
            for key, tensor in kind.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in filled:
                    whole = read(f"{path}.{key}" if path else key)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made = nn.Parameter(whole, requires_grad=tensor.requires_grad) if is_parameter else whole
                    filled[id(tensor)] = tensor, made  # the old one is held, so that its id stays its own
                kind[key] = filled[id(tensor)][1]


def _write(model: nn.Module, folder: Path) -> None:
    """Write all parameters and buffers of a model, those that a checkpoint leaves out too.

    Raises:
        StoreError: the disk is full.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    owned: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.data_ptr() in owned or not tensor.is_contiguous():
            tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        owned.add(tensor.data_ptr())
    shutil.rmtree(folder, ignore_errors=True)
    ensure_dir(folder)
    try:
        save_file(tensors, folder / FILE)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StoreError(f"can't write {folder / FILE}: {error}; make room and run the command again") from error
