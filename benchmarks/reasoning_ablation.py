"""What each part of a walk on questions brings: attention, likeness, learned relations, the policy; accuracy by edges.

On MetaQA, as in `reasoning_metaqa.py`. A part is switched off after training: attention looks at all words alike,
likenesses weigh nothing, relations are known by their names only, the policy's residual is zero. `gain.PART` is the
whole minus the whole without it, in pairs. `curve` lets every question follow at most so many edges, in the order of
the policy and in that of the prior. The ablation of priors on links is in `reasoning_links.py` (`without`, `gain`), of
the parts of edge weights, BERTScore among them, in `ask.py` (`ask.ablation`). Budgets 0 and 1 stand for "no edge, one".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from reasoning.metaqa import Bench, sampled
from reasoning.metaqa_data import HOPS, Question
from reasoning.metaqa_scores import Score, Walker, score_all
from runner import Options, Result, paired, run, say, share
from tuili.reason.conditioning import Conditioning
from tuili.reason.walk import ConditionedWalk, WalkConfig

NUM_QUESTIONS, NUM_SMOKE = 600, 20
BUDGETS = (0, 1, 3, 10, 30, 100, 1_000, 10_000)
SEED = 1

Change = Callable[[Conditioning], Conditioning]


def without_attention(whole: Conditioning) -> Conditioning:
    """Return the conditioning with a query of zero: every open word is looked at alike."""
    return replace(whole, weights={**whole.weights, "w_query": np.zeros_like(whole.weights["w_query"])})


def without_likeness(whole: Conditioning) -> Conditioning:
    """Return the conditioning without the likenesses of words to relations."""
    return replace(whole, weights={**whole.weights, "w_likeness": np.zeros_like(whole.weights["w_likeness"])})


def without_relations(whole: Conditioning) -> Conditioning:
    """Return the conditioning without the vectors learned for single relations."""
    return replace(whole, known={})


PARTS: dict[str, Change] = {
    "attention": without_attention,
    "likeness": without_likeness,
    "relations": without_relations,
}


def measure(options: Options) -> Iterator[Result]:
    """Yield the ablation and the curve for each number of hops."""
    if options.data is None or not (options.data / "metaqa" / "kb.tsv").is_file():
        say("MetaQA is not there (--data FOLDER with metaqa/kb.tsv and metaqa/{1,2,3}hop_dev.tsv): skipped")
        return
    bench = Bench(options)
    for num_hops in HOPS:
        asked = [one for one in bench.parts.test if one.num_hops == num_hops]
        questions = sampled(asked, NUM_SMOKE if options.smoke else NUM_QUESTIONS, SEED)
        if questions:
            yield from _parts(bench, questions, f"ablation.{num_hops}hop")
            yield from _curve(bench, questions, f"ablation.{num_hops}hop.curve")


def _parts(bench: Bench, questions: Sequence[Question], prefix: str) -> Iterator[Result]:
    """Yield Hits@1 of the whole and without each part, and what each part brings."""
    whole = _hits(bench, bench.walk, questions)
    yield share(f"{prefix}.whole.hits1", list(whole.values()))
    others = {name: _changed(bench.walk, change) for name, change in PARTS.items()} | {"ppo": bench.prior}
    for name, walk in others.items():
        hits = _hits(bench, walk, questions)
        yield share(f"{prefix}.without.{name}.hits1", list(hits.values()))
        yield paired(f"{prefix}.gain.{name}", whole, hits)


def _changed(walk: ConditionedWalk, change: Change) -> ConditionedWalk:
    guide = walk.guide
    return ConditionedWalk(change(guide.conditioning), guide.reader, walk.hops, policy=walk.policy, config=walk.config)


def _curve(bench: Bench, questions: Sequence[Question], prefix: str) -> Iterator[Result]:
    """Yield Hits@1 and edges within budgets of edges, by policy and by prior, and the policy's own gain."""
    for budget in BUDGETS:
        config = WalkConfig(max_edges=budget)
        scores = {name: _scores(bench, walk, questions, config) for name, walk in _orders(bench).items()}
        hits = {name: _by_question(each) for name, each in scores.items()}
        for name, each in scores.items():
            yield share(f"{prefix}.{budget}.{name}.hits1", [one.hit for one in each])
            edges = [one.num_edges for one in each]
            yield Result(f"{prefix}.{budget}.{name}.edges", float(np.mean(edges)), "edges", None, len(edges))
        yield paired(f"{prefix}.{budget}.policy_gain", hits["policy"], hits["prior"])


def _orders(bench: Bench) -> dict[str, ConditionedWalk]:
    return {"policy": bench.walk, "prior": bench.prior}


def _scores(
    bench: Bench, walk: ConditionedWalk, questions: Sequence[Question], config: WalkConfig | None = None
) -> list[Score]:
    guide = walk.guide
    limited = ConditionedWalk(
        guide.conditioning, guide.reader, walk.hops, policy=walk.policy, config=config or walk.config
    )
    return score_all(Walker(limited, bench.base), questions, bench.base)


def _hits(bench: Bench, walk: ConditionedWalk, questions: Sequence[Question]) -> dict[int, float]:
    return _by_question(_scores(bench, walk, questions))


def _by_question(scores: Sequence[Score]) -> dict[int, float]:
    return {place: one.hit for place, one in enumerate(scores)}


if __name__ == "__main__":
    run("What each part of a walk brings", measure)
