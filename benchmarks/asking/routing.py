"""Routing: whether the right base is found for a question asked without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from asking.questions import BASES, Question
from runner import Result, share, watched

if TYPE_CHECKING:
    from tuili.knowledge.graph import Graph
    from tuili.reasoner import Reasoner


def routing(prefix: str, reasoner: Reasoner, questions: Sequence[Question]) -> Iterator[Result]:
    """Yield the share of answerable questions whose base is found, beside the base of BM25's best hit."""
    graphs = {name: reasoner.base(name).graph for name in BASES}
    rights: dict[str, list[float]] = {}
    bm25: dict[str, list[float]] = {}
    for question in watched([one for one in questions if one.answerable], "routing"):
        for base in (question.kb, "all"):
            rights.setdefault(base, []).append(float(reasoner.choose(question.text) == question.kb))
            bm25.setdefault(base, []).append(float(best_hit(question.text, graphs) == question.kb))
    for base, values in rights.items():
        peer = {"name": "base of the best BM25 hit", "value": sum(bm25[base]) / len(bm25[base])}
        yield share(f"{prefix}.{base}.accuracy", values, baseline=peer)


def best_hit(text: str, graphs: dict[str, Graph]) -> str:
    """Return the base whose best full-text hit scores highest."""
    scores = {
        name: max((score for _, score in graph.search(text, limit=1)), default=0.0) for name, graph in graphs.items()
    }
    return max(scores, key=scores.__getitem__)
