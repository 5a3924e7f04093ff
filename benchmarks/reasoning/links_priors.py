"""The priors of one data set under one seed: trained on training facts only, with what a walker learns from held out.

A tenth of the training facts are the walker's exercises: their edges are hidden from the graph, the propagation and the
rules while it learns, and the embedding that it then sees was trained without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np

from reasoning.kept import kept
from reasoning.links_data import Links
from tuili.reason.priors import embedding_training, propagation_training
from tuili.reason.priors.embedding import Embedding
from tuili.reason.priors.embedding_training import EmbeddingConfig, train_embedding
from tuili.reason.priors.facts import Facts, Floats, Ints
from tuili.reason.priors.mixture import Mixture, fit_mixture, log_softmax
from tuili.reason.priors.propagation import Propagation
from tuili.reason.priors.propagation_training import PropagationConfig, train_propagation
from tuili.reason.priors.rules import Rules, RulesConfig, mine
from tuili.reason.worlds.paths import Queries, queries_of

EXERCISES = 0.1
PRIORS = ("propagation", "embedding", "rules")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the priors are trained."""

    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    rules: RulesConfig = field(default_factory=RulesConfig)


SMOKE = Settings(
    propagation=PropagationConfig(width=8, num_layers=2, epochs=1),
    embedding=EmbeddingConfig(width=16, epochs=4),
    rules=RulesConfig(num_samples=8, num_walks=20, num_rules=8),
)


class Priors:
    """Trained priors, their scores of held-out queries, and the mixture of them that fits the validation queries."""

    def __init__(self, links: Links, settings: Settings, seed: int) -> None:
        self.links, self.seed, facts = links, seed, links.facts
        self.settings = Settings(
            propagation=replace(settings.propagation, seed=seed),
            embedding=replace(settings.embedding, seed=seed),
            rules=replace(settings.rules, seed=seed),
        )
        num = len(facts.triples_E3)
        chosen = np.random.default_rng([seed, 1]).permutation(num)[: max(1, int(EXERCISES * num))]
        self.exercise_F = np.sort(chosen)
        self.propagation = _propagation(facts, self.settings.propagation)
        self.embedding = _embedding(facts, self.settings.embedding)
        self.rules: Rules = mine(facts, self.settings.rules)

    @cached_property
    def exercise_embedding(self) -> Embedding:
        """The embedding that has not seen the exercises."""
        return _embedding(self.links.facts.without(self.exercise_F), self.settings.embedding)

    def log_probabilities(self, edges_Q3: Ints, names: tuple[str, ...] = PRIORS) -> dict[str, Floats]:
        """Return each prior's log-probabilities of the tails, answers known from training apart."""
        head, relation, _ = edges_Q3.T
        facts = self.links.facts
        scores = {
            "propagation": lambda: self.propagation.scores(facts, head, relation),
            "embedding": lambda: self.embedding.scores(head, relation),
            "rules": lambda: self.rules.scores(facts, head, relation),
        }
        return {name: log_softmax(scores[name](), facts.tails(head, relation)) for name in names}

    @cached_property
    def valid(self) -> dict[str, Floats]:
        """The validation queries' log-probabilities."""
        return self.log_probabilities(self.links.valid_Q3)

    @cached_property
    def test(self) -> dict[str, Floats]:
        """The test queries' log-probabilities."""
        return self.log_probabilities(self.links.test_Q3)

    def mixture(self, parts: Mapping[str, Floats]) -> Mixture:
        """Fit a mixture of some scorers' log-probabilities of the validation queries."""
        return fit_mixture(parts, self.links.valid_Q3[:, 2], self.links.known(self.links.valid_Q3, with_test=False))

    def exercises(self, mixture: Mixture) -> tuple[Facts, Queries]:
        """Return the graph without the exercises, and the exercises as queries."""
        facts, hidden = self.links.facts, self.exercise_F
        edges = facts.triples_E3[hidden]
        head, relation, _ = edges.T
        rest = facts.without(hidden)
        scores = {
            "propagation": self.propagation.scores(facts, head, relation, hidden),
            "embedding": self.exercise_embedding.scores(head, relation),
            "rules": self.rules.scores(facts, head, relation, hidden),
        }
        known = rest.tails(head, relation)
        return rest, queries_of(edges, {name: log_softmax(each, known) for name, each in scores.items()}, mixture)


def _propagation(facts: Facts, config: PropagationConfig) -> Propagation:
    def make() -> Mapping[str, Floats]:
        return train_propagation(facts, config).weights

    given = {"facts": facts.edges_E3, "config": asdict(config)}
    return Propagation(kept("propagation", given, (propagation_training,), make), config.num_layers)


def _embedding(facts: Facts, config: EmbeddingConfig) -> Embedding:
    def make() -> dict[str, Floats]:
        found = train_embedding(facts, config)
        return {"entities": found.entities_N2D, "relations": found.relations_R2D}

    given = {"facts": facts.edges_E3, "config": asdict(config)}
    arrays = kept("embedding", given, (embedding_training,), make)
    return Embedding(arrays["entities"], arrays["relations"])
