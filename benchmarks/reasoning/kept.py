"""Trained arrays kept on disk, so that an interrupted benchmark goes on where it was.

A file's name is a hash of the facts, the settings and the sources that train on them: what differs is trained anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from tuili.files import atomic_path, data_dir

Arrays = Mapping[str, np.ndarray]


def kept(what: str, given: Mapping[str, object], sources: tuple[ModuleType, ...], make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays made from what is given, from disk if they were made before."""
    from safetensors.numpy import load_file, save_file

    path = data_dir() / "benchmarks" / f"{what}-{_key(given, sources)}.safetensors"
    if path.is_file():
        return dict(load_file(path))
    arrays = {name: np.ascontiguousarray(each) for name, each in make().items()}
    with atomic_path(path) as partial:
        save_file(arrays, partial)
    return arrays


def _key(given: Mapping[str, object], sources: tuple[ModuleType, ...]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(given.items()):
        digest.update(name.encode())
        digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    for module in sources:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:24]
