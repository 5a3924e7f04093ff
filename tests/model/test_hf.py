import json
import shutil
import sys

import pytest
from safetensors.numpy import load_file, save_file

from tuili import port
from tuili.errors import DependencyError, InputError, LimitError, ModelFileError
from tuili.model.hf import LanguageModel
from tuili.porting.hf import report

MESSAGES = [{"role": "user", "content": "Say: the default of maxsize in functools.lru_cache is 128."}]


@pytest.fixture(scope="module")
def model(models):
    return LanguageModel.load("smollm2-135m")


def test_the_template_frames_every_message(model):
    prompt = model.render([{"role": "system", "content": "Be short."}, *MESSAGES])
    assert prompt.startswith("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nSay:")
    assert prompt.endswith("<|im_start|>assistant\n")


def test_the_gates_that_ship_are_this_models(models):
    ported = port(LanguageModel.load("smollm2-135m").model)
    found = report(ported)
    assert "smollm2-135m" in found.adapter
    readers = [layer.self_attn.tuili for layer in ported.model.layers]
    gates = [reader.gate for reader, told in zip(readers, found.layers, strict=True) if told.kind == "sparse"]
    assert len(gates) > 20 and all(gate is not None for gate in gates)


def test_greedy_words_are_the_same_every_time(model):
    first = model.generate(MESSAGES, 24)
    assert "128" in first
    assert first == model.generate(MESSAGES, 24)
    assert "<|im_end|>" not in first


def test_sampling_repeats_with_its_seed_and_leaves_the_random_state_alone(model):
    import torch

    state = torch.get_rng_state()
    story = [{"role": "user", "content": "Tell a story."}]
    samples = {seed: model.generate(story, 16, seed=seed) for seed in (1, 2)}
    assert samples[1] == model.generate(story, 16, seed=1)
    assert samples[1] != samples[2]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "tool", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": None}], [{}]],
)
def test_messages_that_are_not_sound_are_refused(model, messages):
    with pytest.raises(InputError):
        model.generate(messages, 4)


@pytest.mark.parametrize("max_new_tokens", [0, -1, 4097])
def test_the_number_of_new_tokens_is_bounded(model, max_new_tokens):
    with pytest.raises(LimitError, match="from 1 to 4096"):
        model.generate(MESSAGES, max_new_tokens)


def test_a_prompt_longer_than_the_window_is_refused(model):
    assert model.window == 8192
    with pytest.raises(LimitError, match="window is 8192"):
        model.generate([{"role": "user", "content": "word " * 9000}], 8)


def test_numbers_are_cut_into_digits_and_text_survives(model):
    tokenizer = model._tokenizer
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    for text in ("naïve 推理 🙂", "def f(x):\n    return x+1\n", " a  1.5 m/s² ", "<|im_start|>user"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("<|im_start|>")["input_ids"] == [1]


def test_what_the_model_was_converted_to_is_what_it_says(model):
    """Perplexity of plain English: a wrong order of rows or a wrong name would send it into the thousands."""
    import torch

    text = "The capital of France is Paris. The sun rises in the east and sets in the west."
    ids = model._tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        loss = model._model(ids, labels=ids).loss.item()
    assert loss < 2.5


def test_a_missing_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match=r"'tuili\[models\]'"):
        LanguageModel.load("smollm2-135m")


@pytest.fixture
def tiny(tmp_path, models):
    """A tiny Llama with the real tokenizer, made on the spot."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "tiny"
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models / "smollm2-135m" / name, folder)
    return folder


def test_loads_from_a_folder(tiny):
    assert isinstance(LanguageModel.load(str(tiny)).generate(MESSAGES, 2), str)


def test_missing_weights_are_refused_and_not_made_up(tiny):
    weights = load_file(tiny / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=r"lacks 1 of its weights.*up_proj"):
        LanguageModel.load(str(tiny))


def test_an_encoder_is_no_language_model(tiny):
    (tiny / "config.json").write_text(json.dumps({"model_type": "no_such_type"}))
    with pytest.raises(ModelFileError, match="no decoder"):
        LanguageModel.load(str(tiny))
