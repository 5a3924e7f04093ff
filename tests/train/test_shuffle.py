import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.train.shuffle import ROUNDS, shuffled


@given(st.integers(1, 5000), st.integers(0, 2**70), st.integers(0, 50))
def test_it_is_an_order_of_all_things(n, seed, epoch):
    assert sorted(shuffled(np.arange(n), n, seed, epoch)) == list(range(n))


@given(st.integers(1, 10**12), st.integers(0, 9), st.data())
def test_a_place_does_not_depend_on_what_else_is_asked_for(n, seed, data):
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    together = shuffled(places, n, seed)
    assert [int(shuffled(place[None], n, seed)[0]) for place in places] == together.tolist()
    assert (together >= 0).all() and (together < n).all()


def test_keys_give_orders_that_have_nothing_to_do_with_each_other():
    n = 4000
    orders = np.stack([shuffled(np.arange(n), n, seed, epoch) for seed in range(3) for epoch in range(3)])
    related = np.corrcoef(np.vstack([np.arange(n), orders])) - np.eye(10)
    assert abs(related).max() < 5 / np.sqrt(n)
    assert all(abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 5 / np.sqrt(n) for row in orders)


def mixed(value):
    """`_mixed` in whole numbers of Python."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def placed(place, n, *key):
    """`shuffled` for one place, written down plainly."""
    state = 0
    for number in key:
        state = mixed(state ^ number)
    half = 1
    while 4**half < n:
        half += 1
    while True:
        left, right = place >> half, place % 2**half
        for index in range(1, ROUNDS + 1):
            left, right = right, left ^ mixed(right ^ mixed((state + index) % 2**64)) % 2**half
        place = left << half | right
        if place < n:
            return place


@pytest.mark.parametrize(
    ("n", "key", "first"), [(10, (0, 0), [2, 3, 5, 7, 0]), (1000, (7, 1), [54, 994, 483, 946, 99])]
)
def test_the_order_is_the_same_wherever_it_is_computed(n, key, first):
    assert [placed(place, n, *key) for place in range(5)] == first
    assert shuffled(np.arange(5), n, *key).tolist() == first
