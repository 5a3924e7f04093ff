"""Accuracy, its drop under other wordings, and abstention, by base and by kind of question."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from asking.answers import Asked
from runner import Result, paired, share

MIN_ACCURACY = 0.85
MIN_ABSTAINED = 0.9


def slug(kind: str) -> str:
    """Return a kind of question as a part of a result's name."""
    return "-".join(re.findall(r"\w+", kind.casefold()))


def accuracy(prefix: str, asked: Sequence[Asked]) -> Iterator[Result]:
    """Yield all rows of this file for every base, for every kind, and for all bases together."""
    if not asked:
        return
    bases = list(dict.fromkeys(one.question.kb for one in asked))
    for base in bases:
        yield from of_base(f"{prefix}.{base}", [one for one in asked if one.question.kb == base])
    if len(bases) > 1:
        yield from _totals(f"{prefix}.all", asked)
    errors = [float(bool(one.error)) for one in asked]
    yield Result(f"{prefix}.errors", sum(errors), "count", None, len(errors))


def of_base(prefix: str, asked: Sequence[Asked]) -> Iterator[Result]:
    """Yield the rows of one base."""
    yield from _totals(prefix, asked)
    for kind in dict.fromkeys(one.question.kind for one in asked):
        name = f"{prefix}.kind.{slug(kind)}"
        same = [one for one in asked if one.question.kind == kind and not one.wording]
        yield from _right(f"{name}.accuracy", [one for one in same if one.question.answerable])
        yield from _abstained(f"{name}.abstained", [one for one in same if not one.question.answerable])


def _totals(prefix: str, asked: Sequence[Asked]) -> Iterator[Result]:
    plain = [one for one in asked if not one.wording]
    other = [one for one in asked if one.wording]
    for row in _right(f"{prefix}.accuracy", _answerable(plain)):
        yield replace(row, target=MIN_ACCURACY)
    yield from _right(f"{prefix}.wordings.accuracy", _answerable(other))
    yield from _drop(f"{prefix}.wordings.drop", _answerable(plain), _answerable(other))
    for row in _abstained(f"{prefix}.unanswerable.abstained", _unanswerable(plain)):
        yield replace(row, target=MIN_ABSTAINED)
    yield from _abstained(f"{prefix}.wordings.unanswerable.abstained", _unanswerable(other))
    yield from _abstained(f"{prefix}.answerable.abstained", _answerable(plain))
    yield from _abstained(f"{prefix}.wordings.answerable.abstained", _answerable(other))


def _answerable(asked: Sequence[Asked]) -> list[Asked]:
    return [one for one in asked if one.question.answerable]


def _unanswerable(asked: Sequence[Asked]) -> list[Asked]:
    return [one for one in asked if not one.question.answerable]


def _right(name: str, asked: Sequence[Asked]) -> Iterator[Result]:
    if asked:
        groups = [one.question.id for one in asked]
        yield share(name, [float(one.right) for one in asked], groups=groups, baseline=best_peer(asked))


def _abstained(name: str, asked: Sequence[Asked]) -> Iterator[Result]:
    if asked:
        groups = [one.question.id for one in asked]
        yield share(name, [float(one.answer.abstained) for one in asked], groups=groups)


def _drop(name: str, plain: Sequence[Asked], other: Sequence[Asked]) -> Iterator[Result]:
    """Yield how much rarer the same questions are right in other words, paired by question."""
    if not other:
        return
    rights: dict[str, list[float]] = {}
    for one in other:
        rights.setdefault(one.question.id, []).append(float(one.right))
    reworded = {key: float(np.mean(values)) for key, values in rights.items()}
    yield paired(name, {one.question.id: float(one.right) for one in plain}, reworded)


def best_peer(asked: Sequence[Asked]) -> dict[str, object] | None:
    """Return the peer that is right most often on these questions; where one can't answer it is wrong."""
    names = dict.fromkeys(name for one in asked for name in one.peers)
    if not names:
        return None
    shares = {name: float(np.mean([one.peers.get(name, False) for one in asked])) for name in names}
    best = max(shares, key=shares.__getitem__)
    return {"name": best, "value": shares[best]}
