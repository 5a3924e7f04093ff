import pytest
import torch

from tuili import InputError, LimitError, port
from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget
from tuili.model.hf import LanguageModel
from tuili.porting.generate import Generator, Reply, check_room, difference, prompt_ids

NARROW = LayerPlan(default=Sparse(budget=Budget(block=4, keep=3, sink=1, local=1)), layers={0: Dense()}, crossover=16)


@pytest.fixture
def loaded(tiny_decoder):
    return LanguageModel.load(str(tiny_decoder()))


def reply(ids, prefill_s=1.0, decode_s=1.0):
    return Reply(
        text="", ids=tuple(ids), num_prompt_tokens=3, prefill_s=prefill_s, decode_s=decode_s, keys_per_token=1.0
    )


@pytest.mark.parametrize(("dense", "sparse", "first"), [
    ([1, 2, 3], [1, 2, 3], None),
    ([1, 2, 3], [1, 4, 3], 1),
    ([1, 2, 3], [1, 2], 2),
    ([1], [2], 0),
])  # fmt: skip
def test_the_first_token_that_differs(dense, sparse, first):
    found = difference(reply(dense, 6.0, 2.0), reply(sparse, 3.0, 1.0), 0.5)
    assert (found.first_differing, found.is_identical) == (first, first is None)
    assert found.prefill_speedup == 2 and found.agreement == 0.5
    assert (found.decode_speedup is None) == (len(dense) == 1 or len(sparse) == 1)


def test_times_a_token_are_compared_and_not_whole_ones():
    assert difference(reply([1, 2, 3], decode_s=4.0), reply([1, 2], decode_s=1.0), 1.0).decode_speedup == 2


def test_the_agreement_is_that_of_one_forward_over_prompt_and_reply(loaded):
    ids = prompt_ids(loaded.tokenizer, "The lamp is red. " * 30, "What is red?", chat=True)
    generator = Generator(loaded.model, loaded.tokenizer, max_new_tokens=10)
    dense = generator.reply(ids, ported=False)
    assert generator.agreement(ids, dense.ids) == 1
    port(loaded.model, NARROW)
    generator.reply(ids, ported=True)
    found = generator.agreement(ids, dense.ids)
    whole = torch.cat([ids[0], torch.tensor(dense.ids)])
    best = loaded.model(whole[None], use_cache=False).logits[0].argmax(-1)[ids.shape[1] - 1 : -1]
    assert found == pytest.approx(float((best == torch.tensor(dense.ids)).float().mean()))


def test_the_agreement_of_a_model_with_windows_is_read_anew(make_decoder, tokens, loaded):
    """The cache of a layer with a window of 24 keys can't go back to the prompt."""
    generator = Generator(make_decoder("gemma3"), loaded.tokenizer, max_new_tokens=5)
    ids = tokens(1, 60)
    dense = generator.reply(ids, ported=False)
    assert generator.agreement(ids, dense.ids) == 1
    assert generator.agreement(ids, tuple((each + 1) % 90 for each in dense.ids)) < 1


def test_the_greedy_reply_is_the_likeliest_token_each_time(loaded):
    ids = prompt_ids(loaded.tokenizer, None, "hello there", chat=False)
    pieces = []
    said = Generator(loaded.model, loaded.tokenizer, max_new_tokens=6).reply(ids, pieces.append, ported=False)
    whole = torch.cat([ids[0], torch.tensor(said.ids)])
    best = loaded.model(whole[None], use_cache=False).logits[0].argmax(-1)
    assert best[ids.shape[1] - 1 : -1].tolist() == list(said.ids) and "".join(pieces) == said.text
    assert said.keys_per_token == (ids.shape[1] + len(said.ids)) / 2 and said.prefill_s > 0 <= said.decode_s


def test_the_question_follows_the_document(loaded):
    decode = loaded.tokenizer.decode
    assert decode(prompt_ids(loaded.tokenizer, " A text.\n", "A question?", chat=False)[0]) == "A text.\n\nA question?"
    assert decode(prompt_ids(loaded.tokenizer, "A text.", None, chat=True)[0]) == "<s>A text.\n"
    with pytest.raises(InputError, match="nothing to read"):
        prompt_ids(loaded.tokenizer, " ", None, chat=True)


def test_a_prompt_over_the_window_is_refused_with_counts():
    check_room(90, 10, 100)
    with pytest.raises(LimitError, match="1,091 tokens and 10 are to follow, the model's window is 1,100: 1 too"):
        check_room(1091, 10, 1100)
