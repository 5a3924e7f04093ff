"""Scores the ranking of whole cases against its peers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from reasoning.diagnosis_baselines import Peers, rank_of
from reasoning.diagnosis_protocol import Fold
from runner import Result, say, share, watched
from tuili.reason.worlds.differential import Ranker

TOPS = (1, 3, 10)
TARGET_RATIO = 1.3


@dataclass
class Ranks:
    """Ranks of the truth by each ranker, whether it is scored, the publication of each case."""

    by_ranker: dict[str, list[float]] = field(default_factory=dict)
    published: list[bool] = field(default_factory=list)
    told: list[bool] = field(default_factory=list)
    publications: list[str] = field(default_factory=list)


def rank_fold(fold: Fold, ranks: Ranks) -> None:
    """Fit on one side of a fold and rank the other; add to `ranks`."""
    fitting, scored = fold.fitting, fold.scored
    usable = np.flatnonzero(fitting.truth_S >= 0)
    candidates = fitting.differential.candidates(fitting.cases.take(usable), fitting.group_S[usable])
    ranker = Ranker.fit(candidates, fitting.truth_S[usable])
    say(f"  fitted on {len(usable)} cases")
    found = scored.differential.candidates(scored.cases, scored.group_S)
    ranks.by_ranker.setdefault("learned", []).extend(ranker.ranks(found, scored.truth_S).tolist())
    ranks.published += scored.published_S.tolist()
    ranks.told += (scored.truth_S >= 0).tolist()
    ranks.publications += scored.publications
    _rank_peers(fold, ranks)


def _rank_peers(fold: Fold, ranks: Ranks) -> None:
    scored = fold.scored
    known = scored.differential.known
    peers = Peers.of(scored.differential.whole, known, scored.differential.hierarchy)
    rng = np.random.default_rng(0)
    for place in watched(range(len(scored.cases)), "peers"):
        active, truth = known.active(int(scored.group_S[place])), int(scored.truth_S[place])
        observed = scored.cases.observed[place]
        for name, scores in (
            ("resnik", peers.resnik(observed)),
            ("ratio", peers.ratio(observed)),
            ("random", rng.random(len(known)).astype(np.float32)),
        ):
            ranks.by_ranker.setdefault(name, []).append(rank_of(scores, active, truth))


def results(ranks: Ranks) -> Iterator[Result]:
    """Yield the figures: shares within the first ranks, mean reciprocal rank, coverage, the peers'."""
    scored = np.flatnonzero(ranks.published)
    groups = [ranks.publications[place] for place in scored]
    yield share("diagnosis.coverage", [float(each) for each in ranks.published], groups=ranks.publications)
    peers = [name for name in ranks.by_ranker if name != "learned"]
    tables = {name: np.array(values)[scored] for name, values in ranks.by_ranker.items()}
    best = max(peers, key=lambda name: float((tables[name] <= 1).mean()))
    for name in ("learned", *peers):
        prefix = "diagnosis" if name == "learned" else f"diagnosis.{name}"
        for label, values in _measures(tables[name]):
            baseline = (
                {"name": best, "value": float(dict(_measures(tables[best]))[label].mean())}
                if name == "learned"
                else None
            )
            yield share(f"{prefix}.{label}", values.tolist(), groups=groups, baseline=baseline)
    yield _ratio(tables["learned"], tables[best], groups, best)
    yield from _all_cases(ranks, best)


def _measures(ranks: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [*((f"top{top}", (ranks < top + 0.5).astype(float)) for top in TOPS), ("mrr", 1 / ranks)]


def _all_cases(ranks: Ranks, best: str) -> Iterator[Result]:
    """Every case counts, those of diseases that nothing is known of as missed."""
    learned, peer = (np.array(ranks.by_ranker[name]) < 1.5 for name in ("learned", best))
    baseline = {"name": best, "value": float(peer.mean())}
    yield share("diagnosis.all.top1", learned.astype(float).tolist(), groups=ranks.publications, baseline=baseline)
    told = np.flatnonzero(ranks.told)
    groups = [ranks.publications[place] for place in told]
    yield share("diagnosis.any_source.top1", learned[told].astype(float).tolist(), groups=groups)


def _ratio(ours: np.ndarray, theirs: np.ndarray, groups: Sequence[str], best: str) -> Result:
    """Return the ratio of both top-1 with half of its bootstrap interval over publications."""
    names = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    rows = np.array([names[group] for group in groups])
    hits = [np.bincount(rows, ranks < 1.5, len(names)) for ranks in (ours, theirs)]
    picked = np.random.default_rng(0).integers(len(names), size=(2000, len(names)))
    sums = [each[picked].sum(axis=1) for each in hits]
    low, high = np.quantile(sums[0] / np.maximum(sums[1], 1), (0.025, 0.975))
    value = float(hits[0].sum() / max(hits[1].sum(), 1))
    return Result(
        "diagnosis.top1_ratio",
        value,
        "ratio",
        float(high - low) / 2,
        len(ours),
        {"name": best, "value": 1.0},
        TARGET_RATIO,
    )
