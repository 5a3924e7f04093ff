"""MetaQA's files: the base as arrays, the questions, and how they are parted.

Source: Zhang et al. 2018, "Variational Reasoning for Question Answering with Knowledge Graph"; github.com/yuyuz/MetaQA.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuili.reason.reading import masked
from tuili.reason.worlds.hops import ArrayHops, IntArray

HOPS = (1, 2, 3)
_TOPIC = re.compile(r"\[(.*?)\](?!.*\])")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about `topic`; `template` is its wording without the topic. `path` as the file names it, or ""."""

    text: str
    template: str
    topic: str
    answers: frozenset[str]
    num_hops: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Base:
    """MetaQA's base: names by number, numbers by name, triples (subject, relation, object)."""

    names: tuple[str, ...]
    numbers: dict[str, int]
    relations: tuple[str, ...]
    triples_E3: IntArray

    def hops(self) -> ArrayHops:
        """Return the base as walks need it."""
        return ArrayHops(self.triples_E3, self.relations, len(self.names))

    def half(self, seed: int) -> Base:
        """Return the base with half of its edges, drawn at random; names stay known."""
        kept = np.random.default_rng(seed).permutation(len(self.triples_E3))[: len(self.triples_E3) // 2]
        return Base(self.names, self.numbers, self.relations, self.triples_E3[np.sort(kept)])

    def start(self, question: Question) -> IntArray:
        """Return the topic's node, none if the base doesn't have it."""
        found = self.numbers.get(question.topic)
        return np.array([] if found is None else [found], dtype=np.int64)

    def answers(self, question: Question) -> IntArray:
        """Return the answers' nodes, ascending; those that the base doesn't have are left out."""
        found = [self.numbers[name] for name in question.answers if name in self.numbers]
        return np.array(sorted(found), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Parts:
    """Questions to train on, to choose settings on, and to score."""

    train: list[Question]
    valid: list[Question]
    test: list[Question]


def read_base(path: Path) -> Base:
    """Read the triples: subject, relation and object in columns."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = tuple(dict.fromkeys(name for subject, _, object_ in rows for name in (subject, object_)))
    relations = tuple(sorted({relation for _, relation, _ in rows}))
    numbers = {name: number for number, name in enumerate(names)}
    places = {relation: place for place, relation in enumerate(relations)}
    triples = [(numbers[subject], places[relation], numbers[object_]) for subject, relation, object_ in rows]
    return Base(names, numbers, relations, np.array(triples, dtype=np.int64))


def read_questions(folder: Path, part: str = "*") -> list[Question]:
    """Read every `{1,2,3}hop_PART.tsv` of a folder: question with [topic], answers joined by bars, perhaps the path."""
    found = []
    for num_hops in HOPS:
        for path in sorted(folder.glob(f"{num_hops}hop_{part}.tsv")):
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [question(line, num_hops) for line in lines if line.strip()]
    return found


def question(line: str, num_hops: int) -> Question:
    """Read one row; the last pair of brackets holds the topic."""
    text, answers, *path = line.split("\t")
    match = _TOPIC.search(text)
    if match is None:
        raise ValueError(f"no [topic] in the question {text!r}")
    plain = text[: match.start()] + match[1] + text[match.end() :]
    template = masked(plain, [(match.start(), match.start() + len(match[1]))])
    return Question(plain, template, match[1], frozenset(answers.split("|")), num_hops, path[0] if path else "")


def part(questions: Sequence[Question], seed: int) -> Parts:
    """Part the distinct questions of each number of hops: half to train on, a quarter each to validate and to score."""
    parts = Parts([], [], [])
    for num_hops in HOPS:
        some = list({one.text: one for one in questions if one.num_hops == num_hops}.values())
        order = np.random.default_rng([seed, num_hops]).permutation(len(some))
        half, most = len(some) // 2, len(some) * 3 // 4
        parts.train.extend(some[place] for place in order[:half])
        parts.valid.extend(some[place] for place in order[half:most])
        parts.test.extend(some[place] for place in order[most:])
    return parts


def folds(questions: Iterable[Question], num_folds: int, seed: int) -> list[set[str]]:
    """Part the templates of 2 and 3 hops into folds, each number of hops alike."""
    found: list[set[str]] = [set() for _ in range(num_folds)]
    questions = list(questions)
    for num_hops in HOPS[1:]:
        templates = sorted({one.template for one in questions if one.num_hops == num_hops})
        order = np.random.default_rng([seed, num_hops]).permutation(len(templates))
        for place, at in enumerate(order):
            found[place % num_folds].add(templates[at])
    return found
