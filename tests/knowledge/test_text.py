import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError, LimitError
from tuili.knowledge.text import MAX_QUESTION, content_stems, is_light, stem, stems, tokenise


def texts(question):
    return [token.text for token in tokenise(question)]


@pytest.mark.parametrize(("question", "expected"), [
    ("Does json.dumps sort keys?", ["Does", "json.dumps", "sort", "keys", "?"]),
    ("the 2nd of 1,000.5 and 3e-4", ["the", "2nd", "of", "1,000.5", "and", "3e-4"]),
    ("`a b` and \"c d\" and 'e f'", ["a b", "and", "c d", "and", "e f"]),
    ("don't", ["don", "'", "t"]),
    ("naïve 推理 Übung", ["naïve", "推理", "Übung"]),
])  # fmt: skip
def test_words_numbers_names_and_marks(question, expected):
    assert texts(question) == expected


@pytest.mark.parametrize(("word", "is_code"), [
    ("json.dumps", True), ("follow_symlinks", True), ("JSONDecoder", True), ("`sorted`", True),
    ("sorted", False), ("Marfan", False), ("HPO", False),
])  # fmt: skip
def test_what_is_written_as_code_is_known(word, is_code):
    assert tokenise(word)[0].is_code == is_code


@given(st.text(max_size=80))
def test_tokens_lie_in_the_question_in_order(question):
    try:
        tokens = tokenise(question)
    except InputError:
        return
    assert [question[token.start : token.end] for token in tokens] == [token.text for token in tokens]
    assert all(left.end <= right.start for left, right in itertools.pairwise(tokens))


@pytest.mark.parametrize("question", ["", "   ", "?!", "🍅", "‮‎", "'; --"])
def test_a_question_without_a_word_is_refused(question):
    with pytest.raises(InputError, match="holds no word"):
        tokenise(question)


def test_a_question_of_thousands_of_words_is_refused():
    assert tokenise("x" * MAX_QUESTION)
    with pytest.raises(LimitError, match="limit is 4000"):
        tokenise("word " * 4000)


@pytest.mark.parametrize(("left", "right", "is_same"), [
    ("diseases", "disease", True), ("controls", "controlling", True), ("json", "jsonl", False), ("Élan", "elan", True),
])  # fmt: skip
def test_forms_of_a_word_have_one_stem(left, right, is_same):
    assert (stem(left) == stem(right)) == is_same


def test_stems_of_a_phrase_keep_all_words_and_those_of_content_keep_what_says_something():
    assert len(stems("the heights of the cut")) == 5
    assert content_stems("The heights of the cut, the height") == ["height", "cut"]
    assert content_stems("of the and") == []


@pytest.mark.parametrize(("question", "light"), [
    ("of wheels", {"of"}), ("patients with wheels", {"patients", "with"}), ("`of` wheels", set()),
    ("tell wheels", {"tell"}), ("wheels, cogs", {","}),
])  # fmt: skip
def test_words_without_a_meaning_of_their_own_are_light(question, light):
    assert {token.text for token in tokenise(question) if is_light(token)} == light
