"""Propagation: four ways to compute it agree; it learns a rule, and uses it on entities that it never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tuili.errors import InputError, UsageError
from tuili.reason.priors import propagation, propagation_training
from tuili.reason.priors.facts import Facts
from tuili.reason.priors.propagation_training import Net, PropagationConfig, train_propagation


def random_facts(num_entities: int, num: int, seed: int = 0) -> Facts:
    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.integers(num_entities, size=num), rng.integers(3, size=num)])
    rows = np.column_stack([rows, rng.integers(num_entities, size=num)])
    return Facts(rows, [f"e{i}" for i in range(num_entities)], list("xyz"))


def families(num: int) -> Facts:
    """Relation 1 is relation 0 twice; relation 2 leads astray."""
    rows = []
    for family in range(num):
        old, middle, young = 3 * family, 3 * family + 1, 3 * family + 2
        rows += [(old, 0, middle), (middle, 0, young), (old, 1, young), (young, 2, (5 * family + 1) % (3 * num))]
    return Facts(np.array(rows), [f"p{i}" for i in range(3 * num)], ["parent", "grand", "odd"])


@pytest.mark.parametrize("most_dense", [0, 1024])
def test_numpy_and_torch_agree_densely_and_sparsely(most_dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, hidden = random_facts(7, 25), np.array([2, 5])
    num = len(facts.triples_E3)
    net = Net(facts, PropagationConfig(width=5)).eval()
    keep = torch.ones(2 * num)
    keep[torch.from_numpy(np.concatenate([hidden, hidden + num]))] = 0
    head = np.array([0, 3, 3])
    wanted = net(torch.from_numpy(head), 2, keep).detach().numpy()
    for module in (propagation, propagation_training):
        monkeypatch.setattr(module, "MOST_DENSE", most_dense)
    again = net(torch.from_numpy(head), 2, keep).detach().numpy()
    found = net.export().scores(facts, head, np.full(3, 2), hidden)
    np.testing.assert_allclose(again, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_hiding_a_fact_equals_a_graph_without_it() -> None:
    facts = random_facts(6, 20)
    model = Net(facts, PropagationConfig(width=4)).eval().export()
    head, relation, rest = np.array([1, 2]), np.array([0, 4]), facts.without(np.array([3]))
    found = model.scores(facts, head, relation, np.array([3]))
    rest_scale = propagation.message_scale(rest)
    model.weights["mix.0"][4:8] *= propagation.message_scale(facts) / rest_scale
    for layer in (1, 2):
        model.weights[f"mix.{layer}"][4:8] *= propagation.message_scale(facts) / rest_scale
    np.testing.assert_allclose(found, model.scores(rest, head, relation), rtol=1e-3, atol=1e-4)


def test_a_rule_is_learned_and_holds_for_other_entities() -> None:
    config = PropagationConfig(width=8, epochs=30, batch=8, learning_rate=1e-2, hidden=16)
    model = train_propagation(families(10), config)
    others = families(15)
    grand = np.flatnonzero(others.triples_E3[:, 1] == 1)
    head, relation, tail = others.triples_E3[grand].T
    found = model.scores(others, head, relation, grand).argmax(1)
    assert (found == tail).mean() > 0.9


def test_the_same_seed_gives_the_same_weights() -> None:
    config = PropagationConfig(width=4, epochs=1, hidden=4, both_ways=False)
    one, same = (train_propagation(random_facts(5, 12), config) for _ in range(2))
    for name, weights in one.weights.items():
        np.testing.assert_array_equal(weights, same.weights[name])


def test_no_fact_and_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="no fact"):
        train_propagation(Facts(np.zeros((0, 3), np.int64), ["a"], ["x"]), PropagationConfig())
    with pytest.raises(UsageError):
        PropagationConfig(epochs=0)


def test_an_empty_graph_and_a_loop_are_scored() -> None:
    model = Net(random_facts(3, 4), PropagationConfig(width=4)).export()
    for rows in (np.zeros((0, 3), np.int64), np.array([(1, 0, 1)])):
        scores = model.scores(Facts(rows, list("abc"), list("xyz")), np.array([1]), np.array([0]))
        assert np.isfinite(scores).all()
