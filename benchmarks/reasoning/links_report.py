"""The figures of one data set: the mixture, its parts, what each brings, accuracy against edges kept, and peers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reasoning import links_minerva
from reasoning.links_data import Links
from reasoning.links_minerva import MinervaConfig
from reasoning.links_peers import PRIORLESS, PrunerConfig, prune
from reasoning.links_priors import PRIORS, SMOKE, Priors, Settings
from reasoning.links_pykeen import RECIPES, test_ranks
from reasoning.links_scoring import by_query, measure, ranks, rows
from reasoning.links_walks import PPO, WIDTH, WIDTHS, Outcome, Point, beam_ranks, curve, learn, of_prior, outcome, walks
from runner import Options, Result, paired, say
from tuili.reason.worlds.beam import following, search

TARGETS = {"umls": 0.945, "kinship": 0.83}
PUBLISHED = {
    "umls": {"MINERVA": 0.728, "MultiHopKG": 0.902},
    "kinship": {"MINERVA": 0.605, "MultiHopKG": 0.811},
}
SMOKE_WIDTHS = (1, 4)


@dataclass(frozen=True, slots=True)
class Seed:
    """What one seed gave: ranks of the test answers by name, and curves of accuracy against edges kept."""

    final: np.ndarray
    alone: dict[str, np.ndarray]
    without: dict[str, np.ndarray]
    curves: dict[str, list[Point]]
    peers: dict[str, np.ndarray]


def report(links: Links, num_seeds: int, options: Options) -> Iterator[Result]:
    """Run all seeds and yield the figures."""
    done = [_seed(links, seed, is_smoke=options.smoke) for seed in range(num_seeds)]
    name = links.name
    peers = {each: [one.peers[each] for one in done] for each in done[0].peers}
    yield from rows(
        name,
        [one.final for one in done],
        baseline=_best(name, peers),
        targets={"hits1": TARGETS[name]} if name in TARGETS else None,
    )
    for peer, rank_SQ in peers.items():
        yield from rows(f"{name}.peers.{peer}", rank_SQ)
    for part in done[0].alone:
        yield from rows(f"{name}.alone.{part}", [one.alone[part] for one in done], metrics=("hits1", "mrr"))
    for part in done[0].without:
        rank_SQ = [one.without[part] for one in done]
        yield from rows(f"{name}.without.{part}", rank_SQ, metrics=("hits1",))
        yield paired(f"{name}.gain.{part}", by_query([one.final for one in done]), by_query(rank_SQ))
    yield from _curves(name, [one.curves for one in done])


def _best(name: str, peers: dict[str, list[np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Return for each metric the best peer of this run, for Hits@1 with the published figures of this protocol."""
    found: dict[str, dict[str, Any]] = {}
    for peer, rank_SQ in peers.items():
        for metric in measure(rank_SQ[0]):
            value = float(np.mean([measure(rank_Q)[metric] for rank_Q in rank_SQ]))
            if metric not in found or value > found[metric]["value"]:
                found[metric] = {"name": peer, "value": value}
    if name in PUBLISHED and "hits1" in found:
        found["hits1"]["published"] = PUBLISHED[name]
    return found


def _curves(name: str, curves: Sequence[dict[str, list[Point]]]) -> Iterator[Result]:
    """Yield accuracy by beam mass alone and edges kept at every width, and the policy's gain over the prior's order."""
    for place, first in enumerate(curves[0]["policy"]):
        at = {who: [one[who][place] for one in curves] for who in curves[0]}
        for who, points in at.items():
            prefix = f"{name}.beam{first.width}.{who}"
            yield from rows(prefix, [point.rank_Q for point in points], metrics=("hits1",))
            edges = [point.edges for point in points]
            yield Result(f"{prefix}.edges", float(np.mean(edges)), "edges", float(np.std(edges)), len(edges))
        policy, prior = (by_query([point.rank_Q for point in at[who]]) for who in ("policy", "prior"))
        yield paired(f"{name}.beam{first.width}.policy_gain", policy, prior)


# -- one seed ------------------------------------------------------------------------------------


def _seed(links: Links, seed: int, *, is_smoke: bool) -> Seed:
    """Train and score everything once."""
    watch = _Watch(f"{links.name}, seed {seed}")
    priors = Priors(links, SMOKE if is_smoke else Settings(), seed)
    setting = walks(priors)
    watch.lap("priors")
    ppo = replace(PPO, num_updates=3, num_walks=32) if is_smoke else PPO
    policy = learn(setting, ppo)
    watch.lap("policy")
    found = outcome(setting, policy, SMOKE_WIDTHS[-1] if is_smoke else WIDTH)
    final = found.final
    say(f"    mixture: {', '.join(f'{name} {weight:.2f}' for name, weight in final.mixture.weights.items())}")
    pruner = prune(setting, PrunerConfig(num_updates=3) if is_smoke else PrunerConfig())
    judges = {"policy": policy, "prior": of_prior(), "pruner": pruner}
    widths = SMOKE_WIDTHS if is_smoke else WIDTHS
    curves = {name: curve(setting, following(judge), widths) for name, judge in judges.items()}
    watch.lap("beams")
    peers = _peers(found, curves, widths[-1], is_smoke=is_smoke)
    watch.lap("peers")
    without = {name: found.without(name).rank_Q for name in found.test}
    return Seed(final.rank_Q, _alone(found), without, curves, peers)


def _alone(found: Outcome) -> dict[str, np.ndarray]:
    """Return the test ranks of each scorer by itself."""
    links = found.walks.links
    known = links.known(links.test_Q3, with_test=True)
    return {name: ranks(scores, links.test_Q3[:, 2], known) for name, scores in found.test.items()}


def _peers(found: Outcome, curves: dict[str, list[Point]], width: int, *, is_smoke: bool) -> dict[str, np.ndarray]:
    """Return the test ranks of what is run beside: walkers and searches with the same beam, and pykeen's models."""
    setting, links, seed = found.walks, found.walks.links, found.walks.priors.seed
    blind = links_minerva.BLIND.get(links.name, MinervaConfig().blind)
    minerva = MinervaConfig(blind=blind, num_updates=3) if is_smoke else MinervaConfig(blind=blind)
    uniform = search(setting.without(PRIORLESS).test, following(of_prior()), width)
    peers = {
        "reinforce": links_minerva.test_ranks(links, minerva, seed),
        "uniform": beam_ranks(links, uniform),
        "best_first": curves["prior"][-1].rank_Q,
        "pruner": curves["pruner"][-1].rank_Q,
    }
    for name, recipe in RECIPES.items():
        peers[name] = test_ranks(links, replace(recipe, epochs=1) if is_smoke else recipe, seed)
    return peers


class _Watch:
    """Says how long each stage took."""

    def __init__(self, title: str) -> None:
        self.title, self.last = title, time.monotonic()

    def lap(self, stage: str) -> None:
        """Say what was done since the last lap."""
        now = time.monotonic()
        say(f"  {self.title}: {stage} in {now - self.last:.0f} s")
        self.last = now


__all__ = ["PRIORS", "Seed", "report"]
