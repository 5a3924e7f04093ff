import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tuili.errors import InputError, LimitError, UsageError
from tuili.reason.decoder import ASKING, HEADING, LONG, NEUTRAL, FactReader, attention_of_last, decoder_part

FACTS = ["noise: Loudness of the engine.", "depth: Height of the cut.", "", "speed: Turns of the wheels. <end>"]
WINDOW = 4096


@pytest.fixture(scope="module")
def tokenizer():
    """Every byte is a token, and there is a special one."""
    vocabulary = {symbol: place for place, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


@pytest.fixture
def decoder(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=WINDOW,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def expected(model, tokenizer, question, facts, layers):
    """The same from the whole attention maps of the library."""
    ids, spans = tokenizer(HEADING)["input_ids"], []
    for place, fact in enumerate(facts):
        ids = ids + tokenizer(f"\n{place + 1}.")["input_ids"]
        line = tokenizer(f" {fact}", split_special_tokens=True)["input_ids"] if fact else []
        spans.append((len(ids), len(ids) + len(line)))
        ids = ids + line
    begin = len(ids) + len(tokenizer(ASKING)["input_ids"])
    ids = ids + tokenizer(f"{ASKING} {question}")["input_ids"]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(torch.tensor([ids]), output_attentions=True).attentions
    share = torch.stack([maps[layer][0, :, begin:] for layer in layers]).mean((0, 1, 2))
    return [float(share[first:last].sum()) for first, last in spans]


@pytest.mark.parametrize("layers", [(2,), (0, 1, 3)])
def test_equals_the_library_s_attention_maps(decoder, tokenizer, layers):
    twin = copy.deepcopy(decoder)
    found = FactReader(decoder, tokenizer, layers=layers).attended("how loud it is", FACTS)
    assert found == pytest.approx(expected(twin, tokenizer, "how loud it is", FACTS, layers), abs=1e-6)
    assert list(found > 0) == [bool(fact) for fact in FACTS] and found.sum() < 1


def test_a_list_past_the_crossover_is_read_sparsely(decoder, tokenizer):
    reader = FactReader(decoder, tokenizer, layers=(3,))
    found = reader.attended("how loud it is", [f"fact {place} of a long list" for place in range(120)])
    assert found.shape == (120,) and np.isfinite(found).all() and (found > 0).all()
    tally = reader._layers[0].tally
    assert tally.num_keys < tally.num_tokens * (tally.num_tokens + 1) / 2


def test_more_facts_than_the_window_are_read_in_several_prompts(decoder, tokenizer):
    facts = [f"fact {place} {'x' * (place % 7)}" for place in range(50)]
    narrow = FactReader(decoder, tokenizer, layers=(1,), window=300)
    prompts = list(narrow._prompts([len(number) + len(fact) for number, fact in narrow._lines(facts)], 7))
    assert len(prompts) > 2 and prompts[0][0] == 0 and prompts[-1][1] == len(facts)
    assert all(left[1] == right[0] for left, right in pairwise(prompts))
    found = narrow.attended("fact 7", facts)
    begin, end = prompts[1]
    assert found[begin:end] == pytest.approx(narrow.attended("fact 7", facts[begin:end]), abs=1e-6)
    assert (found > 0).all()


def test_a_calibrated_share_is_less_what_a_question_free_of_content_gets(decoder, tokenizer):
    reader = FactReader(decoder, tokenizer, layers=(3,))
    facts = [f"fact {place} of a long list" for place in range(120)]
    asked, neutral = (reader.attended(text, facts) for text in ("how loud it is", NEUTRAL))
    found = reader.attended("how loud it is", facts, calibrated=True)
    assert found == pytest.approx(asked - neutral, abs=1e-7) and found.min() < 0 < found.max()


def test_the_facts_are_read_once_for_both_questions(decoder, tokenizer):
    reader, lengths = FactReader(decoder, tokenizer, layers=(0,)), []
    reader._decoder.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    reader.attended("how loud it is", FACTS, calibrated=True)
    assert len(lengths) == 3 and lengths[0] > 80 and max(lengths[1:]) < 60


@pytest.mark.parametrize("num_facts", [LONG - 1, LONG])
def test_only_long_lists_are_calibrated(decoder, tokenizer, num_facts):
    reader = FactReader(decoder, tokenizer, layers=(2,))
    facts = [f"fact {place}" for place in range(num_facts)]
    shares = reader.attended("how loud it is", facts, calibrated=num_facts >= LONG).clip(0.0)
    assert decoder_part(reader, "how loud it is", facts) == pytest.approx(shares / shares.max(), abs=1e-6)


def test_layers_above_the_highest_one_are_not_run(decoder, tokenizer):
    FactReader(decoder, tokenizer, layers=(1,))
    assert len(decoder.model.layers) == 2


def test_no_facts_give_no_shares(decoder, tokenizer):
    reader = FactReader(decoder, tokenizer, layers=(0,))
    assert reader.attended("x", []).shape == (0,)
    assert decoder_part(reader, "x", []) == []


@pytest.mark.parametrize("question", ["", " \n "])
def test_a_blank_question_is_refused(decoder, tokenizer, question):
    with pytest.raises(InputError, match="blank"):
        FactReader(decoder, tokenizer, layers=(0,)).attended(question, FACTS)


def test_what_does_not_fit_is_refused_not_cut(decoder, tokenizer):
    reader = FactReader(decoder, tokenizer, layers=(0,), window=200)
    for question, facts in (("x", ["y" * 200]), ("x" * 300, ["y"]), ("x" * 300, [])):
        with pytest.raises(LimitError, match="window of 200"):
            reader.attended(question, facts)


@pytest.mark.parametrize(
    "wrong", [{"layers": ()}, {"layers": (4,)}, {"layers": (-1,)}, {"window": 20}, {"window": 9999}]
)
def test_wrong_settings_are_refused(decoder, tokenizer, wrong):
    with pytest.raises(UsageError):
        FactReader(decoder, tokenizer, **{"layers": (0,), **wrong})


def test_later_tokens_are_not_attended_to():
    torch.manual_seed(0)
    share = attention_of_last(torch.randn(6, 1, 8), torch.randn(2, 5, 8), 0.3)
    assert share.sum() == pytest.approx(1.0) and (share > 0).all()
    rows = attention_of_last(torch.zeros(6, 2, 8), torch.randn(2, 4, 8), 0.3)
    assert rows.tolist() == pytest.approx([(1 / 3 + 1 / 4) / 2] * 3 + [1 / 8])


@pytest.fixture(scope="module")
def reader(models):
    return FactReader.load(str(models / "smollm2-135m"))


@pytest.mark.parametrize(("text", "expected_place"), [("how loud the engine is", 0), ("how high the cut is", 1)])
def test_the_decoder_finds_the_fact(reader, text, expected_place):
    parts = decoder_part(reader, text, [fact for fact in FACTS if fact])
    assert int(np.argmax(parts)) == expected_place and max(parts) == 1.0 and min(parts) >= 0
