"""Peers that walk: a REINFORCE walker as in MINERVA, searches without a learned policy, a Gumbel top-k pruner.

All move in the same world as the policy, with the same beam.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from reasoning.links_walks import Walks
from tuili.reason.policy import Floats, Policy, sample
from tuili.reason.ppo import Network, segment_log_softmax
from tuili.reason.worlds.beam import Judge, best_with
from tuili.reason.worlds.paths import FEATURES, STOP, Actions, Paths, Standing

PRIORLESS = tuple(name for name in FEATURES if name not in ("stop", "hop", "degree", "at_head", "back"))
BASELINE_DECAY = 0.95
LEAST_MASS = 1e-4


class Walker(nn.Module):
    """A walker without priors: vectors of entities and relations, the action judged by its own.

    Source: Das et al. 2018, "Go for a Walk and Arrive at the Answer", eq. 2; the history is the last relation
    and the entity, where MINERVA has an LSTM.
    """

    def __init__(self, walks: Walks, width: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        facts = walks.links.facts
        self.entities = nn.Embedding(facts.num_entities, width)
        self.relations = nn.Embedding(facts.num_relations + 1, width)
        self.state = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 2 * width))

    def forward(self, world: Paths, standing: Standing, hop: int, actions: Actions) -> Tensor:
        """Return the logit of every action, (E,)."""
        relation = world.queries.relation_Q[standing.query_S]
        last = np.where(standing.by_S < 0, self.relations.num_embeddings - 1, standing.by_S)
        head = world.queries.head_Q[standing.query_S]
        known = [self.relations(_tensor(relation)), self.relations(_tensor(last))]
        known += [self.entities(_tensor(standing.at_S)), self.entities(_tensor(head))]
        state_SD = self.state(torch.cat(known, 1))
        taken = np.where(actions.relation_E == STOP, self.relations.num_embeddings - 1, actions.relation_E)
        action_ED = torch.cat([self.relations(_tensor(taken)), self.entities(_tensor(actions.to_E))], 1)
        return (state_SD[_tensor(actions.state_E)] * action_ED).sum(1)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReinforceConfig:
    """How the walker is trained: it takes all training facts in turn, each with its own edge hidden."""

    num_updates: int = 600
    num_walks: int = 256
    width: int = 48
    learning_rate: float = 3e-3
    entropy: float = 0.05


def blind(walks: Walks) -> Walks:
    """Return worlds without priors: training queries are all facts, rewards are hits only, edges cost nothing."""
    facts = walks.links.facts
    config = replace(walks.train.config, soft=0.0, cost=0.0)
    edges = facts.triples_E3
    nothing = np.zeros((len(edges), 1), np.float32).repeat(facts.num_entities, 1)
    head, relation, tail = edges.T
    queries = replace(
        walks.train.queries, head_Q=head, relation_Q=relation, answer_Q=tail, priors={}, mixture_QN=nothing
    )
    train = Paths(walks.valid.graph, queries, config)
    calm = replace(config, dropout=0.0)
    held = (Paths(each.graph, each.queries, calm, dropped=PRIORLESS) for each in (walks.valid, walks.test))
    return Walks(walks.priors, train, *held)


def reinforce(walks: Walks, config: ReinforceConfig) -> Walker:
    """Train the walker. Source: Williams 1992, "Simple Statistical Gradient-Following Algorithms" (REINFORCE)."""
    rng = np.random.default_rng(walks.priors.seed)
    walker = Walker(walks, config.width, walks.priors.seed)
    optimizer = torch.optim.Adam(walker.parameters(), config.learning_rate)
    baseline = 0.0
    for update in range(config.num_updates):
        entropy_weight = config.entropy * (1 - update / config.num_updates)
        log_p_W, entropy, reward_W = _episode(walks.train, walker, config.num_walks, rng)
        loss = -(torch.from_numpy(reward_W - baseline) * log_p_W).mean() - entropy_weight * entropy
        baseline = BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * float(reward_W.mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return walker


def _episode(world: Paths, walker: Walker, num_walks: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Floats]:
    """Follow walks to their ends; return each one's summed log-probability, the mean entropy, and the rewards."""
    choices = world.start(num_walks, rng)
    log_p_W, entropies = torch.zeros(num_walks), []
    reward_W = np.zeros(num_walks, np.float32)
    step = None
    while step is None or step.choices is not None:
        walk_S, actions, choices = world.walk_S, world.current, world.current.choices
        log_p_E = segment_log_p(walker(world, world.standing, world.hop, actions), choices.owner, len(choices))
        picked = sample(log_p_E.detach().numpy(), choices.offsets, rng)
        log_p_W = log_p_W.index_add(0, _tensor(walk_S), log_p_E[_tensor(choices.offsets[:-1] + picked)])
        entropies.append(-(log_p_E.exp() * log_p_E).sum() / len(choices))
        step = world.step(picked)
        reward_W[walk_S] += step.reward_S
    return log_p_W, torch.stack(entropies).mean(), reward_W


def segment_log_p(logits_E: Tensor, owner_E: np.ndarray, num: int) -> Tensor:
    """Return log-probabilities within each state."""
    return segment_log_softmax(logits_E, _tensor(owner_E), num)


def judged_by(world: Paths, walker: Walker) -> Judge:
    """Return what judges actions as the walker does."""

    def judge(walks: Standing, hop: int, actions: Actions) -> Floats:
        with torch.no_grad():
            logits_E = walker(world, walks, hop, actions)
            found: Floats = segment_log_p(logits_E, actions.state_E, len(walks)).numpy()
        return found

    return judge


# -- a pruner that is trained by gradients through what it keeps ------------------------------------


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
