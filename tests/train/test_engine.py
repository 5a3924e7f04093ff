import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from small import ROWS, TRAINING, alone, assert_same, batches, make_model, share, train, whole_weights
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tuili.errors import InputError, UsageError
from tuili.train.engine import build_engine
from tuili.train.schedule import IGNORED, Batch
from tuili.train.spec import ParallelSpec

TWO = [
    ParallelSpec(dp_shard=2, micro_batch=4),
    ParallelSpec(dp_replicate=2, micro_batch=2),
    ParallelSpec(tp=2, micro_batch=8),
]
FOUR = [
    ParallelSpec(dp_replicate=2, dp_shard=2, micro_batch=2),
    ParallelSpec(dp_replicate=2, tp=2, micro_batch=4),
    ParallelSpec(pp=2, dp_shard=2, micro_batch=2, micro_batches=2),
    ParallelSpec(pp=2, dp_replicate=2, micro_batch=2, micro_batches=2),
    ParallelSpec(pp=4, micro_batch=2, micro_batches=8),
    ParallelSpec(pp=2, tp=2, micro_batch=2),
]
EIGHT = ParallelSpec(pp=2, dp_shard=2, tp=2, micro_batch=2)


def train_all(cases):
    return [train(spec, kind) for kind, spec in cases]


def check(cases):
    """Check runs on several processes against one; float64 to 1e-7, since a sandwich evaluates in float32."""
    ranks = run_ranks(cases[0][1].world_size, train_all, cases)
    for (kind, _), runs in zip(cases, zip(*ranks, strict=True), strict=True):
        exact = 1e-7 if kind.endswith("-64") else 1e-5
        assert_same(list(runs), alone(kind), atol=exact, rtol=exact)


def test_two_processes_train_as_one_does():
    check([("llama", spec) for spec in TWO] + [("qwen3-64", TWO[2]), ("tied-64", TWO[0])])


def test_four_processes_train_as_one_does():
    check(
        [("tied-64", spec) for spec in FOUR] + [("llama-64", FOUR[-1]), ("sandwich", FOUR[1]), ("sandwich", FOUR[-1])]
    )


def test_gates_learn_in_the_runs_that_are_compared():
    """A gate has a gradient only past the plan's crossover; without one their layouts would be compared by nothing."""
    before = dict(make_model("sandwich-64").named_parameters())
    gates = [name for name in before if ".gate." in name]
    assert len(gates) == 6
    assert all(not torch.equal(alone("sandwich-64").weights[name], before[name]) for name in gates)


def test_eight_processes_in_three_dimensions_train_as_one_does():
    check([("llama", EIGHT), ("sandwich-64", EIGHT)])


def test_one_process_makes_the_steps_of_a_plain_loop():
    """The engine against a loop that is written out: mean loss over labelled tokens, torch's clipping and AdamW."""
    model = make_model("llama")
    matrices, vectors = (
        [each for each in model.parameters() if (each.ndim > 1) == is_matrix] for is_matrix in (True, False)
    )
    groups = [{"params": matrices, "weight_decay": TRAINING.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=TRAINING.learning_rate, betas=(TRAINING.beta1, TRAINING.beta2))
    run = alone()
    for batch, report in zip(batches(3), run.reports, strict=True):
        optimizer.zero_grad()
        logits = model(input_ids=batch.ids_BT).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten(), ignore_index=IGNORED)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), TRAINING.clip_norm)
        optimizer.step()
        assert (report.loss, report.grad_norm) == (
            pytest.approx(loss.item(), rel=1e-6),
            pytest.approx(norm.item(), rel=1e-5),
        )
        assert report.num_tokens == int((batch.labels_BT != IGNORED).sum())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(run.weights[name], weight.detach(), atol=1e-5, rtol=1e-5, msg=name)
    logits = model(input_ids=batch.ids_BT).logits
    loss = nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels_BT.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    assert run.evaluated == (pytest.approx(loss.item(), rel=1e-5), report.num_tokens)


def test_gradients_are_clipped_only_where_asked():
    free = train(ParallelSpec(micro_batch=ROWS), training=replace(TRAINING, clip_norm=None))
    wide = train(ParallelSpec(micro_batch=ROWS), training=replace(TRAINING, clip_norm=1e9))
    assert free.reports == wide.reports
    assert free.reports[0] == alone().reports[0]
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(free.weights[name], alone().weights[name])


def poison(parameter):
    parameter.grad.mul_(math.inf)


def skip_where_one_overflows(spec, training):
    """Make a step in which one process's gradients are not finite; return reports and whether weights changed."""
    engine = build_engine(lambda: make_model("llama"), spec, training)
    first, second = (share(batch, engine) for batch in batches(2))
    before = whole_weights(engine)
    if dist.get_rank() == 1:
        poisoned = next(each for each in engine.parts[-1].parameters() if each.requires_grad)
        handle = poisoned.register_post_accumulate_grad_hook(poison)
    bad = engine.step(first)
    if dist.get_rank() == 1:
        handle.remove()
    is_same = all(torch.equal(weight, before[name]) for name, weight in whole_weights(engine).items())
    return bad.skipped, is_same, engine.state_dict()["loss_scale"], engine.step(second)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("spec", [TWO[0], ParallelSpec(pp=2, micro_batch=4)], ids=["dp", "pp"])
def test_all_processes_skip_a_step_when_one_has_no_finite_gradients(spec, precision):
    ranks = run_ranks(2, skip_where_one_overflows, spec, replace(TRAINING, precision=precision))
    scale = 2.0**15 if precision == "float16" else 1.0
    assert all(found[:3] == (True, True, scale) for found in ranks)
    assert all(found[3] == ranks[0][3] and not found[3].skipped for found in ranks)


def test_a_step_with_a_loss_that_is_not_finite_changes_nothing(monkeypatch):
    """The loss may be infinite where every gradient is finite: a label that the model gives no probability at all."""
    engine = build_engine(lambda: make_model("llama"), ParallelSpec(micro_batch=ROWS), TRAINING)
    first, second = batches(2)
    before, original = whole_weights(engine), engine._passes.train
    monkeypatch.setattr(engine._passes, "train", lambda *args: original(*args) + math.inf)
    report = engine.step(first)
    assert report.skipped and report.loss == math.inf and math.isfinite(report.grad_norm)
    assert all(torch.equal(weight, before[name]) for name, weight in whole_weights(engine).items())
    monkeypatch.undo()
    assert not engine.step(second).skipped


def refuse_rows():
    """Give the processes rows that don't fit together; each must refuse them, so none waits for another."""
    engine = build_engine(lambda: make_model("llama"), ParallelSpec(dp_shard=2, micro_batch=2), TRAINING)
    batch, rank = next(batches(1)), dist.get_rank()
    for call in (engine.step, engine.evaluate):
        with pytest.raises(InputError, match=r"rows of different shapes, \[\(2, 12\), \(4, 12\)\]; give each the same"):
            call(batch.split(2 + 2 * rank)[0])
        with pytest.raises(InputError, match="3 rows a process don't divide into passes of 2"):
            call(batch.split(3)[rank])
        none = torch.full_like(batch.labels_BT, IGNORED)
        with pytest.raises(InputError, match="no token of the global batch has a label"):
            call(Batch(ids_BT=batch.ids_BT, labels_BT=none).split(4)[rank])
    whole = build_engine(lambda: make_model("llama"), ParallelSpec(tp=2, micro_batch=2), TRAINING)
    with pytest.raises(InputError, match="processes with the same dp_rank have different rows; give the rows by"):
        whole.step(batch.split(8)[rank])


def test_rows_that_do_not_fit_together_are_refused_by_all():
    run_ranks(2, refuse_rows)


def refuse_parallel_models():
    spec = ParallelSpec(dp_replicate=2)
    for wrap in (DistributedDataParallel, fully_shard):
        with pytest.raises(UsageError, match=r"is parallel already.*return the plain model"):
            build_engine(lambda wrap=wrap: wrap(make_model("llama")), spec, TRAINING)


def test_models_that_are_parallel_already_are_refused():
    run_ranks(2, refuse_parallel_models)


def test_impossible_layouts_are_refused():
    with pytest.raises(
        UsageError, match=r"needs 2 processes, there are 1; start as many \(torchrun --nproc-per-node 2\)"
    ):
        build_engine(lambda: make_model("llama"), ParallelSpec(tp=2), TRAINING)


def facts_of_parts():
    engine = build_engine(
        lambda: make_model("llama"), ParallelSpec(pp=2, virtual=2, schedule="Interleaved1F1B", dp_shard=2), TRAINING
    )
    names = [name for part in engine.parts for name, _ in part.named_parameters()]
    is_sharded = all(isinstance(each, DTensor) for part in engine.parts for each in part.parameters())
    return names, len(engine.parts), len(engine.optimizers), is_sharded, (engine.dp_rank, engine.dp_size)


def test_parts_have_an_optimiser_each_and_the_names_of_the_whole():
    ranks = run_ranks(4, facts_of_parts)
    assert [rank[1:] for rank in ranks] == [(2, 2, True, (0, 2)), (2, 2, True, (1, 2))] * 2
    assert ranks[0][0] == ranks[1][0]
    assert sorted(ranks[0][0] + ranks[2][0]) == sorted(name for name, _ in make_model("llama").named_parameters())
