import re
from dataclasses import replace

import pytest
import torch
from ranks import run_ranks
from small import ROWS, TRAINING, Run, alone, assert_same, batches, make_model, share, train
from torch import nn

from tuili.errors import UsageError
from tuili.train.engine import build_engine
from tuili.train.precision import FIRST_SCALE, GROWTH_STEPS, LossScale, policy, set_tf32
from tuili.train.spec import ParallelSpec, TrainingConfig

CPU = torch.device("cpu")
SLOW = replace(TRAINING, learning_rate=1e-3)
LOW = [replace(SLOW, precision=precision) for precision in ("bfloat16", "float16")]
WHOLE = ParallelSpec(micro_batch=ROWS)


def assert_near(run: Run, training: TrainingConfig) -> None:
    """Check a run in low precision against float32: loss to 2e-3, gradient norm to 1e-2."""
    for found, wanted in zip(run.reports, alone("mild", SLOW).reports, strict=True):
        assert not found.skipped
        assert found.loss == pytest.approx(wanted.loss, abs=2e-3), training.precision
        assert found.loss != wanted.loss, "nothing was computed in low precision"
        assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-2), training.precision
    assert all(weight.dtype == torch.float32 for weight in run.weights.values())


@pytest.mark.parametrize("training", LOW, ids=lambda training: training.precision)
def test_one_process_computes_in_low_precision(training):
    assert_near(train(WHOLE, "mild", training), training)
    assert_near(train(ParallelSpec(micro_batch=2), "mild", training), training)


def train_each(cases):
    return [train(spec, "mild", training) for spec, training in cases]


def test_two_processes_compute_in_low_precision_over_several_micro_batches():
    """Sharded parameters under torch's autocast would give wrong gradients from the second micro-batch on."""
    sharded, copied = ParallelSpec(dp_shard=2, micro_batch=2), ParallelSpec(dp_replicate=2, micro_batch=2)
    cases = [(sharded, LOW[0]), (copied, LOW[1]), *((ParallelSpec(pp=2, micro_batch=4), each) for each in LOW)]
    for runs in run_ranks(2, train_each, cases):
        for run, (_, training) in zip(runs, cases, strict=True):
            assert_near(run, training)


def train_sandwich(cases):
    return [train(spec, "sandwich", training) for spec, training in cases]


def test_a_sandwich_computes_in_low_precision_however_it_is_laid_out():
    """Its gates choose among rounded scores, so that single keys differ from float32 and between layouts."""
    specs = (
        ParallelSpec(dp_shard=2, micro_batch=4),
        ParallelSpec(pp=2, micro_batch=4),
        ParallelSpec(tp=2, micro_batch=8),
    )
    cases = [(specs[0], LOW[0]), (specs[1], LOW[0]), (specs[1], LOW[1]), (specs[2], LOW[0])]
    wanted = alone("sandwich", SLOW).reports
    runs = [run for rank in run_ranks(2, train_sandwich, cases) for run in rank]
    runs += [train(WHOLE, "sandwich", training) for training in LOW]
    for run in runs:
        for found, expected in zip(run.reports, wanted, strict=True):
            assert not found.skipped and found.loss != expected.loss
            assert found.loss == pytest.approx(expected.loss, rel=0.02)
            assert found.grad_norm == pytest.approx(expected.grad_norm, rel=0.1)


@pytest.mark.parametrize("kind", ["llama", "sandwich"])
def test_layers_computed_again_change_nothing(kind):
    again = train(ParallelSpec(micro_batch=4), kind, replace(TRAINING, activation_checkpointing=True))
    once = train(ParallelSpec(micro_batch=4), kind)
    assert again.reports == once.reports


def test_layers_computed_again_in_a_pipeline_of_shards_change_nothing():
    spec = ParallelSpec(pp=2, dp_shard=2, micro_batch=2, micro_batches=2)
    ranks = run_ranks(4, train_kinds, spec, replace(TRAINING, activation_checkpointing=True))
    for kind, runs in zip(KINDS, zip(*ranks, strict=True), strict=True):
        assert_same(list(runs), alone(kind), atol=1e-7, rtol=1e-7)


KINDS = ("llama-64", "sandwich-64")


def train_kinds(spec, training):
    return [train(spec, kind, training) for kind in KINDS]


class Counting(nn.Module):
    """A layer that counts how often it computes."""

    def __init__(self, layer, calls):
        super().__init__()
        self.layer, self.calls = layer, calls

    def forward(self, *args, **kwargs):
        self.calls.append(1)
        return self.layer(*args, **kwargs)


@pytest.mark.parametrize(("again", "calls_a_layer"), [(False, 1), (True, 2)])
def test_layers_are_computed_again_only_where_asked(again, calls_a_layer):
    calls = []

    def make():
        model = make_model("llama")
        model.model.layers = nn.ModuleList(Counting(layer, calls) for layer in model.model.layers)
        return model

    engine = build_engine(make, WHOLE, replace(TRAINING, activation_checkpointing=again))
    engine.step(next(batches(1)))
    assert len(calls) == calls_a_layer * 4


@pytest.mark.parametrize("spec", [ParallelSpec(micro_batch=ROWS), ParallelSpec(dp_shard=2, micro_batch=8)])
def test_autocast_around_the_engine_is_refused(spec):
    def call():
        engine = build_engine(lambda: make_model("llama"), spec, TRAINING)
        batch = share(next(batches(1)), engine)
        with torch.autocast("cpu", torch.bfloat16):
            for run in (engine.step, engine.evaluate):
                with pytest.raises(UsageError, match=r"called under torch.autocast.*set the training's precision"):
                    run(batch)

    call() if spec.world_size == 1 else run_ranks(spec.world_size, call)


def test_one_precision_at_a_time():
    for training in (*LOW, SLOW):
        found = policy(training)
        assert found.param_dtype in (None, getattr(torch, training.precision))
        assert found.reduce_dtype in (None, torch.float32)


def test_tf32_is_for_gpus_and_off_unless_asked_for(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    with pytest.raises(UsageError, match="tf32 has no effect on the device cpu; leave it out"):
        set_tf32(TrainingConfig(tf32=True), CPU)
    set_tf32(TrainingConfig(), CPU)
    set_tf32(TrainingConfig(tf32=True), torch.device("cuda"))
    assert chosen == ["highest", "high"]


def test_the_loss_scale_halves_on_overflow_and_doubles_after_many_good_steps():
    scale = LossScale(TrainingConfig(precision="float16"))
    scale.update(overflowed=True)
    assert scale.factor == FIRST_SCALE / 2
    for _ in range(GROWTH_STEPS - 1):
        scale.update(overflowed=False)
    assert scale.factor == FIRST_SCALE / 2
    scale.update(overflowed=False)
    assert scale.factor == FIRST_SCALE
    scale.update(overflowed=True)
    assert (scale.factor, scale.good_steps) == (FIRST_SCALE / 2, 0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_precisions_have_no_loss_scale(precision):
    scale = LossScale(TrainingConfig(precision=precision))
    scale.update(overflowed=True)
    assert scale.factor == 1.0


def test_an_engine_s_state_holds_the_loss_scale():
    engine = build_engine(lambda: make_model("llama"), WHOLE, LOW[1])
    with torch.no_grad():
        engine.parts[0].lm_head.weight.mul_(1e30)  # overflows in float16
    report = engine.step(next(batches(1)))
    assert report.skipped
    other = build_engine(lambda: make_model("llama"), WHOLE, LOW[1])
    other.load_state_dict(engine.state_dict())
    assert other.state_dict() == {"loss_scale": FIRST_SCALE / 2, "good_steps": 0}
    assert re.fullmatch(r"inf|nan", str(report.grad_norm))
