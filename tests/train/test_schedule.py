from dataclasses import replace

import pytest
import torch
from ranks import run_ranks
from small import ROWS, TRAINING, alone, assert_same, batches, make_model, share, train

from tuili.errors import InputError
from tuili.train.engine import build_engine
from tuili.train.schedule import IGNORED, Batch, loss_of
from tuili.train.spec import ParallelSpec

SCHEDULES = {
    "GPipe": ParallelSpec(pp=2, schedule="GPipe", micro_batch=4, micro_batches=4),
    "1F1B": ParallelSpec(pp=2, micro_batch=2, micro_batches=8),
    "uneven 1F1B": ParallelSpec(pp=2, micro_batch=4, micro_batches=4, layers_per_stage=(3, 1)),
    "Interleaved1F1B": ParallelSpec(pp=2, virtual=2, schedule="Interleaved1F1B", micro_batch=4),
    "InterleavedZeroBubble": ParallelSpec(pp=2, virtual=2, schedule="InterleavedZeroBubble", micro_batch=4),
    "ZBVZeroBubble": ParallelSpec(pp=2, virtual=2, schedule="ZBVZeroBubble", micro_batch=4),
}
ACCUMULATED = [(4, 2), (2, 4), (1, 8), (1, 2)]
"""Rows of a micro-batch and micro-batches of a run; the rest of 16 rows are further runs of the pipeline."""


def train_all(kind, specs, training=TRAINING):
    return [train(spec, kind, training) for spec in specs]


@pytest.mark.parametrize(("kind", "exact"), [("llama", 1e-12), ("tied", 1e-12), ("sandwich", 1e-7)])
def test_every_schedule_trains_as_one_process_does(kind, exact):
    """A sandwich evaluates in float32."""
    ranks = run_ranks(2, train_all, f"{kind}-64", list(SCHEDULES.values()))
    for runs in zip(*ranks, strict=True):
        assert_same(list(runs), alone(f"{kind}-64"), atol=exact, rtol=exact)


def test_runs_of_a_pipeline_accumulate_whatever_the_cut():
    """By default torch divides all gradients by the number of micro-batches after each run, earlier runs' again."""
    specs = [ParallelSpec(pp=2, micro_batch=rows, micro_batches=count) for rows, count in ACCUMULATED]
    specs.append(replace(SCHEDULES["InterleavedZeroBubble"], micro_batch=1, micro_batches=2))
    ranks = run_ranks(2, train_all, "llama-64", specs)
    for runs in zip(*ranks, strict=True):
        assert_same(list(runs), alone("llama-64"), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_passes_of_one_process_accumulate_whatever_the_cut(micro_batch):
    run = train(ParallelSpec(micro_batch=micro_batch), "llama-64")
    assert_same([run], alone("llama-64"), atol=1e-12, rtol=1e-12)


def train_other_lengths():
    """Return losses and norms of steps over rows of changing length, with evaluations between them."""
    spec = ParallelSpec(pp=2, micro_batch=4) if torch.distributed.is_initialized() else ParallelSpec(micro_batch=4)
    engine = build_engine(lambda: make_model("llama-64"), spec, TRAINING)
    found = []
    for length, batch in zip([5, 5, 9, 12, 5], batches(5), strict=True):
        cut = Batch(ids_BT=batch.ids_BT[:, :length], labels_BT=batch.labels_BT[:, :length])
        found.append(engine.evaluate(share(cut, engine))[0])
        report = engine.step(share(cut, engine))
        found += [report.loss, report.grad_norm]
    return found


def test_a_pipeline_takes_rows_of_other_lengths_and_evaluates_between_steps():
    expected = train_other_lengths()
    for found in run_ranks(2, train_other_lengths):
        assert found == pytest.approx(expected, rel=1e-12)


def test_the_loss_is_the_sum_over_labelled_tokens():
    logits_BTV, labels_BT = torch.randn(2, 3, 5), torch.tensor([[1, IGNORED, 4], [IGNORED] * 3])
    log_p = logits_BTV.log_softmax(-1)
    torch.testing.assert_close(loss_of(logits_BTV, labels_BT), -(log_p[0, 0, 1] + log_p[0, 2, 4]))
    assert loss_of(logits_BTV, torch.full((2, 3), IGNORED)).item() == 0.0
    assert loss_of(logits_BTV.bfloat16(), labels_BT).dtype == torch.float32
    assert loss_of(logits_BTV.double(), labels_BT).dtype == torch.float64


@pytest.mark.parametrize(("ids", "labels"), [((3,), (3,)), ((2, 3), (2, 4)), ((2, 3, 1), (2, 3, 1))])
def test_what_is_no_batch_is_refused(ids, labels):
    with pytest.raises(InputError, match=r"both must be the same \[rows, tokens\]"):
        Batch(ids_BT=torch.zeros(ids, dtype=torch.long), labels_BT=torch.zeros(labels, dtype=torch.long))


def test_a_batch_is_split_into_rows():
    batch = next(batches(1))
    parts = batch.split(5)
    assert [len(part.ids_BT) for part in parts] == [5, 5, 5, 1]
    assert torch.equal(torch.cat([part.labels_BT for part in parts]), batch.labels_BT)
    assert len(batch.ids_BT) == ROWS
