import json

import pytest
import torch

from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget
from tuili.model.hf import LanguageModel
from tuili.porting import training
from tuili.porting.adapter import load

PLAN = LayerPlan(
    default=Sparse(budget=Budget(block=8, keep=6, sink=1, local=2), sub=2), layers={0: Dense()}, crossover=64
)


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json())
    return path


@pytest.fixture
def texts(tmp_path):
    """A folder of a text, some code and JSON."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("The lamp is red and the chair is old. " * 60)
    (folder / "b.py").write_text("def f(x):\n    return x + 1\n" * 40)
    (folder / "c.json").write_text(json.dumps({"text": "one two three " * 50}))
    (folder / "d.bin").write_bytes(b"\xff\xff")
    return folder


@pytest.fixture
def run(tuili, tiny_decoder, texts, plan, tmp_path):
    """A function that distils the tiny decoder to a file, with more arguments."""

    def distil(*more, out="gates.safetensors", steps=4):
        arguments = ["distill", tiny_decoder(), "--out", tmp_path / out, "--text", texts, "--plan", plan]
        return tuili(*arguments, "--length", "192", "--steps", steps, *more)

    return distil


def gates(path, tiny_decoder):
    adapter = load(path, LanguageModel.load(str(tiny_decoder())).model)
    return {
        (layer, name): each for layer, gate in adapter.gates.items() for name, each in gate.state_dict().items()
    }, adapter


def interrupt_after(monkeypatch, steps, trainer=training.Distiller):
    """Have the run be interrupted after some steps, as by Ctrl-C."""
    original = trainer.save

    def save(self, path):
        original(self, path)
        if self.index == steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save", save)


def test_gates_are_distilled_and_can_be_used(run, tuili, tiny_decoder, tmp_path):
    shown = run()
    assert shown.code == 0, shown.err
    assert shown.out == f"{tmp_path / 'gates.safetensors'}\n"
    steps = [line for line in shown.err.splitlines() if line.startswith("gates, step")]
    assert len(steps) == 4 and all("loss" in line and "left" in line for line in steps)
    found, adapter = gates(tmp_path / "gates.safetensors", tiny_decoder)
    assert sorted(adapter.gates) == [1, 2] and adapter.plan == PLAN and found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gates.safetensors", "plan.json", "texts"]
    out = tmp_path / "ported"
    shown = tuili("port", tiny_decoder(), "--adapter", tmp_path / "gates.safetensors", "--out", out, "--length", "300")
    assert shown.code == 0, shown.err


def test_json_tells_the_last_step(run):
    shown = run("--json").json
    assert shown["layers"] == [1, 2] and shown["steps"] == 4 and shown["size_mib"] > 0
    assert shown["loss"] > 0 and 0 < shown["recall"] <= shown["recall_of_best"] <= 1


def test_low_rank_weights_are_trained_after_the_gates(run, tiny_decoder, tmp_path):
    shown = run("--low-rank", "2", "--low-rank-steps", "2", steps=2)
    assert shown.code == 0, shown.err
    steps = [line for line in shown.err.splitlines() if ", step " in line]
    assert [line.split(",")[0] for line in steps] == ["gates", "gates", "low-rank", "low-rank"]
    assert all("KL" in line and "left" in line for line in steps[2:])
    _, adapter = gates(tmp_path / "gates.safetensors", tiny_decoder)
    assert sorted(adapter.gates) == [1, 2] and adapter.low_rank and adapter.plan == PLAN
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gates.safetensors", "plan.json", "texts"]
    shown = run("--low-rank", "2", out="other")
    assert shown.code == 2 and "give both or neither" in shown.err


def test_a_run_stopped_in_the_second_stage_goes_on_there(run, tiny_decoder, tmp_path, monkeypatch):
    more = ["--low-rank", "2", "--low-rank-steps", "3"]
    assert run(*more, out="whole", steps=2).code == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1, training.Adapting)
        shown = run(*more, out="half", steps=2)
    assert shown.code == 130 and "step 2 of 2 of the gates" in shown.err
    shown = run(*more, out="half", steps=2)
    assert shown.code == 0 and "gates, step" not in shown.err and "low-rank, step 1" not in shown.err
    whole, half = (gates(tmp_path / name, tiny_decoder)[1].low_rank for name in ("whole", "half"))
    assert whole.keys() == half.keys() and all(torch.equal(whole[name].b, half[name].b) for name in whole)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_gates(run, tiny_decoder, tmp_path, monkeypatch):
    assert run(out="whole").code == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        shown = run(out="half")
    assert shown.code == 130 and not (tmp_path / "half").exists()
    shown = run(out="half")
    assert shown.code == 0 and "going on" in shown.err and "step 3 of 4" in shown.err and "step 2" not in shown.err
    whole, half = (gates(tmp_path / name, tiny_decoder)[0] for name in ("whole", "half"))
    assert whole.keys() == half.keys() and all(torch.equal(whole[key], half[key]) for key in whole)


def test_a_run_of_other_settings_is_not_gone_on_with(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert run().code == 130
    shown = run("--length", "160")
    assert shown.code == 2 and "the length differs" in shown.err and "--restart" in shown.err
    (tmp_path / "texts" / "a.txt").write_text("Something else. " * 200)
    shown = run()
    assert shown.code == 2 and "the texts differs" in shown.err
    shown = run("--restart")
    assert shown.code == 0 and "step 1 of 4" in shown.err and (tmp_path / "gates.safetensors").exists()


def test_a_damaged_state_is_refused(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert run().code == 130
    state = tmp_path / "gates.safetensors.gates.state"
    state.write_bytes(state.read_bytes()[:-40])
    assert run().code == 4
    (tmp_path / "gates.safetensors.run.json").write_text("{")
    shown = run()
    assert shown.code == 4 and "--restart" in shown.err
    assert run("--restart").code == 0


def test_a_file_that_is_there_is_not_replaced(run, tmp_path):
    (tmp_path / "gates.safetensors").write_text("mine")
    shown = run()
    assert shown.code == 2 and "exists" in shown.err and (tmp_path / "gates.safetensors").read_text() == "mine"


def test_bad_texts_are_refused(run, tuili, tiny_decoder, tmp_path):
    (tmp_path / "empty").mkdir()
    for text, message in [
        (tmp_path / "none.txt", "can't read the text"),
        (tmp_path / "empty", "holds no file that ends in .txt"),
        (tmp_path / "texts", "given twice"),
    ]:
        shown = run("--text", text)
        assert shown.code == 3 and message in shown.err
    (tmp_path / "short.txt").write_text("too short")
    shown = run("--text", tmp_path / "short.txt")
    assert shown.code == 3 and "at least 192 are needed" in shown.err
    shown = run("--length", "40")
    assert shown.code == 3 and "too few to learn from" in shown.err
    shown = tuili("distill", tiny_decoder(window=128), "--out", tmp_path / "x", "--text", tmp_path / "texts")
    assert shown.code == 3 and "window is 128" in shown.err


def test_plans_that_can_not_be_distilled_are_refused(run, plan):
    plan.write_text(LayerPlan(default=Dense()).to_json())
    shown = run()
    assert shown.code == 2 and "no layer sparse" in shown.err
    mixed = {1: Sparse(budget=Budget(block=8)), 2: Sparse(budget=Budget(block=4))}
    plan.write_text(LayerPlan(default=Dense(), layers=mixed).to_json())
    shown = run()
    assert shown.code == 2 and "distil each kind by itself" in shown.err
