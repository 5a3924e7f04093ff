"""Propagation from a query's head over all edges, conditioned on the query's relation. NumPy only.

Every layer sends messages along edges, weighs each channel by the edge's relation as the query's relation sees it,
and adds them up; an entity's last state says whether it is the answer. No entity has a vector of its own, so a model
works on a graph that it never saw, as long as the relations are the same.

Legend: D channels, N entities, B queries of one relation, R relations with inverses, E edges, K conditions.
Source: Zhu et al. 2021, "Neural Bellman-Ford Networks", eq. 5 and 6 with DistMult messages.
`propagation_training.py` trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tuili.reason.priors.facts import Facts, Floats, Ints

MOST_DENSE = 1024
EPSILON = 1e-5
BATCH = 64


@dataclass(frozen=True, slots=True)
class Propagation:
    """Weights: query (R, D), condition (R, K), out1 (2 D, H), out1_bias, out2 (H,), and of each layer l
    base.l (R, D), given.l (K, R, D), mix.l (3 D, D), gain.l (D,), bias.l (D,).
    """

    weights: Mapping[str, Floats]
    num_layers: int

    def scores(self, facts: Facts, head_B: Ints, relation_B: Ints, without_F: Ints | None = None) -> Floats:
        """Return a logit of every entity as the tail of each query, (B, N).

        `without_F`: rows of facts that the messages leave out. O(layers (R D + B N^2 D)) on small graphs,
        O(layers * B * E * D) on others.
        """
        found = np.zeros((len(head_B), facts.num_entities), np.float32)
        for relation in np.unique(relation_B):
            rows = np.flatnonzero(relation_B == relation)
            for begin in range(0, len(rows), BATCH):
                some = rows[begin : begin + BATCH]
                found[some] = self._of_relation(facts, head_B[some], int(relation), without_F)
        return found

    def _of_relation(self, facts: Facts, head_B: Ints, relation: int, without_F: Ints | None) -> Floats:
        w, num, width = self.weights, facts.num_entities, self.weights["query"].shape[1]
        edges, query_D, at_head = kept_edges(facts, without_F), w["query"][relation], (head_B, np.arange(len(head_B)))
        state_NBD = np.zeros((num, len(head_B), width), np.float32)
        state_NBD[at_head] = query_D
        for layer in range(self.num_layers):
            mix = w[f"mix.{layer}"]
            by_RD = w[f"base.{layer}"] + np.tensordot(w["condition"][relation], w[f"given.{layer}"], 1)
            mixed_NBD = send(state_NBD, edges, by_RD * message_scale(facts)) @ mix[width : 2 * width]
            mixed_NBD[at_head] += query_D @ mix[2 * width :]
            if layer:
                mixed_NBD += state_NBD @ mix[:width]
            mixed_NBD -= mixed_NBD.mean(2, keepdims=True)
            mixed_NBD /= np.sqrt(np.square(mixed_NBD).mean(2, keepdims=True) + EPSILON)
            mixed_NBD = np.maximum(mixed_NBD * w[f"gain.{layer}"] + w[f"bias.{layer}"], 0)
            state_NBD = mixed_NBD + state_NBD if layer else mixed_NBD
        constant = query_D @ w["out1"][width:] + w["out1_bias"]
        hidden = np.maximum(state_NBD @ w["out1"][:width] + constant, 0)
        return np.asarray((hidden @ w["out2"]).T, np.float32)


def kept_edges(facts: Facts, without_F: Ints | None) -> Ints:
    """Return the edges without those of some facts, (E, 3)."""
    if without_F is None or not len(without_F):
        return facts.edges_E3
    num = len(facts.triples_E3)
    return np.delete(facts.edges_E3, np.concatenate([without_F, without_F + num]), axis=0)


def message_scale(facts: Facts) -> float:
    """Return one over the root of the mean degree, so that sums keep their size on any graph."""
    return float(np.sqrt(facts.num_entities / max(1, len(facts.edges_E3))))


def send(state_NBD: Floats, edges_E3: Ints, by_RD: Floats) -> Floats:
    """Return the sum of the messages into each entity; by dense products on small graphs, else edge by edge."""
    num = len(state_NBD)
    if num > MOST_DENSE:
        return send_sparse(state_NBD, edges_E3, by_RD)
    head, relation, tail = edges_E3.T
    matrix = np.zeros((num * num, by_RD.shape[1]), np.float32)
    np.add.at(matrix, tail * num + head, by_RD[relation])
    sent_DNB = matrix.T.reshape(-1, num, num) @ state_NBD.transpose(2, 0, 1)
    return np.asarray(sent_DNB.transpose(1, 2, 0), np.float32)


def send_sparse(state_NBD: Floats, edges_E3: Ints, by_RD: Floats) -> Floats:
    """The same without a matrix: sums over edges sorted by their tail. O(E B D)."""
    head, relation, tail = edges_E3[np.argsort(edges_E3[:, 2], kind="stable")].T
    sent_NBD = np.zeros_like(state_NBD)
    if len(tail):
        begins = np.flatnonzero(np.r_[True, tail[1:] != tail[:-1]])
        sent_NBD[tail[begins]] = np.add.reduceat(state_NBD[head] * by_RD[relation][:, None], begins, axis=0)
    return sent_NBD
