import json

import pytest

from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget
from tuili.model.hf import LanguageModel
from tuili.porting import folder
from tuili.porting.adapter import fingerprint

WHOLE = LayerPlan(default=Sparse(budget=Budget(block=8, keep=100)), layers={0: Dense()}, crossover=16)
NARROW = LayerPlan(default=Sparse(budget=Budget(block=4, keep=3, sink=1, local=1)), layers={0: Dense()}, crossover=16)
DOCUMENT = "The lamp is red. The chair is old. The book is on the chair.\n" * 12


@pytest.fixture
def ported(tiny_decoder, tmp_path):
    """A function that returns a folder as `tuili port` writes it, of the tiny decoder and a plan."""

    def make(plan=NARROW):
        out, model = tmp_path / "ported", str(tiny_decoder())
        record = folder.Record(
            model=model,
            fingerprint=fingerprint(LanguageModel.load(model).model),
            plan=plan,
            adapter=None,
            versions=folder.versions(),
        )
        out.mkdir()
        folder.write_json(out / folder.RECORD, record.to_json())
        return out

    return make


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "document.txt"
    path.write_text(DOCUMENT)
    return path


def test_a_ported_model_reads_a_document_and_answers(tuili, ported, document):
    shown = tuili("generate", ported(), "--file", document, "--prompt", "What is red?", "--max-new-tokens", "8")
    assert shown.code == 0, shown.err
    assert shown.out.strip() and "sparse:" in shown.err and "keys a token and layer" in shown.err


def test_json_tells_all(tuili, ported, document):
    out = ported()
    arguments = ["generate", out, "--file", document, "--prompt", "What is red?", "--max-new-tokens", "5", "--json"]
    sparse = tuili(*arguments).json
    dense = tuili(*arguments, "--dense").json
    assert sparse["mode"] == "sparse" and dense["mode"] == "dense"
    assert sparse["num_prompt_tokens"] == dense["num_prompt_tokens"] > 200
    assert 1 <= sparse["num_new_tokens"] <= 5
    assert all(reply["prefill_s"] > 0 and reply["decode_s"] >= 0 for reply in (sparse, dense))
    assert 0 < sparse["keys_per_token"] < dense["keys_per_token"]


def test_what_is_streamed_is_the_text(tuili, ported, document):
    arguments = ["generate", ported(), "--file", document, "--max-new-tokens", "6"]
    assert tuili(*arguments).out == tuili(*arguments, "--json").json["text"] + "\n"


def test_with_the_whole_budget_both_say_the_same(tuili, ported, document):
    shown = tuili("generate", ported(WHOLE), "--file", document, "--max-new-tokens", "6", "--compare", "--json")
    assert shown.code == 0, shown.err
    found = shown.json["difference"]
    assert found["is_identical"] and found["first_differing"] is None and found["agreement"] == 1
    assert shown.json["dense"]["text"] == shown.json["sparse"]["text"] and found["prefill_speedup"] > 0
    assert "both texts are the same" in shown.err


def test_a_narrow_budget_shows_where_the_texts_part(tuili, ported, document):
    arguments = ["generate", ported(), "--file", document, "--max-new-tokens", "12", "--compare"]
    found = tuili(*arguments, "--json").json
    assert not found["difference"]["is_identical"] and 0 <= found["difference"]["agreement"] < 1
    assert 0 <= found["difference"]["first_differing"] < 12
    shown = tuili(*arguments)
    assert f"differ from token {found['difference']['first_differing']} on" in shown.err
    assert shown.out.rstrip("\n") == found["sparse"]["text"]


def test_a_model_without_a_folder_is_ported_by_default(tuili, tiny_decoder):
    shown = tuili("generate", tiny_decoder(), "--prompt", "hello", "--max-new-tokens", "2", "--json")
    assert shown.code == 0 and shown.json["mode"] == "sparse"


def test_the_chat_template_is_used_where_there_is_one(tuili, tiny_decoder):
    arguments = ["--prompt", "hello", "--max-new-tokens", "1", "--json"]
    chat = tuili("generate", tiny_decoder(), *arguments).json["num_prompt_tokens"]
    plain = tuili("generate", tiny_decoder(), *arguments, "--no-chat").json["num_prompt_tokens"]
    assert chat == plain + 2  # <s> before, a line's end after
    shown = tuili("generate", tiny_decoder(chat=False), *arguments)
    assert shown.json["num_prompt_tokens"] == plain and "no chat template" in shown.err


def test_a_seed_samples_and_can_be_repeated(tuili, tiny_decoder):
    arguments = ["generate", tiny_decoder(), "--prompt", "hello", "--max-new-tokens", "12", "--json", "--seed"]
    texts = [tuili(*arguments, seed).json["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_prompt_over_the_window_is_refused_with_counts(tuili, tiny_decoder, document):
    shown = tuili("generate", tiny_decoder(window=256), "--file", document, "--max-new-tokens", "20")
    assert shown.code == 3 and "20 are to follow" in shown.err and "window is 256" in shown.err and shown.out == ""


@pytest.mark.parametrize(("arguments", "code", "message"), [
    ([], 2, "give --file DOC, --prompt TEXT or both"),
    (["--prompt", "x", "--dense", "--compare"], 2, "leave one out"),
    (["--prompt", " "], 3, "nothing to read"),
    (["--file", "none.txt"], 3, "can't read the text"),
    (["--prompt", "x", "--max-new-tokens", "0"], 2, "x>=1"),
])  # fmt: skip
def test_wrong_usage_is_refused(tuili, tiny_decoder, arguments, code, message):
    shown = tuili("generate", tiny_decoder(), *arguments)
    assert shown.code == code and message in shown.err


@pytest.mark.parametrize(("change", "message"), [
    ({"fingerprint": "0" * 64}, "another state"),
    ({"plan": {}}, "damaged"),
    ({"adapter": "../gates"}, "damaged"),
    ({"adapter": "adapter.safetensors"}, "can't read"),
    ({"model": 3}, "damaged"),
    ({"model": "nothing-like-it"}, "there is no model"),
])  # fmt: skip
def test_a_damaged_folder_is_refused(tuili, ported, change, message):
    out = ported()
    record = json.loads((out / "tuili.json").read_text())
    (out / "tuili.json").write_text(json.dumps(record | change))
    shown = tuili("generate", out, "--prompt", "x")
    assert shown.code == 4 and message in shown.err and shown.out == ""
