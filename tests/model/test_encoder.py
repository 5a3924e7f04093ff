import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tuili.errors import DependencyError, InputError, LimitError, ModelFileError
from tuili.model.encoder import MAX_TOKENS, Encoder, _batches

TEXTS = [
    "short",
    "json.dumps has the parameter indent, which sets how deep each level is indented; é and 推理 too",
    "",
    "A stone falls 20 m: at what speed does it land?",
    "x" * 300 + " y",
]
QUESTION = "Which parameter controls the indentation?"


@pytest.fixture(scope="module")
def encoder(models):
    return Encoder.load("minilm")


@pytest.fixture(scope="module")
def reference(models):
    """The same weights in transformers' BERT, with its tokenizer."""
    from transformers import AutoTokenizer, BertModel

    folder = models / "minilm"
    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def run_reference(reference, *texts):
    import torch

    model, tokenizer = reference
    inputs = tokenizer(*texts, return_tensors="pt", truncation=False, padding=False)
    with torch.inference_mode():
        return model(**inputs, output_attentions=True)


def test_importing_does_not_import_torch():
    code = "import sys, tuili.model.encoder, tuili.model.hf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loading_does_not_import_transformers(models):
    code = (
        "import sys; from tuili.model.encoder import Encoder; Encoder.load(); sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_hidden_states_equal_transformers(encoder, reference):
    for text, ours in zip(TEXTS, encoder.token_vectors(TEXTS), strict=True):
        theirs = run_reference(reference, text).last_hidden_state[0, 1:-1].numpy()
        theirs = theirs / np.linalg.norm(theirs, axis=-1, keepdims=True)
        np.testing.assert_allclose(ours.vectors, theirs, atol=1e-5)


def test_sentence_vectors_equal_transformers(encoder, reference):
    vectors = encoder.encode(TEXTS, batch_size=2)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), encoder.width) == (len(TEXTS), 384)
    for text, ours in zip(TEXTS, vectors, strict=True):
        theirs = run_reference(reference, text).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs), atol=1e-5)


def test_attention_equals_transformers(encoder, reference):
    import torch

    for text, ours in zip(TEXTS, encoder.cross_attention(QUESTION, TEXTS), strict=True):
        maps = torch.stack(run_reference(reference, QUESTION, text).attentions)[:, 0].mean(dim=1).numpy()
        q, t = len(ours.question_tokens), len(ours.tokens)
        assert ours.attention.shape == (6, q, t)
        np.testing.assert_allclose(ours.attention, maps[:, 1 : q + 1, q + 2 : q + 2 + t], atol=1e-5)


def test_chosen_layers_are_rows_of_all_layers(encoder):
    whole = encoder.cross_attention(QUESTION, TEXTS[:2])
    for some, every in zip(encoder.cross_attention(QUESTION, TEXTS[:2], layers=[4, 1]), whole, strict=True):
        np.testing.assert_allclose(some.attention, every.attention[[4, 1]], atol=1e-6)


@pytest.mark.parametrize("layers", [[6], [-1], []])
def test_a_layer_that_is_not_there_is_refused(encoder, layers):
    with pytest.raises(InputError, match="choose from 0 to 5"):
        encoder.cross_attention(QUESTION, TEXTS, layers=layers)


def test_the_order_and_number_of_texts_does_not_matter(encoder):
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    backward = encoder.encode(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, backward, atol=1e-5)


def test_vectors_have_length_one_and_know_what_is_alike(encoder):
    vectors = encoder.encode(["a cat sits on the mat", "a kitten is on the rug", "interest rates rose"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.5 > 0.2 > vectors[0] @ vectors[2]


def test_offsets_point_into_the_text(encoder):
    text = "Json.dumps: naïve 推理"
    (result,) = encoder.token_vectors([text])
    words = [text[begin:end] for begin, end in result.offsets]
    assert words == ["J", "son", ".", "dump", "s", ":", "naïve", "推", "理"]
    assert len(result.tokens) == len(result.vectors) == len(words)
    (attention,) = encoder.cross_attention("Which dumps?", [text])
    assert attention.offsets == result.offsets
    assert attention.question_offsets == [(0, 5), (6, 10), (10, 11), (11, 12)]


def test_no_text_and_empty_text(encoder):
    assert encoder.encode([]).shape == (0, 384)
    assert encoder.token_vectors([]) == []
    assert encoder.cross_attention(QUESTION, []) == []
    (empty,) = encoder.token_vectors([""])
    assert empty.tokens == []
    assert empty.vectors.shape == (0, 384)


@pytest.mark.parametrize("call", ["encode", "token_vectors"])
@pytest.mark.parametrize("text", ["word " * 255, "x " * 20_000], ids=["tokens", "characters"])
def test_a_long_text_is_refused_unless_cutting_is_asked_for(encoder, call, text):
    with pytest.raises(LimitError, match="truncate=True"):
        getattr(encoder, call)(["short", text])
    assert len(getattr(encoder, call)(["short", text], truncate=True)) == 2


def test_a_cut_is_reported(encoder):
    limit = MAX_TOKENS - 2
    exact, long = encoder.token_vectors(["word " * limit, "word " * (limit + 1)], truncate=True)
    assert (len(exact.tokens), exact.truncated) == (limit, False)
    assert (len(long.tokens), long.truncated) == (limit, True)
    np.testing.assert_allclose(long.vectors, exact.vectors, atol=1e-5)


def test_a_cut_question_or_text_is_reported_by_attention(encoder):
    long = "word " * 400
    with pytest.raises(LimitError):
        encoder.cross_attention(long, ["short"])
    both = encoder.cross_attention(long, [long, "short"], truncate=True)
    assert [result.truncated for result in both] == [True, True]
    assert both[0].attention.shape == (6, 254, 254)
    text_only = encoder.cross_attention("short", [long, "short"], truncate=True)
    assert [result.truncated for result in text_only] == [True, False]


def test_half_a_character_is_refused(encoder):
    with pytest.raises(InputError, match="UTF-8"):
        encoder.encode(["fine", "\ud800"])


def test_control_characters_are_harmless(encoder):
    np.testing.assert_allclose(encoder.encode(["a\x00b\x1b[31m"]), encoder.encode(["ab[31m"]), atol=1e-5)


def test_batches_hold_every_row_once_within_the_bounds():
    lengths = [300, 2, 5, 256, 256, 7] + [200] * 40
    batches = list(_batches(lengths, 32))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[row] for row in batch) <= 4096 for batch in batches)
    assert max(len(batch) for batch in _batches([1] * 100, 32)) == 32
    assert list(_batches([9000, 9000], 32)) == [[0], [1]]


@pytest.fixture
def copy(tmp_path, models):
    """A copy of the encoder's folder that may be spoiled."""
    return shutil.copytree(models / "minilm", tmp_path / "copy")


def test_loads_from_a_folder(encoder, copy):
    np.testing.assert_allclose(Encoder.load(str(copy)).encode(["hello"]), encoder.encode(["hello"]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("hidden_act", "relu"),
        ("num_hidden_layers", 7),
        ("hidden_size", 512),
        ("num_attention_heads", None),
        ("num_attention_heads", 0),
        ("num_attention_heads", 7),
        ("num_hidden_layers", 10**9),
        ("max_position_embeddings", 128),
        ("layer_norm_eps", "small"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(copy, key, value):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelFileError):
        Encoder.load(str(copy)).encode(["hello"])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("spoil", ["truncate", "remove"])
def test_a_spoiled_file_is_refused(copy, name, spoil):
    path = copy / name
    if spoil == "remove":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
    with pytest.raises(ModelFileError):
        Encoder.load(str(copy))


def test_a_tokenizer_without_the_special_tokens_is_refused(copy):
    path = copy / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("[CLS]", "[ABC]"), encoding="utf-8")
    with pytest.raises(ModelFileError, match=r"no token \[CLS\]"):
        Encoder.load(str(copy))


@pytest.mark.parametrize("package", ["safetensors.torch", "tokenizers"])
def test_a_missing_package_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=r"'tuili\[models\]'"):
        Encoder.load("minilm")
