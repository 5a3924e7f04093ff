import functools
import json
import shutil
from dataclasses import replace

import pytest
import torch
from ranks import run_ranks
from small import TRAINING, batches, make_model, share

from tuili.errors import ModelFileError, StoreError, UsageError
from tuili.train import checkpoint, shards
from tuili.train.checkpoint import Checkpointer, Origin, Progress, checkpoints, newest, open_checkpoint, restore
from tuili.train.control import Control
from tuili.train.engine import build_engine
from tuili.train.spec import ParallelSpec

ORIGIN = Origin(model={"hidden_size": 32}, data="abc", length=12, seed=0)
ALONE = ParallelSpec(micro_batch=16)
BEFORE, AFTER = 2, 3
SPECS = {
    "alone": ALONE,
    "sharded": ParallelSpec(dp_shard=2, micro_batch=4),
    "tensor": ParallelSpec(tp=2, micro_batch=8),
    "pipeline": ParallelSpec(pp=2, schedule="Interleaved1F1B", virtual=2, micro_batches=4, micro_batch=4),
    "mixed": ParallelSpec(pp=2, tp=2, micro_batch=4),
    "whole": ParallelSpec(pp=2, dp_shard=2, tp=2, micro_batch=2),
}


def engine_of(spec, kind="llama", training=TRAINING):
    return build_engine(functools.partial(make_model, kind), spec, training)


def losses(engine, given):
    return [(report.loss, report.grad_norm) for report in (engine.step(share(batch, engine)) for batch in given)]


def begin(folder, spec, kind):
    """Train, save while the training goes on, and return the losses after the checkpoint."""
    given = list(batches(BEFORE + AFTER))
    engine = engine_of(spec, kind)
    losses(engine, given[:BEFORE])
    saving = Checkpointer(folder, Control(), ORIGIN)
    saving.begin(engine, Progress(step=BEFORE, position=32, tokens=99))
    later = losses(engine, given[BEFORE:])
    saving.finish()
    saving.close()
    return later


def resume(folder, spec, kind):
    found = newest(folder, Control(), pytest.fail)
    assert found.progress == Progress(step=BEFORE, position=32, tokens=99)
    engine = engine_of(spec, kind)
    for part in engine.parts:
        for each in part.parameters():
            torch.nn.init.constant_(each, float("nan"))
    restore(engine, found, ORIGIN)
    return losses(engine, list(batches(BEFORE + AFTER))[BEFORE:])


def on(spec, function, *args):
    """Run a function on the processes of a layout; all return the same."""
    if spec.world_size == 1:
        return function(*args)
    first, *others = run_ranks(spec.world_size, function, *args)
    assert all(other == first for other in others)
    return first


@pytest.mark.parametrize(
    ("saved", "resumed", "kind"),
    [
        ("whole", ["alone", "sharded", "tensor", "pipeline"], "llama"),
        ("alone", ["mixed"], "llama"),
        ("sharded", ["pipeline"], "tied"),
        ("pipeline", ["sharded", "alone"], "tied"),
        ("whole", ["alone", "sharded"], "sandwich"),
        ("alone", ["mixed"], "sandwich"),
    ],
)
def test_a_run_resumes_under_another_layout(tmp_path, saved, resumed, kind):
    wanted = on(SPECS[saved], begin, tmp_path, SPECS[saved], kind)
    for name in resumed:
        found = on(SPECS[name], resume, tmp_path, SPECS[name], kind)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), atol=1e-5, rtol=1e-5, msg=name)


@pytest.fixture
def saved(tmp_path):
    """A run that was saved three times, and a function that makes an engine that has learnt nothing."""
    engine = engine_of(ALONE)
    saving = Checkpointer(tmp_path / "run", Control(), ORIGIN, keep=3)
    for step, batch in enumerate(batches(3), start=1):
        engine.step(batch)
        saving.begin(engine, Progress(step=step, position=16 * step, tokens=step))
    saving.finish()
    saving.close()
    return tmp_path / "run"


def test_resuming_is_exact_under_the_same_layout(tmp_path):
    assert begin(tmp_path, ALONE, "llama") == resume(tmp_path, ALONE, "llama")


def test_the_scale_of_losses_is_kept(tmp_path):
    training = replace(TRAINING, precision="float16")
    engine = engine_of(ALONE, training=training)
    engine.load_state_dict({"loss_scale": 1024.0, "good_steps": 7})
    saving = Checkpointer(tmp_path, Control(), ORIGIN)
    saving.begin(engine, Progress(step=1))
    saving.finish()
    other = engine_of(ALONE, training=training)
    restore(other, newest(tmp_path, Control(), pytest.fail), ORIGIN)
    assert other.state_dict() == {"loss_scale": 1024.0, "good_steps": 7}


def test_the_newest_ones_stay(saved):
    saving = Checkpointer(saved, Control(), ORIGIN, keep=2)
    saving.begin(engine_of(ALONE), Progress(step=12))
    saving.finish()
    assert [path.name for path in checkpoints(saved)] == ["step-00000012", "step-00000003"]


def test_a_damaged_newer_one_does_not_push_out_a_sound_one(saved):
    (saved / "step-00000003" / "checkpoint.json").write_text("{")
    saving = Checkpointer(saved, Control(), ORIGIN, keep=1)
    saving.begin(engine_of(ALONE), Progress(step=2))
    saving.finish()
    assert newest(saved, Control(), lambda text: None).progress.step == 2


def test_what_a_killed_run_left_is_removed(saved):
    (saved / "step-00000009.tmp").mkdir()
    (saved / "step-00000009.tmp" / "rank-00000.safetensors").write_bytes(b"x")
    Checkpointer(saved, Control(), ORIGIN)
    assert sorted(path.name for path in saved.iterdir()) == [f"step-0000000{step}" for step in (1, 2, 3)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "checkpoint.json").unlink(),
        lambda folder: (folder / "checkpoint.json").write_text("{"),
        lambda folder: (folder / "checkpoint.json").write_text('{"version": 1}'),
        lambda folder: (folder / "checkpoint.json").write_text('{"version": 2}'),
        lambda folder: (folder / "rank-00000.safetensors").unlink(),
        lambda folder: (folder / "rank-00000.safetensors").write_bytes(b"cut"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_told(saved, damage):
    damage(saved / "step-00000003")
    told = []
    found = newest(saved, Control(), told.append)
    assert found.progress.step == 2 and len(told) == 1 and "step-00000003" in told[0]


def test_without_a_whole_checkpoint_there_is_none(tmp_path, saved):
    assert newest(tmp_path / "nothing", Control(), pytest.fail) is None
    for path in checkpoints(saved):
        (path / "checkpoint.json").unlink()
    assert newest(saved, Control(), lambda text: None) is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(ORIGIN, model={"hidden_size": 64}), "of another model: hidden_size is 32 there and 64 here"),
        (replace(ORIGIN, model={"hidden_size": 32, "window": 8}), "window is None there and 8 here"),
        (replace(ORIGIN, data="xyz"), "the texts, the tokenizer or what is held out changed"),
        (replace(ORIGIN, length=13), r"data\.length changed"),
        (replace(ORIGIN, seed=1), "the seed changed"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(saved, other, message):
    with pytest.raises(UsageError, match=message):
        restore(engine_of(ALONE), newest(saved, Control(), pytest.fail), other)


def test_another_release_of_transformers_is_no_other_model(saved):
    model = {**ORIGIN.model, "transformers_version": "99"}
    restore(engine_of(ALONE), newest(saved, Control(), pytest.fail), replace(ORIGIN, model=model))


def test_tensors_that_do_not_fit_are_refused(saved):
    found = newest(saved, Control(), pytest.fail)
    with pytest.raises(ModelFileError, match=r"of another model; --fresh"):
        restore(engine_of(ALONE, "qwen3"), found, ORIGIN)
    table = json.loads(json.dumps(found.table))
    table["model/model.norm.weight"]["shape"] = [31]
    with pytest.raises(ModelFileError, match=r"of shape \[31\], this model's is \[32\]"):
        restore(engine_of(ALONE), replace(found, table=table), ORIGIN)
    table = json.loads(json.dumps(found.table))
    table["model/model.norm.weight"]["chunks"] = []
    with pytest.raises(ModelFileError, match=r"hold 0 numbers of \[32\]"):
        restore(engine_of(ALONE), replace(found, table=table), ORIGIN)


def test_a_table_can_not_point_out_of_the_checkpoint(saved):
    found = newest(saved, Control(), pytest.fail)
    outside = saved.parent / "outside.safetensors"
    shutil.copy(found.folder / "rank-00000.safetensors", outside)
    manifest = json.loads((found.folder / "checkpoint.json").read_text())
    manifest["tensors"]["model/model.norm.weight"]["chunks"][0]["file"] = "../../outside.safetensors"
    (found.folder / "checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match="names the file"):
        open_checkpoint(found.folder)


def fill_the_disk(monkeypatch, step):
    """Have the disk be full when the checkpoint of a step is written."""
    original = shards.save_file

    def save_file(tensors, path):
        if f"step-{step:08}" in str(path):
            path.write_bytes(b"some")
            raise OSError(28, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(shards, "save_file", save_file)


def test_a_full_disk_leaves_the_older_checkpoints(saved, monkeypatch):
    fill_the_disk(monkeypatch, 4)
    engine = engine_of(ALONE)
    saving = Checkpointer(saved, Control(), ORIGIN, keep=3)
    saving.begin(engine, Progress(step=4))
    with pytest.raises(StoreError, match=r"step 4 was not written: .*No space left.*older ones are as they were"):
        saving.finish()
    assert sorted(path.name for path in saved.iterdir()) == [f"step-0000000{step}" for step in (1, 2, 3)]
    saving.begin(engine, Progress(step=5))
    assert saving.finish().step == 5


def full_on_one(folder):
    with pytest.MonkeyPatch.context() as patch:
        control = Control()
        if control.rank == 1:
            fill_the_disk(patch, 1)
        saving = Checkpointer(folder, control, ORIGIN)
        engine = engine_of(SPECS["sharded"])
        saving.begin(engine, Progress(step=1))
        with pytest.raises(StoreError, match="No space left"):
            while saving.poll() is None:
                pass
        saving.begin(engine, Progress(step=2))
        while (done := saving.poll()) is None:
            pass
    return done.step


def test_a_disk_that_is_full_for_one_process_is_told_by_all(tmp_path):
    assert run_ranks(2, full_on_one, tmp_path) == [2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_nothing_is_unpickled(saved):
    kinds = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"} and not hasattr(checkpoint, "pickle")
