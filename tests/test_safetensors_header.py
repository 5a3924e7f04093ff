"""`files.read_safetensors_header`: what is read, and every kind of header that is refused."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tuili.errors import ModelFileError
from tuili.files import TensorEntry, read_safetensors_header


def write(path, header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_library_wrote(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"b": np.zeros((2, 3), np.float32), "a": np.zeros(5, np.int8)}, path, metadata={"format": "pt"})
    entries = read_safetensors_header(path)
    assert {(name, e.dtype, e.shape, e.end - e.begin) for name, e in entries.items()} == {
        ("a", "I8", (5,), 5),
        ("b", "F32", (2, 3), 24),
    }


def test_scalars_and_empty_tensors_are_fine(tmp_path):
    header = {"s": entry(shape=()), "e": entry(shape=(0, 7), offsets=(4, 4))}
    entries = read_safetensors_header(write(tmp_path / "a", header, bytes(4)))
    assert entries["s"] == TensorEntry("F32", (), 0, 4)


REFUSED = {
    "an unknown dtype": ({"a": entry(dtype="F33")}, 4),
    "a dtype that is no text": ({"a": entry(dtype=4)}, 4),
    "a negative dimension": ({"a": entry(shape=(-1,))}, 4),
    "a boolean dimension": ({"a": entry(shape=(True,))}, 4),
    "a product that overflows": ({"a": entry(shape=(2**62, 2**62))}, 4),
    "too many dimensions": ({"a": entry(shape=(1,) * 17)}, 4),
    "offsets past the end": ({"a": entry(shape=(2,), offsets=(0, 8))}, 4),
    "offsets in reverse": ({"a": entry(offsets=(4, 0))}, 4),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, 4),
    "an overlap": ({"a": entry(), "b": entry(shape=(2,), offsets=(0, 8))}, 8),
    "a hole": ({"a": entry(), "b": entry(offsets=(8, 12))}, 12),
    "bytes left over": ({"a": entry()}, 5),
    "an extra key": ({"a": {**entry(), "code": "x"}}, 4),
    "an entry that is no object": ({"a": [1]}, 4),
    "a header that is no object": ([1], 0),
    "a header that is no JSON": (b"{", 0),
    "a name twice": (b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}}', 0),
    "a header that is no UTF-8": (b"\xff\xfe", 0),
    "deep nesting": (b"[" * 100_000, 0),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses(tmp_path, what):
    header, num_data = REFUSED[what]
    with pytest.raises(ModelFileError, match="not sound"):
        read_safetensors_header(write(tmp_path / "a", header, bytes(num_data)))


@pytest.mark.parametrize("declared", [2**63, 100_000_001, 3])
def test_refuses_a_header_longer_than_the_file(tmp_path, declared):
    path = tmp_path / "a"
    path.write_bytes(declared.to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelFileError, match="declares a header"):
        read_safetensors_header(path)


@pytest.mark.parametrize("raw", [b"", b"\x00" * 7])
def test_refuses_a_file_shorter_than_a_length(tmp_path, raw):
    path = tmp_path / "a"
    path.write_bytes(raw)
    with pytest.raises(ModelFileError):
        read_safetensors_header(path)


def test_a_missing_file_is_a_model_file_error(tmp_path):
    with pytest.raises(ModelFileError, match="can't read"):
        read_safetensors_header(tmp_path / "none")


@given(raw=st.binary(max_size=200), place=st.integers(0, 100))
def test_random_bytes_never_raise_anything_else(tmp_path_factory, raw, place):
    path = tmp_path_factory.mktemp("fuzz") / "a"
    good = json.dumps({"a": entry()}).encode()
    spoiled = (len(good).to_bytes(8, "little") + good + bytes(4))[:place] + raw
    path.write_bytes(spoiled)
    with contextlib.suppress(ModelFileError):
        read_safetensors_header(path)
