"""The tasks: deterministic, of the wanted length, with one right answer that stands where it should, and only there."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from porting.answering import answer, is_right, rows, wins
from porting.copying import NUM_PASSAGES, PASSAGE, UNSURE, copies, copying
from porting.questions import (
    NUM_COMMON,
    NUM_OPTIONS,
    TIMES_AS_COMMON,
    Context,
    Make,
    Question,
    common_words,
    fit,
    key_values,
    needles,
)
from porting.words import ADJECTIVES, ANIMALS, NOUNS

PROSE = "The glass broke. " + " ".join(f"Sentence number {index} says little." for index in range(400))
MAKERS = {"kv": key_values, "needle": needles(PROSE), "aggregation": common_words}


def count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKERS[request.param]


def test_words_are_in_one_list_each() -> None:
    words = [*NOUNS, *ADJECTIVES, *ANIMALS]
    assert len(set(words)) == len(words)


def test_a_task_hangs_on_its_seed_alone(make: Make) -> None:
    assert make(3, count, 1500, 8) == make(3, count, 1500, 8)
    assert make(3, count, 1500, 8) != make(4, count, 1500, 8)


@pytest.mark.parametrize("num_tokens", [1000, 2500])
def test_a_task_is_as_long_as_wanted(make: Make, num_tokens: int) -> None:
    found = count(make(0, count, num_tokens, 8).text)
    assert 0.97 * num_tokens <= found <= num_tokens


def test_a_task_that_cannot_be_so_short_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="too short"):
        make(0, count, 20, 8)


def test_options_differ_and_the_first_is_not_repeated(make: Make) -> None:
    questions = make(0, count, 1500, 8).questions
    assert len(questions) == 8
    for question in questions:
        assert len(set(question.options)) == NUM_OPTIONS
        assert set(question.options) <= set(NOUNS)


@pytest.mark.parametrize("number", [4, 24])
@pytest.mark.parametrize("name", ["kv", "needle"])
def test_every_answer_stands_once_after_its_key_and_at_its_depth(name: str, number: int) -> None:
    task = MAKERS[name](0, count, 2000, number)
    assert len(task.questions) == number
    for question in task.questions:
        key = question.text.strip()
        assert task.text.count(key) == 1
        at = task.text.index(key)
        assert re.match(rf"{re.escape(key)} {question.options[0]}\b", task.text[at:])
        assert at / len(task.text) == pytest.approx(question.depth, abs=0.05)
        for option in question.options:
            assert len(re.findall(rf"\b{option}\b", task.text)) == 1
    depths = sorted(question.depth or 0.0 for question in task.questions)
    assert depths[0] < 0.2 and depths[-1] > 0.8


def test_common_words_are_much_more_common_than_the_other_options() -> None:
    task = common_words(0, count, 3000, NUM_COMMON)
    found = Counter(re.findall(r"\w+", task.text))
    for question in task.questions:
        right, *others = (found[option] for option in question.options)
        assert right / max(others) > 0.6 * TIMES_AS_COMMON and min(others) > 0
    assert len({question.options[0] for question in task.questions}) == NUM_COMMON


def test_fit_finds_the_largest_size_within_the_bound() -> None:
    assert fit(lambda size: 3 * size, 100, 1, 1000) == 33
    assert fit(lambda size: 3 * size, 10_000, 1, 1000) == 1000


# -- copies --------------------------------------------------------------------------------------


def test_copies_repeat_passages_that_the_filler_does_not_hold() -> None:
    task = copies(range(10_000), 2048)
    assert len(task.ids) == 2048 and task.at.shape == (NUM_PASSAGES, PASSAGE - UNSURE)
    num_copied = NUM_PASSAGES * PASSAGE
    first, filler, second = task.ids[:num_copied], task.ids[num_copied:-num_copied], task.ids[-num_copied:]
    assert sorted(first) == sorted(second) and first != second
    assert not set(first) & set(filler)
    for places in task.at:
        copied = [task.ids[at] for at in places]
        begin = first.index(copied[0])
        assert first[begin : begin + len(copied)] == copied and begin % PASSAGE == UNSURE


def test_copies_of_too_short_a_text_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        copies(range(1000), 2048)


def test_the_loss_of_copies_is_taken_on_them_alone() -> None:
    task = copies(range(10_000), 2048)
    dense, sparse = np.ones(2048), np.full(2048, 99.0)
    sparse[task.at] = 1.5
    (before, after) = copying("copy.2k", task, {"dense": dense, "tuili": sparse})
    assert (before.name, before.value) == ("copy.2k.dense.loss", 1.0)
    assert (after.name, after.value, after.n) == ("copy.2k.loss_increase", 0.5, task.at.size)


# -- rows ----------------------------------------------------------------------------------------


def test_an_answer_is_right_only_if_it_is_the_likeliest() -> None:
    assert is_right(np.array([-1.0, -2.0, -3.0]))
    assert not is_right(np.array([-1.0, -1.0]))
    assert wins(np.array([-2.0, -1.0, -2.0, -3.0, -4.0])) == 0.5


def test_rows_of_answers() -> None:
    context = Context("", tuple(Question("?", ("a", "b"), depth) for depth in (0.1, 0.2, 0.9, 1.0)))
    dense = [np.array([-1.0, -2.0])] * 4
    sparse = [np.array([-1.0, -2.0])] * 3 + [np.array([-3.0, -2.0])]
    found = {row.name: row for row in rows("kv.2k", context.questions, {"dense": dense, "tuili": sparse, "w": dense})}
    assert found["kv.2k.accuracy"].value == 0.75 and found["kv.2k.accuracy"].baseline == {"name": "dense", "value": 1}
    assert found["kv.2k.wins"].value == 0.75
    assert found["kv.2k.loss_increase"].value == 0.5
    assert found["kv.2k.depth.q1.accuracy"].value == 1 and found["kv.2k.depth.q4.accuracy"].value == 0.5
    assert "kv.2k.depth.q2.accuracy" not in found
    assert found["peer.w.kv.2k.accuracy"].value == 1


# -- answers -------------------------------------------------------------------------------------


class Spelling:
    """A tokenizer of one token a word, and of two for words that end in "s"."""

    def __call__(self, text: str, return_tensors: str | None = None, verbose: bool = True) -> Any:
        ids = [sum(word.encode()) % 97 for word in text.split()]
        ids += [1] * sum(word.endswith("s") for word in text.split())
        return SimpleNamespace(input_ids=torch.tensor([ids]) if return_tensors else ids)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.4)).eval()


def test_answers_from_the_cache_are_those_of_the_whole_prompt(model: Any) -> None:
    questions = tuple(Question(text, ("red", "blue")) for text in ("and then", "but", "and then"))
    found = answer(model, Spelling(), Context("there it stood", questions), "a stage")
    for question, options in zip(questions, found, strict=True):
        prompt = Spelling()(f"there it stood {question.text}", return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(prompt).logits[0, -1].log_softmax(-1)
        wanted = [float(logits[Spelling()(option).input_ids[0]]) for option in question.options]
        assert options == pytest.approx(wanted, abs=1e-4)


def test_an_option_of_two_tokens_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="'reds' is not one token"):
        answer(model, Spelling(), Context("there", (Question("it", ("red", "reds")),)), "a stage")
