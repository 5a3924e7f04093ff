import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from tuili.errors import ModelFileError
from tuili.model.local import check_model_dir, weight_files

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "_name_or_path": "x",
    "hidden_size": 8,
    "rope_scaling": {"rope_type": "yarn"},
    "eos_token_id": [1, 2],
    "tie_word_embeddings": True,
    "some_new_number": 0.5,
    "sliding_window": None,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sound_folder_gives_its_config(folder):
    assert check_model_dir(folder) == CONFIG


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"_attn_implementation_internal": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
        {"_attn_implementation_autoset": True},
        {"attn_implementation": "someone/kernel"},
        {"custom_pipelines": {"x": {"impl": "evil.P"}}},
        {"quantization_config": {"quant_method": "x"}},
        {"some_new_words": ["x"]},
        {"text_config": {"auto_map": {"AutoModel": "evil.Model"}}},
        {"vision_config": {"_attn_implementation_internal": "someone/kernel"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_config_keys_that_could_name_code_are_refused(folder, changes):
    rewrite(folder / "config.json", **changes)
    with pytest.raises(ModelFileError, match="could name code"):
        check_model_dir(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
def test_remote_code_in_other_files_is_refused(folder, name):
    (folder / name).write_text('{"auto_map": {"AutoTokenizer": "evil.T"}}')
    with pytest.raises(ModelFileError, match="auto_map"):
        check_model_dir(folder)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no sound JSON"),
        (b"[1]", "a JSON object is needed"),
        (b"\xff", "no sound JSON"),
        (b"[" * 100_000, "no sound JSON"),
        (b" " * 10_000_001, "the limit is 10000000"),
        (b"{}", "no model_type"),
        (b'{"model_type": 3}', "no model_type"),
    ],
    ids=["empty", "list", "latin", "deep", "large", "untyped", "number"],
)
def test_a_config_that_is_not_sound_is_refused(folder, raw, message):
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(ModelFileError, match=message):
        check_model_dir(folder)


def test_a_missing_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"config\.json: No such file"):
        check_model_dir(folder)


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_weights_are_refused_and_never_run(folder):
    (folder / "model.safetensors").unlink()
    canary = folder / "canary"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(str(canary))))
    with pytest.raises(ModelFileError, match=r"pickled weights \(pytorch_model\.bin\)"):
        check_model_dir(folder)
    assert not canary.exists()


def test_no_weights_at_all(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"no \*\.safetensors"):
        check_model_dir(folder)


def test_weights_with_a_bad_header_are_refused(folder):
    with (folder / "model.safetensors").open("r+b") as file:
        file.write((2**63).to_bytes(8, "little"))
    with pytest.raises(ModelFileError, match="declares a header"):
        check_model_dir(folder)


def test_shards_must_lie_in_the_folder(folder):
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model.safetensors"}}')
    assert weight_files(folder) == [folder / "model.safetensors"]
    check_model_dir(folder)
    for wrong in ('{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": "pytorch_model.bin"}}'):
        index.write_text(wrong)
        with pytest.raises(ModelFileError, match="which is not there"):
            check_model_dir(folder)
    for wrong in ("{}", '{"weight_map": [1]}', '{"weight_map": {"a": 3}}'):
        index.write_text(wrong)
        with pytest.raises(ModelFileError, match="weight_map"):
            check_model_dir(folder)
