import sys

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tuili.errors import DependencyError, ModelFileError
from tuili.model.fetch import ignore_progress
from tuili.model.llama_gguf import convert, undo_rope_permutation


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_weights_come_back_under_hugging_faces_names(tmp_path, tiny_gguf, kind):
    quant = GGMLQuantizationType[kind]
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.weights, quant)
    steps = []
    convert(path, tmp_path, lambda *step: steps.append(step))
    weights = load_file(tmp_path / "model.safetensors")
    assert weights.keys() == tiny_gguf.weights.keys()
    for name, weight in tiny_gguf.weights.items():
        expected = weight if weight.ndim == 1 else dequantize(quantize(weight, quant), quant)
        np.testing.assert_array_equal(weights[name], expected)
    assert steps[-1] == ("converting", len(tiny_gguf.weights), len(tiny_gguf.weights))


def test_plain_transformers_loads_the_folder(tmp_path, tiny_gguf):
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    convert(tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.weights), tmp_path, ignore_progress)
    model, report = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.rope_parameters["rope_theta"] == 10000.0
    assert model.config.rms_norm_eps == 1e-5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("hello  12") == ["hell", "o", "Ġ", "Ġ", "1", "2"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.decode(tokenizer("hé 推")["input_ids"]) == "hé 推"
    messages = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "hi"
    ids = torch.tensor([tokenizer("hello")["input_ids"]])
    assert torch.isfinite(model(ids).logits).all()


@given(num_heads=st.integers(1, 5), half=st.integers(1, 6), width=st.integers(1, 4))
def test_undoing_the_permutation_undoes_it(tiny_gguf, num_heads, half, width):
    weight = np.arange(num_heads * half * 2 * width, dtype=np.float32).reshape(-1, width)
    np.testing.assert_array_equal(undo_rope_permutation(tiny_gguf.interleave(weight, num_heads), num_heads), weight)


NOT_A_NUMBER = np.full((64,), np.nan, np.float32)
REFUSED = {
    "another architecture": {"architecture": "gpt2"},
    "another tokenizer": {"tokenizer_model": "llama"},
    "a missing size": {"feed_forward_length": None},
    "a size of 0": {"head_count": 0},
    "a wrong width": {"embedding_length": 32},
    "a wrong inner width": {"feed_forward_length": 97},
    "a wrong number of layers": {"block_count": 3},
    "a huge number of layers": {"block_count": 2**31},
    "a wrong number of heads": {"head_count_kv": 4},
    "a wrong vocabulary": {"vocab_size": 7},
    "a merge of unknown tokens": {"merges": ["h zz"]},
    "a merge of one token": {"merges": ["he"]},
    "a missing tensor": {"output_norm.weight": None},
    "an unknown tensor": {"output_norm.weight": None, "rope_freqs.weight": NOT_A_NUMBER},
    "NaN": {"output_norm.weight": NOT_A_NUMBER},
    "a wrong shape": {"output_norm.weight": np.zeros(63, np.float32)},
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses(tmp_path, tiny_gguf, what):
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.weights, **REFUSED[what])
    with pytest.raises(ModelFileError):
        convert(path, tmp_path, ignore_progress)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_full_disk_is_a_model_file_error(tmp_path, tiny_gguf):
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.weights)
    with pytest.raises(ModelFileError, match="can't write"):
        convert(path, tmp_path / "no such folder", ignore_progress)


@pytest.mark.parametrize("package", ["gguf", "gguf.constants", "tokenizers", "safetensors.numpy"])
def test_a_missing_package_names_the_extra(tmp_path, tiny_gguf, monkeypatch, package):
    path = tiny_gguf.write(tmp_path / "tiny.gguf", tiny_gguf.weights)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=r"'tuili\[models\]'"):
        convert(path, tmp_path, ignore_progress)
