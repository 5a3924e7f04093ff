"""Asking: every question and its other wordings, tuili and its peers one after the other on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asking.peers import Peer, peer_answer
from asking.questions import Question
from asking.scoring import is_right
from runner import say, watched
from tuili.reason.answer import Answer

if TYPE_CHECKING:
    from tuili.reasoner import Reasoner

NO_PEERS = ("formulas",)
"""Bases whose answers no retrieval can hold."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it was asked: `wording` 0 is the question itself. `peers`: who of them was right."""

    question: Question
    wording: int
    answer: Answer
    error: str = ""
    peers: Mapping[str, bool] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether the answer is exactly right; one that raised an error is not."""
        return not self.error and is_right(self.question, self.answer)


def ask(reasoner: Reasoner, question: Question, wording: int = 0, peers: Sequence[Peer] = ()) -> Asked:
    """Ask a question in one of its wordings; an error is kept, as wrong."""
    text = question.wordings[wording - 1] if wording else question.text
    error = ""
    try:
        answer = reasoner.ask(text, kb=question.kb)
    except Exception as failure:  # a defect met by one question must not hide how the others do
        error = f"{type(failure).__name__}: {failure}"
        answer = Answer(text, error, question.kb)
        say(f"  {question.id}: {error}")
    return Asked(question, wording, answer, error, _peers_right(reasoner, question, text, peers))


def ask_all(
    reasoner: Reasoner,
    questions: Sequence[Question],
    stage: str,
    *,
    peers: Sequence[Peer] = (),
    rewording_peers: Sequence[Peer] = (),
) -> list[Asked]:
    """Ask all questions and then, each after its question, the wordings."""
    return [
        ask(reasoner, question, wording, rewording_peers if wording else peers)
        for question in watched(questions, stage)
        for wording in range(len(question.wordings) + 1)
    ]


def warm_up(reasoner: Reasoner, questions: Sequence[Question]) -> None:
    """Load the encoder, and for each base what its first question loads."""
    _ = reasoner.encoder
    for kb in dict.fromkeys(question.kb for question in questions):
        ask(reasoner, next(question for question in questions if question.kb == kb))


def _peers_right(reasoner: Reasoner, question: Question, text: str, peers: Sequence[Peer]) -> Mapping[str, bool]:
    if not question.answerable or question.kb in NO_PEERS:
        return {}
    graph = reasoner.base(question.kb).graph
    return {peer.name: is_right(question, peer_answer(peer, question, text, graph)) for peer in peers}
