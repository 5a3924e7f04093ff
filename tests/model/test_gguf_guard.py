"""Broken GGUF headers: a typed error or a sound file, never another exception and never a hang."""

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuili.errors import ModelFileError
from tuili.model.fetch import ignore_progress
from tuili.model.gguf_guard import check_gguf
from tuili.model.llama_gguf import convert

HUGE = (2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)


@pytest.fixture(scope="module")
def raw(tmp_path_factory, tiny_gguf):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return tiny_gguf.write(path, tiny_gguf.weights).read_bytes()


@pytest.fixture(scope="module")
def num_header(raw, tiny_gguf):
    """Where the data begins: the tensors fill the rest, each padded to 32 bytes."""
    sizes = [weight.nbytes for weight in tiny_gguf.weights.values()]
    return len(raw) - sum(-(-size // 32) * 32 for size in sizes)


def survives(path, raw, check=check_gguf):
    path.write_bytes(raw)
    try:
        check(path)
    except ModelFileError:
        return False
    return True


def test_a_sound_file_passes(tmp_path, raw, num_header):
    assert survives(tmp_path / "a", raw)
    assert raw[num_header - 32 : num_header].endswith(b"\0")
    assert num_header % 32 == 0


def test_every_kind_of_truncation_is_refused(tmp_path, raw, num_header):
    places = {*range(0, 64), *range(64, num_header, 37), num_header, len(raw) - 33, len(raw) - 4 * 64}
    for place in places:
        assert not survives(tmp_path / "a", raw[:place]), place


@pytest.mark.parametrize("value", HUGE)
def test_a_huge_number_anywhere_is_refused_or_harmless(tmp_path, raw, num_header, value):
    for place in range(4, num_header - 8, 11):
        survives(tmp_path / "a", raw[:place] + struct.pack("<Q", value) + raw[place + 8 :])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_never_escapes_the_guard(tmp_path, raw, num_header, data):
    place = data.draw(st.integers(0, num_header))
    noise = data.draw(st.binary(min_size=1, max_size=24))
    survives(tmp_path / "a", raw[:place] + noise + raw[place + len(noise) :])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_never_escapes_the_conversion(tmp_path, raw, num_header, data):
    place = data.draw(st.integers(0, num_header))
    noise = data.draw(st.binary(min_size=1, max_size=12))
    spoiled = raw[:place] + noise + raw[place + len(noise) :]
    survives(tmp_path / "a", spoiled, lambda path: convert(path, tmp_path, ignore_progress))


def text(value):
    return struct.pack("<Q", len(value)) + value


def header(*keys, tensors=(), version=3, num_tensors=None, num_keys=None):
    counts = (
        len(tensors) if num_tensors is None else num_tensors,
        len(keys) if num_keys is None else num_keys,
    )
    start = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return start + bytes(-len(start) % 32)


def key(name=b"k", kind=4, value=b"\1\0\0\0"):
    return text(name) + struct.pack("<I", kind) + value


def tensor(name=b"t", dims=(4,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def array(kind, num_items, items=b""):
    return struct.pack("<IQ", kind, num_items) + items


REFUSED = {
    "another magic": b"GGML" + header()[4:],
    "another version": header(version=1),
    "the other byte order": header(version=3 << 24),
    "too many tensors": header(num_tensors=2**63),
    "too many keys": header(num_keys=2**63),
    "a key twice": header(key(), key()),
    "an unknown type": header(key(kind=13)),
    "a key that is no UTF-8": header(key(name=b"\xff")),
    "a text longer than the file": header(key(kind=8, value=struct.pack("<Q", 2**19))),
    "an array longer than the file": header(key(kind=9, value=array(0, 2**20))),
    "an array of 2**63 numbers": header(key(kind=9, value=array(10, 2**63))),
    "an array of arrays": header(key(kind=9, value=array(9, 2, array(0, 0) * 2))),
    "an alignment of 0": header(key(b"general.alignment", value=bytes(4))),
    "an alignment of 3": header(key(b"general.alignment", value=b"\3\0\0\0")),
    "an alignment that is no number": header(key(b"general.alignment", kind=8, value=text(b"x"))),
    "a tensor twice": header(tensors=(tensor(), tensor(offset=32))) + bytes(64),
    "a tensor of unknown type": header(tensors=(tensor(kind=999),)) + bytes(64),
    "a tensor without dimensions": header(tensors=(tensor(dims=()),)) + bytes(64),
    "a tensor of five dimensions": header(tensors=(tensor(dims=(1,) * 5),)) + bytes(64),
    "a dimension of 0": header(tensors=(tensor(dims=(0, 2**40)),)) + bytes(64),
    "a product that overflows": header(tensors=(tensor(dims=(2**40,) * 4),)) + bytes(64),
    "half a block": header(tensors=(tensor(dims=(33,), kind=3),)) + bytes(64),
    "data past the end": header(tensors=(tensor(dims=(17,)),)) + bytes(64),
    "an offset past the end": header(tensors=(tensor(offset=64),)) + bytes(64),
    "an offset that is not aligned": header(tensors=(tensor(offset=4),)) + bytes(64),
    "an overlap": header(tensors=(tensor(b"a", (16,)), tensor(b"b", (4,), offset=32))) + bytes(64),
    "nothing": b"",
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses(tmp_path, what):
    path = tmp_path / "a"
    path.write_bytes(REFUSED[what])
    with pytest.raises(ModelFileError, match="no sound GGUF file"):
        check_gguf(path)


def test_accepts_what_the_format_allows(tmp_path):
    keys = (
        key(b"a", 8, text("推理".encode())),
        key(b"b", 9, array(8, 2, text(b"x") + text(b""))),
        key(b"c", 9, array(12, 3, bytes(24))),
        key(b"general.alignment", value=b"\x40\0\0\0"),
    )
    start = header(*keys, tensors=(tensor(b"t", (16,)), tensor(b"u", (32, 2), kind=3, offset=64)))
    assert survives(tmp_path / "a", start + bytes(-len(start) % 64) + bytes(64 + 40))


def test_a_missing_file_is_a_model_file_error(tmp_path):
    with pytest.raises(ModelFileError, match="can't read"):
        check_gguf(tmp_path / "none")
