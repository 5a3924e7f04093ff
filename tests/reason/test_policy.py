from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import InputError, ModelFileError
from tuili.reason.policy import Choices, Policy, best_of, join, log_softmax, sample, shapes

NAMES = ("fit", "hop", "stop")


def choices_of(sizes: list[int], seed: int = 0) -> Choices:
    rng = np.random.default_rng(seed)
    num = sum(sizes)
    return Choices(
        rng.normal(size=(num, len(NAMES))).astype(np.float32),
        rng.normal(size=num).astype(np.float32),
        np.cumsum([0, *sizes]),
        np.arange(len(sizes)),
    )


def random_policy(seed: int = 0, hidden: int = 4) -> Policy:
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes(len(NAMES), hidden).items()}
    weights["spread"] = np.abs(weights["spread"]) + 0.5
    return Policy(weights, NAMES, "0" * 64, {"note": "测试"})


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 99))
def test_log_softmax_is_each_segment_alone(sizes: list[int], seed: int) -> None:
    choices = choices_of(sizes, seed)
    found = log_softmax(choices.prior_E * 50, choices.offsets)
    for begin, end in pairwise(choices.offsets):
        part = choices.prior_E[begin:end].astype(np.float64) * 50
        wanted = part - part.max() - np.log(np.exp(part - part.max()).sum())
        assert np.allclose(found[begin:end], wanted, atol=1e-4)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 99))
def test_best_of_each_segment_is_the_first_largest(sizes: list[int], seed: int) -> None:
    offsets = np.cumsum([0, *sizes])
    scores = np.random.default_rng(seed).integers(0, 4, sum(sizes)).astype(np.float32)
    parts = [scores[begin:end] for begin, end in pairwise(offsets)]
    assert best_of(scores, offsets).tolist() == [int(part.argmax()) for part in parts]


def test_sample_follows_the_softmax() -> None:
    logits, offsets = np.log(np.float32([0.7, 0.2, 0.1, 0.5, 0.5])), np.array([0, 3, 5])
    rng = np.random.default_rng(5)
    drawn = np.array([sample(logits, offsets, rng) for _ in range(4000)])
    shares = [(drawn[:, 0] == 0).mean(), (drawn[:, 0] == 2).mean(), (drawn[:, 1] == 1).mean()]
    assert shares == pytest.approx([0.7, 0.1, 0.5], abs=0.04)


def test_an_untrained_policy_is_its_prior() -> None:
    choices = choices_of([3, 1, 4])
    assert np.array_equal(Policy.of_prior(NAMES, 8).logits(choices), choices.prior_E)


def test_a_state_is_judged_by_its_own_actions_only() -> None:
    one, other, policy = choices_of([3, 2], 1), choices_of([4], 2), random_policy()
    together = policy.log_probabilities(join([one, other]))
    apart = np.concatenate([policy.log_probabilities(one), policy.log_probabilities(other)])
    assert np.allclose(together, apart, atol=1e-5)


def test_the_order_of_actions_does_not_matter() -> None:
    choices, policy = choices_of([5]), random_policy()
    order = np.array([3, 0, 4, 1, 2])
    turned = Choices(choices.features_EF[order], choices.prior_E[order], choices.offsets, choices.walk_S)
    assert np.allclose(policy.logits(turned), policy.logits(choices)[order], atol=1e-5)


def test_take_gives_the_states_in_the_order_asked() -> None:
    choices = choices_of([2, 3, 1])
    taken = choices.take(np.array([2, 0]))
    assert taken.walk_S.tolist() == [2, 0] and taken.offsets.tolist() == [0, 1, 3]
    assert np.array_equal(taken.prior_E, choices.prior_E[[5, 0, 1]])
    assert taken.owner.tolist() == [0, 1, 1]


@pytest.mark.parametrize("offsets", [[0, 2, 2, 3], [0, 3, 2, 3], [1, 2, 3], [0, 2], [0]])
def test_a_state_without_an_action_is_refused(offsets: list[int]) -> None:
    with pytest.raises(InputError, match="offsets must rise from 0 to 3"):
        Choices(np.zeros((3, 1), np.float32), np.zeros(3, np.float32), np.array(offsets), np.arange(len(offsets) - 1))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="don't fit 3 actions"):
        Choices(np.zeros((2, 1), np.float32), np.zeros(3, np.float32), np.array([0, 3]), np.arange(1))
    with pytest.raises(InputError, match="2 walks don't fit 1 states"):
        Choices(np.zeros((3, 1), np.float32), np.zeros(3, np.float32), np.array([0, 3]), np.arange(2))


def test_nan_from_a_scorer_is_named() -> None:
    choices = choices_of([2, 2])
    choices.features_EF[1, 1] = np.nan
    with pytest.raises(InputError, match="not finite: hop"):
        random_policy().logits(choices)
    choices = choices_of([2, 2])
    choices.prior_E[0] = np.inf
    with pytest.raises(InputError, match="not finite: the prior"):
        random_policy().logits(choices)


def test_features_of_another_world_are_refused() -> None:
    with pytest.raises(InputError, match="reads 2 features, given were 3"):
        Policy.of_prior(("a", "b")).logits(choices_of([2]))


# -- files ---------------------------------------------------------------------------------------


def test_a_file_keeps_everything(tmp_path: Path) -> None:
    policy = random_policy()
    policy.save(tmp_path / "policy.safetensors")
    read = Policy.load(tmp_path / "policy.safetensors", trained_for="0" * 64)
    assert (read.feature_names, read.trained_for, read.info) == (policy.feature_names, policy.trained_for, policy.info)
    assert all(np.array_equal(read.weights[name], policy.weights[name]) for name in policy.weights)


def test_a_policy_of_another_base_is_refused_but_may_be_a_start(tmp_path: Path) -> None:
    random_policy().save(tmp_path / "p.safetensors")
    with pytest.raises(ModelFileError, match=r"was trained for 000000000000, wanted is 111111111111"):
        Policy.load(tmp_path / "p.safetensors", trained_for="1" * 64)
    assert Policy.load(tmp_path / "p.safetensors").trained_for == "0" * 64


def test_files_that_are_no_policies_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "p.safetensors"
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes(3, 4).items()}
    good = {"format": "tuili-policy-1", "features": '["a", "b", "c"]'}
    for metadata, why in [
        ({}, "no policy file"),
        (good | {"features": "[1, 2, 3]"}, "damaged header"),
        (good | {"features": "["}, "damaged header"),
        (good | {"features": '["a"]'}, "'mean' is of shape"),
        (good | {"info": "[]"}, "damaged header"),
    ]:
        save_file(weights, path, metadata=metadata)
        with pytest.raises(ModelFileError, match=why):
            Policy.load(path)
    save_file({**weights, "w3": np.full(4, np.nan, np.float32)}, path, metadata=good)
    with pytest.raises(ModelFileError, match=r"'w3' is of shape .* or not finite"):
        Policy.load(path)
    save_file({**weights, "w3": np.zeros(4, np.float64)}, path, metadata=good)
    with pytest.raises(ModelFileError, match="not all float32"):
        Policy.load(path)


@pytest.mark.parametrize("kept", [0, 7, 60, 300])
def test_a_cut_off_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "p.safetensors"
    random_policy().save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelFileError):
        Policy.load(path)
