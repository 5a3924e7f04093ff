"""How well questions are answered: accuracy, other wordings, abstention, calibration, edge weights, latency.

What each row means and what it does not say is in `benchmarks/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from asking.ablation import ablation
from asking.accuracy import accuracy
from asking.answers import Asked, ask_all, warm_up
from asking.calibration import calibration
from asking.latency import cold, help_text, warm
from asking.peers import Bm25, Dense
from asking.questions import Question, development, few_of_each, held_out, read_test
from asking.routing import routing
from runner import Options, Result, run, say
from tuili.reasoner import Reasoner

NUM_SMOKE = 6


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for."""
    if options.wants("ask.latency.help"):
        yield from help_text("ask.latency.help")
    reasoner = Reasoner(on_progress=lambda stage, done, total: None)
    questions = read_test(options.test) if options.test else development()
    if options.wants("ask.latency.cold"):
        yield from cold("ask.latency.cold", reasoner, questions, smoke=options.smoke)
    yield from _development(options, reasoner, _some(options, questions))
    if options.test is None and options.wants("ask.test"):
        asked = _ask(options, reasoner, _some(options, held_out(), NUM_SMOKE // 2), "ask.test", "held-out questions")
        yield from accuracy("ask.test", asked)
        yield from calibration("ask.test.calibration", asked)
    if options.wants("ask.routing"):
        yield from routing("ask.routing", reasoner, _some(options, questions))


def _development(options: Options, reasoner: Reasoner, questions: Sequence[Question]) -> Iterator[Result]:
    asked = _ask(options, reasoner, questions, "ask", "questions")
    yield from accuracy("ask", asked)
    if options.wants("ask.calibration"):
        yield from calibration("ask.calibration", asked)
    if options.wants("ask.latency.warm"):
        yield from warm("ask.latency.warm", asked)
    if options.wants("ask.ablation"):
        yield from ablation("ask.ablation", reasoner, asked)


def _ask(options: Options, reasoner: Reasoner, questions: Sequence[Question], prefix: str, stage: str) -> list[Asked]:
    """Ask the questions of the bases that some wanted row speaks of."""
    shared = ("all", "calibration", "latency.warm", "ablation", "errors")
    is_shared = any(options.wants(f"{prefix}.{name}") for name in shared)
    questions = [one for one in questions if is_shared or options.wants(f"{prefix}.{one.kb}")]
    if not questions:
        return []
    say(f"{len(questions)} {stage}")
    warm_up(reasoner, questions)
    if not any(options.wants(f"{prefix}.{name}") for name in ("all", *(one.kb for one in questions))):
        return ask_all(reasoner, questions, stage)
    return ask_all(reasoner, questions, stage, peers=[Bm25(), Dense(reasoner.encoder)], rewording_peers=[Bm25()])


def _some(options: Options, questions: Sequence[Question], num: int = NUM_SMOKE) -> list[Question]:
    """Return the questions; of a smoke run `num` of each base, of different kinds, in one other wording."""
    if not options.smoke:
        return list(questions)
    one_each = [replace(one, wordings=one.wordings[:1]) for one in few_of_each(questions, 1)]
    of_bases = [[one for one in one_each if one.kb == base] for base in dict.fromkeys(one.kb for one in one_each)]
    return [one for same in of_bases for one in same[:: -(-len(same) // num)]]


if __name__ == "__main__":
    run(__doc__ or "", measure)
