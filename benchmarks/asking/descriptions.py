"""Descriptions to be matched ("the parameter that controls indentation"): candidates, weights, which are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from asking.questions import Question
from asking.scoring import chosen
from tuili.knowledge.query import Aggregate
from tuili.reason.candidates import Candidates, Tried, candidates
from tuili.reason.conclude import conclude
from tuili.reason.search import Search
from tuili.reason.weights import Mix, Weigher

if TYPE_CHECKING:
    from tuili.reasoner import Base, Reasoner

NEVER_DECISIVE = 2.0
"""No prior reaches it, so the encoder always runs."""

MAX_TRIED = 40


@dataclass(frozen=True, slots=True)
class Described:
    """A description of a question with its candidates, their edge weights' parts, and which are right."""

    question: Question
    wording: int
    text: str
    ids: tuple[int, ...]
    parts: Mapping[int, Mapping[str, float]]
    right: frozenset[int]


class Remembering:
    """An encoder or a decoder that computes nothing twice."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.known: dict[object, Any] = {}

    def token_vectors(self, texts: Sequence[str], **options: Any) -> Any:
        """Return what the encoder returns."""
        return self._call("token_vectors", (tuple(texts),), options)

    def cross_attention(self, question: str, texts: Sequence[str], **options: Any) -> Any:
        """Return what the encoder returns."""
        return self._call("cross_attention", (question, tuple(texts)), options)

    def encode(self, texts: Sequence[str], **options: Any) -> Any:
        """Return what the encoder returns."""
        return self._call("encode", (tuple(texts),), options)

    def attended(self, question: str, facts: Sequence[str], **options: Any) -> Any:
        """Return what the decoder returns."""
        return self._call("attended", (question, tuple(facts)), options)

    def _call(self, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        key = method, arguments, tuple(options.items())
        if key not in self.known:
            self.known[key] = getattr(self.model, method)(*arguments, **options)
        return self.known[key]


def always(mix: Mix) -> Mix:
    """Return a mix with which the encoder weighs every description, however sure the words are."""
    return replace(mix, decisive=NEVER_DECISIVE)


def descriptions(reasoner: Reasoner, question: Question, wording: int = 0) -> list[Described]:
    """Return the descriptions in a question's best reading; only names can tell which candidates are right."""
    if not question.answerable or not (question.entities or question.first):
        return []
    asked = question.wordings[wording - 1] if wording else question.text
    base = reasoner.base(question.kb)
    weigher = Weigher(base.graph, lambda: reasoner.encoder, always(reasoner.config.mix), lambda: reasoner.reader)
    found = candidates(asked, base.graph, base.linker, weigher, reasoner.config.max_nodes)
    if not found.tried:
        return []
    best = found.tried[0]
    matched: dict[str, tuple[int, ...]] = {}

    def match(text: str, ids: Sequence[int]) -> Mapping[int, float]:
        matched.setdefault(text, tuple(ids))
        return weigher.match(text, ids)

    Search(base.graph, best.compiled.query, match, reasoner.config.max_nodes).run()
    return [
        Described(
            question,
            wording,
            text,
            ids,
            {number: dict(weigher.parts[text, number]) for number in ids},
            _right_ones(question, base, found, weigher, (text, ids)),
        )
        for text, ids in matched.items()
    ]


def _right_ones(
    question: Question, base: Base, found: Candidates, weigher: Weigher, described: tuple[str, tuple[int, ...]]
) -> frozenset[int]:
    """Return the candidates whose name is asked for, or which lead to nothing but right names.

    Of those that only lead to names the likeliest are tried, as each takes a search.
    """
    text, ids = described
    query = found.tried[0].compiled.query
    is_target = query.aggregate == Aggregate.LIST and query.var(query.targets[0]).text == text
    if is_target and question.entities:
        return frozenset(entity.id for entity in base.graph.entities(ids) if entity.name in question.entities)
    weights = weigher.match(text, ids)
    likely = sorted(ids, key=lambda number: -weights[number])[:MAX_TRIED]
    return frozenset(number for number in likely if _leads_right(question, base, found, weigher, (text, number)))


def _leads_right(question: Question, base: Base, found: Candidates, weigher: Weigher, choice: tuple[str, int]) -> bool:
    """Tell whether taking this candidate for this description gives nothing but right names."""
    best = found.tried[0]

    def match(text: str, ids: Sequence[int]) -> Mapping[int, float]:
        if text != choice[0]:
            return weigher.match(text, ids)
        return {number: float(number == choice[1]) for number in ids}

    outcome = Search(base.graph, best.compiled.query, match).run()
    forced = Tried(best.compiled, outcome, best.score)
    answer = conclude(question.text, base.graph, Candidates(found.tokens, found.mentions, [forced]), weigher)
    names = frozenset(chosen(answer.entities))
    if question.first is not None:
        return chosen(answer.entities)[:1] == [question.first]
    return bool(names) and names <= (question.entities or frozenset())


def reciprocal_rank(weights: Mapping[int, float], right: frozenset[int]) -> float:
    """Return 1 over the rank of the best right candidate, 0 if none is right; of equal ones the wrong first."""
    best = max((weights[number] for number in right), default=None)
    if best is None:
        return 0.0
    return 1 / (1 + sum(weight >= best for number, weight in weights.items() if number not in right))
