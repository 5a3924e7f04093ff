"""Peers that read no question: retrieval by BM25, and by MiniLM's sentence vectors among BM25's best.

Both get an advantage: how many names the right answer has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from asking.questions import Question
from tuili.reason.answer import Answer, Number
from tuili.reason.answer import Scored as Entity
from tuili.reason.weights import entity_text

if TYPE_CHECKING:
    from tuili.knowledge.graph import Graph
    from tuili.model.encoder import Encoder

NUM_CANDIDATES = 100


class Peer(Protocol):
    """Something that answers by ranking entities."""

    name: str

    def rank(self, text: str, graph: Graph) -> Sequence[int]:
        """Return entities, best first."""


class Bm25:
    """Full-text retrieval with the words of the whole question."""

    name = "BM25 retrieval"

    def rank(self, text: str, graph: Graph) -> Sequence[int]:
        """Return the best entities by BM25 over name, aliases and description."""
        return [number for number, _ in graph.search(text, limit=NUM_CANDIDATES)]


class Dense:
    """The entities that BM25 finds, ordered by how close their sentence vector is to the question's."""

    name = "MiniLM retrieval"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.vectors: dict[tuple[str, int], np.ndarray] = {}

    def rank(self, text: str, graph: Graph) -> Sequence[int]:
        """Return BM25's best by cosine similarity; an entity's vector is computed once."""
        ids = Bm25().rank(text, graph)
        missing = [number for number in ids if (graph.name, number) not in self.vectors]
        texts = [entity_text(entity) for entity in graph.entities(missing)]
        for number, vector in zip(missing, self.encoder.encode(texts, truncate=True), strict=True):
            self.vectors[graph.name, number] = vector
        asked = self.encoder.encode([text], truncate=True)[0]
        scores = {number: float(self.vectors[graph.name, number] @ asked) for number in ids}
        return sorted(scores, key=lambda number: -scores[number])


def peer_answer(peer: Peer, question: Question, text: str, graph: Graph) -> Answer:
    """Return what retrieval makes of a question: as many names as the right answer has.

    A number is the value of the best entity that has one; a yes-or-no question gets Yes.
    """
    best = graph.entities(list(peer.rank(text, graph)))
    size = len(question.entities) if question.entities else 1
    values = [entity.data["value"] for entity in best[:1] if is_number(entity.data.get("value"))]
    names = list(dict.fromkeys(entity.name for entity in best))[:size]
    return Answer(
        question=text,
        text="Yes" if question.yes is not None else ", ".join(names),
        kb=graph.name,
        entities=tuple(Entity(name, 1.0) for name in names),
        value=Number(float(values[0])) if values else None,  # type: ignore[arg-type]
        abstained=not best,
    )


def is_number(value: object) -> bool:
    """Tell whether a value is a number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
