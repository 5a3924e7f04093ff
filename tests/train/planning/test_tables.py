"""The published tables, and the bounds on how far predictions may be from them."""

import pytest

from tuili.train.planning.claim import HOURS, readings
from tuili.train.planning.tables import gpt_operations, held_out_error, table, tables

# Seconds of a step that follow from Narayanan et al. 2021, table 1, worked out apart from this code.
STEP_TIMES = [3.53, 3.70, 3.70, 9.40, 14.45, 16.06, 24.82, 37.61, 54.08, 102.63]


def test_one_table_is_fitted_and_within_five_percent():
    (fitted,) = [one for one in tables() if one.role == "fitted"]
    assert fitted.name == "narayanan_t1" and len(fitted.judged) == 10
    assert fitted.mean_error() <= 0.05


@pytest.mark.parametrize("one", [one for one in tables() if one.role == "held out"], ids=lambda one: one.name)
def test_every_held_out_table_is_within_ten_percent(one):
    assert one.judged and one.mean_error() <= 0.10


def test_rows_that_constants_are_fitted_on_do_not_count_as_held_out():
    fitted_on = {(one.name, row.fits) for one in tables() for row in one.rows if row.fits}
    assert fitted_on == {
        ("narayanan_zero3", "slow"), ("torchtitan_8b_8gpus", "matmul"), ("torchtitan_8b_8gpus", "matmul_fp8")
    }  # fmt: skip
    assert len(table("narayanan_zero3").judged) == 5 and len(table("torchtitan_8b_8gpus").judged) == 1
    for name, constant in fitted_on:
        (row,) = [row for row in table(name).rows if row.fits == constant]
        assert abs(row.error()) < 0.01


def test_step_times_follow_from_published_rates():
    found = [row.seconds for row in table("narayanan_t1").rows]
    assert found == pytest.approx(STEP_TIMES, abs=0.006)


def test_days_and_tokens_a_second_become_seconds():
    days = table("narayanan_text").rows[0]
    assert days.seconds * 300e9 / (1536 * 2048) / 86_400 == pytest.approx(34)
    assert table("torchtitan_8b_8gpus").rows[1].seconds == pytest.approx(2 * 8192 / 6667)


def test_the_published_formula_of_operations():
    row = table("narayanan_t1").rows[0]
    expected = 96 * 512 * 2048 * 24 * 2304**2 * (1 + 2048 / (6 * 2304) + 51200 / (16 * 24 * 2304))
    assert gpt_operations(row.job.model, 512, 2048) == pytest.approx(expected)


def test_every_row_fills_its_cluster_and_has_a_source():
    for one in tables():
        assert one.source
        for row in one.rows:
            assert row.layout.num_devices == row.job.cluster.num_devices, row.name


def test_held_out_errors_of_all_and_of_one_kind():
    everything, a100, h100 = held_out_error(), held_out_error("a100"), held_out_error("h100")
    assert everything[2] == a100[2] + h100[2] == sum(len(one.judged) for one in tables() if one.role == "held out")
    assert everything[1] == max(a100[1], h100[1]) >= everything[0] > 0


def test_the_claims_readings_are_what_they_say():
    same, more = readings()
    assert same.before.layout.num_devices == same.after.layout.num_devices == 1536
    assert more.after.layout.num_devices == 4 * more.before.layout.num_devices == 512
    for one in (same, more):
        assert one.hours == pytest.approx(HOURS * one.after.total / one.before.total)
        assert one.tokens == pytest.approx(one.after.tokens_per_s * one.hours * 3600)
        assert 14 < one.hours < 24
