"""ComplEx: its score is the paper's, and training finds what is held out where a pattern says so."""

from __future__ import annotations

import numpy as np
import pytest

from tuili.errors import InputError, UsageError
from tuili.reason.priors.embedding import Embedding
from tuili.reason.priors.embedding_training import EmbeddingConfig, train_embedding
from tuili.reason.priors.facts import Facts


def cycle(num: int) -> Facts:
    """Two relations around a ring: `next` and, always along with it, `follows`."""
    rows = [(i, r, (i + 1) % num) for i in range(num) for r in (0, 1)]
    return Facts(np.array(rows), [f"e{i}" for i in range(num)], ["next", "follows"])


def test_a_score_is_the_real_part_of_the_complex_product() -> None:
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(4, 6)).astype(np.float32) for _ in range(2)]
    entities, relations = (each[:, :3] + 1j * each[:, 3:] for each in vectors)
    found = Embedding(*vectors).scores(np.array([1, 2]), np.array([3, 0]))
    wanted = np.real((entities[[1, 2]] * relations[[3, 0]]) @ np.conj(entities).T)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_vectors_of_other_widths_are_refused() -> None:
    with pytest.raises(InputError, match="equal and even"):
        Embedding(np.zeros((2, 4), np.float32), np.zeros((2, 6), np.float32))


def test_training_finds_held_out_facts_by_what_goes_along_with_them() -> None:
    facts = cycle(10)
    held = np.flatnonzero((facts.triples_E3[:, 1] == 1) & (facts.triples_E3[:, 0] == 4))
    head, relation, tail = facts.triples_E3[held].T
    embedding = train_embedding(facts.without(held), EmbeddingConfig(width=16, epochs=150, batch=16, dropout=0.1))
    assert embedding.scores(head, relation).argmax(1) == tail


def test_the_same_seed_gives_the_same_vectors_and_another_gives_others() -> None:
    one, same, other = (
        train_embedding(cycle(4), EmbeddingConfig(width=4, epochs=2, seed=seed, n3=0.01)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.entities_N2D, same.entities_N2D)
    assert (one.entities_N2D != other.entities_N2D).any()


def test_no_fact_and_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="no fact"):
        train_embedding(cycle(2).without(np.arange(4)), EmbeddingConfig())
    with pytest.raises(UsageError):
        EmbeddingConfig(dropout=1.0)
