import numpy as np
import pytest

from tuili.reason.calibration import calibrate, ece


def test_calibration_mends_what_is_said_too_surely() -> None:
    rng = np.random.default_rng(0)
    said = rng.uniform(0.5, 1.0, 4000)
    right = (rng.uniform(size=4000) < said**3).astype(float)
    sureness = calibrate(said, right)
    mended = np.array([sureness.of(one) for one in said])
    assert ece(mended, right) < 0.04 < ece(said, right)


def test_sure_and_right_answers_do_not_make_an_unlikely_one_sure() -> None:
    right = np.ones(160)
    right[0] = 0
    sureness = calibrate(np.full(160, 0.999), right)
    assert sureness.of(0.999) == pytest.approx(159 / 160, abs=0.01)
    assert sureness.of(0.001) < 0.05


def test_ece_by_hand() -> None:
    assert ece(np.array([0.9, 0.9, 0.1, 0.1]), np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx((0.4 + 0.1) / 2)
    assert ece(np.array([]), np.array([])) == 0.0


@pytest.mark.parametrize("right", [np.ones(20), np.zeros(20)])
def test_calibration_of_one_outcome_stays_finite(right: np.ndarray) -> None:
    found = calibrate(np.linspace(0.2, 0.9, 20), right).of(0.5)
    assert 0 < found < 1 and (found > 0.5) == bool(right[0])
