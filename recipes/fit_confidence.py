"""Fit how sure an answer is: the probability that it is right, from the features of its reading.

`python recipes/fit_confidence.py` asks every development question in all wordings, unanswerable ones too,
taking every answer whatever its confidence, and writes `src/tuili/reason/data/confidence.json`. What it
prints is out of fold: questions are judged by weights that were fitted without them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from logistic import NUM_FOLDS, fit_labels, folds, sigmoid

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from asking.answers import Asked, ask_all  # noqa: E402
from asking.calibration import brier, brier_of_base_rate, ece  # noqa: E402
from asking.questions import Question, development  # noqa: E402
from runner import environment, pin_threads, say  # noqa: E402
from tuili.files import write_text  # noqa: E402
from tuili.reason import conclude, solve  # noqa: E402
from tuili.reasoner import Reasoner  # noqa: E402

OUT = ROOT / "src" / "tuili" / "reason" / "data" / "confidence.json"
SORTS = ("search", "derivation")
MIN_ROWS = 50
MIN_WRONG = 10
L2 = 1.0
DEFECTS = frozenset("unexplained foreign elsewhere misspelt empty unmatched".split())


@dataclass(frozen=True, slots=True)
class Row:
    """An answer that is given if it is sure enough: what is known of it, and whether it is right.

    `refused`: no answer is given, however sure it is, as something is lacking.
    """

    question: Question
    features: dict[str, float]
    right: bool
    refused: bool


@contextlib.contextmanager
def every_answer() -> Iterator[None]:
    """Have the reasoner take every answer for certain, so that also unlikely ones can be judged."""
    with contextlib.ExitStack() as stack:
        for module in (conclude, solve):
            if hasattr(module, "probability"):
                stack.enter_context(mock.patch.object(module, "probability", lambda name, values: 1.0))
        yield


def sort_of(asked: Asked) -> str:
    """Return what kind of reasoning gave an answer."""
    return "search" if "link_and_search" in asked.answer.timings_ms else "derivation"


def collect(reasoner: Reasoner, questions: Sequence[Question]) -> dict[str, list[Row]]:
    """Return the rows of each sort of answer."""
    with every_answer():
        asked = ask_all(reasoner, questions, "questions")
    rows: dict[str, list[Row]] = {sort: [] for sort in SORTS}
    for one in asked:
        refused = one.answer.abstained or not one.answer.features
        row = Row(one.question, dict(one.answer.features), one.right and not refused, refused)
        rows[sort_of(one)].append(row)
    return rows


def names_of(rows: Sequence[Row]) -> list[str]:
    """Return the features that are not the same everywhere."""
    names = list(dict.fromkeys(name for row in rows for name in row.features))
    return [name for name in names if len({row.features.get(name, 0.0) for row in rows}) > 1]


def plausible(rows: Sequence[Row], names: Sequence[str], l2: float) -> list[str]:
    """Return the features without those that would speak for an answer although they can only speak against it."""
    weights = dict(zip(names, fit_labels(*matrix(rows, names), l2), strict=False))
    return [name for name in names if name not in DEFECTS or weights[name] <= 0]


def matrix(rows: Sequence[Row], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return features [N, D] and labels [N]."""
    features = np.array([[row.features.get(name, 0.0) for name in names] for row in rows]).reshape(len(rows), -1)
    return features, np.array([float(row.right) for row in rows])


def out_of_fold(rows: Sequence[Row], names: Sequence[str], l2: float) -> np.ndarray:
    """Return each row's probability by weights that were fitted without its question."""
    features, labels = matrix(rows, names)
    fold = folds([row.question.id for row in rows])
    found = np.zeros(len(rows))
    for number in range(NUM_FOLDS):
        held = fold == number
        weights = fit_labels(features[~held], labels[~held], l2)
        found[held] = sigmoid(features[held] @ weights[:-1] + weights[-1])
    return found


def report(sort: str, rows: Sequence[Row], refused: Sequence[Row], probabilities: np.ndarray) -> None:
    """Print calibration, and what each threshold gives up and gains, over refused questions too."""
    labels = np.array([float(row.right) for row in rows])
    answerable = np.array([row.question.answerable for row in rows])
    num_answerable = answerable.sum() + sum(row.question.answerable for row in refused)
    num_others = len(rows) + len(refused) - num_answerable
    print(f"{sort}: {len(rows)} answers and {len(refused)} refusals, {labels.mean():.3f} of the answers right")
    judged = probabilities, labels, np.ones(len(rows))
    print(
        f"out of fold: ECE {ece(*judged):.3f}, Brier {brier(*judged):.3f} (base rate {brier_of_base_rate(*judged):.3f})"
    )
    print("threshold  right of answerable  right of answered  unanswerable abstained")
    for threshold in np.arange(0.1, 1.0, 0.1):
        given = probabilities >= threshold
        right = labels[given].sum()
        wrongly_given = (given & ~answerable).sum()
        print(
            f"{threshold:9.1f}  {right / max(num_answerable, 1):19.3f}  {right / max(given.sum(), 1):17.3f}"
            f"  {1 - wrongly_given / max(num_others, 1):22.3f}"
        )


def main() -> None:
    """Fit, report, write; a sort of answer with too few rows keeps the weights it has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", action="append", help="bases whose questions are used; default: all")
    parser.add_argument("--l2", type=float, default=L2)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    pin_threads()
    questions = [one for one in development() if not options.base or one.kb in options.base]
    rows_of = collect(Reasoner(), questions)
    fitted = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {}
    for sort, collected in rows_of.items():
        rows = [row for row in collected if not row.refused]
        num_wrong = sum(not row.right for row in rows)
        if len(rows) < MIN_ROWS or num_wrong < MIN_WRONG:
            say(f"{sort}: {num_wrong} wrong of {len(rows)} answers are too few to learn from, its weights stay")
            continue
        names = plausible(rows, names_of(rows), options.l2)
        refused = [row for row in collected if row.refused]
        report(sort, rows, refused, out_of_fold(rows, names, options.l2))
        *weights, bias = (round(float(weight), 4) for weight in fit_labels(*matrix(rows, names), options.l2))
        left_out = dict.fromkeys(set(names_of(rows)) - set(names), 0.0)
        fitted[sort] = {"bias": bias, **dict(zip(names, weights, strict=True)), **left_out}
    described = environment()
    fitted["provenance"] = {"date": described["date"], "commit": described["commit"], "num_questions": len(questions)}
    write_text(options.out, json.dumps(fitted, indent=1) + "\n")
    say(str(options.out))


if __name__ == "__main__":
    main()
