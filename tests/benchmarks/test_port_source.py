"""Classes of tokens, identifiers and lines of Python source, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from porting.completion import code, correct
from porting.source import (
    BLANKS,
    CALLS,
    CLASSES,
    COMMENTS,
    DEFINITIONS,
    OTHER,
    Source,
    class_of_tokens,
    lifts,
    tokens_of,
)

TEXT = '''"""Module text."""
import os  # system

class Tree(Base):
    """A tree."""

    def grow(self, size):
        leaf = "not a comment"
        if (size):
            return self.make(size)
'''


def spoken(text: str, spans: list[tuple[int, int]]) -> list[str]:
    return [text[begin:end] for begin, end in spans]


def of_class(text: str, kind: int) -> str:
    classes = Source(text).classes()
    return "".join(each if found == kind else " " for each, found in zip(text, classes, strict=True))


def test_classes_of_characters() -> None:
    assert of_class(TEXT, DEFINITIONS).split() == ["Tree", "grow"]
    assert of_class(TEXT, CALLS).split() == ["make"]
    assert of_class(TEXT, COMMENTS).split() == ['"""Module', 'text."""', "#", "system", '"""A', 'tree."""']
    classes = Source(TEXT).classes()
    assert [each.isspace() for each in TEXT] == (classes == BLANKS).tolist()


def test_the_name_of_a_function_is_no_call_and_neither_is_a_keyword_before_a_bracket() -> None:
    text = "def f(x):\n    return (x) + g(x)\n"
    assert of_class(text, DEFINITIONS).split() == ["f"]
    assert of_class(text, CALLS).split() == ["g"]


def test_offsets_are_characters_after_letters_of_several_bytes_and_form_feeds() -> None:
    text = 'name = "éß∑"; other = call()\n\x0c\nlast = 1\n'
    source = Source(text)
    assert spoken(text, source.identifiers()) == ["name", "other", "call", "last"]


def test_identifiers_are_no_keywords() -> None:
    assert spoken(TEXT, Source(TEXT).identifiers()) == ("os Tree Base grow self size leaf size self make size".split())


def test_remainders_run_from_the_first_identifier_to_the_last_token_without_the_comment() -> None:
    text = 'x = f(1)  # why\nif a:\n    return\ny = """two\nlines""" + z\nalone\nfor i in range(3):\n    pass\n'
    assert spoken(text, Source(text).remainders()) == [" = f(1)", ":", " in range(3):"]


def test_a_tokens_class_is_that_of_its_first_visible_character() -> None:
    text = "def f():\n    g()\n"
    offsets = [(0, 3), (3, 5), (5, 8), (8, 13), (13, 15), (15, 17)]
    assert class_of_tokens(Source(text).classes(), offsets).tolist() == [
        OTHER,
        DEFINITIONS,
        OTHER,
        BLANKS,
        CALLS,
        OTHER,
    ]


def test_tokens_of_a_span_are_all_that_hold_some_of_it() -> None:
    offsets = [(0, 4), (4, 6), (6, 10), (10, 12)]
    assert tokens_of([(5, 9), (0, 4), (4, 6), (11, 12), (11, 13)], offsets) == [
        range(1, 3),
        range(0, 1),
        range(1, 2),
        range(3, 4),
    ]


def test_a_span_is_right_if_all_its_tokens_are_guessed_and_counts_in_the_second_half_only() -> None:
    ids = np.arange(8)
    guesses = np.array([-1, 1, 2, 3, 4, 5, 0, 7])
    spans = [range(1, 2), range(4, 6), range(5, 7), range(7, 8), range(7, 9)]
    assert correct(spans, guesses, ids) == {4: 1.0, 5: 0.0, 7: 1.0}


def test_lines_of_one_token_are_not_completed() -> None:
    text = "ab = cd\nef:int\n"
    offsets = [(0, 2), (2, 4), (4, 7), (7, 8), (8, 10), (10, 14), (14, 15)]
    found = code(text, offsets)
    assert found.lines == [range(1, 3)]
    assert found.identifiers == [range(0, 1), range(2, 3), range(4, 5), range(5, 6)]


def test_a_lift_is_the_share_kept_over_the_share_offered() -> None:
    counts = np.array([[8, 8, 0], [0, 16, 0], [16, 0, 0]])
    kept, offered = np.array([3, 1, 0]), np.array([4, 4, 4])
    found = lifts(kept, offered, counts)
    # kept: 24 of 64 keys are of the first class, offered: 96 of 192; second: 40 of 64 against 96 of 192
    assert found[:2] == pytest.approx([(24 / 64) / 0.5, (40 / 64) / 0.5])
    assert np.isnan(found[2])
    assert lifts(offered, offered, counts)[:2] == pytest.approx([1, 1])
    assert len(CLASSES) == 5
