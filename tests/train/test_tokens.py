import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tuili.errors import InputError, ModelFileError, SourceError, UsageError
from tuili.train import documents, tokens
from tuili.train.documents import find_files
from tuili.train.tokens import END, load_tokenizer, open_stream, own_tokenizer

VOCABULARY = 300


def silent(stage, done, total):
    """Nobody watches."""


@pytest.fixture
def files(texts):
    return find_files([texts])


@pytest.fixture
def tokenizer(tmp_path, files):
    return own_tokenizer(tmp_path / "cache", files, "text", VOCABULARY)


@pytest.fixture
def stream(tmp_path, files, tokenizer):
    """A function that opens the stream of the files."""
    return lambda **more: open_stream(**{"folder": tmp_path / "cache" / "train", "files": files} | more, **{
        "tokenizer": tokenizer, "field": "text", "on_progress": silent
    })  # fmt: skip


def documents_of(stream, tokenizer):
    ends = np.flatnonzero(np.asarray(stream.ids) == tokenizer.end_id)
    return [tokenizer.tokenizer.decode(part.tolist()) for part in np.split(np.asarray(stream.ids), ends + 1)[:-1]]


@pytest.mark.parametrize("piece", [64, 1 << 18])
def test_the_documents_come_back_from_the_stream(files, stream, tokenizer, monkeypatch, piece):
    monkeypatch.setattr(documents, "PIECE", piece)
    opened = stream()
    rows = [json.loads(line)["text"] for line in files[1].read_text().splitlines()]
    assert documents_of(opened, tokenizer) == [files[0].read_text(), *rows]
    assert opened.num_documents == 201 and opened.ids.dtype == np.uint16 and int(opened.ids.max()) < VOCABULARY


def test_it_is_tokenised_once_and_again_when_something_changes(files, stream, monkeypatch):
    made = []
    original = tokens._make
    monkeypatch.setattr(tokens, "_make", lambda *args: made.append(1) or original(*args))
    first = stream().content
    assert stream().content == first and len(made) == 1
    os.utime(files[0], (1, 1))
    assert stream().content == first and len(made) == 1, "the time alone does not count"
    files[0].write_text(files[0].read_text().replace("red", "tan"))
    assert stream().content != first and len(made) == 2
    assert stream(files=files[:1]).content != first and len(made) == 3


def test_a_damaged_stream_is_made_anew(tmp_path, stream):
    whole = np.array(stream().ids)
    binary, header = (tmp_path / "cache" / "train" / name for name in ("tokens.bin", "tokens.json"))
    for damage in (
        lambda: binary.write_bytes(binary.read_bytes()[:-10]),
        lambda: binary.unlink(),
        lambda: header.write_text("{"),
        lambda: header.write_text("[]"),
        lambda: header.write_text(header.read_text().replace('"version": 1', '"version": 0')),
    ):
        damage()
        assert np.array_equal(stream().ids, whole)


def test_a_broken_file_leaves_no_stream_behind(tmp_path, files, stream):
    stream()
    with files[1].open("a") as file:
        file.write('{"text": ')
    with pytest.raises(SourceError, match=r"b\.jsonl:201"):
        stream()
    assert sorted(path.name for path in (tmp_path / "cache" / "train").iterdir()) == [".lock", "tokens.bin"]
    files[1].write_text('{"text": "x"}\n')
    assert stream().num_documents == 2


def test_a_text_can_not_spell_the_end_token(tmp_path, stream, tokenizer):
    path = tmp_path / "evil.txt"
    path.write_text(f"one {END} two")
    opened = stream(files=[path])
    assert (np.asarray(opened.ids) == tokenizer.end_id).sum() == 1 and opened.num_documents == 1


def test_a_large_vocabulary_takes_four_bytes(tokenizer, monkeypatch):
    tokenizer.tokenizer.add_tokens([f"<{i}>" for i in range(70_000)])
    assert tokenizer.dtype == np.uint32 and tokenizer.vocab_size == VOCABULARY + 70_000


def test_the_tokenizer_is_trained_once_and_the_same_each_time(tmp_path, files, tokenizer, monkeypatch):
    again = own_tokenizer(tmp_path / "other", files, "text", VOCABULARY)
    assert again.sha256 == tokenizer.sha256
    monkeypatch.setattr(tokens, "_trained", None)
    assert own_tokenizer(tmp_path / "cache", files, "text", VOCABULARY).sha256 == tokenizer.sha256


def test_wrong_vocabularies_are_refused(tmp_path, files):
    for size in (256, 8193):
        with pytest.raises(UsageError, match=f"vocab_size is {size}"):
            own_tokenizer(tmp_path, files, "text", size)
    with pytest.raises(InputError, match="8000 are asked for"):
        own_tokenizer(tmp_path, files, "text", 8000)


def test_tokenizers_that_can_not_be_used_are_refused(tmp_path, tokenizer):
    with pytest.raises(ModelFileError, match="there is no tokenizer"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(UsageError, match=r"no token '<x>'; set data\.end_token"):
        load_tokenizer(tmp_path / "cache", "<x>")
    assert load_tokenizer(tmp_path / "cache").end_id == load_tokenizer(tokenizer.path, END).end_id
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFileError, match="no tokenizer that can be read"):
        load_tokenizer(tmp_path)


FULL = """
import resource, signal, sys
from pathlib import Path
from tuili.errors import StoreError
from tuili.train.tokens import load_tokenizer, open_stream
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
folder, tokenizer, file = map(Path, sys.argv[1:])
try:
    open_stream(folder, [file], load_tokenizer(tokenizer), "text", lambda *_: None)
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits on the size of files")
def test_a_full_disk_is_told(tmp_path, files, tokenizer):
    arguments = [tmp_path / "full", tokenizer.path, files[0]]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", FULL, *map(str, arguments)], capture_output=True, text=True, env=environment, check=True
    )
    assert "make room, or set data.cache" in done.stdout
    assert [path.name for path in (tmp_path / "full").iterdir()] == [".lock"]
