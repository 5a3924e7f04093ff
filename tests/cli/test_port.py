import json

import pytest
import torch

from tuili.attention.gate import Gate, GateShape
from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget
from tuili.model.hf import LanguageModel
from tuili.porting.adapter import Adapter, fingerprint, save

PLAN = LayerPlan(
    default=Sparse(budget=Budget(block=8, keep=6, sink=1, local=2), sub=2), layers={0: Dense()}, crossover=64
)
FILES = ["layers.png", "report.json", "report.txt", "tuili.json"]


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json())
    return path


@pytest.fixture
def adapter(tmp_path, tiny_decoder):
    """A file of random gates for the tiny decoder, and a function that makes one for another decoder."""

    def make(name="gates.safetensors", seed=0):
        model = LanguageModel.load(str(tiny_decoder(seed=seed))).model
        torch.manual_seed(1)
        shape = GateShape(heads=6, groups=2, head_dim=16, queries=2, width=8, sub=2)
        gates = {1: Gate.low_rank(shape), 2: Gate.low_rank(shape)}
        save(tmp_path / name, Adapter(gates=gates, plan=PLAN, base_sha256=fingerprint(model)))
        return tmp_path / name

    return make


def test_a_port_is_measured_and_kept(tuili, tiny_decoder, plan, tmp_path):
    out = tmp_path / "ported"
    shown = tuili("port", tiny_decoder(), "--out", out, "--plan", plan, "--length", "400")
    assert shown.code == 0, shown.err
    assert "tarfile.py" in shown.err and shown.out.splitlines()[-1] == str(out)
    assert sorted(path.name for path in out.iterdir()) == FILES
    record = json.loads((out / "tuili.json").read_text())
    assert record["model"] == str(tiny_decoder()) and record["adapter"] is None
    assert LayerPlan.from_dict(record["plan"]) == PLAN
    report = json.loads((out / "report.json").read_text())
    assert report["tokens"] == 400 and report["tokens_counted"] == 200
    assert [layer["kind"] for layer in report["layers"]] == ["dense", "sparse", "sparse"]
    assert [layer["budget"] for layer in report["layers"]] == [None, 48, 48]
    assert all(0 < layer["recall"] <= layer["recall_of_best"] for layer in report["layers"][1:])
    assert report["layers"][0]["recall"] is None and report["layers"][0]["dense_share"] == 1
    assert report["perplexity"]["sparse"] != report["perplexity"]["dense"] and 0 < report["drift"]["agreement"] <= 1
    assert "perplexity" in (text := (out / "report.txt").read_text()) and text in shown.out
    assert (out / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_the_report_and_nothing_else(tuili, tiny_decoder, plan, tmp_path):
    out, text = tmp_path / "ported", tmp_path / "text.json"
    text.write_text(json.dumps({"text": "A text of some words, said again and again. " * 40}))
    shown = tuili("port", tiny_decoder(), "--out", out, "--plan", plan, "--text", text, "--json")
    assert shown.json == json.loads((out / "report.json").read_text()) and shown.json["text"] == "text.json"


def test_the_adapter_is_copied_and_used(tuili, tiny_decoder, adapter, tmp_path):
    out = tmp_path / "ported"
    shown = tuili("port", tiny_decoder(), "--out", out, "--adapter", adapter(), "--length", "300")
    assert shown.code == 0 and sorted(path.name for path in out.iterdir()) == ["adapter.safetensors", *FILES]
    assert LayerPlan.from_dict(json.loads((out / "tuili.json").read_text())["plan"]) == PLAN
    said = tuili("generate", out, "--prompt", "import " * 120, "--max-new-tokens", "3")
    assert said.code == 0, said.err


def test_a_plan_takes_the_place_of_the_adapters_own(tuili, tiny_decoder, adapter, tmp_path):
    from dataclasses import replace

    path, out = tmp_path / "other.json", tmp_path / "ported"
    other = replace(PLAN, layers={0: Dense(), 1: Dense()})
    path.write_text(other.to_json())
    shown = tuili("port", tiny_decoder(), "--out", out, "--adapter", adapter(), "--plan", path, "--length", "200")
    assert shown.code == 0 and "1  dense" in shown.out
    assert LayerPlan.from_dict(json.loads((out / "tuili.json").read_text())["plan"]).at(1) == Dense()
    path.write_text(LayerPlan(default=Dense()).to_json())
    shown = tuili("port", tiny_decoder(), "--out", tmp_path / "b", "--adapter", adapter(), "--plan", path)
    assert shown.code == 2 and "no layer sparse" in shown.err


def test_what_is_there_is_not_overwritten(tuili, tiny_decoder, plan, tmp_path):
    out = tmp_path / "ported"
    arguments = ["port", tiny_decoder(), "--out", out, "--plan", plan, "--length", "100"]
    out.mkdir()
    assert tuili(*arguments).code == 0
    before = (out / "report.json").read_bytes()
    shown = tuili(*arguments)
    assert shown.code == 2 and "--force" in shown.err and (out / "report.json").read_bytes() == before
    assert tuili(*arguments, "--force").code == 0 and (out / "report.json").read_bytes() != before
    (out / "mine.txt").write_text("mine")
    shown = tuili(*arguments, "--force")
    assert shown.code == 2 and "mine.txt" in shown.err and (out / "mine.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "tuili.json").write_text('{"kind": "decoder"}')
    shown = tuili("port", tiny_decoder(), "--out", other, "--force")
    assert shown.code == 2 and "did not write" in shown.err and (other / "tuili.json").exists()
    shown = tuili("port", tiny_decoder(), "--out", other / "tuili.json")
    assert shown.code == 2 and "no folder" in shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "plan.json", "ported"]


def test_a_failing_run_leaves_no_folder(tuili, tiny_decoder, plan, tmp_path, monkeypatch):
    monkeypatch.setattr("tuili.porting.heat.draw", lambda *args: 1 / 0)
    assert tuili("port", tiny_decoder(), "--out", tmp_path / "ported", "--plan", plan, "--length", "80").code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_without_matplotlib_the_extra_is_named_before_any_work(tuili, tiny_decoder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    shown = tuili("port", tiny_decoder(), "--out", tmp_path / "ported")
    assert shown.code == 1 and "tuili[draw]" in shown.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("content", "message"), [
    (None, "can't read the text"),
    ("", "holds no text"),
    ("a", "at least 16 are needed"),
    (b"\xff\xfe\x00", "no UTF-8 text"),
])  # fmt: skip
def test_bad_texts_are_refused(tuili, tiny_decoder, tmp_path, content, message):
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content if isinstance(content, bytes) else content.encode())
    shown = tuili("port", tiny_decoder(), "--out", tmp_path / "ported", "--text", text)
    assert shown.code == 3 and message in shown.err and not (tmp_path / "ported").exists()


@pytest.mark.parametrize("content", ["[1]", '{"body": "x"}', "{", '{"text": 3}'])
def test_json_without_a_text_is_refused(tuili, tiny_decoder, tmp_path, content):
    (tmp_path / "text.json").write_text(content)
    shown = tuili("port", tiny_decoder(), "--out", tmp_path / "ported", "--text", tmp_path / "text.json")
    assert shown.code == 3 and "JSON" in shown.err


def test_a_length_beyond_the_window_or_the_text_is_refused(tuili, tiny_decoder, tmp_path):
    shown = tuili("port", tiny_decoder(window=256), "--out", tmp_path / "ported", "--length", "257")
    assert shown.code == 3 and "257" in shown.err and "256" in shown.err


def test_an_adapter_for_another_model_or_cut_off_is_refused(tuili, tiny_decoder, adapter, tmp_path):
    arguments = ["port", tiny_decoder(), "--out", tmp_path / "ported", "--adapter"]
    shown = tuili(*arguments, adapter("other", seed=1))
    assert shown.code == 4 and "another model" in shown.err
    path = adapter("cut")
    path.write_bytes(path.read_bytes()[:-40])
    assert tuili(*arguments, path).code == 4
    assert tuili(*arguments, tmp_path / "none").code == 4
    shown = tuili(*arguments, "shipped")
    assert shown.code == 2 and "no adapter is shipped" in shown.err
    assert not (tmp_path / "ported").exists()


@pytest.mark.parametrize("content", ["{", "{}", '{"crossover": 1, "default": {"kind": "x"}, "layers": {}}'])
def test_bad_plans_are_refused(tuili, tiny_decoder, tmp_path, content):
    (tmp_path / "plan.json").write_text(content)
    shown = tuili("port", tiny_decoder(), "--out", tmp_path / "ported", "--plan", tmp_path / "plan.json")
    assert shown.code == 3 and "plan" in shown.err
    shown = tuili("port", tiny_decoder(), "--out", tmp_path / "ported", "--plan", tmp_path / "none.json")
    assert shown.code == 3 and "can't read the layer plan" in shown.err


def test_an_unknown_model_is_refused(tuili, tmp_path):
    shown = tuili("port", "nothing-like-it", "--out", tmp_path / "ported")
    assert shown.code == 4 and "there is no model" in shown.err
