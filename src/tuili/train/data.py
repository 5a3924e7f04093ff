"""The rows that a model trains on: a stream of tokens cut into sequences, shuffled anew in every epoch.

Documents are packed: they follow each other without padding, each closed by the end token, and a sequence may hold
parts of several, which attention does not keep apart. Where a run stands is one number, how many sequences it has read;
which sequences a step reads depends on it, the seed and the size of the global batch, not on how many processes share
the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuili.errors import InputError, UsageError
from tuili.train.documents import find_files
from tuili.train.engine import IGNORED, Batch
from tuili.train.recipe import DataConfig
from tuili.train.shuffle import shuffled
from tuili.train.tokens import OnProgress, Stream, TextTokenizer, load_tokenizer, open_stream, own_tokenizer

SPLIT, ORDER = 1, 2
"""What a key of `shuffled` is for."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Some of the sequences of a stream, each of `length` tokens with their successors.

    Attributes:
        ids: of the whole stream, [n].
        length: T.
        seed: of the order in which the stream's sequences are dealt out.
        first: of the places in that order that belong here.
        num: how many do.
    """

    ids: np.ndarray[Any, Any]
    length: int
    seed: int
    first: int
    num: int

    def rows(self, indices_B: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
        """Return some of these sequences by number; -1 gives a row without labels."""
        absent_B = indices_B < 0
        places_B = self.first + np.where(absent_B, 0, indices_B)
        starts_B = shuffled(places_B, num_sequences(self.ids, self.length), self.seed, SPLIT) * self.length
        spans_BT = np.stack([self.ids[start : start + self.length + 1] for start in starts_B]).astype(np.int64)
        ids_BT, labels_BT = spans_BT[:, :-1].copy(), spans_BT[:, 1:].copy()
        labels_BT[absent_B] = IGNORED
        return Batch(ids_BT=torch.from_numpy(ids_BT), labels_BT=torch.from_numpy(labels_BT))


def num_sequences(ids: np.ndarray[Any, Any], length: int) -> int:
    """Return how many sequences a stream has; neighbours share a token, the last label of one."""
    return max(0, (len(ids) - 1) // length)


@dataclass(frozen=True, slots=True)
class Data:
    """What a run reads: its tokenizer, and the sequences to train on and to evaluate on.

    Attributes:
        content: identifies the tokenizer, the texts, and which of their sequences are trained on.
    """

    tokenizer: TextTokenizer
    content: str
    train: Sequences
    held_out: Sequences | None


def open_data(config: DataConfig, folder: Path, seed: int, on_progress: OnProgress = lambda *_: None) -> Data:
    """Open the data of a run; tokenise it, and train a tokenizer, where that was not done.

    Args:
        config: what to read.
        folder: where token streams and the tokenizer are kept if `config.cache` is not set.
        seed: of the choice of what is held out.
        on_progress: told what is done.

    Raises:
        SourceError: a file is missing or damaged.
        InputError: there are too few tokens for one sequence to train on, or to evaluate on.
    """
    cache = config.cache or folder
    files = find_files(config.files)
    other = find_files(config.held_out) if config.held_out else []
    if both := sorted(set(files) & set(other)):
        raise UsageError(f"{both[0]} is both trained on and held out; take it out of one of them")
    tokenizer = _tokenizer(config, cache, files)
    stream = open_stream(cache / "train", files, tokenizer, config.field, on_progress)
    if not other:
        content = f"{stream.content} without {config.held_out_share}" if config.held_out_share else stream.content
        return Data(tokenizer, content, *_split(stream, config, seed))
    held_out = open_stream(cache / "held-out", other, tokenizer, config.field, on_progress)
    return Data(
        tokenizer,
        stream.content,
        _all(stream, config, seed, "data.files"),
        _all(held_out, config, seed, "data.held_out"),
    )


def _tokenizer(config: DataConfig, cache: Path, files: list[Path]) -> TextTokenizer:
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer, config.end_token)
    return own_tokenizer(cache, files, config.field, config.vocab_size)


def _all(stream: Stream, config: DataConfig, seed: int, name: str) -> Sequences:
    num = num_sequences(stream.ids, config.length)
    if not num:
        raise InputError(
            f"{name} holds {len(stream.ids)} tokens, a sequence needs {config.length + 1}; bring more text or set "
            "data.length to less"
        )
    return Sequences(stream.ids, config.length, seed, 0, num)


def _split(stream: Stream, config: DataConfig, seed: int) -> tuple[Sequences, Sequences | None]:
    whole = _all(stream, config, seed, "data.files")
    if not config.held_out_share:
        return whole, None
    num_held_out = max(1, round(whole.num * config.held_out_share))
    if num_held_out >= whole.num:
        raise InputError(
            f"data.files holds {whole.num} sequences of {config.length} tokens, {num_held_out} would be held out; "
            "bring more text, or set data.length or data.held_out_share to less"
        )
    held_out = Sequences(stream.ids, config.length, seed, 0, num_held_out)
    return Sequences(stream.ids, config.length, seed, num_held_out, whole.num - num_held_out), held_out


class Reader:
    """Deals sequences out, one global batch at a time. `position` is all its state.

    Attributes:
        position: how many sequences were read, over all epochs.
    """

    def __init__(self, sequences: Sequences, seed: int, *, dp_rank: int = 0, dp_size: int = 1) -> None:
        self.sequences = sequences
        self.seed = seed
        self.dp_rank, self.dp_size = dp_rank, dp_size
        self.position = 0

    @property
    def epoch(self) -> float:
        """How often the sequences were read."""
        return self.position / self.sequences.num

    def next(self, num_rows: int) -> Batch:
        """Return this process's share of the next `num_rows` sequences, and move past them.

        Raises:
            UsageError: the rows can't be shared equally.
        """
        places = self.position + _share(num_rows, self.dp_rank, self.dp_size)
        self.position += num_rows
        epochs, offsets = np.divmod(places, self.sequences.num)
        indices = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = shuffled(offsets[here], self.sequences.num, self.seed, ORDER, int(epoch))
        return self.sequences.rows(indices)


def batches_of(sequences: Sequences, num_rows: int, most: int, dp_rank: int = 0, dp_size: int = 1) -> Iterator[Batch]:
    """Yield this process's shares of at most `most` sequences, in order; the last batch is filled up without labels."""
    total = min(sequences.num, most)
    for first in range(0, total, num_rows):
        indices = first + _share(num_rows, dp_rank, dp_size)
        yield sequences.rows(np.where(indices < total, indices, -1))


def _share(num_rows: int, dp_rank: int, dp_size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    if num_rows % dp_size:
        raise UsageError(
            f"a batch of {num_rows} rows can't be shared by {dp_size} data-parallel processes; make it a multiple"
        )
    size = num_rows // dp_size
    return np.arange(dp_rank * size, (dp_rank + 1) * size, dtype=np.int64)
