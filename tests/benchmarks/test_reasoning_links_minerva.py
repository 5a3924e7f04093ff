"""The REINFORCE walker beside ours: what it may not use, what it learns, and that a seed fixes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reasoning import links_minerva
from reasoning.links_data import Links
from reasoning.links_minerva import Asked, Graph, MinervaConfig, Walker, scores, train
from reasoning.links_scoring import measure, ranks
from tuili.reason.priors.facts import Facts

PARENT, GRAND = 0, 1
BACK = 2
CONFIG = MinervaConfig(num_updates=150, num_queries=16, width=16, hidden=16, beam=8, num_checks=2)


@pytest.fixture
def links() -> Links:
    """Families: `grand` is `parent` twice; a third of it is held out."""
    old = 3 * np.arange(24)
    parents = [(at, PARENT, at + 1) for at in old] + [(at + 1, PARENT, at + 2) for at in old]
    grand = np.array([(at, GRAND, at + 2) for at in old])
    facts = Facts(np.concatenate([parents, grand[8:]]), [f"e{n}" for n in range(72)], ["parent", "grand"])
    return Links("families", facts, grand[:4], grand[4:8])


def _open(walker: Walker, asked: Asked, at: int, hop: int) -> set[tuple[int, int]]:
    is_open_D = walker.open(asked, torch.tensor([at]), hop)[0]
    relation_D, to_D = walker.graph.relation_ND[at][is_open_D], walker.graph.to_ND[at][is_open_D]
    return set(zip(relation_D.tolist(), to_D.tolist(), strict=True))


def test_every_edge_there_and_back_can_be_taken_and_nothing_else(links: Links) -> None:
    walker = Walker(Graph(links.facts), CONFIG, 0)
    held_out = Asked.of(links.facts, links.test_Q3[:1], np.ones(1, np.float32), is_told=False)
    assert _open(walker, held_out, 1, 0) == {(walker.graph.stay, 1), (PARENT, 2), (BACK + PARENT, 0)}


def test_the_edge_that_is_asked_for_is_hidden_there_and_back(links: Links) -> None:
    walker = Walker(Graph(links.facts), CONFIG, 0)
    told = Asked.of(links.facts, np.array([[24, GRAND, 26]]), np.ones(1, np.float32), is_told=True)
    assert (GRAND, 26) not in _open(walker, told, 24, 0)
    assert (BACK + GRAND, 24) not in _open(walker, told, 26, 0)
    other = Asked.of(links.facts, np.array([[27, GRAND, 29]]), np.ones(1, np.float32), is_told=True)
    assert (GRAND, 26) in _open(walker, other, 24, 0)
    assert (BACK + GRAND, 24) in _open(walker, other, 26, 0)


def test_no_walk_ends_at_another_known_answer() -> None:
    facts = Facts(np.array([[0, 0, 1], [0, 0, 2], [1, 1, 2]]), ["a", "b", "c"], ["likes", "knows"])
    walker = Walker(Graph(facts), CONFIG, 0)
    told = Asked.of(facts, np.array([[0, 0, 1]]), np.ones(1, np.float32), is_told=True)
    last = CONFIG.max_hops - 1
    assert (0, 2) in _open(walker, told, 0, 0)
    assert (0, 2) not in _open(walker, told, 0, last)
    assert _open(walker, Asked.of(facts, np.array([[2, 0, 0]]), np.ones(1, np.float32), is_told=False), 2, last) >= {
        (walker.graph.stay, 2)
    }


def test_where_nothing_is_left_a_walk_stays() -> None:
    facts = Facts(np.array([[0, 0, 1], [0, 0, 0]]), ["a", "b"], ["likes"])
    walker = Walker(Graph(facts), CONFIG, 0)
    held_out = Asked.of(facts, np.array([[0, 0, 1]]), np.ones(1, np.float32), is_told=False)
    assert _open(walker, held_out, 0, CONFIG.max_hops - 1) == {(walker.graph.stay, 0)}


def test_it_learns_a_rule_from_rewards(links: Links) -> None:
    known = links.known(links.test_Q3, with_test=True)

    def hits(walker: Walker) -> float:
        return measure(ranks(scores(walker, links.test_Q3), links.test_Q3[:, 2], known))["hits1"]

    assert hits(train(links, CONFIG, 0)) == 1.0
    assert hits(Walker(Graph(links.facts), CONFIG, 0)) < 1.0


def test_mass_is_a_probability_and_a_seed_fixes_it(links: Links) -> None:
    config = MinervaConfig(num_updates=3, num_queries=8, width=8, hidden=8, beam=200)
    first, second = (scores(train(links, config, 3), links.test_Q3) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first.sum(1), 1, atol=1e-4)


def test_ranks_are_kept(links: Links, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUILI_HOME", str(tmp_path))
    config = MinervaConfig(num_updates=2, num_queries=8, width=8, hidden=8)
    first = links_minerva.test_ranks(links, config, 0)
    monkeypatch.setattr(links_minerva, "train", None)
    np.testing.assert_array_equal(links_minerva.test_ranks(links, config, 0), first)
