"""Choosing readings: which non-overlapping mentions explain a question best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuili.knowledge.lexicon import Mention, Role
from tuili.knowledge.text import Token, is_light

BEAM = 64
_TEXT_SCORE = 0.3


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a question: mentions in order, and a score."""

    mentions: tuple[Mention, ...]
    score: float


def readings(tokens: Sequence[Token], mentions: Sequence[Mention], limit: int) -> list[Reading]:
    """Return the best `limit` ways to cover the tokens with mentions; uncovered words stay text.

    Beam search from left to right, O(tokens x beam x mentions per token).
    """
    starts: dict[int, list[Mention]] = {}
    for mention in mentions:
        starts.setdefault(mention.start, []).append(mention)
    nouns = {mention.start for mention in mentions if mention.role == Role.RELATION and mention.noun}
    beams: list[dict[tuple[Mention, ...], float]] = [{} for _ in range(len(tokens) + 1)]
    beams[0][()] = 0.0
    for at in range(len(tokens)):
        best = sorted(beams[at].items(), key=lambda item: -item[1])[:BEAM]
        for taken, score in best:
            plain = 0.0 if is_light(tokens[at]) or at in nouns else _TEXT_SCORE
            _keep(beams[at + 1], taken, score + plain)
            for mention in starts.get(at, ()):
                _keep(beams[mention.end], (*taken, mention), score + mention.score)
    ranked = sorted(beams[-1].items(), key=lambda item: -item[1])
    return [Reading(taken, score) for taken, score in ranked[:limit]]


def _keep(beam: dict[tuple[Mention, ...], float], taken: tuple[Mention, ...], score: float) -> None:
    if score > beam.get(taken, float("-inf")):
        beam[taken] = score


def entities_of(reading: Reading) -> list[Mention]:
    """Return the reading's entity mentions."""
    return [mention for mention in reading.mentions if mention.role == Role.ENTITY]
