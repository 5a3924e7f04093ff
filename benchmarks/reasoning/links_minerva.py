"""A walker trained by REINFORCE in the manner of MINERVA: vectors, a recurrent history, rewards and nothing else.

It sees training facts only. The edge that a training query asks for and its inverse can't be taken, and a walk can't
end at another known answer. The state that scored best on the validation queries is kept.

Legend: N entities, A relations with inverses and STAY, W walks, D the largest number of edges out of an entity, Q
queries, B walks of a beam.
Unlike MINERVA's, the baseline moves for each relation, a walk may end in several ways from where it came to (same
expectation, less noise), and the masses of walks to one entity are added up, as in `tuili.reason.worlds.beam`.
Sources: Das et al. 2018, "Go for a Walk and Arrive at the Answer", section 3 (states, actions, history, entropy);
Williams 1992, "Simple Statistical Gradient-Following Algorithms" (REINFORCE with a baseline).
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from reasoning.kept import kept
from reasoning.links_data import Links
from reasoning.links_scoring import measure, ranks
from tuili.reason.priors.facts import Facts, Floats, Ints, inverse

# By Hits@1 on the validation part: entities' vectors are learned by heart on UMLS, on Kinships they help.
BLIND = {"kinship": 0.0}
NEVER = -1e9
LEAST_SPREAD = 1e-3
LEAST_RATE = 0.05
CHUNK = 64
History = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class MinervaConfig:
    """How the walker is built and trained; `beam`: walks kept of a query when it is tested, as MINERVA has it.

    `num_rollouts`: first edges sampled for a query; `num_ends`: last edges sampled for each of these. `entropy`: the
    bonus at the start, falling to 0. `decay`: how much of the moving baseline an update keeps. `num_checks`: how often
    the walker is scored on the validation queries. `blind`: the share of training queries whose walks see relations
    alone, so that entities are learned as what relations leave over; 1: all, tested ones too.
    """

    num_updates: int = 2500
    num_queries: int = 32
    num_rollouts: int = 20
    num_ends: int = 40
    max_hops: int = 2
    width: int = 64
    hidden: int = 128
    learning_rate: float = 5e-3
    entropy: float = 0.1
    blind: float = 1.0
    decay: float = 0.95
    beam: int = 100
    num_checks: int = 8


class Graph:
    """Edges out of every entity as padded tables (N, D); column 0 stays where it is."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.stay = facts, facts.num_relations
        edges = facts.edges_E3[np.argsort(facts.edges_E3[:, 0], kind="stable")]
        begins = np.searchsorted(edges[:, 0], np.arange(facts.num_entities + 1))
        column_E = np.arange(len(edges)) - begins[edges[:, 0]] + 1
        shape = (facts.num_entities, int(np.diff(begins).max()) + 1)
        relation_ND, to_ND = np.full(shape, self.stay), np.full(shape, -1)
        to_ND[:, 0] = np.arange(facts.num_entities)
        relation_ND[edges[:, 0], column_E], to_ND[edges[:, 0], column_E] = edges[:, 1], edges[:, 2]
        self.is_edge_ND = torch.from_numpy(to_ND >= 0)
        self.relation_ND, self.to_ND = torch.from_numpy(relation_ND), torch.from_numpy(np.maximum(to_ND, 0))


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries of W walks.

    `answer_W`: -1 where the edge isn't in the graph. `barred_WN`: known answers. `sees_W`: 1 where walks see which
    entities they are at, 0 where they see relations alone.
    """

    head_W: Tensor
    relation_W: Tensor
    answer_W: Tensor
    barred_WN: Tensor
    sees_W: Tensor

    @classmethod
    def of(cls, facts: Facts, edges_Q3: Ints, sees_Q: Floats, *, is_told: bool) -> Asked:
        """Return queries for edges; `is_told`: they are training facts, each barred from being taken."""
        head, relation, tail = edges_Q3.T
        barred = facts.tails(head, relation)
        if is_told:
            barred[np.arange(len(tail)), tail] = False
        answer = tail if is_told else np.full_like(tail, -1)
        return cls(*(torch.from_numpy(np.ascontiguousarray(each)) for each in (head, relation, answer, barred, sees_Q)))

    def times(self, num: int) -> Asked:
        """Return every query `num` times in a row."""
        return Asked(*(getattr(self, name).repeat_interleave(num, 0) for name in self.__slots__))


class Walker(nn.Module):
    """Scores each edge by the inner product of the state's reading with the edge's relation and entity vectors."""

    def __init__(self, graph: Graph, config: MinervaConfig, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        width = config.width
        self.graph, self.config = graph, config
        self.entities = nn.Embedding(graph.facts.num_entities, width)
        self.relations = nn.Embedding(graph.stay + 1, width)
        nn.init.xavier_uniform_(self.entities.weight)
        nn.init.xavier_uniform_(self.relations.weight)
        self.history = nn.LSTMCell(2 * width, config.hidden)
        inner = config.hidden + 2 * width
        self.reader = nn.Sequential(nn.Linear(inner, inner), nn.ReLU(), nn.Linear(inner, 2 * width))

    def begin(self, asked: Asked) -> History:
        """Return the history of walks that have come to their heads by no edge."""
        zeros = torch.zeros(len(asked.head_W), self.config.hidden)
        return self.go_on((zeros, zeros), torch.full_like(asked.head_W, self.graph.stay), asked.head_W, asked.sees_W)

    def go_on(self, history: History, relation_W: Tensor, to_W: Tensor, sees_W: Tensor) -> History:
        """Return the history after an edge."""
        seen_WD = self.entities(to_W) * sees_W[:, None]
        found: History = self.history(torch.cat([self.relations(relation_W), seen_WD], 1), history)
        return found

    def forward(self, asked: Asked, at_W: Tensor, hop: int, history: History) -> Tensor:
        """Return the log-probability of every edge of the table, (W, D); barred ones and padding have next to none."""
        sees_W1 = asked.sees_W[:, None]
        parts = [history[0], self.entities(at_W) * sees_W1, self.relations(asked.relation_W)]
        by_relation, by_entity = self.reader(torch.cat(parts, 1)).chunk(2, 1)
        relation_WD, to_WD = self.graph.relation_ND[at_W], self.graph.to_ND[at_W]
        logits_WD = (by_relation @ self.relations.weight.T).gather(1, relation_WD)
        logits_WD = logits_WD + (by_entity @ self.entities.weight.T * sees_W1).gather(1, to_WD)
        return torch.log_softmax(logits_WD.masked_fill(~self.open(asked, at_W, hop), NEVER), 1)

    def open(self, asked: Asked, at_W: Tensor, hop: int) -> Tensor:
        """Tell which edges can be taken, (W, D). Where none is left, a walk stays."""
        relation_WD, to_WD = self.graph.relation_ND[at_W], self.graph.to_ND[at_W]
        is_open_WD = self.graph.is_edge_ND[at_W] & ~self.is_asked(asked, at_W, relation_WD, to_WD)
        if hop + 1 == self.config.max_hops:
            is_open_WD &= ~asked.barred_WN.gather(1, to_WD)
        is_open_WD[:, 0] |= ~is_open_WD.any(1)
        return is_open_WD

    def is_asked(self, asked: Asked, at_W: Tensor, relation_WD: Tensor, to_WD: Tensor) -> Tensor:
        """Tell which edges are the one asked for, there or back, (W, D)."""
        head, relation, answer = asked.head_W[:, None], asked.relation_W[:, None], asked.answer_W[:, None]
        back = torch.from_numpy(inverse(asked.relation_W.numpy(), self.graph.stay))[:, None]
        there_WD = (at_W[:, None] == head) & (relation_WD == relation) & (to_WD == answer)
        return there_WD | ((at_W[:, None] == answer) & (relation_WD == back) & (to_WD == head))


def train(links: Links, config: MinervaConfig, seed: int) -> Walker:
    """Train the walker on all training facts, each asked for without its own edge."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    walker, triples = Walker(Graph(links.facts), config, seed), links.facts.triples_E3
    optimizer = torch.optim.Adam(walker.parameters(), config.learning_rate)
    best, state, baseline_A = -1.0, walker.state_dict(), torch.zeros(links.facts.num_relations)
    for update in range(1, config.num_updates + 1):
        rest = 1 - update / config.num_updates
        optimizer.param_groups[0]["lr"] = config.learning_rate * max(LEAST_RATE, rest)
        picked = rng.choice(len(triples), min(config.num_queries, len(triples)), replace=False)
        sees_Q = (rng.random(len(picked)) >= config.blind).astype(np.float32)
        asked = Asked.of(links.facts, triples[picked], sees_Q, is_told=True)
        log_p_W, entropy, reward_W = _episode(walker, asked, generator)
        relation_W = asked.relation_W.repeat_interleave(len(reward_W) // len(picked))
        gain_W = reward_W - baseline_A[relation_W]
        loss = -(gain_W / (gain_W.std() + LEAST_SPREAD) * log_p_W).mean() - config.entropy * rest * entropy
        _follow(baseline_A, relation_W, reward_W, config.decay)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % max(1, config.num_updates // config.num_checks) == 0 or update == config.num_updates:
            mrr = _valid_mrr(walker, links)
            if mrr > best:
                best, state = mrr, copy.deepcopy(walker.state_dict())
    walker.load_state_dict(state)
    return walker


def _follow(baseline_A: Tensor, relation_W: Tensor, reward_W: Tensor, decay: float) -> None:
    """Move the baseline of every relation that was asked towards its mean reward."""
    num_A = torch.zeros_like(baseline_A).index_add(0, relation_W, torch.ones_like(reward_W))
    mean_A = torch.zeros_like(baseline_A).index_add(0, relation_W, reward_W) / num_A.clamp(min=1)
    baseline_A += (1 - decay) * (mean_A - baseline_A) * (num_A > 0)


def _episode(walker: Walker, asked: Asked, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Follow rollouts to their ends; return each one's log-probability, the mean entropy, and the rewards (1: a hit).

    All rollouts of a query begin alike, so its first edges are judged once.
    """
    at_W, history, max_hops = asked.head_W, walker.begin(asked), walker.config.max_hops
    log_p_W, entropy = torch.zeros(len(at_W)), torch.zeros(())
    for hop in range(max_hops):
        num = (walker.config.num_rollouts if hop == 0 else 1) * (walker.config.num_ends if hop + 1 == max_hops else 1)
        log_p_WD = walker(asked, at_W, hop, history)
        p_WD = log_p_WD.exp()
        entropy = entropy - (p_WD * log_p_WD).sum(1).mean() / max_hops
        column_W = torch.multinomial(p_WD.detach(), num, replacement=True, generator=generator).reshape(-1)
        row_W = torch.arange(len(at_W)).repeat_interleave(num)
        log_p_W = log_p_W[row_W] + log_p_WD[row_W, column_W]
        relation_W = walker.graph.relation_ND[at_W[row_W], column_W]
        at_W = walker.graph.to_ND[at_W[row_W], column_W]
        if hop + 1 < max_hops:
            asked = asked.times(num)
            history = walker.go_on((history[0][row_W], history[1][row_W]), relation_W, at_W, asked.sees_W)
    return log_p_W, entropy, (at_W == asked.answer_W.repeat_interleave(num)).float()


def _valid_mrr(walker: Walker, links: Links) -> float:
    known = links.known(links.valid_Q3, with_test=False)
    return measure(ranks(scores(walker, links.valid_Q3), links.valid_Q3[:, 2], known))["mrr"]


@torch.no_grad()
def scores(walker: Walker, edges_Q3: Ints) -> Floats:
    """Return the mass that the best `beam` walks of each held-out query bring to every entity, (Q, N)."""
    facts = walker.graph.facts
    found_QN = np.zeros((len(edges_Q3), facts.num_entities), np.float32)
    for begin in range(0, len(edges_Q3), CHUNK):
        edges = edges_Q3[begin : begin + CHUNK]
        sees_Q = np.full(len(edges), float(walker.config.blind < 1), np.float32)
        asked = Asked.of(facts, edges, sees_Q, is_told=False)
        at_QB, score_QB = _beam(walker, asked)
        mass_QN = torch.zeros(len(at_QB), facts.num_entities).scatter_add(1, at_QB, score_QB.exp())
        found_QN[begin : begin + CHUNK] = mass_QN.numpy()
    return found_QN


def _beam(walker: Walker, asked: Asked) -> tuple[Tensor, Tensor]:
    """Return where the best walks of each query end, and their log-probabilities, both (Q, B)."""
    num = len(asked.head_W)
    at_QB, score_QB, history = asked.head_W[:, None], torch.zeros(num, 1), walker.begin(asked)
    for hop in range(walker.config.max_hops):
        width = at_QB.shape[1]
        at_W = at_QB.reshape(-1)
        log_p_WD = walker(asked.times(width), at_W, hop, history)
        total = (score_QB.reshape(-1, 1) + log_p_WD).reshape(num, -1)
        score_QB, place_QB = total.topk(min(walker.config.beam, total.shape[1]), 1)
        parent = (place_QB // log_p_WD.shape[1] + width * torch.arange(num)[:, None]).reshape(-1)
        column = (place_QB % log_p_WD.shape[1]).reshape(-1)
        relation_W = walker.graph.relation_ND[at_W[parent], column]
        at_QB = walker.graph.to_ND[at_W[parent], column].reshape(num, -1)
        sees_W = asked.sees_W.repeat_interleave(at_QB.shape[1])
        history = walker.go_on((history[0][parent], history[1][parent]), relation_W, at_QB.reshape(-1), sees_W)
    return at_QB, score_QB


def test_ranks(links: Links, config: MinervaConfig, seed: int) -> np.ndarray:
    """Train a walker, unless it was trained before, and return the ranks of the test answers."""

    def make() -> dict[str, np.ndarray]:
        walker = train(links, config, seed)
        known = links.known(links.test_Q3, with_test=True)
        return {"ranks": ranks(scores(walker, links.test_Q3), links.test_Q3[:, 2], known)}

    queries = np.concatenate([links.valid_Q3, links.test_Q3])
    given = {"facts": links.facts.edges_E3, "queries": queries, "config": config, "seed": seed}
    return np.asarray(kept("minerva", given, (sys.modules[__name__],), make)["ranks"])
