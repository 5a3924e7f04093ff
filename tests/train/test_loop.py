import shutil
from dataclasses import replace

import pytest
import torch
from ranks import run_ranks
from runs import Watching, held_out_losses, losses, run, run_among, small_recipe, write_texts
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuili.attention.plan import Dense, LayerPlan, Pooled, Sparse
from tuili.attention.select import Budget
from tuili.config import override
from tuili.errors import DependencyError, InputError, LimitError, ModelFileError, StoreError, TuiliError, UsageError
from tuili.model.local import check_model_dir
from tuili.train import curves, loop, shards
from tuili.train.checkpoint import MODEL, Checkpointer, checkpoints, open_checkpoint
from tuili.train.control import Control
from tuili.train.engine import Engine
from tuili.train.processes import Session
from tuili.train.recipe import DataConfig, ModelConfig
from tuili.train.shards import Files, whole
from tuili.train.spec import ParallelSpec


@pytest.fixture
def recipe(texts, tmp_path):
    return small_recipe(texts, tmp_path / "run")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """A picture takes longer than these runs; tests/cli/test_train.py has one drawn."""
    monkeypatch.setattr(curves, "draw", lambda rows, path, title: None)


@pytest.fixture(scope="module")
def whole_losses(tmp_path_factory):
    """The losses of the run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    torch.set_num_threads(1)
    run(small_recipe(write_texts(folder), folder / "run"))
    return losses(folder / "run")


class Killed(BaseException):
    """Stands for the end of a process, which nothing catches."""


def killed_at(monkeypatch, step):
    """Have the process end in the middle of a step."""
    original = Engine.step
    made = []

    def dying(self, batch):
        made.append(1)
        if len(made) == step:
            raise Killed
        return original(self, batch)

    monkeypatch.setattr(Engine, "step", dying)


def test_a_run_learns_and_leaves_a_model_that_loads_bit_for_bit(recipe):
    watching = Watching()
    outcome = run(recipe, watching)
    assert outcome.progress.step == 12 == len(watching.steps) and outcome.progress.tokens == 12 * 4 * 16
    assert watching.steps[-1].loss < watching.steps[0].loss - 0.1
    assert [step for step, _ in watching.evaluations] == [6, 12]
    assert outcome.held_out_loss == watching.evaluations[-1][1] == held_out_losses(recipe.out)[12]
    assert losses(recipe.out) == [step.loss for step in watching.steps]
    last = watching.steps[-1]
    assert last.tokens_per_s > 0 and last.memory_mib > 50 and last.left_s == 0 and not last.skipped
    check_model_dir(outcome.model)
    model = AutoModelForCausalLM.from_pretrained(outcome.model)
    newest = open_checkpoint(checkpoints(recipe.out / "checkpoints")[0])
    with Files(newest.folder) as files:
        for name, value in model.state_dict().items():
            assert torch.equal(value, whole(files, newest.table, f"{MODEL}{name}")), name
    tokenizer = AutoTokenizer.from_pretrained(outcome.model)
    assert tokenizer.decode(tokenizer("The lamp is red.")["input_ids"]) == "The lamp is red."
    assert tokenizer.eos_token == "<|end|>" and model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer) == 300


def test_the_same_recipe_gives_the_same_losses_and_another_seed_others(texts, tmp_path, whole_losses):
    run(small_recipe(texts, tmp_path / "again"))
    assert losses(tmp_path / "again") == whole_losses
    run(small_recipe(texts, tmp_path / "other", "seed=1"))
    assert losses(tmp_path / "other") != whole_losses


@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_a_run_that_was_killed_goes_on_with_the_same_losses(recipe, whole_losses, monkeypatch, step):
    with monkeypatch.context() as patch:
        killed_at(patch, step)
        with pytest.raises(Killed):
            run(recipe)
    watching = Watching()
    run(recipe, watching)
    assert losses(recipe.out) == pytest.approx(whole_losses, abs=1e-6)
    assert len(watching.steps) <= 12 - 4 * ((step - 1) // 4) and sorted(held_out_losses(recipe.out)) == [6, 12]


def test_a_finished_run_has_nothing_left_to_do_but_can_be_made_longer(recipe):
    first = run(recipe)
    shutil.rmtree(first.model)
    again = run(recipe)
    assert again.loss is None and again.model.is_dir() and len(losses(recipe.out)) == 12
    longer = run(replace(recipe, steps=14))
    assert longer.progress.step == 14 and len(losses(recipe.out)) == 14


def test_a_fresh_run_begins_anew(recipe, whole_losses):
    run(recipe)
    watching = Watching()
    run(recipe, watching, fresh=True)
    assert len(watching.steps) == 12 and losses(recipe.out) == whole_losses


def test_a_fresh_run_that_is_refused_loses_nothing(recipe):
    run(recipe)
    before = sorted(recipe.out.rglob("*"))
    with pytest.raises(UsageError, match="num_key_value_heads"):
        run(override(recipe, ["model.family=qwen3"]), fresh=True)
    assert sorted(recipe.out.rglob("*")) == before


def test_being_asked_to_stop_saves_first(recipe, whole_losses):
    watching = Watching()
    with pytest.raises(KeyboardInterrupt):
        run(recipe, watching, stop=lambda: len(watching.steps) == 3)
    after = Watching()
    run(recipe, after)
    assert after.steps[0].step == 4 and losses(recipe.out) == pytest.approx(whole_losses, abs=1e-6)


def test_losses_that_are_not_finite_stop_the_run(recipe, monkeypatch):
    original = Engine.step

    def broken(self, batch):
        report = original(self, batch)
        return report if len(seen) < 5 else replace(report, loss=float("nan"), skipped=True)

    seen = []
    watching = Watching()
    watching.on_step = seen.append
    monkeypatch.setattr(Engine, "step", broken)
    with pytest.raises(TuiliError, match=r"3 steps in a row .* step 8 .*Lower training\.learning_rate"):
        run(replace(recipe, max_skipped=3), watching)
    assert seen[-1].skipped and losses(recipe.out)[-3:] == [None] * 3
    assert [path.name for path in checkpoints(recipe.out / "checkpoints")] == ["step-00000004"]


def test_a_rate_that_is_far_too_high_is_survived_or_told(recipe):
    wild = replace(recipe, training=replace(recipe.training, learning_rate=1e30, clip_norm=None), max_skipped=2)
    with pytest.raises(TuiliError, match="not finite"):
        run(wild)


def full_disk(monkeypatch, steps):
    original = shards.save_file

    def save_file(tensors, path):
        if any(f"step-{step:08}" in str(path) for step in steps):
            raise OSError(28, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(shards, "save_file", save_file)


def test_a_disk_that_is_full_for_a_while_is_survived(recipe, whole_losses, monkeypatch):
    full_disk(monkeypatch, [4, 8])
    watching = Watching()
    outcome = run(recipe, watching)
    assert [text for text in watching.told if "No space left" in text and "The training goes on" in text]
    assert outcome.model.is_dir() and losses(recipe.out) == whole_losses
    assert [path.name for path in checkpoints(recipe.out / "checkpoints")] == ["step-00000012"]


def test_a_disk_that_is_full_can_stop_the_run(recipe, monkeypatch):
    full_disk(monkeypatch, [8])
    stopping = replace(recipe, checkpoints=replace(recipe.checkpoints, on_failure="stop", wait=True))
    with pytest.raises(StoreError, match="step 8 was not written"):
        run(stopping)
    assert [path.name for path in checkpoints(recipe.out / "checkpoints")] == ["step-00000004"]


def test_a_last_checkpoint_that_can_not_be_written_is_an_error(recipe, monkeypatch):
    full_disk(monkeypatch, [12])
    with pytest.raises(StoreError, match="step 12 was not written"):
        run(recipe)
    assert not (recipe.out / "model").exists()


def test_a_run_of_another_model_is_not_gone_on_with(recipe, texts, tmp_path):
    run(recipe)
    other = replace(recipe, model=replace(recipe.model, settings={**recipe.model.settings, "hidden_size": 32}))
    with pytest.raises(UsageError, match="hidden_size is 16 there and 32 here"):
        run(other)
    with pytest.raises(UsageError, match=r"the texts, .* changed"):
        run(override(recipe, ["data.held_out_share=0.2"]))
    with pytest.raises(UsageError, match="steps is 8, this run has made 12 already"):
        run(override(recipe, ["steps=8"]))
    (texts / "a.txt").write_text("Something else is written here.\n" * 300)
    with pytest.raises(UsageError, match=r"the texts, .* changed"):
        run(recipe)


def test_a_model_can_be_continued_with_its_own_tokenizer(recipe, tmp_path):
    first = run(recipe)
    watching = Watching()
    second = run(going_on(recipe, first.model, tmp_path / "second"), watching)
    assert watching.steps[0].loss < losses(recipe.out)[0] - 0.1
    assert (second.model / "tokenizer.json").read_bytes() == (first.model / "tokenizer.json").read_bytes()


def going_on(recipe, model, out):
    """The recipe with a model to go on with, whose tokenizer is the run's."""
    data = replace(recipe.data, vocab_size=DataConfig(files=()).vocab_size)
    return replace(recipe, out=out, model=ModelConfig(start=model), data=data)


def test_a_model_without_a_tokenizer_needs_one(recipe, tmp_path):
    model = run(recipe).model
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match="there is no tokenizer"):
        run(going_on(recipe, model, tmp_path / "second"))


def test_out_of_memory_says_what_to_lower(recipe, monkeypatch):
    def full(self, batch):
        raise torch.OutOfMemoryError("tried to allocate 3 GiB\nand more")

    monkeypatch.setattr(Engine, "step", full)
    message = r"out of memory in step 1, with micro-batches of 2 rows of 16 tokens; set parallel.micro_batch .*3 GiB\)"
    with pytest.raises(LimitError, match=message):
        run(recipe)


def test_without_matplotlib_there_is_no_picture(recipe, monkeypatch):
    def draw(*_):
        raise DependencyError("matplotlib", "draw", "drawing curves")

    monkeypatch.setattr(curves, "draw", draw)
    watching = Watching()
    assert run(recipe, watching).curves is None and any("tuili[draw]" in text for text in watching.told)


def test_a_picture_that_does_not_fit_on_the_disk_costs_nothing_else(recipe, monkeypatch):
    def draw(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(curves, "draw", draw)
    watching = Watching()
    outcome = run(recipe, watching)
    assert outcome.curves is None and outcome.model.is_dir()
    assert any(text.startswith("no curves.png") and "No space left" in text for text in watching.told)


def among(recipe):
    outcome = run_among(recipe, Session(torch.device("cpu"), Control()))
    return outcome.progress.step


def without_dropout(recipe):
    return replace(recipe, model=replace(recipe.model, settings={**recipe.model.settings, "attention_dropout": 0.0}))


def test_other_layouts_make_the_same_losses_and_go_on_from_each_other(recipe, texts, tmp_path):
    alone = without_dropout(replace(recipe, out=tmp_path / "alone"))
    run(alone)
    spec = replace(recipe.parallel, dp_shard=2, micro_batch=1)
    sharded = replace(without_dropout(recipe), parallel=spec)
    assert run_ranks(2, among, replace(sharded, steps=8, rate=replace(recipe.rate, kind="wsd", decay=4))) == [8, 8]
    assert [path.name for path in checkpoints(recipe.out / "checkpoints")] == ["step-00000008", "step-00000004"]
    run(replace(alone, out=tmp_path / "wsd", steps=8, rate=replace(recipe.rate, kind="wsd", decay=4)))
    assert losses(recipe.out) == pytest.approx(losses(tmp_path / "wsd"), abs=1e-5)
    shutil.rmtree(recipe.out / "checkpoints" / "step-00000008")
    run(replace(alone, out=recipe.out))
    assert len(losses(recipe.out)) == 12


def among_others(recipe, folder):
    """Make the run on texts of this process's own, as a host with an old copy would."""
    texts = folder / f"rank-{torch.distributed.get_rank()}"
    texts.mkdir(parents=True)
    (texts / "a.txt").write_text(f"The lamp of {texts.name} is red.\n" * 300)
    data = replace(recipe.data, files=(texts,), cache=texts / "cache", vocab_size=260)
    with pytest.raises(InputError, match="process 1 reads other texts than process 0"):
        run_among(replace(recipe, data=data), Session(torch.device("cpu"), Control()))


def test_hosts_with_other_texts_are_refused(recipe, tmp_path):
    run_ranks(2, among_others, replace(recipe, parallel=ParallelSpec(dp_shard=2)), tmp_path / "hosts")


def sandwich(recipe, out, **changes):
    """The recipe with a sandwich: a dense layer, two sparse ones, a pooled one, all of them at work at its length."""
    plan = LayerPlan(
        default=Sparse(budget=Budget(block=4, keep=3, sink=1, local=1), sub=2),
        layers={0: Dense(), 3: Pooled(block=4, window=8, sink=2)},
        crossover=8,
    )
    settings = {
        **recipe.model.settings,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attention_dropout": 0.0,
        "layer_plan": plan.to_dict(),
    }
    data = replace(recipe.data, length=32)
    return replace(recipe, out=out, steps=4, model=ModelConfig(settings=settings), data=data, **changes)


def test_a_sandwich_is_trained_on_two_by_two_by_two_as_on_one(recipe, tmp_path):
    alone = sandwich(recipe, tmp_path / "alone")
    outcome = run(alone)
    many = sandwich(recipe, tmp_path / "many", parallel=ParallelSpec(pp=2, dp_shard=2, tp=2, micro_batch=1))
    assert run_ranks(8, among, many) == [4] * 8
    assert losses(many.out) == pytest.approx(losses(alone.out), abs=1e-5)
    assert held_out_losses(many.out) == pytest.approx(held_out_losses(alone.out), abs=1e-5)
    one, other = (AutoModelForCausalLM.from_pretrained(out / "model").state_dict() for out in (alone.out, many.out))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-4, rtol=1e-4, msg=name)
    assert run(going_on(alone, outcome.model, tmp_path / "again")).progress.step == 4
    shutil.rmtree(many.out / "checkpoints" / "step-00000004", ignore_errors=True)


def test_the_checkpointer_is_closed_however_a_run_ends(recipe, monkeypatch):
    closed = []
    original = Checkpointer.close
    monkeypatch.setattr(Checkpointer, "close", lambda self: closed.append(1) or original(self))
    run(recipe)
    monkeypatch.setattr(loop, "export", None)
    with pytest.raises(TypeError):
        run(recipe, fresh=True)
    assert closed == [1, 1]


def test_micro_batches_fit_the_memory_and_the_losses_stay(texts, tmp_path):
    still = "model.settings.attention_dropout=0.0"
    run(small_recipe(texts, tmp_path / "one", still, "steps=3"))
    watching = Watching()
    fitted = small_recipe(texts, tmp_path / "two", still, "steps=3", "fit_memory=true", "parallel.micro_batch=1")
    run(fitted, watching)
    assert any(told.startswith("micro-batches of 4 rows") for told in watching.told)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


def test_a_micro_batch_beside_the_memory_s_own_is_refused(recipe):
    with pytest.raises(UsageError, match=r"parallel.micro_batch is 2, which has no effect with fit_memory"):
        replace(recipe, fit_memory=True)
