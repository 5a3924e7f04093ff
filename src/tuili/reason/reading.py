"""How a walk reads a question: words with unit vectors, and how far each is from what the question is about.

What the question names is masked, so that a wording is read alike whatever it names. Two readers: the sentence
encoder's vectors in context, and, without torch, hashed pieces of each word.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tuili.knowledge.text import FUNCTION_WORDS, stem
from tuili.reason.worlds.hops import Action

if TYPE_CHECKING:
    from tuili.knowledge.records import Relation
    from tuili.model.encoder import Encoder

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
MASK = "xyz"
MAX_WORDS = 48
MAX_DISTANCE = 8
_WORD = re.compile(r"\w+", re.UNICODE)
_PIECES = (3, 4, 5)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text with their unit vectors [T, D]."""

    words: tuple[str, ...]
    vectors_TD: Floats

    @property
    def is_content(self) -> Floats:
        """1 for a word with a meaning of its own, 0 for one that carries grammar or the mask."""
        kept = [word.casefold() not in FUNCTION_WORDS and word != MASK for word in self.words]
        return np.array(kept, dtype=np.float32)

    @property
    def distance(self) -> Ints:
        """Words between each word and the nearest mask, negative before it, at most `MAX_DISTANCE` either way."""
        masks = [place for place, word in enumerate(self.words) if word == MASK]
        if not masks:
            return np.full(len(self.words), MAX_DISTANCE, dtype=np.int64)
        nearest = [min((place - mask for mask in masks), key=abs) for place in range(len(self.words))]
        return np.clip(np.array(nearest, dtype=np.int64), -MAX_DISTANCE, MAX_DISTANCE)


class Reader(Protocol):
    """Turns texts into words with vectors. `name` is kept with what was trained on its vectors."""

    name: str
    width: int

    def read(self, texts: Sequence[str]) -> list[Words]: ...


class WordReader:
    """Vectors of words alone: the stem and its pieces of 3 to 5 letters, hashed; words that look alike are close."""

    name = "words-1"
    width = 256

    def read(self, texts: Sequence[str]) -> list[Words]:
        """Return each text's first `MAX_WORDS` words."""
        return [self._read(words_of(text)) for text in texts]

    def _read(self, words: tuple[str, ...]) -> Words:
        vectors = [_hashed(stem(word), self.width) for word in words]
        return Words(words, np.array(vectors, dtype=np.float32).reshape(len(words), self.width))


class EncoderReader:
    """Vectors of words in their context: the mean of an encoder's vectors of a word's pieces."""

    def __init__(self, encoder: Encoder, name: str = "minilm-1") -> None:
        self.name = name
        self.encoder = encoder
        self.width = encoder.width

    def read(self, texts: Sequence[str]) -> list[Words]:
        """Return each text's first `MAX_WORDS` words; a word that the encoder's window cuts off is left out."""
        found = []
        for text, embedded in zip(texts, self.encoder.token_vectors(texts, truncate=True), strict=True):
            spans = [match.span() for match in _WORD.finditer(text)][:MAX_WORDS]
            begins = np.array([begin for begin, _ in embedded.offsets], dtype=np.int64)
            places = [np.flatnonzero((begins >= begin) & (begins < end)) for begin, end in spans]
            kept = [(text[begin:end], at) for (begin, end), at in zip(spans, places, strict=True) if len(at)]
            vectors = np.array([embedded.vectors[at].mean(axis=0) for _, at in kept], dtype=np.float32)
            vectors = vectors.reshape(len(kept), self.width)
            found.append(Words(tuple(word for word, _ in kept), unit(vectors)))
        return found


def words_of(text: str) -> tuple[str, ...]:
    """Return the first `MAX_WORDS` words of a text."""
    return tuple(_WORD.findall(text)[:MAX_WORDS])


def masked(question: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return a question with the character ranges that name things replaced by a mask, and folded to lower case."""
    pieces, end = [], 0
    for begin, stop in sorted(spans):
        if begin >= end:
            pieces += [question[end:begin], f" {MASK} "]
            end = stop
    return " ".join("".join([*pieces, question[end:]]).casefold().split())


def phrases(action: Action, relation: Relation | None) -> list[str]:
    """Return what an action is called: the relation's names, verbs and nouns in the action's direction."""
    names = [action.relation]
    if relation is not None:
        forward = (relation.name, *relation.words, *relation.nouns)
        backward = (relation.inverse, *relation.inverse_words, *relation.inverse_nouns)
        names = [name for name in (backward if action.inverse else forward) if name] or names
    spaced = (" ".join(_WORD.findall(re.sub(r"[_\W]+", " ", name))).casefold() for name in names)
    return list(dict.fromkeys(name for name in spaced if name)) or ["related"]


def unit(vectors: Floats) -> Floats:
    """Scale vectors to length 1 along the last axis; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-9))


@lru_cache(maxsize=65_536)
def _hashed(word: str, width: int) -> Floats:
    """Return a word's unit vector: signed hashes of the whole word, which counts most, and of its pieces."""
    framed = f"<{word}>"
    pieces = {framed[at : at + size] for size in _PIECES for at in range(len(framed) - size + 1)}
    vector = np.zeros(width, dtype=np.float32)
    for piece in sorted(pieces):
        vector += _signs(piece, width) / np.float32(np.sqrt(len(pieces)))
    return unit(vector + 0.7 * _signs(f"={word}", width))


def _signs(text: str, width: int) -> Floats:
    """Return random signs that depend on the text alone."""
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    return rng.choice(np.array([-1.0, 1.0], dtype=np.float32), width)
