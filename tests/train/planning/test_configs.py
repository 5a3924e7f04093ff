import json

import pytest

from tuili.attention.plan import Dense, LayerPlan, Pooled, Sparse
from tuili.attention.select import Budget
from tuili.errors import ModelFileError
from tuili.model.sandwich import SandwichConfig
from tuili.train.planning.configs import MAX_CONFIG_BYTES, read_config
from tuili.train.planning.models import Reading, preset

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
    "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}


def written(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_llama_is_read_from_its_folder_or_its_file(tmp_path):
    folder = written(tmp_path, json.dumps(LLAMA))
    assert read_config(folder) == read_config(folder / "config.json")
    assert read_config(folder).num_params == preset("llama3-8b").num_params


def test_gpt2_has_its_published_size(tmp_path):
    assert read_config(written(tmp_path, json.dumps(GPT2))).num_params == 124_439_808


def test_what_a_config_may_leave_out(tmp_path):
    rest = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "tie_word_embeddings")}
    model = read_config(written(tmp_path, json.dumps({**rest, "head_dim": 64})))
    assert (model.num_kv_heads, model.head_dim, model.tied) == (32, 64, False)


@pytest.mark.parametrize(("text", "message"), [
    ("{", "no JSON"), ("[]", "no object"), ("{}", "hidden_size"), (json.dumps({**LLAMA, "num_experts": 8}), "experts"),
    (json.dumps({**LLAMA, "hidden_size": "wide"}), "can't be"),
    (json.dumps({**LLAMA, "num_attention_heads": 0}), "can't"),
    (json.dumps({**LLAMA, "num_hidden_layers": -1}), "num_layers"), (" " * (MAX_CONFIG_BYTES + 1), "MiB"),
    (json.dumps({"model_type": "gpt2"}), "n_layer"),
])  # fmt: skip
def test_what_is_no_decoders_config_is_refused(tmp_path, text, message):
    with pytest.raises(ModelFileError, match=message):
        read_config(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="can't read"):
        read_config(tmp_path / "none.json")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ModelFileError, match="no JSON"):
        read_config(tmp_path)


def test_a_sandwich_is_planned_as_it_reads(tmp_path):
    plan = LayerPlan(
        default=Sparse(budget=Budget(block=16, keep=32, sink=1, local=4, beam=8), sub=4),
        layers={0: Dense(window=2048, past=4096, sink=16), 2: Dense(), 3: Pooled(block=32, window=512, sink=16)},
    )
    sizes = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = SandwichConfig(**sizes, gate_width=8, gate_queries=2, layer_plan=plan.to_dict())
    config.save_pretrained(tmp_path)
    model = read_config(tmp_path)
    assert model.readings == (
        Reading(kind="window", keys=2064, past=4096),
        Reading(kind="sparse", keys=512, block=4, gate_width=16, beam=8),
        Reading(),
        Reading(kind="pooled", keys=528, block=32),
    )
    assert model.readings[0].keys_per_token(4096) == 4097 / 2
    late = sum(range(1, 4097)) + 4096 * 2064
    assert model.readings[0].keys_per_token(8192) == pytest.approx(late / 8192)


@pytest.mark.parametrize(("change", "kinds"), [
    ({"sliding_window": 512}, "wwww"), ({"sliding_window": 512, "use_sliding_window": False}, "dddd"),
    ({"sliding_window": None}, "dddd"),
    ({"sliding_window": 512, "layer_types": ["full_attention", "sliding_attention"] * 2}, "dwdw"),
])  # fmt: skip
def test_windows_of_the_model_are_planned(tmp_path, change, kinds):
    model = read_config(written(tmp_path, json.dumps({**LLAMA, "num_hidden_layers": 4, **change})))
    assert "".join(reading.kind[0] for reading in model.readings) == kinds
    assert all(reading.keys in (0, 512) for reading in model.readings)


@pytest.mark.parametrize(("change", "message"), [
    ({"model_type": "gpt_neox"}, "model type 'gpt_neox'; known here are gpt2, llama"),
    ({"layer_plan": []}, "layers that can't be"), ({"layer_plan": {"layers": {}}}, "default"),
    ({"layer_plan": {"layers": {}, "default": {"kind": "odd", "budget": {"keep": 1, "block": 1, "beam": 0}, "sub": 1}}},
     "reads 'odd'"),
    ({"sliding_window": 8, "layer_types": ["odd"] * 32}, "odd"),
])  # fmt: skip
def test_layers_that_can_not_be_planned_are_refused(tmp_path, change, message):
    with pytest.raises(ModelFileError, match=message):
        read_config(written(tmp_path, json.dumps({**LLAMA, **change})))
