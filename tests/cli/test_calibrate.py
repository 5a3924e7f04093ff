import json

import pytest
import torch

from tuili.attention.plan import LayerPlan
from tuili.model.hf import LanguageModel
from tuili.porting.adapter import Adapter, fingerprint, save
from tuili.porting.lowrank import LowRank


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"The lamp number {i} stands beside chair {i * 7 % 31}.\n" for i in range(160)))
    return path


@pytest.fixture
def run(tuili, tiny_decoder, text):
    """A function that calibrates the tiny decoder, with more arguments."""

    def calibrate(*more):
        arguments = ["calibrate", tiny_decoder(), "--text", text, "--length", "640", "--crossover", "64"]
        return tuili(*arguments, "--pieces", "1", *more)

    return calibrate


def test_a_plan_is_chosen_and_can_be_used(run, tuili, tiny_decoder, tmp_path):
    shown = run("--out", tmp_path / "plan.json", "--max-loss", "50")
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[-1] == str(tmp_path / "plan.json") and "measured as a whole" in shown.out
    plan = LayerPlan.from_json((tmp_path / "plan.json").read_text())
    assert plan.crossover == 64
    shown = tuili("port", tiny_decoder(), "--plan", tmp_path / "plan.json", "--out", tmp_path / "p", "--length", "100")
    assert shown.code == 0, shown.err


def test_json_holds_what_was_measured_and_is_the_same_each_time(run):
    first, again = run("--json").json, run("--json").json
    assert first == again
    assert [layer["layer"] for layer in first["layers"]] == [0, 1, 2]
    for layer in first["layers"]:
        assert sum(way["chosen"] for way in layer["ways"]) == 1
        assert [way["reads"] for way in layer["ways"]][:2] == ["dense", "sparse 96"]
    assert first["predicted"] <= 0.012 and first["keys_per_token"] <= first["keys_dense"]


def test_without_a_file_the_plan_is_printed(run):
    shown = run()
    assert LayerPlan.from_json(shown.out[shown.out.index("{") :]).crossover == 64


def test_no_loss_allowed_chooses_no_lossy_layer(run):
    layers = run("--max-loss", "0", "--json").json["layers"]
    assert all(way["increase"] <= 0 for layer in layers for way in layer["ways"] if way["chosen"])


@pytest.mark.parametrize(("more", "code", "message"), [
    (["--length", "2000"], 3, "window is 1024"),
    (["--crossover", "640"], 3, "nothing to choose"),
    (["--length", "500"], 3, "nothing to choose"),
    (["--max-loss", "-1"], 2, "max-loss"),
    (["--adapter", "none.safetensors"], 4, "can't read"),
    (["--adapter", "shipped"], 2, "no adapter is shipped"),
])  # fmt: skip
def test_wrong_usage_is_refused(run, more, code, message):
    shown = run(*more)
    assert shown.code == code and message in shown.err


def test_an_adapter_with_low_rank_weights_is_refused(run, tmp_path, tiny_decoder):
    model = LanguageModel.load(str(tiny_decoder())).model
    name = "model.layers.0.self_attn.q_proj"
    rows, columns = model.get_submodule(name).weight.shape
    weights = LowRank(a=torch.zeros(2, columns), b=torch.zeros(rows, 2), scale=1.0)
    adapter = Adapter(gates={}, low_rank={name: weights}, plan=LayerPlan(), base_sha256=fingerprint(model))
    save(tmp_path / "low.safetensors", adapter)
    shown = run("--adapter", tmp_path / "low.safetensors")
    assert shown.code == 2 and "has low-rank weights" in shown.err


def test_too_little_text_is_refused(run, text):
    text.write_text("The lamp is red. " * 10)
    shown = run()
    assert shown.code == 3 and "at least 2 are needed" in shown.err
    text.write_text(json.dumps({"text": ""}))
    assert run("--text", text.with_suffix(".json")).code == 3
