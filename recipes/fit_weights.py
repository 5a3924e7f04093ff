"""Fit how much each part of an edge weight counts, on the descriptions in the development questions.

`python recipes/fit_weights.py` writes `src/tuili/reason/data/weights.json` and prints how well each part
alone, the present mix and the fitted one rank the right candidate; the last figure is out of fold.
Run `recipes/fit_confidence.py` afterwards: the confidence depends on the weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from logistic import NUM_FOLDS, fit_choices, folds

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from asking.ablation import PARTS  # noqa: E402
from asking.descriptions import Described, always, descriptions, reciprocal_rank  # noqa: E402
from asking.questions import Question, development  # noqa: E402
from runner import environment, pin_threads, say, watched  # noqa: E402
from tuili.files import write_text  # noqa: E402
from tuili.reasoner import Reasoner, ReasonerConfig  # noqa: E402

OUT = ROOT / "src" / "tuili" / "reason" / "data" / "weights.json"


def collect(reasoner: Reasoner, questions: Sequence[Question]) -> list[Described]:
    """Return the descriptions that tell candidates apart: some are right, some are wrong."""
    found = [
        item
        for question in watched(questions, "descriptions")
        for wording in range(len(question.wordings) + 1)
        for item in descriptions(reasoner, question, wording)
    ]
    return [item for item in found if 0 < len(item.right) < len(item.ids)]


def parts_of(item: Described) -> np.ndarray:
    """Return the parts [C, 3] of an item's candidates; one that the encoder did not weigh has none of its own."""
    return np.array([[item.parts[number].get(name, 0.0) for name in PARTS] for number in item.ids])


def fit(items: Sequence[Described]) -> np.ndarray:
    """Return the mix that ranks the right candidates best, summing to 1; every question counts alike."""
    ids = [item.question.id for item in items]
    right = [np.array([number in item.right for number in item.ids]) for item in items]
    weights = fit_choices([parts_of(item) for item in items], right, [1 / ids.count(name) for name in ids])
    return weights / weights.sum()


def ranks(items: Sequence[Described], mix: np.ndarray) -> np.ndarray:
    """Return each item's reciprocal rank of its best right candidate."""
    scores = [dict(zip(item.ids, parts_of(item) @ mix, strict=True)) for item in items]
    return np.array([reciprocal_rank(score, item.right) for item, score in zip(items, scores, strict=True)])


def out_of_fold(items: Sequence[Described]) -> np.ndarray:
    """Return the reciprocal ranks under mixes that were fitted without the item's question."""
    fold = folds([item.question.id for item in items])
    found = np.zeros(len(items))
    for number in range(NUM_FOLDS):
        rest = [item for item, own in zip(items, fold, strict=True) if own != number]
        held = np.flatnonzero(fold == number)
        if len(held) and rest:
            found[held] = ranks([items[row] for row in held], fit(rest))
    return found


def report(items: Sequence[Described], present: np.ndarray, fitted: np.ndarray) -> dict[str, float]:
    """Print mean reciprocal rank and share of first places of each mix; return the out-of-fold ones."""
    mixes = {name: np.eye(len(PARTS))[place] for place, name in enumerate(PARTS)}
    rows = {name: ranks(items, mix) for name, mix in mixes.items()}
    rows["present mix"] = ranks(items, present)
    rows["fitted, in sample"] = ranks(items, fitted)
    rows["fitted, out of fold"] = held = out_of_fold(items)
    for name, values in rows.items():
        print(f"{name:20} MRR {values.mean():.3f}  first {np.mean(values == 1):.3f}  (n = {len(values)})")
    print("mix: " + ", ".join(f"{name} {weight:.3f}" for name, weight in zip(PARTS, fitted, strict=True)))
    return {"mrr": round(float(held.mean()), 4), "first": round(float(np.mean(held == 1)), 4)}


def main() -> None:
    """Fit, report, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", action="append", help="bases whose questions are used; default: python")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    pin_threads()
    bases = options.base or ["python"]
    mix = ReasonerConfig().mix
    reasoner = Reasoner(config=ReasonerConfig(mix=always(mix)))
    items = collect(reasoner, [question for question in development() if question.kb in bases])
    num_questions = len({item.question.id for item in items})
    if num_questions < NUM_FOLDS:
        raise SystemExit(f"{num_questions} questions hold a description, at least {NUM_FOLDS} are needed")
    fitted = fit(items)
    figures = report(items, np.array([getattr(mix, name) for name in PARTS]), fitted)
    provenance = {
        "date": environment()["date"],
        "commit": environment()["commit"],
        "bases": bases,
        "num_questions": num_questions,
        "num_descriptions": len(items),
        "out_of_fold": figures,
    }
    weights = {name: round(float(weight), 4) for name, weight in zip(PARTS, fitted, strict=True)}
    write_text(options.out, json.dumps({"mix": weights, "provenance": provenance}, indent=1) + "\n")
    say(str(options.out))


if __name__ == "__main__":
    main()
