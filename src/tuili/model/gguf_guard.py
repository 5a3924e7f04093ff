"""Is a GGUF file's header sound? Every declared count, length, shape and offset against the file's length.

The `gguf` library trusts these numbers: a count of 2**63 makes it loop for ever. So a file passes here first.
Layout: magic, version, number of tensors, number of keys, the keys, the tensors, padding, the data.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path

from tuili.errors import DependencyError, ModelFileError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_KEYS = 4096
MAX_TENSORS = 16_384
MAX_NAME_BYTES = 256
MAX_TEXT_BYTES = 1 << 20
MAX_ARRAY = 1 << 20
MAX_DIMS = 4
STRING, ARRAY = 8, 9
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each scalar type of the format, by its number."""


def check_gguf(path: Path) -> None:
    """Walk the header of a GGUF file; O(size of the header), the tensors themselves are not read.

    Raises:
        ModelFileError: a declared size is out of bounds, a name appears twice, or text is no UTF-8.
        DependencyError: the gguf library is not installed.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_file(_Cursor(data))
    except OSError as error:
        raise ModelFileError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelFileError(f"{path} is no sound GGUF file: {error}") from error


class _Cursor:
    """A reading position that never leaves the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def take(self, num_bytes: int) -> bytes:
        if num_bytes > len(self.data) - self.at:
            raise ValueError(f"byte {self.at} declares {num_bytes} more, the file has {len(self.data)}")
        self.at += num_bytes
        return self.data[self.at - num_bytes : self.at]

    def number(self, num_bytes: int, limit: int, what: str) -> int:
        value = int.from_bytes(self.take(num_bytes), "little")
        if value > limit:
            raise ValueError(f"{what} is {value}, the limit is {limit}")
        return value

    def text(self, limit: int) -> str:
        return self.take(self.number(8, limit, "the length of a text")).decode("utf-8")


def _check_file(cursor: _Cursor) -> None:
    if cursor.take(4) != MAGIC or cursor.number(4, 2**32, "the version") not in VERSIONS:
        raise ValueError(f"it does not begin with {MAGIC!r} and a version of {VERSIONS}")
    num_tensors = cursor.number(8, MAX_TENSORS, "the number of tensors")
    num_keys = cursor.number(8, MAX_KEYS, "the number of keys")
    alignment = _check_keys(cursor, num_keys)
    extents = _read_extents(cursor, num_tensors, alignment)
    start = math.ceil(cursor.at / alignment) * alignment
    _check_extents(extents, len(cursor.data) - start)


def _check_keys(cursor: _Cursor, num_keys: int) -> int:
    """Walk the keys and return the alignment of the data."""
    names: set[str] = set()
    alignment = DEFAULT_ALIGNMENT
    for _ in range(num_keys):
        name = cursor.text(MAX_NAME_BYTES)
        _add_once(names, name)
        value = _check_value(cursor, cursor.number(4, 12, "a type"))
        if name == "general.alignment":
            alignment = value
    if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError(f"the alignment is {alignment}, it must be a power of two up to {MAX_ALIGNMENT}")
    return alignment


def _check_value(cursor: _Cursor, kind: int) -> int:
    """Walk one value and return it if it is a scalar, else 0."""
    if kind == STRING:
        cursor.text(MAX_TEXT_BYTES)
        return 0
    if kind != ARRAY:
        return int.from_bytes(cursor.take(SCALAR_BYTES[kind]), "little")
    item_kind = cursor.number(4, 12, "a type")
    num_items = cursor.number(8, MAX_ARRAY, "the length of an array")
    if item_kind == ARRAY:
        raise ValueError("an array holds arrays")
    if item_kind != STRING:
        cursor.take(num_items * SCALAR_BYTES[item_kind])
        return 0
    for _ in range(num_items):
        cursor.text(MAX_TEXT_BYTES)
    return 0


def _read_extents(cursor: _Cursor, num_tensors: int, alignment: int) -> list[tuple[int, int]]:
    """Walk the tensors and return where each begins and ends, counted from the start of the data."""
    names: set[str] = set()
    extents = []
    for _ in range(num_tensors):
        _add_once(names, cursor.text(MAX_NAME_BYTES))
        dims = [
            cursor.number(8, 2**40, "a dimension")
            for _ in range(cursor.number(4, MAX_DIMS, "the number of dimensions"))
        ]
        num_bytes = _tensor_bytes(dims, cursor.number(4, 1000, "a tensor type"))
        begin = cursor.number(8, len(cursor.data), "the offset of a tensor")
        if begin % alignment:
            raise ValueError(f"a tensor begins at byte {begin}, which is no multiple of {alignment}")
        extents.append((begin, begin + num_bytes))
    return extents


def _tensor_bytes(dims: list[int], kind: int) -> int:
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise DependencyError("gguf", "models", "reading a GGUF file") from error
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    if not dims or 0 in dims or dims[0] % block:
        raise ValueError(f"a tensor of shape {dims} does not consist of whole blocks of {block}")
    return math.prod(dims) // block * block_bytes


def _check_extents(extents: list[tuple[int, int]], num_data: int) -> None:
    last_end = 0
    for begin, end in sorted(extents):
        if begin < last_end or end > num_data:
            raise ValueError(f"a tensor lies at bytes {begin} to {end} of {num_data}, or overlaps another")
        last_end = end


def _add_once(names: set[str], name: str) -> None:
    if name in names:
        raise ValueError(f"the name {name!r} appears twice")
    names.add(name)
