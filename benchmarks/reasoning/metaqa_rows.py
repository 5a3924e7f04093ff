"""The rows of MetaQA: seen wordings, edges, templates held out, half of the base, a cold start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from reasoning.metaqa import SEED, Bench, Learned, sampled
from reasoning.metaqa_data import HOPS, Base, Question, folds
from reasoning.metaqa_peers import Exhaustive, GoldPath, PathClassifier, TemplateMemory, edges_within
from reasoning.metaqa_scores import Answerer, Score, Walker, mean_hits, rows, score_all
from runner import Result, half_width, paired
from tuili.reason.worlds.hops import start_at

TARGETS = {1: 0.975, 2: 0.995, 3: 0.985}
NUM_EXHAUSTIVE = 60
NUM_COUNTED = 500
NUM_FOLDS = 4
# Which relation of the base each kind in MetaQA's own names of paths stands for.
RELATIONS = {
    "actor": "starred_actors",
    "director": "directed_by",
    "writer": "written_by",
    "genre": "has_genre",
    "year": "release_year",
    "language": "in_language",
    "tags": "has_tags",
    "tag": "has_tags",
    "imdbrating": "has_imdb_rating",
    "imdbvotes": "has_imdb_votes",
}


def seen(bench: Bench) -> Iterator[Result]:
    """Yield hits and answer sets on wordings met in training, with the peers, the prior alone and PPO's gain."""
    learned = bench.whole
    for num_hops in HOPS:
        prefix = f"metaqa.{num_hops}hop"
        if not bench.options.wants(prefix):
            continue
        questions = [one for one in bench.parts.test if one.num_hops == num_hops]
        if not questions:
            continue
        scores = score_all(Walker(bench.walk, bench.base), questions, bench.base)
        prior = score_all(Walker(bench.prior, bench.base, "walk without PPO"), questions, bench.base)
        peers = yield from _peers(prefix, bench, learned, learned.examples, questions)
        for result in rows(prefix, scores, baseline=best(peers)):
            yield _aimed(result, TARGETS[num_hops]) if result.name.endswith("hits1") else result
        yield from rows(f"{prefix}.without_ppo", prior, only_hits=True)
        yield _gain(f"{prefix}.ppo_gain.hits1", scores, prior)
        yield _gain(f"{prefix}.ppo_gain.f1", scores, prior, "f1")
        yield _edge_ratio(f"{prefix}.ppo_gain.edges", scores, prior)
        if any(one.path for one in questions):
            gold = score_all(GoldPath(bench.base, learned.hops, RELATIONS), questions, bench.base)
            yield from rows(f"{prefix}.gold_path", gold)
            told = [one for one, annotated in zip(scores, gold, strict=True) if annotated.f1 > 0]
            yield from rows(f"{prefix}.answer_in_base", told, only_hits=True) if told else ()


def edges(bench: Bench) -> Iterator[Result]:
    """Yield how many times more edges exhaustive expansion to three hops touches than the walk follows."""
    questions = [one for one in bench.parts.test if one.num_hops == HOPS[-1]]
    questions = [one for one in sampled(questions, NUM_COUNTED, SEED) if len(bench.base.start(one))]
    if not questions:
        return
    ours = [one.num_edges for one in score_all(Walker(bench.walk, bench.base), questions, bench.base)]
    all_edges = [
        edges_within(bench.whole.hops, start_at(bench.base.start(one).tolist()), HOPS[-1]) for one in questions
    ]
    ratios = sorted(every / max(1, own) for every, own in zip(all_edges, ours, strict=True))
    middle = float(np.median(ratios))
    spread = float(np.subtract(*np.quantile(ratios, (0.75, 0.25))))
    total = sum(all_edges) / max(1, sum(ours))
    yield Result("metaqa.3hop.edges_ratio", total, "times", None, len(questions), None, 10.0)
    yield Result("metaqa.3hop.edges_ratio.median", middle, "times", spread, len(questions))
    yield Result("metaqa.3hop.edges", float(np.mean(ours)), "edges", _width(ours), len(questions))
    yield Result("metaqa.3hop.edges_exhaustive", float(np.mean(all_edges)), "edges", _width(all_edges), len(questions))


def held_out(bench: Bench) -> Iterator[Result]:
    """Yield hits on wordings that no training question has: every template is held out once, in one of the folds."""
    learned = bench.whole
    questions, ours, prior, peers = [], [], [], {}
    held = folds([*bench.parts.train, *bench.parts.valid, *bench.parts.test], NUM_FOLDS, SEED)
    for fold in held[:1] if bench.options.smoke else held:
        examples = [one for one in learned.examples if one.text not in fold]
        asked = [one for one in learned.asked if one.text not in fold]
        some = [one for one in bench.parts.test if one.template in fold]
        base_walk = bench.fit(learned, examples)
        walk = bench.improved(base_walk, learned, asked)
        questions += some
        ours += score_all(Walker(walk, bench.base, "held-out templates"), some, bench.base)
        prior += score_all(Walker(base_walk, bench.base, "held-out templates without PPO"), some, bench.base)
        for peer in _learned_peers(bench.base, learned, examples):
            peers.setdefault(peer.name, []).extend(score_all(peer, some, bench.base))
    for num_hops in HOPS[1:]:
        prefix = f"metaqa.{num_hops}hop.heldout_templates"
        here = [place for place, one in enumerate(questions) if one.num_hops == num_hops]
        if not here:
            continue
        groups = [questions[place].template for place in here]
        of_peers = {name: [scores[place] for place in here] for name, scores in peers.items()}
        for result in rows(prefix, [ours[place] for place in here], baseline=best(of_peers), groups=groups):
            yield _aimed(result, 0.9) if result.name.endswith("hits1") else result
        yield from rows(f"{prefix}.without_ppo", [prior[place] for place in here], groups=groups, only_hits=True)
        for name, scores in of_peers.items():
            yield from rows(f"{prefix}.{slug(name)}", scores, groups=groups, only_hits=True)


def half_base(bench: Bench) -> Iterator[Result]:
    """Yield hits in three hops where half of the edges are gone, in training too; the right answers stay the same."""
    questions = [one for one in bench.parts.test if one.num_hops == HOPS[-1]]
    if not questions:
        return
    base = bench.base.half(SEED)
    learned = bench.search(base)
    prior = bench.fit(learned, learned.examples)
    walk = bench.improved(prior, learned, learned.asked)
    prefix = "metaqa.3hop.half_kb"
    ours = score_all(Walker(walk, base, "half of the base"), questions, base)
    without = score_all(Walker(prior, base, "half of the base without PPO"), questions, base)
    peers = yield from _peers(prefix, bench, learned, learned.examples, questions)
    yield from rows(prefix, ours, baseline=best(peers))
    yield from rows(f"{prefix}.without_ppo", without, only_hits=True)
    yield _gain(f"{prefix}.ppo_gain.hits1", ours, without)
    yield _edge_ratio(f"{prefix}.ppo_gain.edges", ours, without)
    if any(one.path for one in questions):
        gold = GoldPath(base, learned.hops, RELATIONS)
        yield from rows(f"{prefix}.gold_path", score_all(gold, questions, base), only_hits=True)


def _peers(
    prefix: str, bench: Bench, learned: Learned, examples: Sequence[Any], questions: Sequence[Question]
) -> Iterator[Result]:
    """Yield each peer's hits; return the scores of those that answered everything."""
    scores = {}
    for peer in _learned_peers(learned.base, learned, examples):
        scores[peer.name] = score_all(peer, questions, learned.base)
        yield from rows(f"{prefix}.{slug(peer.name)}", scores[peer.name], only_hits=True)
    few = sampled(questions, NUM_EXHAUSTIVE // (10 if bench.options.smoke else 1), SEED)
    matched = score_all(Exhaustive(learned.base, learned.hops), few, learned.base)
    yield from rows(f"{prefix}.exhaustive", matched, only_hits=True)
    return scores


def _learned_peers(base: Base, learned: Learned, examples: Sequence[Any]) -> list[Answerer]:
    return [TemplateMemory(base, learned.hops, examples), PathClassifier(base, learned.hops, examples)]


def best(peers: dict[str, list[Score]]) -> dict[str, Any] | None:
    """Return the name and Hits@1 of the best peer."""
    if not peers:
        return None
    name = max(peers, key=lambda one: mean_hits(peers[one]))
    return {"name": name, "value": mean_hits(peers[name])}


def slug(name: str) -> str:
    """Return a name as part of a row's name."""
    return name.replace(" ", "_")


def _gain(name: str, left: Sequence[Score], right: Sequence[Score], what: str = "hit") -> Result:
    """Return the mean difference of two walks on the same questions, bootstrapped in pairs."""
    mine = {place: float(getattr(one, what)) for place, one in enumerate(left)}
    other = {place: float(getattr(one, what)) for place, one in enumerate(right)}
    return paired(name, mine, other)


def _edge_ratio(name: str, left: Sequence[Score], right: Sequence[Score]) -> Result:
    """Return the mean edges of one walk over those of another."""
    ratio = sum(one.num_edges for one in left) / max(1, sum(one.num_edges for one in right))
    return Result(name, ratio, "times", None, len(left))


def _aimed(result: Result, target: float) -> Result:
    return Result(result.name, result.value, result.unit, result.spread, result.n, result.baseline, target)


def _width(values: Sequence[int]) -> float | None:
    return half_width([float(one) for one in values])


__all__ = ["best", "edges", "half_base", "held_out", "seen", "slug"]
