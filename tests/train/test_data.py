from dataclasses import replace

import numpy as np
import pytest
import torch

from tuili.errors import InputError, SourceError, UsageError
from tuili.train.data import Reader, batches_of, num_sequences, open_data
from tuili.train.engine import IGNORED
from tuili.train.recipe import DataConfig

LENGTH = 16


@pytest.fixture
def config(texts):
    return DataConfig(files=(texts,), length=LENGTH, vocab_size=300, held_out_share=0.1)


@pytest.fixture
def data(tmp_path, config):
    return open_data(config, tmp_path / "run", 0)


def rows(batch):
    """The spans of tokens of a batch."""
    return [(*ids, labels[-1]) for ids, labels in zip(batch.ids_BT.tolist(), batch.labels_BT.tolist(), strict=True)]


def test_labels_are_the_next_tokens_and_every_sequence_comes_once_an_epoch(data):
    ids = np.asarray(data.train.ids).tolist()
    every = [tuple(ids[at : at + LENGTH + 1]) for at in range(0, len(ids) - LENGTH, LENGTH)]
    total = num_sequences(data.train.ids, LENGTH)
    assert len(every) == total == data.train.num + data.held_out.num
    reader = Reader(data.train, seed=1)
    epoch = []
    for _ in range(data.train.num):
        batch = reader.next(1)
        assert torch.equal(batch.ids_BT[:, 1:], batch.labels_BT[:, :-1])
        epoch += rows(batch)
    held_out = [row for batch in batches_of(data.held_out, 4, 10**6) for row in rows(batch)][: data.held_out.num]
    assert sorted(epoch + held_out) == sorted(every)
    assert reader.epoch == 1.0


def test_epochs_have_different_orders_and_batches_go_over_their_end(data):
    num = data.train.num
    reader = Reader(data.train, seed=1)
    read = [row for _ in range(4) for row in rows(reader.next(num // 2 + 1))]
    first, second = read[:num], read[num : 2 * num]
    assert sorted(first) == sorted(second) and first != second
    other = [row for _ in range(2) for row in rows(Reader(data.train, seed=2).next(num))][:num]
    assert sorted(other) == sorted(first) and other != first


@pytest.mark.parametrize("dp_size", [2, 3, 6])
def test_the_global_batch_does_not_depend_on_who_shares_it(data, dp_size):
    whole = Reader(data.train, seed=3)
    shares = [Reader(data.train, seed=3, dp_rank=rank, dp_size=dp_size) for rank in range(dp_size)]
    for _ in range(5):
        assert rows(whole.next(6)) == [row for share in shares for row in rows(share.next(6))]


def test_a_reader_goes_on_where_another_stood(data):
    reader = Reader(data.train, seed=4)
    for _ in range(7):
        reader.next(5)
    other = Reader(data.train, seed=4)
    other.position = reader.position
    assert rows(other.next(5)) == rows(reader.next(5))


def test_evaluation_reads_each_sequence_once_and_fills_up_without_labels(data):
    num = data.held_out.num
    size = 4 * (num // 4 + 1)
    (whole,) = batches_of(data.held_out, size, 10**6)
    assert int((whole.labels_BT != IGNORED).any(1).sum()) == num < size
    parts = [list(batches_of(data.held_out, 4, 10**6, rank, 2)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1])
    labelled = sum(int((batch.labels_BT != IGNORED).sum()) for part in parts for batch in part)
    assert labelled == num * LENGTH
    assert sum(len(batch.ids_BT) for batch in batches_of(data.held_out, 2, 4)) == 4


def test_what_is_held_out_depends_on_the_seed_alone(tmp_path, config, data):
    again = open_data(config, tmp_path / "run", 0)
    assert rows(again.held_out.rows(np.arange(3))) == rows(data.held_out.rows(np.arange(3)))
    other = open_data(config, tmp_path / "run", 1)
    assert rows(other.held_out.rows(np.arange(3))) != rows(data.held_out.rows(np.arange(3)))


def test_files_of_their_own_can_be_held_out(tmp_path, texts, config):
    (tmp_path / "held.txt").write_text("The lamp is old and the chair is red.\n" * 20)
    config = replace(config, held_out_share=DataConfig(files=()).held_out_share)
    data = open_data(replace(config, held_out=(tmp_path / "held.txt",)), tmp_path / "run", 0)
    assert data.train.num == num_sequences(data.train.ids, LENGTH) and data.held_out.num >= 4
    with pytest.raises(UsageError, match=r"a\.txt is both trained on and held out"):
        open_data(replace(config, held_out=(texts / "a.txt",)), tmp_path / "run", 0)
    assert open_data(replace(config, held_out_share=0.0), tmp_path / "run", 0).held_out is None


def test_too_little_text_is_refused(tmp_path, texts, config):
    with pytest.raises(InputError, match="a sequence needs 100001"):
        open_data(replace(config, length=100_000), tmp_path / "run", 0)
    with pytest.raises(InputError, match="would be held out"):
        open_data(replace(config, length=2000, held_out_share=0.9), tmp_path / "run", 0)
    with pytest.raises(SourceError, match="there is no file"):
        open_data(replace(config, files=(texts / "none.txt",)), tmp_path / "run", 0)
    for path in texts.iterdir():
        path.write_text("\n" if path.suffix == ".jsonl" else "x")
    with pytest.raises(InputError):
        open_data(config, tmp_path / "run", 0)


def test_a_batch_that_can_not_be_shared_is_refused(data):
    with pytest.raises(UsageError, match="can't be shared by 3"):
        Reader(data.train, seed=0, dp_size=3).next(4)
