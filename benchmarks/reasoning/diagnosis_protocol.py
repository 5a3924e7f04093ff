"""Leave one publication out: who is scored, what is known to whom, and the folds that weights are fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reasoning.diagnosis_data import Base, Case
from tuili.reason.worlds.differential import Differential
from tuili.reason.worlds.evidence import LEAST_RATE, Background, Facts
from tuili.reason.worlds.findings import IntArray
from tuili.reason.worlds.profiles import Cases, Known

NUM_FOLDS = 3
NOT_PUBLICATIONS = ("OMIM:", "ORPHA:", "DECIPHER:")


@dataclass(frozen=True)
class Side:
    """Cases with what is known to them; `truth_S`: the true disease's row, -1 if nothing is known of it.

    `published_S`: it is known from another publication, not only from a database's own entry.
    """

    differential: Differential
    cases: Cases
    group_S: IntArray
    truth_S: IntArray
    published_S: np.ndarray
    publications: tuple[str, ...]


@dataclass(frozen=True)
class Fold:
    """Cases to fit weights on, and cases to score; no publication of the scored ones is known to the first."""

    fitting: Side
    scored: Side
    scored_places: IntArray


def folds(
    base: Base, known: Sequence[Case], scored: Sequence[Case] | None, num_folds: int, most: int
) -> Iterator[Fold]:
    """Yield the folds; `most`: how many cases weights are fitted on at most."""
    for fit_on, held, places in splits(known, scored, num_folds):
        rest, background = _rest(base, held)
        fitting = side(base, rest, background, spread(fit_on, most))
        yield Fold(fitting, side(base, base.known, background, held), places)


def ask_sides(
    base: Base, known: Sequence[Case], scored: Sequence[Case] | None, num_folds: int, sizes: tuple[int, int, int]
) -> Iterator[tuple[Side, Side, IntArray]]:
    """Yield, per fold, cases to train on, cases to score, and the questions.

    `sizes`: the most cases of each, evenly over publications, and how many known cases show a question's finding.
    """
    for fit_on, held, _ in splits(known, scored, num_folds):
        rest, background = _rest(base, held)
        shown = (background.observed_T - LEAST_RATE) * len(rest.cases)
        questions = np.flatnonzero((shown > sizes[2] - 0.5) & (base.hierarchy.depth > 0))
        fitting = side(base, rest, background, spread(fit_on, sizes[0]), questions)
        yield fitting, side(base, base.known, background, spread(held, sizes[1]), questions), questions


def splits(
    known: Sequence[Case], scored: Sequence[Case] | None, num_folds: int
) -> Iterator[tuple[list[Case], list[Case], IntArray]]:
    """Yield cases to fit on, cases to score and the places of these; no publication is on both sides.

    With `scored` None the known cases are scored, in folds by publication.
    """
    if scored is not None:
        yield _apart(known, scored), list(scored), np.arange(len(scored))
        return
    fold_of = fold_numbers(known, num_folds)
    for number in range(num_folds):
        places = np.flatnonzero(fold_of == number)
        held = [known[place] for place in places]
        yield _apart(known, held), held, places


def _apart(cases: Sequence[Case], held: Sequence[Case]) -> list[Case]:
    shared = {key for case in held for key in case.publications}
    return [case for case in cases if not case.publications & shared]


def _rest(base: Base, held: Sequence[Case]) -> tuple[Known, Background]:
    """Return what stays known without the publications of the held cases, and how common findings are in it."""
    rest = base.known.without([base.publications[key] for case in held for key in case.publications])
    return rest, Background.of(Facts.of(rest, base.hierarchy), len(base.hierarchy))


def fold_numbers(cases: Sequence[Case], num_folds: int) -> IntArray:
    """Assign each case a fold; cases that share publications, directly or by others, share it."""
    root: dict[str, str] = {}

    def find(key: str) -> str:
        while root.setdefault(key, key) != key:
            key = root[key]
        return key

    for case in cases:
        first, *others = sorted(case.publications)
        for other in others:
            root[find(other)] = find(first)
    groups = [find(min(case.publications)) for case in cases]
    names = sorted(set(groups))
    number = dict(zip(names, np.random.default_rng(0).permutation(len(names)) % num_folds, strict=True))
    return np.array([number[group] for group in groups], dtype=np.int64)


def spread(cases: Sequence[Case], most: int) -> list[Case]:
    """Return at most so many cases, one of each publication, then a second of each, and so on."""
    count: dict[str, int] = {}
    turn = []
    for place in np.random.default_rng(0).permutation(len(cases)):
        key = min(cases[place].publications)
        count[key] = count.get(key, 0) + 1
        turn.append((count[key], len(turn), int(place)))
    return [cases[place] for _, _, place in sorted(turn)[:most]]


def side(
    base: Base, whole: Known, background: Background, cases: Sequence[Case], questions: IntArray | None = None
) -> Side:
    """Set up cases before what is known; with `questions`, tables hold these beside what is observed."""
    sets = sorted({case.publications for case in cases}, key=sorted)
    number = {publications: group for group, publications in enumerate(sets)}
    known = whole.with_versions([sorted(base.publications[key] for key in each) for each in sets])
    arrays = base.cases(cases)
    findings = np.union1d(arrays.observed.flat, arrays.excluded.flat if questions is None else questions)
    group_S = np.array([number[case.publications] for case in cases], dtype=np.int64)
    truth_S = _true_rows(known, arrays.hypothesis, group_S)
    published_H = _published(base, known)
    return Side(
        Differential.of(whole, known, base.hierarchy, background, findings),
        arrays,
        group_S,
        truth_S,
        (truth_S >= 0) & published_H[truth_S],
        tuple(min(case.publications) for case in cases),
    )


def _true_rows(known: Known, hypothesis_S: IntArray, group_S: IntArray) -> IntArray:
    """Return the row in force of each case's disease, -1 where nothing is known of it."""
    version = {
        (int(base), int(group)): row for row, (base, group) in enumerate(zip(known.base, known.group, strict=True))
    }
    told = known.is_told()
    rows = [version.get((int(d), int(g)), int(d)) for d, g in zip(hypothesis_S, group_S, strict=True)]
    return np.array([row if row >= 0 and told[row] else -1 for row in rows], dtype=np.int64)


def _published(base: Base, known: Known) -> np.ndarray:
    """Tell, per row, whether a publication speaks of it."""
    is_published = np.array([not key.startswith(NOT_PUBLICATIONS) for key in base.publications])
    mask = np.zeros(len(known), dtype=bool)
    mask[known.case_row] = True
    sources = known.statements.sources
    mask[known.statement_row[sources.owners[is_published[sources.flat]]]] = True
    return mask
