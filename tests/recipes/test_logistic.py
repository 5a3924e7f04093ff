"""The recipes' logistic regressions find what the data was made with."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def logistic(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("logistic")


def test_labels_give_back_the_weights_they_were_drawn_with(logistic: ModuleType) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20_000, 3)) * (1.0, 10.0, 0.1)
    labels = rng.random(20_000) < logistic.sigmoid(features @ (1.0, -0.2, 0.0) + 0.5)
    weights = logistic.fit_labels(features, labels.astype(float), l2=1e-3)
    assert weights[[0, 1, 3]] == pytest.approx([1.0, -0.2, 0.5], abs=0.08)


def test_separable_labels_and_constant_features_stay_finite(logistic: ModuleType) -> None:
    features = np.array([[0.0, 1.0], [1.0, 1.0]] * 10)
    weights = logistic.fit_labels(features, features[:, 0], l2=0.01)
    assert np.isfinite(weights).all() and weights[0] > 1 and abs(weights[1]) < 1e-2


def test_choices_weigh_what_tells_right_from_wrong_and_nothing_below_zero(logistic: ModuleType) -> None:
    rng = np.random.default_rng(0)
    candidates = [rng.random((8, 3)) for _ in range(300)]
    right = [np.arange(8) == np.argmax(one @ (2.0, 1.0, -1.0)) for one in candidates]
    weights = logistic.fit_choices(candidates, right, [1.0] * 300)
    assert weights[0] > 1.5 * weights[1] > 0 and weights[2] == 0


def test_items_of_one_question_share_a_fold(logistic: ModuleType) -> None:
    ids = [f"q{number // 4}" for number in range(100)]
    fold = logistic.folds(ids)
    assert all(len(set(fold[start : start + 4])) == 1 for start in range(0, 100, 4))
    assert np.bincount(fold).tolist() == [20] * logistic.NUM_FOLDS
