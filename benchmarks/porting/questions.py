"""Tasks with one right answer among others of the same form: key-value retrieval, needles in prose, common words.

Every task is a context of about a given number of tokens and questions that come after it. They are made from a seed
and from words of one token each, so that the likelihood of the next token decides.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from porting.words import ADJECTIVES, ANIMALS, NOUNS

NUM_OPTIONS = 16
NUM_COMMON, TIMES_AS_COMMON = 8, 30
T = TypeVar("T")
Count = Callable[[str], int]
Make = Callable[[int, Count, int, int], "Context"]
"""From a seed, a counter of tokens, the wanted number of tokens and the number of questions: a task."""


@dataclass(frozen=True, slots=True)
class Question:
    """The end of a prompt; the next word is one of `options`, of which the first is right.

    `depth`: where in the context the answer stands, 0 to 1; None: everywhere.
    """

    text: str
    options: tuple[str, ...]
    depth: float | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What is read once, and the questions about it."""

    text: str
    questions: tuple[Question, ...]


def key_values(seed: int, count: Count, num_tokens: int, num_questions: int) -> Context:
    """Return lines "eight hexadecimal digits: noun" with keys that all differ, of which some are asked for.

    Keys of words are too hard for the smallest models: they share words with other keys.

    The answers stand in the context once each; the other options are answers to other questions.
    """
    rng = random.Random(seed)
    answers, others = _split(rng, max(num_questions, NUM_OPTIONS))
    keys = list(dict.fromkeys(_key(rng) for _ in range(num_tokens)))

    def lines(number: int) -> list[str]:
        filler = random.Random(seed + 1)
        found = [f"{key}: {filler.choice(others)}" for key in keys[:number]]
        for place, answer in zip(_spread(number, len(answers)), answers, strict=True):
            found[place] = f"{keys[place]}: {answer}"
        return found

    number = fit(lambda size: count("\n".join(lines(size))), num_tokens, len(answers), len(keys))
    questions = [
        Question(f"\n{keys[place]}:", _options(rng, answer, answers), place / number)
        for place, answer in _some(list(zip(_spread(number, len(answers)), answers, strict=True)), num_questions)
    ]
    return Context("\n".join(lines(number)), tuple(questions))


def needles(prose: str) -> Make:
    """Return a maker of needles: sentences about secret words among those of `prose`, some asked for at the end.

    Options are the secret words of the other needles, which stand in the context as often as the right one: once.
    """
    # a noun of ours in the prose would be a second place where an answer stands
    sentences = [each for each in re.split(r"(?<=[.:])\s+", prose) if not set(re.findall(r"\w+", each)) & set(NOUNS)]

    def make(seed: int, count: Count, num_tokens: int, num_questions: int) -> Context:
        rng = random.Random(seed)
        answers, _ = _split(rng, max(num_questions, NUM_OPTIONS))
        names = [f"the {adjective} {animal}" for adjective, animal in _names(rng, len(answers))]
        begin = rng.randrange(len(sentences))
        hay = (sentences[begin:] + sentences[:begin]) * (1 + num_tokens // max(1, count(prose)))

        def parts(number: int) -> list[str]:
            found = hay[:number]
            for place, name, answer in zip(_spread(number, len(answers)), names, answers, strict=True):
                found[place] += f" The secret word of {name} is {answer}."
            return found

        number = fit(lambda size: count(" ".join(parts(size))), num_tokens, len(answers), len(hay))
        asked = _some(list(zip(_spread(number, len(answers)), names, answers, strict=True)), num_questions)
        questions = [
            Question(f"\n\nThe secret word of {name} is", _options(rng, answer, answers), place / number)
            for place, name, answer in asked
        ]
        return Context(" ".join(parts(number)), tuple(questions))

    return make


def common_words(seed: int, count: Count, num_tokens: int, num_questions: int) -> Context:
    """Return a list of words of which NUM_COMMON are TIMES_AS_COMMON times as common as the others.

    Each question has one of the common words among rare ones. Source of the kind of task: Hsieh et al. 2024, RULER.
    """
    rng = random.Random(seed)
    words = rng.sample(NOUNS, len(NOUNS))
    common, rare = words[:NUM_COMMON], words[NUM_COMMON:]

    mixed = common * TIMES_AS_COMMON + rare
    rng.shuffle(mixed)

    def text(number: int) -> str:
        listed = (mixed * (number // len(mixed) + 1))[:number]
        random.Random(seed + 1).shuffle(listed)
        return "Words: " + ", ".join(listed) + "."

    number = fit(lambda size: count(text(size)), num_tokens, len(mixed), num_tokens)
    questions = [
        Question("\n\nThe most common words in the list are:", _options(rng, word, rare))
        for word in common[:num_questions]
    ]
    return Context(text(number), tuple(questions))


def fit(size: Callable[[int], int], bound: int, least: int, most: int) -> int:
    """Return the largest number in `least` .. `most` for which a growing `size` is at most `bound`.

    Raises:
        ValueError: even the least is too large.
    """
    if size(least) > bound:
        raise ValueError(f"a task of {bound} tokens is too short: its least size is {size(least)}")
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if size(middle) <= bound else (least, middle - 1)
    return least


def _split(rng: random.Random, num_answers: int) -> tuple[list[str], list[str]]:
    """Return the words that are answers, once each, and those left for other lines."""
    words = rng.sample(NOUNS, len(NOUNS))
    return words[:num_answers], words[num_answers:]


def _key(rng: random.Random) -> str:
    return f"{rng.getrandbits(32):08x}"


def _names(rng: random.Random, number: int) -> list[tuple[str, str]]:
    return list(zip(rng.sample(ADJECTIVES, number), rng.sample(ANIMALS, number), strict=True))


def _spread(size: int, number: int) -> list[int]:
    """Return `number` evenly spread places in 0 .. size - 1, neither end among them where there is room."""
    return [size * (2 * index + 1) // (2 * number) for index in range(number)]


def _some(items: list[T], number: int) -> list[T]:
    """Return at most `number` of the items, evenly spread."""
    return items if len(items) <= number else [items[place] for place in _spread(len(items), number)]


def _options(rng: random.Random, right: str, words: list[str]) -> tuple[str, ...]:
    return right, *rng.sample([word for word in words if word != right], NUM_OPTIONS - 1)
