"""`tuili plan`: layouts, other questions, refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
BASIC = ("llama3-8b", "--cluster", "a100-80:8", "--batch", "64")


@pytest.fixture
def plan(tuili):
    def run(*args):
        return tuili("plan", *args)

    return run


def test_layouts_are_ranked_with_reasons_and_the_models_error(plan):
    shown = plan(*BASIC, "--top", "3")
    assert shown.code == 0, shown.err
    rows = [line for line in shown.out.splitlines() if line[:1].isdecimal()]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    for wanted in ("Predicted, nothing was run", "bound by", "layouts don't fit", "published A100 rows", "MFU"):
        assert wanted in shown.out


def test_json_holds_parts_memory_misses_and_reasons(plan):
    found = plan(*BASIC, "--top", "4", "--json").json
    assert found["is_prediction"] and found["num_fitting"] > 4 and found["model_error"]["n"] > 20
    steps = [layout["step_s"] for layout in found["layouts"]]
    assert len(steps) == 4 and steps == sorted(steps)
    for layout in found["layouts"]:
        assert sum(layout["parts_s"].values()) == pytest.approx(layout["step_s"])
        held = dict(layout["memory_gib"])
        assert held.pop("total") == pytest.approx(sum(held.values()))
        assert sum(layout["memory_gib"].values()) / 2 <= layout["memory_usable_gib"]
        assert layout["tokens_per_s"] == pytest.approx(64 * 2048 / layout["step_s"])
    assert found["nearest_misses"] and found["why"]


def test_a_wish_is_kept(plan):
    fixed = ("--fix", "pp=2,tp=4,micro_batch=1", "--recompute", "full", "--schedule", "interleaved")
    layouts = plan(*BASIC, *fixed, "--json").json["layouts"]
    for one in layouts:
        layout = one["layout"]
        assert (layout["pp"], layout["tp"], layout["micro_batch"]) == (2, 4, 1)
        assert (layout["recompute"], layout["schedule"]) == ("full", "interleaved")


def test_a_config_and_sizes_describe_the_same_model(plan, tmp_path):
    config = {
        "hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 6, "intermediate_size": 1024,
        "vocab_size": 999,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    rest = ("--cluster", "a100-80:4", "--batch", "8", "--json")
    read = plan(tmp_path, *rest).json
    given = plan("--sizes", "layers=6,hidden=512,heads=8,mlp=1024,vocab=999", *rest).json
    assert read["num_params"] == given["num_params"]
    assert read["layouts"] == given["layouts"]


def test_sizes_change_a_named_model(plan):
    found = plan("llama3-8b", "--sizes", "layers=16", "--cluster", "a100-80:8", "--batch", "8", "--json").json
    assert found["num_params"] == 8_030_261_248 - 16 * 218_112_000


def test_a_layer_plan_is_compared_with_the_dense_model(plan):
    arguments = ("llama3-8b", "--cluster", "a100-80:8", "--batch", "8", "--seq", "32768", "--layer-plan")
    shown = plan(*arguments, "dense:2 sparse:26:keep=1024:beam=16 pooled:4")
    assert shown.code == 0 and "With every layer dense" in shown.out and "times as fast" in shown.out
    found = plan(*arguments, "dense:2 sparse:26:keep=1024:beam=16 pooled:4", "--json").json
    assert found["times_as_fast_as_dense"] == pytest.approx(found["dense"]["step_s"] / found["layouts"][0]["step_s"])
    assert found["times_as_fast_as_dense"] > 1.3


def test_slower_links_make_a_step_slower(plan):
    step = [
        plan(*BASIC, "--fix", "tp=8", *more, "--json").json["layouts"][0]["step_s"]
        for more in ((), ("--fast-link", "30"))
    ]
    assert step[1] > 1.2 * step[0]


def test_one_rail_makes_sharding_over_nodes_dearer(plan):
    arguments = ("llama3-70b", "--cluster", "a100-80:64", "--batch", "64", "--fix", "pp=1,tp=1,dp_shard=64", "--json")
    data = [plan(*arguments, *more).json["layouts"][0]["parts_s"]["data"] for more in ((), ("--one-rail",))]
    assert data[1] > 2 * data[0]


def test_whole_tokens_take_more_memory_and_bandwidth(plan):
    fixed = ("--fix", "pp=1,tp=8,micro_batch=1", "--recompute", "none", "--json")
    cut, whole = (plan(*BASIC, *fixed, *more).json["layouts"][0] for more in ((), ("--whole-tokens",)))
    assert whole["memory_gib"]["activations"] > 1.2 * cut["memory_gib"]["activations"]
    assert whole["parts_s"]["elementwise"] > 1.5 * cut["parts_s"]["elementwise"]


def test_two_kinds_of_devices_make_one_pipeline(plan):
    found = plan(
        "llama3-8b", "--cluster", "a100-80:8", "--cluster", "h100-80:8", "--batch", "64", "--fix", "pp=2", "--json"
    ).json
    assert [part["device"] for part in found["cluster"]] == ["a100-80", "h100-80"]
    counts = found["layouts"][0]["layers_of_chunks"]
    assert counts[0] < counts[1] and found["model_error"] is None


def test_hosts_without_published_figures_are_called_guesses(plan):
    shown = plan("smollm2-135m", "--cluster", "cpu-32:4", "--batch", "16")
    assert shown.code == 0 and "No published table speaks of such a cluster" in shown.out


def test_a_picture_is_drawn(plan, tmp_path):
    pytest.importorskip("matplotlib")
    assert plan(*BASIC, "--picture", tmp_path / "layouts.svg").code == 0
    assert "llama3-8b on 8 x a100-80" in (tmp_path / "layouts.svg").read_text(encoding="utf-8")


# -- the other questions -------------------------------------------------------------------------


def test_layers_are_split_over_uneven_devices(plan):
    found = plan("llama3-8b", "--speeds", "1,1,0.5,1", "--json").json
    assert sum(found["counts"]) == 32 and found["gain"] > 1.5
    shown = plan("llama3-8b", "--speeds", "1,1,0.5,1").out
    assert f"{found['gain']:.2f} times as fast" in shown and len(shown.splitlines()) == 6


def test_models_that_hold_a_batch_are_listed(plan):
    found = plan("--fits-batch", "64", "--seq", "512", "--json").json
    assert found["models"]["smollm2-135m"][2]["num_shards"] == 1
    assert found["models"]["llama3-405b"][0]["num_shards"] is None
    shown = plan("--fits-batch", "64", "--seq", "512").out
    assert "fits, " in shown and "sharded " in shown and "at most " in shown
    chunked = plan("--fits-batch", "64", "--seq", "512", "--chunked-loss", "--json").json
    assert chunked["models"]["llama3-8b"][0]["largest"] > found["models"]["llama3-8b"][0]["largest"]
    smaller = plan("--fits-batch", "64", "--seq", "512", "--cluster", "a100-40:1", "--json").json
    assert smaller["models"]["llama3-8b"][2]["largest"] < found["models"]["llama3-8b"][2]["largest"]


def test_the_claim_is_given_as_two_predictions(plan):
    found = plan("--claim", "--json").json
    assert [one["before"]["hours"] for one in found["readings"]] == [72, 72]
    assert found["is_prediction"] and found["model_error"]["max"] < 0.2
    shown = plan("--claim").out
    for one in found["readings"]:
        assert f"{one['after']['hours']:.1f} h" in shown
    assert "neither measured" in shown and "No published table shows a factor of four" in shown


def test_the_tables_are_shown_with_errors_and_sources(plan):
    found = plan("--tables", "--json").json
    assert [table["name"] for table in found if table["role"] == "fitted"] == ["narayanan_t1"]
    for table in found:
        for row in table["rows"]:
            assert row["error"] == pytest.approx(row["predicted_s"] / row["published_s"] - 1)
    shown = plan("--tables").out
    assert all(table["source"] in shown for table in found) and "held-out rows" in shown


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "code", "message"), [
    ((), 2, "layers"),
    (("llama3-8b",), 2, "no cluster"),
    (("llama3-8b", "--cluster", "a100-80:8"), 2, "no batch"),
    (("llama4", "--cluster", "a100-80:8", "--batch", "8"), 2, "no model 'llama4'"),
    (("llama3-8b", "--cluster", "v100:8", "--batch", "8"), 2, "no device 'v100'"),
    (("llama3-8b", "--cluster", "a100-80", "--batch", "8"), 2, "a kind and a number"),
    (("llama3-8b", "--cluster", "a100-80:0", "--batch", "8"), 3, "at least 1"),
    (("llama3-8b", "--cluster", "a100-80:999999992", "--batch", "8"), 3, "at most 1,000,000"),
    (("llama3-8b", "--cluster", "a100-80:12", "--batch", "12"), 3, "don't fill nodes"),
    ((*BASIC, "--fix", "tp=3"), 3, "can't be shared out"),
    ((*BASIC, "--fix", "pp"), 2, "NAME=NUMBER"),
    ((*BASIC, "--fix", "pp=2,pp=4"), 2, "once each"),
    ((*BASIC, "--fix", ""), 2, "is empty"),
    ((*BASIC, "--fix", "cp=2"), 2, "dp_shard"),
    ((*BASIC, "--sizes", "layers=0"), 2, "NAME=NUMBER"),
    ((*BASIC, "--sizes", "kv_heads=5"), 3, "multiple"),
    ((*BASIC, "--layer-plan", "dense:3"), 3, "3 layers, llama3-8b has 32"),
    ((*BASIC, "--layer-plan", "round:32"), 2, "KIND:COUNT"),
    ((*BASIC, "--dtype", "fp8"), 3, "8 bits"),
    ((*BASIC, "--picture", "x.pdf"), 2, ".svg or .png"),
    (("smollm2-135m", "--cluster", "a100-80:8", "--batch", "8", "--fix", "tp=8"), 3, "9 heads"),
    (("llama3-8b", "--cluster", "a100-80:8", "--batch", "7", "--fix", "tp=1,pp=1"), 3, "no multiple"),
    (("llama3-70b", "--cluster", "a100-80:8", "--batch", "8"), 3, "such devices would hold it"),
    (("llama3-8b", "--speeds", "1,x"), 2, "numbers with commas"),
    (("llama3-8b", "--speeds", "1,0"), 3, "above 0"),
    (("--speeds", "1,1"), 2, "give a model"),
    (("--claim", "--tables"), 2, "two questions"),
    (("llama3-8b", "--claim"), 2, "MODEL has no effect with --claim"),
    (("llama3-8b", "--speeds", "1,1", "--batch", "4"), 2, "--batch has no effect with --speeds"),
    (("--tables", "--seq", "512"), 2, "--seq has no effect"),
    (("--fits-batch", "64", "--cluster", "a100-80:1", "--cluster", "h100-80:1"), 2, "one --cluster"),
    (("--fits-batch", "64", "--cluster", "a100-80:64"), 2, "give --cluster a100-80:1"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_what_to_do(plan, arguments, code, message):
    shown = plan(*arguments)
    assert (shown.code, message in shown.err) == (code, True), shown.err


def test_a_broken_config_is_refused(plan, tmp_path):
    (tmp_path / "config.json").write_text("{")
    shown = plan(tmp_path, "--cluster", "a100-80:8", "--batch", "8")
    assert shown.code == 4 and "no JSON" in shown.err


def test_planning_starts_without_torch_and_numpy():
    code = (
        "import sys; from tuili.cli.main import main; main(['plan', 'smollm2-135m', '--cluster', 'a100-80:8', "
        "'--batch', '64', '--json']); "
        "print(sorted({'torch', 'numpy', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]"
