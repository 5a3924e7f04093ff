"""Files: where tuili keeps its data, atomic writes, hashes, safetensors headers. Standard library only."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuili.errors import ModelFileError, StoreError

MAX_SAFETENSORS_HEADER = 100_000_000
SAFETENSORS_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
MAX_RANK = 16
LEFTOVER_AGE_S = 3600.0


def data_dir() -> Path:
    """Return the folder that holds knowledge bases and models.

    `TUILI_HOME` if set, else `$XDG_DATA_HOME/tuili`, else `~/.local/share/tuili`.

    Raises:
        StoreError: no home folder can be found.
    """
    if home := os.environ.get("TUILI_HOME"):
        return Path(home)
    if xdg := os.environ.get("XDG_DATA_HOME"):
        return Path(xdg) / "tuili"
    try:
        return Path.home() / ".local" / "share" / "tuili"
    except RuntimeError as error:
        raise StoreError(
            "no home folder is known, so there is no place for models and knowledge bases; "
            "set TUILI_HOME to a folder that can be written"
        ) from error


def walk_path(kb: str) -> Path:
    """Return where the walk that was learned for a base is kept."""
    return data_dir() / "walks" / f"{kb}.safetensors"


def rules_path(kb: str) -> Path:
    """Return where the rules that were mined from a base are kept, beside its walk."""
    return walk_path(kb).with_suffix(".rules.json")


def ensure_dir(path: Path) -> Path:
    """Create a folder and its parents.

    Raises:
        StoreError: the folder can't be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_own = path.is_relative_to(data_dir())
        instead = "set TUILI_HOME to a writable folder" if is_own else "choose a place that can be written"
        raise StoreError(f"can't create the folder {path}: {error.strerror}; {instead}") from error
    return path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling that replaces `path` when the block ends well.

    A reader sees the old file or the whole new one; a failed block leaves no trace, and what a killed
    process left is removed once it is `LEFTOVER_AGE_S` old.

    Raises:
        StoreError: the folder can't be written, or the disk is full.
    """
    ensure_dir(path.parent)
    _remove_leftovers(path)
    with _file_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with _file_errors(path):
            sync(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"can't write {path}: {error.strerror}; check the folder's rights and the free space"
        ) from error


def _remove_leftovers(path: Path) -> None:
    with contextlib.suppress(OSError):
        for old in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
            if time.time() - old.stat().st_mtime > LEFTOVER_AGE_S:
                old.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8.

    Raises:
        StoreError: the file can't be written.
    """
    with atomic_path(path) as temporary, _file_errors(path):
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the hex digest of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as a safetensors header declares it; `begin` and `end` count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a safetensors file, every declared size checked against the file.

    Reads the header only. No holes, no overlaps, no bytes left over; O(n log n) in tensors.

    Raises:
        ModelFileError: the file can't be read or its header is not sound.
    """
    try:
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            num_header = int.from_bytes(file.read(8), "little")
            if num_bytes < 8 or num_header > min(num_bytes - 8, MAX_SAFETENSORS_HEADER):
                raise ModelFileError(
                    f"{path} is no safetensors file: it declares a header of {num_header} bytes, "
                    f"the file has {num_bytes} and the limit is {MAX_SAFETENSORS_HEADER}"
                )
            raw = file.read(num_header)
    except OSError as error:
        raise ModelFileError(f"can't read {path}: {error.strerror}") from error
    try:
        entries = _parse_safetensors_header(raw)
        _check_layout(entries, num_bytes - 8 - num_header)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"the safetensors header of {path} is not sound: {error}") from error
    return entries


def _parse_safetensors_header(raw: bytes) -> dict[str, TensorEntry]:
    header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    if not isinstance(header, dict):
        raise ValueError("it is no JSON object")
    header.pop("__metadata__", None)
    return {name: _tensor_entry(name, value) for name, value in header.items()}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name appears twice")
    return names


def _tensor_entry(name: str, value: Any) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} must have dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_DTYPE_BYTES:
        raise ValueError(f"tensor {name!r} has the unknown dtype {dtype!r}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} has a shape or offsets that are no lists of sizes")
    if offsets[1] - offsets[0] != math.prod(shape) * SAFETENSORS_DTYPE_BYTES[dtype]:
        raise ValueError(f"tensor {name!r} of shape {shape} does not fill its bytes {offsets}")
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(values: Any) -> bool:
    if not isinstance(values, list) or len(values) > MAX_RANK:
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_layout(entries: dict[str, TensorEntry], num_data: int) -> None:
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise ValueError(f"tensor {name!r} begins at byte {entry.begin}, the one before ends at {end}")
        end = entry.end
    if end != num_data:
        raise ValueError(f"its tensors end at byte {end}, the data at {num_data}")
