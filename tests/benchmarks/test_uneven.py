import pytest

import uneven
from runner import Options


def test_the_planner_s_gain_stands_beside_the_measured_one(tmp_path, monkeypatch):
    counts = []

    def step_times(split, steps):
        counts.append(split)
        return [3.0 * max(split[0], 2 * split[1])] * steps

    monkeypatch.setattr(uneven, "step_times", step_times)
    options = Options(tmp_path / "x.json", None, None, False, "")
    found = {result.name: result.value for result in uneven.measure(options)}
    assert counts == [[6, 6], [8, 4]]
    assert found["uneven.predicted"] == pytest.approx(1.5) == found["uneven.speedup"]
