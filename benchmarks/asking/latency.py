"""Latency: warm by base, with and without a neural scorer; cold as a new process."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from asking.answers import Asked, ask
from asking.questions import Question
from runner import Result, measure_process, say, timing

if TYPE_CHECKING:
    from tuili.reasoner import Reasoner

WORDS_TARGET_MS = 150.0
NEURAL_TARGET_MS = 400.0
COLD_TARGET_S = 5.0
HELP_TARGET_MS = 150.0
NUM_RUNS = 5

COLD = {
    "words": ("default of maxsize in functools.lru_cache", "python"),
    "formulas": ("A car accelerates from rest at 3 m/s² for 5 s. How far does it go?", "formulas"),
    "unrouted": ("default of maxsize in functools.lru_cache", ""),
}


def used_neural(one: Asked) -> bool:
    """Tell whether a neural scorer ran for an answer."""
    return "neural" in one.answer.timings_ms


def warm(prefix: str, asked: Sequence[Asked]) -> Iterator[Result]:
    """Yield median and 95 % quantile of the time that an answer took in a process that has loaded all."""
    asked = [one for one in asked if not one.error]
    for base in (*dict.fromkeys(one.question.kb for one in asked), "all"):
        same = [one for one in asked if base in (one.question.kb, "all")]
        for name, is_neural, target in (("words", False, WORDS_TARGET_MS), ("neural", True, NEURAL_TARGET_MS)):
            times = [one.answer.timings_ms["total"] for one in same if used_neural(one) == is_neural]
            if times:
                yield timing(f"{prefix}.{base}.{name}.median", times, "ms", target=target)
                yield timing(f"{prefix}.{base}.{name}.p95", times, "ms", quantile=0.95)


def cold(prefix: str, reasoner: Reasoner, questions: Sequence[Question], *, smoke: bool) -> Iterator[Result]:
    """Yield wall and CPU time of `tuili ask` as a new process, models and bases being there.

    `neural` asks the first of `questions` for which the encoder runs.
    """
    neural = next((one for one in questions if used_neural(ask(reasoner, one))), None)
    asked = COLD | ({"neural": (neural.text, neural.kb)} if neural else {})
    for name, (question, kb) in asked.items():
        choice = ["--kb", kb] if kb else []
        command = [sys.executable, "-m", "tuili", "ask", question, "--json", "--quiet", *choice]
        say(f"  cold: {name}")
        runs = [measure_process(command) for _ in range(1 if smoke else NUM_RUNS)]
        yield timing(f"{prefix}.{name}.wall", [run.wall_s for run in runs], "s", target=COLD_TARGET_S)
        yield timing(f"{prefix}.{name}.cpu", [run.cpu_s for run in runs], "s")
        yield timing(f"{prefix}.{name}.memory", [run.peak_mib for run in runs], "MiB")


def help_text(prefix: str) -> Iterator[Result]:
    """Yield the CPU time of `tuili --help`, beside that of a Python that does nothing."""
    tuili, python = [], []
    for _ in range(NUM_RUNS):
        tuili.append(1e3 * measure_process([sys.executable, "-m", "tuili", "--help"]).cpu_s)
        python.append(1e3 * measure_process([sys.executable, "-c", ""]).cpu_s)
    empty = {"name": "python -c ''", "value": timing("", python, "ms").value}
    yield timing(f"{prefix}.cpu", tuili, "ms", baseline=empty, target=HELP_TARGET_MS)
