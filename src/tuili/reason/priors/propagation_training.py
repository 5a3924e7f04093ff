"""Train the propagation: each batch of one relation's facts is taken out of the graph and asked for. Needs torch.

Source: Zhu et al. 2021, "Neural Bellman-Ford Networks", section 3.3 (edges of the batch are dropped); the loss is the
cross-entropy over the entities that are not known answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tuili.errors import InputError, UsageError
from tuili.reason.priors.facts import Facts, Ints
from tuili.reason.priors.propagation import EPSILON, MOST_DENSE, Propagation, message_scale

MAX_GRADIENT = 1.0
LEAST_PARTS = 4
WARM_UP = 0.15


@dataclass(frozen=True, kw_only=True, slots=True)
class PropagationConfig:
    """How a propagation is trained. `both_ways`: also ask for heads; `max_s` ends it early (seconds).

    Raises:
        UsageError: a value is out of its bounds.
    """

    width: int = 32
    num_layers: int = 3
    num_conditions: int = 16
    hidden: int = 64
    epochs: int = 6
    batch: int = 64
    learning_rate: float = 5e-3
    dropout: float = 0.1
    both_ways: bool = True
    max_s: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (self.width, self.num_layers, self.num_conditions, self.hidden, self.epochs, self.batch)
        if min(sizes) < 1 or self.learning_rate <= 0 or self.max_s <= 0 or not 0 <= self.dropout < 1:
            raise UsageError(f"sizes, learning_rate and max_s must be positive, dropout below 1: {self}")


class Net(nn.Module):
    """The weights of a propagation as parameters, on the graph that it learns from."""

    def __init__(self, facts: Facts, config: PropagationConfig) -> None:
        super().__init__()
        self.config, self.num, self.scale = config, facts.num_entities, message_scale(facts)
        head, self.relation_E, tail = (torch.from_numpy(column.copy()) for column in facts.edges_E3.T)
        self.head_E, self.tail_E, self.cell_E = head, tail, tail * self.num + head
        chance = torch.Generator().manual_seed(config.seed)
        width, relations, given = config.width, facts.num_relations, config.num_conditions
        shapes = {
            "query": ((relations, width), 1.0),
            "condition": ((relations, given), 0.3),
            "out1": ((2 * width, config.hidden), (2 * width) ** -0.5),
            "out1_bias": ((config.hidden,), 0.0),
            "out2": ((config.hidden,), config.hidden**-0.5),
        }
        for layer in range(config.num_layers):
            shapes[f"base_{layer}"] = ((relations, width), 0.5)
            shapes[f"given_{layer}"] = ((given, relations, width), 0.2)
            shapes[f"mix_{layer}"] = ((3 * width, width), (3 * width) ** -0.5)
            shapes[f"gain_{layer}"] = ((width,), 0.0)
            shapes[f"bias_{layer}"] = ((width,), 0.0)
        self.w = nn.ParameterDict(
            {name: nn.Parameter(size * torch.randn(shape, generator=chance)) for name, (shape, size) in shapes.items()}
        )
        for layer in range(config.num_layers):
            nn.init.ones_(self.w[f"gain_{layer}"])

    def forward(self, head_B: Tensor, relation: int, keep_E: Tensor) -> Tensor:
        """Return the logits (B, N) with the edges weighed by `keep_E`; `Propagation` is its twin in NumPy."""
        w, width = self.w, self.config.width
        query_D, at_head = w["query"][relation], (head_B, torch.arange(len(head_B)))
        state_NBD = torch.zeros(self.num, len(head_B), width).index_put(at_head, query_D)
        for layer in range(self.config.num_layers):
            by_RD = w[f"base_{layer}"] + torch.tensordot(w["condition"][relation], w[f"given_{layer}"], 1)
            sent_NBD = self._send(state_NBD, by_RD[self.relation_E] * (keep_E * self.scale)[:, None])
            # The query's own vector stands at its head only, so its part of the product is added there.
            mixed_NBD = sent_NBD @ w[f"mix_{layer}"][width : 2 * width]
            mixed_NBD = mixed_NBD.index_put(at_head, query_D @ w[f"mix_{layer}"][2 * width :], accumulate=True)
            if layer:
                mixed_NBD = mixed_NBD + state_NBD @ w[f"mix_{layer}"][:width]
            mixed_NBD = functional.layer_norm(mixed_NBD, (width,), w[f"gain_{layer}"], w[f"bias_{layer}"], EPSILON)
            mixed_NBD = functional.relu(mixed_NBD) * self._mask(len(head_B))
            state_NBD = mixed_NBD + state_NBD if layer else mixed_NBD
        constant = query_D @ w["out1"][width:] + w["out1_bias"]
        return (functional.relu(state_NBD @ w["out1"][:width] + constant) @ w["out2"]).T

    def _mask(self, num_queries: int) -> Tensor:
        """Return what dropout leaves of each query's channels, the same for all entities."""
        ones = torch.ones(num_queries, self.config.width)
        return functional.dropout(ones, self.config.dropout, self.training)

    def _send(self, state_NBD: Tensor, by_ED: Tensor) -> Tensor:
        if self.num > MOST_DENSE:
            message_EBD = state_NBD[self.head_E] * by_ED[:, None]
            return torch.zeros_like(state_NBD).index_add(0, self.tail_E, message_EBD)
        flat = torch.zeros(by_ED.shape[1], self.num * self.num).index_add(1, self.cell_E, by_ED.T.contiguous())
        return torch.bmm(flat.view(-1, self.num, self.num), state_NBD.permute(2, 0, 1)).permute(1, 2, 0)

    def export(self) -> Propagation:
        """Return the weights as they are now, without torch."""
        weights = {name.replace("_", "."): each.detach().numpy().copy() for name, each in self.w.items()}
        weights["out1_bias"] = weights.pop("out1.bias")
        return Propagation(weights, self.config.num_layers)


OnEpoch = Callable[[int, Net], None]


def train_propagation(
    facts: Facts, config: PropagationConfig, on_epoch: OnEpoch = lambda epoch, net: None
) -> Propagation:
    """Return a propagation trained to find each fact in the graph without it.

    O(epochs * queries * layers * D * N^2) on small graphs. The same seed gives the same weights.

    Raises:
        InputError: there is no fact.
    """
    if not len(facts.triples_E3):
        raise InputError("there is no fact to learn from; give a base with at least one")
    rng, begun = np.random.default_rng(config.seed), time.monotonic()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = Net(facts, config)
        optimizer = torch.optim.Adam(net.parameters(), config.learning_rate)
        num_steps = config.epochs * len(_batches(facts, config, rng))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, num_steps + 1, pct_start=WARM_UP
        )
        for epoch in range(config.epochs):
            for edge_B in _batches(facts, config, rng):
                _step(net, facts, edge_B, optimizer)
                schedule.step()
            on_epoch(epoch, net)
            if time.monotonic() - begun > config.max_s:
                break
    return net.export()


def _batches(facts: Facts, config: PropagationConfig, rng: np.random.Generator) -> list[Ints]:
    """Return rows of edges, each batch of one relation and never more than a quarter of its facts."""
    found: list[Ints] = []
    num = len(facts.edges_E3) if config.both_ways else len(facts.triples_E3)
    relation_E = facts.edges_E3[:num, 1]
    for relation in np.unique(relation_E):
        rows = rng.permutation(np.flatnonzero(relation_E == relation))
        parts = max(-(-len(rows) // config.batch), min(LEAST_PARTS, len(rows)))
        found += np.array_split(rows, parts)
    return [found[place] for place in rng.permutation(len(found))]


def _step(net: Net, facts: Facts, edge_B: Ints, optimizer: torch.optim.Optimizer) -> None:
    head_B, relation_B, tail_B = facts.edges_E3[edge_B].T
    num = len(facts.triples_E3)
    keep_E = torch.ones(2 * num)
    keep_E[torch.from_numpy(np.concatenate([edge_B, (edge_B + num) % (2 * num)]))] = 0
    known_BN = facts.tails(head_B, relation_B)
    known_BN[np.arange(len(edge_B)), tail_B] = False
    logits_BN = net(torch.from_numpy(head_B.copy()), int(relation_B[0]), keep_E)
    logits_BN = logits_BN.masked_fill(torch.from_numpy(known_BN), -1e9)
    loss = functional.cross_entropy(logits_BN, torch.from_numpy(tail_B.copy()))
    # Small batches of rare relations have as loud gradients as large ones without this.
    loss = loss * math.sqrt(len(edge_B) / net.config.batch)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), MAX_GRADIENT)
    optimizer.step()
