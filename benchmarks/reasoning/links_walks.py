"""The walker of one data set under one seed: trained on exercises, searched with a beam, mixed with its priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reasoning.links_data import Links
from reasoning.links_priors import Priors
from reasoning.links_scoring import ranks
from tuili.reason.policy import Floats, Ints, Policy
from tuili.reason.ppo import PPOConfig, train
from tuili.reason.priors.mixture import Mixture, log_mass
from tuili.reason.worlds.beam import Judge, Reached, following, search
from tuili.reason.worlds.paths import FEATURES, Paths, PathsConfig, PathsGraph, Queries, queries_of

WIDTHS = (1, 2, 4, 8, 16)
WIDTH = 16
WORLD = PathsConfig()
PPO = PPOConfig(num_updates=40, num_walks=128, batch=256)


@dataclass(frozen=True, slots=True)
class Walks:
    """The graphs and queries of a seed that walkers learn from and are scored on."""

    priors: Priors
    train: Paths
    valid: Paths
    test: Paths

    @property
    def links(self) -> Links:
        """The data set."""
        return self.priors.links

    def without(self, features: Sequence[str]) -> Walks:
        """Return the same worlds with some features held at 0."""
        worlds = (
            Paths(each.graph, each.queries, each.config, dropped=features)
            for each in (self.train, self.valid, self.test)
        )
        return Walks(self.priors, *worlds)


def walks(priors: Priors, config: PathsConfig = WORLD, names: tuple[str, ...] = ()) -> Walks:
    """Set the worlds up; `names` are the priors that a walker sees, all of them if none is named."""
    chosen = names or tuple(priors.valid)
    mixture = priors.mixture({name: priors.valid[name] for name in chosen})
    rest, exercises = priors.exercises(mixture)
    links, rules = priors.links, priors.rules if "rules" in chosen else None
    whole = PathsGraph(links.facts, rules)
    calm = replace(config, dropout=0.0)
    held = [
        Paths(whole, _asked(edges, {name: parts[name] for name in chosen}, mixture), calm)
        for edges, parts in ((links.valid_Q3, priors.valid), (links.test_Q3, priors.test))
    ]
    return Walks(priors, Paths(PathsGraph(rest, rules), exercises, config), held[0], held[1])


def _asked(edges_Q3: Ints, parts: Mapping[str, Floats], mixture: Mixture) -> Queries:
    """Return held-out queries; their answers are not told, as no edge of theirs is in the graph."""
    found = queries_of(edges_Q3, parts, mixture)
    return replace(found, answer_Q=np.full(len(edges_Q3), -1))


def learn(walks_: Walks, config: PPOConfig = PPO) -> Policy:
    """Train a policy on the exercises."""
    return train(walks_.train, replace(config, seed=walks_.priors.seed))


def of_prior() -> Policy:
    """Return the policy that follows the priors' order: the same search without anything learned by walking."""
    return Policy.of_prior(FEATURES)


def beam_ranks(links: Links, reached: Reached) -> np.ndarray:
    """Return the test ranks by beam mass alone."""
    return ranks(reached.mass_QN, links.test_Q3[:, 2], links.known(links.test_Q3, with_test=True))


@dataclass(frozen=True, slots=True)
class Scored:
    """The test ranks of the mixture of scorers, and its weights."""

    rank_Q: np.ndarray
    mixture: Mixture


def mixed(priors: Priors, valid: Mapping[str, Floats], test: Mapping[str, Floats]) -> Scored:
    """Fit a mixture on the validation queries and rank the test queries with it."""
    mixture, links = priors.mixture(valid), priors.links
    known = links.known(links.test_Q3, with_test=True)
    return Scored(ranks(mixture.scores(test), links.test_Q3[:, 2], known), mixture)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything of one data set and seed: scorers' log-probabilities with the beam's, and the final ranks."""

    walks: Walks
    policy: Policy
    valid: dict[str, Floats]
    test: dict[str, Floats]
    final: Scored

    def without(self, name: str) -> Scored:
        """Return the result without one scorer in the mixture (the walker keeps its features), fitted anew."""
        valid = {key: each for key, each in self.valid.items() if key != name}
        test = {key: each for key, each in self.test.items() if key != name}
        return mixed(self.walks.priors, valid, test)


def outcome(walks_: Walks, policy: Policy, width: int = WIDTH) -> Outcome:
    """Search the held-out queries with the policy and mix what the beam brings with the priors."""
    priors = walks_.priors
    valid = {**priors.valid, "beam": log_mass(search(walks_.valid, following(policy), width).mass_QN)}
    test = {**priors.test, "beam": log_mass(search(walks_.test, following(policy), width).mass_QN)}
    return Outcome(walks_, policy, valid, test, mixed(priors, valid, test))


@dataclass(frozen=True, slots=True)
class Point:
    """Test ranks at one width of the beam, and the mean number of edges kept for a query."""

    width: int
    edges: float
    rank_Q: np.ndarray


def curve(walks_: Walks, judge: Judge, widths: Sequence[int] = WIDTHS) -> list[Point]:
    """Return accuracy against edges kept by beam mass alone, one point a width."""
    found = []
    for width in widths:
        reached = search(walks_.test, judge, width)
        found.append(Point(width, float(reached.kept_Q.mean()), beam_ranks(walks_.links, reached)))
    return found
