"""Train ComplEx against all entities at once. Needs torch.

Sources: Dettmers et al. 2018, "Convolutional 2D Knowledge Graph Embeddings" (1-N scoring, label smoothing);
Lacroix et al. 2018, "Canonical Tensor Decomposition" (inverse relations, the N3 norm of eq. 4).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tuili.errors import InputError, UsageError
from tuili.reason.priors.embedding import Embedding
from tuili.reason.priors.facts import Facts


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    """How ComplEx is trained; `max_s` ends it early (seconds).

    Raises:
        UsageError: a value is out of its bounds.
    """

    width: int = 100
    epochs: int = 60
    batch: int = 128
    learning_rate: float = 5e-3
    dropout: float = 0.3
    smoothing: float = 0.1
    n3: float = 0.0
    max_s: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.epochs, self.batch) < 1 or self.learning_rate <= 0 or self.max_s <= 0:
            raise UsageError(f"width, epochs, batch, learning_rate and max_s must be positive: {self}")
        if not (0 <= self.dropout < 1 and 0 <= self.smoothing < 1 and self.n3 >= 0):
            raise UsageError(f"dropout and smoothing lie between 0 and 1, n3 is not negative: {self}")


class _Net(nn.Module):
    def __init__(self, facts: Facts, config: EmbeddingConfig) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(config.seed)
        shapes = ((facts.num_entities, 2 * config.width), (facts.num_relations, 2 * config.width))
        self.entities, self.relations = (nn.Parameter(0.1 * torch.randn(s, generator=chance)) for s in shapes)
        self.dropout = config.dropout

    def forward(self, head_B: Tensor, relation_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B, N) and the vectors that the norm is taken of."""
        head, relation = self.entities[head_B], self.relations[relation_B]
        (a, b), (c, d) = functional.dropout(head, self.dropout).chunk(2, 1), relation.chunk(2, 1)
        query = functional.dropout(torch.cat([a * c - b * d, a * d + b * c], 1), self.dropout)
        return query @ self.entities.T, torch.cat([head, relation])


def train_embedding(facts: Facts, config: EmbeddingConfig) -> Embedding:
    """Return an embedding of the facts. O(epochs * queries * N * width); the same seed gives the same vectors.

    Raises:
        InputError: there is no fact.
    """
    if not len(facts.triples_E3):
        raise InputError("there is no fact to learn from; give a base with at least one")
    rng, begun = np.random.default_rng(config.seed), time.monotonic()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = _Net(facts, config)
        optimizer = torch.optim.Adam(net.parameters(), config.learning_rate)
        queries = np.unique(facts.edges_E3[:, :2], axis=0)
        num_steps = config.epochs * -(-len(queries) // config.batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        for _ in range(config.epochs):
            order = rng.permutation(len(queries))
            for begin in range(0, len(order), config.batch):
                _step(net, facts, queries[order[begin : begin + config.batch]], optimizer, config)
                schedule.step()
            if time.monotonic() - begun > config.max_s:
                break
    return Embedding(net.entities.detach().numpy().copy(), net.relations.detach().numpy().copy())


def _step(
    net: _Net, facts: Facts, queries_B2: np.ndarray, optimizer: torch.optim.Optimizer, config: EmbeddingConfig
) -> None:
    head_B, relation_B = queries_B2.T
    logits_BN, vectors = net(torch.from_numpy(head_B.copy()), torch.from_numpy(relation_B.copy()))
    label_BN = torch.from_numpy(facts.tails(head_B, relation_B)).float()
    label_BN = (1 - config.smoothing) * label_BN + config.smoothing / facts.num_entities
    loss = functional.binary_cross_entropy_with_logits(logits_BN, label_BN)
    if config.n3:
        loss = loss + config.n3 * vectors.abs().pow(3).sum() / len(queries_B2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
