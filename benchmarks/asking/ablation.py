"""Ablation of the edge weights: each part alone, each pair, all parts, the decoder in them, and the mix as shipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from asking.answers import Asked, ask
from asking.descriptions import Described, Remembering, always, descriptions, reciprocal_rank
from runner import Result, share, watched
from tuili.reason.weights import DECODER, PARTS, Mix, Weigher

if TYPE_CHECKING:
    from tuili.reasoner import Reasoner

WITH_DECODER = ((DECODER,), ("prior", DECODER), ("prior", "bertscore", DECODER), (*PARTS, DECODER))
SHORT = 16
"""Candidates of the rows whose decoder reads a short list, as many as the encoder's."""


def mixes(fitted: Mix) -> dict[str, Mix]:
    """Return every mix by name; parts that are left out weigh 0, the others keep their fitted weights.

    The decoder, which the fitted mix leaves out, weighs as much as the encoder's attention, and reads the long list of
    `MAX_READ` candidates; in the rows "decoder16" it reads a short one.
    """
    found = {}
    chosen = [kept for size in (1, 2, 3) for kept in combinations(PARTS, size)]
    fallback = {DECODER: fitted.attention}
    for kept in (*chosen, *WITH_DECODER):
        left_out = dict.fromkeys({*PARTS, DECODER} - set(kept), 0.0)
        weights = {name: getattr(fitted, name) or fallback.get(name) or 1.0 for name in kept}
        found["+".join(kept)] = always(replace(fitted, **left_out, **weights))
        if DECODER in kept:
            found["+".join(kept) + str(SHORT)] = replace(found["+".join(kept)], max_read=SHORT)
    return found | {"shipped": fitted}


def ablation(prefix: str, reasoner: Reasoner, asked: Sequence[Asked]) -> Iterator[Result]:
    """Yield for every mix the accuracy, and the mean reciprocal rank of the right candidate.

    Only answerable questions count whose query holds a description. The prior alone is the baseline.
    """
    asked = [one for one in asked if one.question.answerable and described(one)]
    models = Remembering(reasoner.encoder), Remembering(reasoner.reader)
    shipped = reasoner.config.mix
    with weighing(reasoner, shipped, *models):
        items = [
            item for one in watched(asked, "descriptions") for item in descriptions(reasoner, one.question, one.wording)
        ]
    rows: dict[str, list[Result]] = {}
    for name, mix in mixes(shipped).items():
        with weighing(reasoner, mix, *models):
            found = *_accuracy(f"{prefix}.{name}", reasoner, asked), *_ranks(f"{prefix}.{name}", reasoner, items)
        rows[name] = list(found)
    for name, results in rows.items():
        for result, alone in zip(results, rows["prior"], strict=True):
            baseline = None if name == "prior" else {"name": "prior alone", "value": alone.value}
            yield replace(result, baseline=baseline)


@contextmanager
def weighing(reasoner: Reasoner, mix: Mix, encoder: Any, reader: Any) -> Iterator[None]:
    """Have a reasoner, with all that it has read, weigh by another mix for a while."""
    kept = reasoner.config, reasoner.encoder, reasoner.reader
    reasoner.config, reasoner.encoder, reasoner.reader = replace(reasoner.config, mix=mix), encoder, reader
    try:
        yield
    finally:
        reasoner.config, reasoner.encoder, reasoner.reader = kept


def described(one: Asked) -> bool:
    """Tell whether a question's query holds a description."""
    return one.answer.query is not None and any(var.text for var in one.answer.query.variables)


def _accuracy(prefix: str, reasoner: Reasoner, asked: Sequence[Asked]) -> Iterator[Result]:
    rights = [float(ask(reasoner, one.question, one.wording).right) for one in watched(asked, prefix)]
    if rights:
        yield share(f"{prefix}.accuracy", rights, groups=[one.question.id for one in asked])


def _ranks(prefix: str, reasoner: Reasoner, items: Sequence[Described]) -> Iterator[Result]:
    """Yield the mean reciprocal rank; descriptions of which no candidate is right can't tell mixes apart."""
    items = [item for item in items if item.right]
    ranks = []
    for item in items:
        graph = reasoner.base(item.question.kb).graph
        weigher = Weigher(graph, lambda: reasoner.encoder, reasoner.config.mix, lambda: reasoner.reader)
        ranks.append(reciprocal_rank(weigher.match(item.text, item.ids), item.right))
    if ranks:
        yield share(f"{prefix}.mrr", ranks, groups=[item.question.id for item in items])
