"""Tokenizers, and texts as files of token ids that are mapped into memory.

A stream is two files: `tokens.bin` (token ids of all documents, one after the other, each followed by the end token;
uint16, or uint32 where the vocabulary is larger) and `tokens.json` (what it was made of). It is made once, written as a
whole or not at all, and made anew when a source, the tokenizer or the field changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tuili.errors import InputError, ModelFileError, SourceError, StoreError, UsageError
from tuili.files import atomic_path, ensure_dir, sha256, write_text
from tuili.train.documents import Piece, read_pieces

VERSION = 1
MAX_VOCABULARY = 8192
"""Of a tokenizer that is trained here; larger ones are brought."""
MIN_VOCABULARY = 257
LEARNED_CHARACTERS = 50_000_000
"""How much of the texts a tokenizer is trained on."""
END = "<|end|>"
KNOWN_ENDS = (END, "<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>")
BATCH = 256
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """A tokenizer, the id that ends a document, and what identifies it."""

    tokenizer: Tokenizer
    end_id: int
    path: Path
    sha256: str

    @property
    def vocab_size(self) -> int:
        """How many rows the embedding must have at least."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest type that holds every id."""
        return np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)


def load_tokenizer(path: Path, end_token: str | None = None) -> TextTokenizer:
    """Load a `tokenizer.json`, or the one of a folder.

    Raises:
        ModelFileError: there is none, or it is damaged.
        UsageError: it has no such end token, or none that is known.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelFileError(f"there is no tokenizer {file}; name a tokenizer.json or a folder that holds one")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more precise
        raise ModelFileError(f"{file} is no tokenizer that can be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a text that spells the end token does not end there
    return TextTokenizer(tokenizer, _end_id(tokenizer, end_token, file), file, sha256(file))


def _end_id(tokenizer: Tokenizer, end_token: str | None, file: Path) -> int:
    for token in KNOWN_ENDS if end_token is None else (end_token,):
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    raise UsageError(
        f"{file} has no token {end_token or ' or '.join(KNOWN_ENDS)!r}; set data.end_token to one that ends a text"
    )


def own_tokenizer(cache: Path, files: Sequence[Path], field: str, vocab_size: int) -> TextTokenizer:
    """Return a byte-level BPE trained on the first 50 million characters of some files.

    It is kept in the folder `cache` and trained again when a file changes. Several processes may call this at the same
    time: one of them trains.

    Raises:
        UsageError: the vocabulary is too small or too large.
        InputError: the texts are too short for a vocabulary of this size.
    """
    if not MIN_VOCABULARY <= vocab_size <= MAX_VOCABULARY:
        raise UsageError(
            f"data.vocab_size is {vocab_size}; a tokenizer trained here has {MIN_VOCABULARY} to {MAX_VOCABULARY} "
            "tokens; for more, bring one and set data.tokenizer"
        )
    origin = {"version": VERSION, "field": field, "vocab_size": vocab_size}
    out, header = ensure_dir(cache) / "tokenizer.json", cache / "tokenizer.origin.json"
    with FileLock(cache / ".lock"):
        if not out.is_file() or _fresh(header, origin, files) is None:
            header.unlink(missing_ok=True)
            entries = [_entry(file) for file in files]
            tokenizer = _trained(files, field, vocab_size)
            with atomic_path(out) as temporary:
                tokenizer.save(str(temporary))
            write_text(header, json.dumps({**origin, "files": entries}, indent=1) + "\n")
    return load_tokenizer(out, END)


def _trained(files: Sequence[Path], field: str, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_limited(files, field), trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise InputError(
            f"the texts give a vocabulary of {tokenizer.get_vocab_size()} tokens, {vocab_size} are asked for; "
            "train on more text or set data.vocab_size to less"
        )
    return tokenizer


def _limited(files: Sequence[Path], field: str) -> Iterator[str]:
    left = LEARNED_CHARACTERS
    for file in files:
        for piece in read_pieces(file, field):
            if left <= 0:
                return
            left -= len(piece.text)
            yield piece.text


@dataclass(frozen=True, slots=True)
class Stream:
    """The token ids of some files, [n], mapped into memory.

    Attributes:
        content: identifies the tokenizer with its end token and the files' contents, wherever the files lie.
    """

    ids: np.ndarray[Any, Any]
    num_documents: int
    content: str


def open_stream(
    folder: Path, files: Sequence[Path], tokenizer: TextTokenizer, field: str, on_progress: OnProgress
) -> Stream:
    """Map the tokens of some files into memory; tokenise them first if that was not done or they have changed.

    Several processes may call this at the same time: one of them tokenises.

    Raises:
        SourceError: a file can't be read.
        StoreError: the stream can't be written.
    """
    ensure_dir(folder)
    origin = {"version": VERSION, "tokenizer": tokenizer.sha256, "end_id": tokenizer.end_id, "field": field}
    with FileLock(folder / ".lock"):
        header = _fresh(folder / "tokens.json", origin, files)
        if header is None or not _is_whole(folder, header):
            header = _make(folder, origin, files, tokenizer, on_progress)
    dtype = np.dtype(header["dtype"])
    empty = np.empty(0, dtype)
    ids = np.memmap(folder / "tokens.bin", dtype=dtype, mode="r") if header["num_tokens"] else empty
    return Stream(ids, header["num_documents"], _content(header))


def _content(header: dict[str, Any]) -> str:
    told = [
        header["tokenizer"],
        str(header["end_id"]),
        header["field"],
        *(entry["sha256"] for entry in header["files"]),
    ]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _is_whole(folder: Path, header: dict[str, Any]) -> bool:
    file = folder / "tokens.bin"
    return file.is_file() and file.stat().st_size == header.get("num_bytes")


def _fresh(header_file: Path, origin: dict[str, Any], files: Sequence[Path]) -> dict[str, Any] | None:
    """Return a header if it tells of just this origin and these files as they are now."""
    try:
        header = json.loads(header_file.read_text(encoding="utf-8"))
        if any(header[name] != value for name, value in origin.items()):
            return None
        known = {entry["path"]: entry for entry in header["files"]}
        same = list(known) == [str(file) for file in files] and all(_is_same(file, known[str(file)]) for file in files)
        return dict(header) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_same(file: Path, entry: dict[str, Any]) -> bool:
    """Tell whether a file is as it was; its content is read only if its time or size changed."""
    stat = file.stat()
    if stat.st_size != entry["num_bytes"]:
        return False
    return bool(stat.st_mtime_ns == entry["mtime_ns"] or sha256(file) == entry["sha256"])


def _make(
    folder: Path,
    origin: dict[str, Any],
    files: Sequence[Path],
    tokenizer: TextTokenizer,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Tokenise; the header goes first and comes last, so that no other stream can be taken for this one."""
    (folder / "tokens.json").unlink(missing_ok=True)
    entries, num_documents = [], 0
    with atomic_path(folder / "tokens.bin") as temporary, temporary.open("wb") as out:
        for done, file in enumerate(files):
            on_progress("tokenise", done, len(files))
            entry = _entry(file)
            num_documents += _write_tokens(read_pieces(file, origin["field"]), tokenizer, out)
            if not _is_same(file, entry):
                raise SourceError(f"{file} changed while it was read; run the command again when it is finished")
            entries.append(entry)
        num_bytes = out.tell()
    header = {
        **origin,
        "dtype": tokenizer.dtype.name,
        "num_bytes": num_bytes,
        "num_tokens": num_bytes // tokenizer.dtype.itemsize,
        "num_documents": num_documents,
        "files": entries,
    }
    write_text(folder / "tokens.json", json.dumps(header, indent=1) + "\n")
    return header


def _entry(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return {"path": str(file), "num_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256(file)}


def _write_tokens(pieces: Iterator[Piece], tokenizer: TextTokenizer, out: BinaryIO) -> int:
    """Write the ids of documents, each followed by the end token; return how many documents there were."""
    num_documents, is_open = 0, False
    while batch := list(islice(pieces, BATCH)):
        encoded = tokenizer.tokenizer.encode_batch_fast([piece.text for piece in batch], add_special_tokens=False)
        for piece, each in zip(batch, encoded, strict=True):
            is_open = is_open or bool(each.ids)
            ends = piece.ends and is_open
            ids = [*each.ids, tokenizer.end_id] if ends else each.ids
            _write(out, np.asarray(ids, dtype=tokenizer.dtype).tobytes())
            if ends:
                num_documents, is_open = num_documents + 1, False
    return num_documents


def _write(out: BinaryIO, data: bytes) -> None:
    try:
        out.write(data)
    except OSError as error:
        raise StoreError(
            f"can't write {out.name}: {error.strerror}; make room, or set data.cache to another disk"
        ) from error
