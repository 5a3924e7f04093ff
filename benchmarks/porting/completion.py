"""Completion of Python source, teacher forced: the likeliest token against the real one, given the real text before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from porting.decoding import Reading
from porting.perplexity import TARGET, TARGET_LENGTH
from porting.source import Source, Span, class_of_tokens, tokens_of
from runner import Result, paired, share

MIN_LINE_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Code:
    """What is to be completed in a text: the model's tokens of each identifier and of each line's remainder.

    `classes`: [N], the class of each of the model's tokens, see `porting.source.CLASSES`.
    """

    identifiers: list[range]
    lines: list[range]
    classes: np.ndarray


def code(text: str, offsets: Sequence[Span]) -> Code:
    """Return what is to be completed in a Python text of which a model reads the tokens at `offsets`."""
    source = Source(text)
    lines = [found for found in tokens_of(source.remainders(), offsets) if len(found) >= MIN_LINE_TOKENS]
    return Code(tokens_of(source.identifiers(), offsets), lines, class_of_tokens(source.classes(), offsets))


def correct(spans: Sequence[range], guesses: np.ndarray, ids: np.ndarray) -> dict[int, float]:
    """Return for each span in the second half, by its first token, 1.0 if all its tokens are guessed, else 0.0."""
    half = len(ids) // 2
    inside = [span for span in spans if span.start >= half and span.stop <= len(ids)]
    return {
        span.start: float((guesses[span.start : span.stop] == ids[span.start : span.stop]).all()) for span in inside
    }


def completion(prefix: str, found: Code, ids: np.ndarray, dense: Reading, sparse: Reading) -> Iterator[Result]:
    """Yield the shares of identifiers and of lines that are right, beside the dense model's, and the paired loss."""
    target = TARGET if len(ids) == TARGET_LENGTH else None
    for name, spans in (("identifier", found.identifiers), ("line", found.lines)):
        before, after = (correct(spans, each.guesses[: len(ids)], ids) for each in (dense, sparse))
        if not before:
            continue
        baseline = {"name": "dense", "value": float(np.mean(list(before.values())))}
        yield share(f"{prefix}.{name}_accuracy", list(after.values()), baseline=baseline)
        yield replace(paired(f"{prefix}.{name}_accuracy.drop", before, after), target=target)
