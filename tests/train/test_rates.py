import math

import pytest

from tuili.errors import UsageError
from tuili.train.rates import share_of_peak
from tuili.train.recipe import RateConfig


def rates(config, steps=100):
    return [share_of_peak(config, step, steps) for step in range(steps)]


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_it_rises_to_its_peak_and_falls_to_its_floor(kind):
    found = rates(RateConfig(kind=kind, warm_up=10, decay=20 if kind == "wsd" else 0, floor=0.1))
    assert found[:10] == sorted(found[:10]) and found[0] == pytest.approx(1 / 11)
    assert max(found) <= 1 and found[10] > 0.98
    assert found[10:] == sorted(found[10:], reverse=True) and found[-1] == pytest.approx(0.1)


def test_the_shapes_between():
    assert rates(RateConfig(kind="linear", floor=0.0))[49] == pytest.approx(0.5)
    assert rates(RateConfig(kind="cosine", floor=0.0))[24] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    flat = rates(RateConfig(kind="wsd", decay=20, floor=0.0))
    assert set(flat[:80]) == {1.0} and flat[89] == pytest.approx(0.5)


def test_all_of_a_run_can_be_warm_up():
    assert rates(RateConfig(warm_up=5), 5) == pytest.approx([step / 6 for step in range(1, 6)])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "step"}, "choose cosine, linear or wsd"),
        ({"kind": "wsd"}, "wsd needs it"),
        ({"decay": 3}, "others have none"),
        ({"floor": 1.5}, "0 .. 1"),
        ({"warm_up": -1}, "at least 0"),
    ],
)
def test_wrong_rates_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        RateConfig(**given)
