"""Peers in the policy's own world, with the same beam: a search without priors, and a Gumbel top-k pruner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reasoning.links_walks import Walks
from tuili.reason.policy import Floats, Policy
from tuili.reason.ppo import Network
from tuili.reason.worlds.beam import best_with
from tuili.reason.worlds.paths import FEATURES, Paths, Standing

PRIORLESS = tuple(name for name in FEATURES if name not in ("stop", "hop", "degree", "at_head", "back"))
LEAST_MASS = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunerConfig:
    """How the pruner is trained; `width`: paths that it keeps of a query at each hop."""

    num_updates: int = 60
    num_queries: int = 32
    width: int = 8
    hidden: int = 32
    learning_rate: float = 3e-3


def prune(walks: Walks, config: PrunerConfig) -> Policy:
    """Train a pruner with the policy's features and width, but by the answer's likelihood and not by reward.

    It keeps the top few under Gumbel noise; gradients pass the cut as if it were soft (straight through).
    Source: Zhang et al. 2023, "AdaProp: Learning Adaptive Propagation for Graph Neural Network based Knowledge Graph
    Reasoning", section 3.2.
    """
    rng, world = np.random.default_rng(walks.priors.seed), walks.train
    network = Network(len(world.feature_names), config.hidden, walks.priors.seed)
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate)
    network.scale_to(world.start(256, rng).features_EF)
    for _ in range(config.num_updates):
        query_W = rng.choice(len(world.queries), min(config.num_queries, len(world.queries)), replace=False)
        loss = _miss(world, network, query_W, config.width, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.export(world.feature_names)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _miss(world: Paths, network: Network, query_W: np.ndarray, width: int, rng: np.random.Generator) -> Tensor:
    """Return minus the mean logarithm of the mass that kept paths bring to the answers."""
    walks, score_S = world.begin(query_W), torch.zeros(len(query_W))
    mass_Q = torch.full((len(world.queries),), LEAST_MASS)
    ended: list[tuple[Standing, Floats]] = []
    for hop in range(world.config.max_hops):
        actions = world.actions(walks, hop, np.arange(len(walks)), rng)
        total_E = score_S[_tensor(actions.state_E)] + network(actions.choices)[0]
        noisy_E = total_E + _tensor(rng.gumbel(size=len(total_E)).astype(np.float32))
        query_E = walks.query_S[actions.state_E]
        taken = best_with(ended, query_E, noisy_E.detach().numpy(), width)
        least_Q = np.full(len(world.queries), np.inf, np.float32)
        np.minimum.at(least_Q, query_E[taken], noisy_E.detach().numpy()[taken])
        soft = torch.sigmoid(noisy_E[_tensor(taken)] - _tensor(least_Q[query_E[taken]]))
        score = total_E[_tensor(taken)] + torch.log1p(soft - soft.detach())
        after, stopped = world.follow(walks, actions, taken)
        is_over = stopped | (hop + 1 == world.config.max_hops)
        is_hit = is_over & (after.at_S == world.queries.answer_Q[after.query_S])
        mass_Q = mass_Q.index_add(0, _tensor(after.query_S[is_hit]), score[_tensor(is_hit)].exp())
        ended.append((after.take(stopped), score.detach().numpy()[stopped]))
        walks, score_S = after.take(~is_over), score[_tensor(~is_over)]
        if not len(walks):
            break
    return -mass_Q[_tensor(query_W)].log().mean()
