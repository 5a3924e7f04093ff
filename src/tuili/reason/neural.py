"""The neural parts of an edge weight: BERTScore and attention, from a real encoder's own maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tuili.reason.bertscore import idf_weights, score

if TYPE_CHECKING:
    from tuili.model.encoder import Encoder, TokenAttention

# The layers whose attention tells matching words best: measured on the development questions,
# see docs/log.md. Layers above the highest one are not run.
ATTENTION_LAYERS = (1, 2)


def neural_parts(encoder: Encoder, text: str, candidates: Sequence[str]) -> list[dict[str, float]]:
    """Return `bertscore`, `attended` and `attention` of each candidate text for a description, all 0 to 1.

    BERTScore is F1 with idf over the candidates. `attended` is, averaged over the description's tokens,
    the strongest attention to any token of the candidate; `attention` is that relative to the best candidate.
    """
    reference, *embedded = encoder.token_vectors([text, *candidates], truncate=True)
    idf = idf_weights([item.tokens for item in embedded])
    attention = [
        _attended(item) for item in encoder.cross_attention(text, candidates, layers=ATTENTION_LAYERS, truncate=True)
    ]
    strongest = max(attention, default=0.0) or 1.0
    return [
        {"bertscore": max(0.0, score(item, reference, idf).f1), "attention": attended / strongest, "attended": attended}
        for item, attended in zip(embedded, attention, strict=True)
    ]


def _attended(item: TokenAttention) -> float:
    if not item.attention.size:
        return 0.0
    return float(np.mean(item.attention.max(axis=2)))
