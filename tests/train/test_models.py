from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import SIZES

from tuili.errors import ModelFileError, UsageError
from tuili.model.sandwich import SandwichForCausalLM, default_plan
from tuili.train.documents import find_files
from tuili.train.models import describe
from tuili.train.recipe import ModelConfig
from tuili.train.tokens import own_tokenizer

LLAMA = ModelConfig(family="llama", settings=SIZES)


@pytest.fixture
def tokenizer(texts, tmp_path):
    return own_tokenizer(tmp_path / "cache", find_files([texts]), "text", 300)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_a_new_model_has_its_sizes_and_is_the_same_on_every_process(tokenizer, family):
    model = replace(LLAMA, family=family, settings={**SIZES, "num_key_value_heads": 1})
    source = describe(model, tokenizer, 16, 3)
    before = torch.random.get_rng_state()
    one, other = source.make(), source.make()
    assert torch.equal(torch.random.get_rng_state(), before), "the program's own random numbers stay"
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.config.hidden_size == 16 and one.config.vocab_size == 300 == source.config["vocab_size"]
    assert source.config["eos_token_id"] == tokenizer.end_id and source.config["architectures"][0].endswith(
        "ForCausalLM"
    )
    another = describe(model, tokenizer, 16, 4).make()
    assert not torch.equal(one.model.embed_tokens.weight, another.model.embed_tokens.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "lama"}, "no model family 'lama'"),
        ({"family": "vit"}, "no decoder that predicts"),
        ({"settings": {**SIZES, "hiden_size": 3}}, "no setting 'hiden_size'; did you mean 'hidden_size'"),
        ({"settings": {**SIZES, "hidden_size": "large"}}, "hidden_size"),
        ({"settings": {**SIZES, "hidden_size": 17, "head_dim": None}}, "17"),
        ({"settings": {**SIZES, "hidden_act": "silly"}}, "no llama can be built of model.settings; KeyError: 'silly'"),
        ({"family": "qwen3"}, "num_attention_heads is 2, its num_key_value_heads 32"),
        ({"settings": {**SIZES, "vocab_size": 200}}, "vocab_size is 200, the tokenizer has 300"),
        ({"settings": {**SIZES, "max_position_embeddings": 8}}, r"data.length is 16, .* 8"),
    ],
)
def test_what_makes_no_model_is_refused(tokenizer, changes, message):
    with pytest.raises(UsageError, match=message):
        describe(replace(LLAMA, **changes), tokenizer, 16, 0).make()


def test_a_llama_decoder_is_continued_as_a_sandwich(tokenizer, tmp_path):
    folder, plan = tmp_path / "model", default_plan(2).to_dict()
    dense = describe(LLAMA, tokenizer, 16, 0).make()
    dense.save_pretrained(folder)
    source = describe(ModelConfig(start=folder, settings={"layer_plan": plan, "gate_width": 4}), tokenizer, 16, 5)
    one, other = source.make(), source.make()
    assert type(one) is SandwichForCausalLM and source.config["architectures"] == ["SandwichForCausalLM"]
    kept, gates = one.state_dict(), other.state_dict()
    assert all(torch.equal(weight, kept[name]) for name, weight in dense.state_dict().items())
    assert all(torch.equal(weight, gates[name]) for name, weight in kept.items()), "gates begin by the seed"
    assert [name for name in kept if name.endswith("tuili.gate.bias") and not kept[name].any()], "they begin at 0"
    one.save_pretrained(tmp_path / "sandwich")
    without = {name: weight for name, weight in kept.items() if not name.endswith("gate.q_proj")}
    one.save_pretrained(tmp_path / "cut", state_dict=without)
    with pytest.raises(ModelFileError, match=r"lacks 1 of its weights, such as .*gate.q_proj"):
        describe(ModelConfig(start=tmp_path / "cut"), tokenizer, 16, 0).make()
    window = {**plan, "default": {"kind": "dense", "window": 8, "past": 0, "sink": 0}}
    again = describe(ModelConfig(start=tmp_path / "sandwich", settings={"layer_plan": window}), tokenizer, 16, 5).make()
    assert again.config.gate_width == 4 and not any(".tuili." in name for name in again.state_dict())


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("qwen3", {"gate_width": 4}, "of a Llama decoder, not of the family 'qwen3'"),
        ("llama", {"layer_plan": default_plan(8).to_dict()}, "names layer 7"),
        ("llama", {"gate_width": "wide"}, "width must be a whole number in 1 .. 4096, not 'wide'"),
        ("llama", {"gate_queries": 5}, "queries"),
    ],
)
def test_what_makes_no_sandwich_of_a_decoder_is_refused(tokenizer, tmp_path, family, settings, message):
    sizes = {**SIZES, "num_key_value_heads": 1}
    describe(ModelConfig(family=family, settings=sizes), tokenizer, 16, 0).make().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=message):
        describe(ModelConfig(start=tmp_path, settings=settings), tokenizer, 16, 0)


def test_a_model_is_continued_only_from_a_safe_and_whole_folder(tokenizer, tmp_path):
    folder = tmp_path / "model"
    model = describe(LLAMA, tokenizer, 16, 0).make()
    model.save_pretrained(folder)
    start = ModelConfig(start=folder)
    again = describe(start, tokenizer, 16, 5).make()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    for damage, message in [
        (lambda: (folder / "model.safetensors").write_bytes(b"x" * 100), "safetensors"),
        (lambda: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "only pickled weights"),
        (lambda: (folder / "config.json").unlink(), "can't read"),
    ]:
        damage()
        with pytest.raises(ModelFileError, match=message):
            describe(start, tokenizer, 16, 0).make()
    with pytest.raises(ModelFileError, match="can't read"):
        describe(ModelConfig(start=Path("nowhere")), tokenizer, 16, 0)
