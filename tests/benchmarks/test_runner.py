"""The shared runner: arguments, statistics, results, processes, the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import runner


def options(tmp_path: Path, *arguments: str) -> runner.Options:
    return runner.parse("a benchmark", ["--out", str(tmp_path / "out.json"), *arguments])


def test_a_prefix_asks_for_what_is_below_it_and_for_what_it_is_below(tmp_path: Path) -> None:
    chosen = options(tmp_path, "--only", "ask.python")
    assert chosen.wants("ask") and chosen.wants("ask.python.kind") and not chosen.wants("ask.hpo")
    assert options(tmp_path).wants("anything")


def test_data_is_the_argument_else_the_variable_else_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "named").mkdir()
    monkeypatch.setattr(runner, "DEFAULT_DATA", tmp_path / "nowhere")
    monkeypatch.delenv("TUILI_DATA", raising=False)
    assert options(tmp_path).data is None
    monkeypatch.setenv("TUILI_DATA", str(tmp_path / "named"))
    assert options(tmp_path).data == tmp_path / "named"
    assert options(tmp_path, "--data", str(tmp_path / "given")).data == tmp_path / "given"


@pytest.mark.parametrize("argument", ["--data", "--test"])
def test_a_given_path_must_exist(tmp_path: Path, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(tmp_path, argument, str(tmp_path / "missing"))
    assert "there is no" in capsys.readouterr().err


def test_a_run_is_a_smoke_run_a_full_one_or_neither(tmp_path: Path) -> None:
    given = [options(tmp_path, *arguments) for arguments in ([], ["--smoke"], ["--full"])]
    assert [(each.smoke, each.full) for each in given] == [(False, False), (True, False), (False, True)]
    with pytest.raises(SystemExit):
        options(tmp_path, "--smoke", "--full")


def test_only_results_with_the_prefix_are_written(tmp_path: Path) -> None:
    def measure(_: runner.Options) -> list[runner.Result]:
        return [runner.share("a.right", [1.0, 0.0]), runner.share("b.right", [1.0])]

    out = tmp_path / "results" / "out.json"
    runner.run("a benchmark", measure, ["--out", str(out), "--only", "a."])
    *rows, machine = json.loads(out.read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == ["a.right"]
    assert set(rows[0]) == {"name", "value", "unit", "spread", "n", "baseline"}
    assert machine["duration"]["wall_s"] >= 0 and machine["duration"]["processor_s"] > 0
    assert machine["hardware"]["cores"] >= 1 and machine["versions"]["python"] and "commit" in machine


def test_a_failing_benchmark_leaves_the_old_file(tmp_path: Path) -> None:
    def measure(_: runner.Options) -> list[runner.Result]:
        raise ValueError("no")

    out = tmp_path / "out.json"
    out.write_text("old", encoding="utf-8")
    with pytest.raises(ValueError, match="no"):
        runner.run("a benchmark", measure, ["--out", str(out)])
    assert out.read_text(encoding="utf-8") == "old"


def test_the_interval_of_a_share_is_near_the_normal_one() -> None:
    values = [1.0] * 300 + [0.0] * 100
    expected = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert runner.half_width(values) == pytest.approx(expected, rel=0.1)
    assert runner.half_width(values) == runner.half_width(values)


def test_values_of_one_group_are_drawn_together() -> None:
    values = [1.0, 0.0] * 50
    alike = [number // 2 for number in range(100)]
    groups = [number % 2 for number in range(100)]
    assert runner.half_width(values, alike) == pytest.approx(0.0, abs=1e-12)
    assert runner.half_width(values, groups) == pytest.approx(0.5)


def test_a_share_that_never_varied_is_not_certain() -> None:
    assert runner.half_width([1.0] * 20) == pytest.approx(0.0806, abs=1e-3)
    assert runner.half_width([]) is None


def test_differences_are_paired_by_item() -> None:
    result = runner.paired("drop", {"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 0.5, "b": 1.0, "d": 0.0})
    assert (result.value, result.n) == (0.25, 2)


def test_a_time_has_its_median_and_the_distance_between_the_quartiles() -> None:
    result = runner.timing("t", [1.0, 2.0, 3.0, 4.0, 100.0], "ms", target=5.0)
    assert (result.value, result.spread, result.n, result.target) == (3.0, 2.0, 5, 5.0)
    assert runner.timing("t", [1.0], "ms").spread is None
    assert result.to_json()["target"] == 5.0


def test_what_is_not_finite_becomes_null() -> None:
    row = runner.timing("t", [], "ms").to_json()
    assert row["value"] is None and "target" not in row


def test_a_process_is_measured() -> None:
    code = (
        "import sys; data = bytearray(64 << 20); print('done', sum(range(10**6))); print('x' * 10**6, file=sys.stderr)"
    )
    spent = runner.measure_process([sys.executable, "-c", code])
    assert spent.stdout.startswith("done")
    assert spent.cpu_s > 0 and spent.wall_s > 0 and 64 < spent.peak_mib < 1000


def test_a_failed_process_tells_why() -> None:
    with pytest.raises(RuntimeError, match="the reason"):
        runner.measure_process([sys.executable, "-c", "import sys; sys.exit('the reason')"])
