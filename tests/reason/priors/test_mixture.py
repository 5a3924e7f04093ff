"""The mixture gives weight to scorers that know, and stays a distribution."""

from __future__ import annotations

import numpy as np
import pytest

from tuili.errors import InputError
from tuili.reason.priors.mixture import Mixture, fit_mixture, log_mass, log_softmax


def test_rows_are_distributions_and_banned_answers_have_none() -> None:
    logs = log_softmax(np.array([[1.0, 2.0, 3.0]], np.float32), np.array([[False, False, True]]))
    np.testing.assert_allclose(np.exp(logs).sum(), 1, rtol=1e-5)
    assert logs[0].argmax() == 1
    assert np.isfinite(log_softmax(np.zeros((1, 2), np.float32), np.ones((1, 2), bool))).all()


def test_a_scorer_that_knows_outweighs_one_that_guesses() -> None:
    rng = np.random.default_rng(0)
    answer = rng.integers(6, size=300)
    knows = rng.normal(size=(300, 6)).astype(np.float32)
    knows[np.arange(300), answer] += 2
    parts = {"knows": log_softmax(knows), "guesses": log_softmax(rng.normal(size=(300, 6)).astype(np.float32))}
    mixture = fit_mixture(parts, answer)
    assert mixture.weights["knows"] > 5 * mixture.weights["guesses"]
    found = mixture.scores(parts)
    confidence = np.exp(found.max(1)).mean()
    assert abs(confidence - (found.argmax(1) == answer).mean()) < 0.05


def test_what_is_missing_or_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="needs b"):
        Mixture({"a": 1.0, "b": 1.0}).scores({"a": np.zeros((1, 2), np.float32)})
    with pytest.raises(InputError, match="not a number"):
        Mixture({"a": 1.0}).scores({"a": np.full((1, 2), np.nan, np.float32)})


def test_mass_that_was_not_reached_stays_finite() -> None:
    assert np.isfinite(log_mass(np.array([[0.0, 1.0]], np.float32))).all()
