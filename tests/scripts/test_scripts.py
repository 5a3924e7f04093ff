import json
from pathlib import Path

import pytest

import pictures
import size
import tables

ROWS = [
    {"name": "accuracy/python", "value": 0.9, "unit": "fraction", "spread": 0.031, "n": 90,
     "baseline": {"name": "BM25", "value": 0.25}},
    {"name": "latency/warm", "value": 12.34, "unit": "ms", "spread": None, "n": 5, "baseline": None},
    {"hardware": {"cpu": "some CPU", "cores": 2}, "versions": {"python": "3.11.7", "torch": "2.13.0"},
     "commit": "0123456789ab", "date": "2026-11-23T00:00:00Z"},
]  # fmt: skip
EMPTY = "# Title\n<!-- table: ask accuracy -->\nold\n<!-- end of table -->\nrest\n"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    return tmp_path / "ask.json"


def test_a_table_is_written_from_the_results(results: Path):
    results.write_text(json.dumps(ROWS))
    text = tables.filled(EMPTY)
    assert "| accuracy/python | 90 ± 3.1 % | 90 | BM25: 25 % |" in text
    assert "latency" not in text
    assert "commit 012345678: some CPU, 2 cores, Python 3.11.7, torch 2.13.0" in text
    assert text.endswith("<!-- end of table -->\nrest\n")
    assert tables.filled(text) == text


def test_without_prefixes_everything_is_shown(results: Path):
    results.write_text(json.dumps(ROWS))
    assert "| latency/warm | 12.34 ms | 5 |  |" in tables.filled(EMPTY.replace(" accuracy", ""))


def test_what_was_not_measured_says_so(results: Path):
    assert tables.NOT_MEASURED in tables.filled(EMPTY)
    results.write_text(json.dumps(ROWS[1:]))
    assert tables.NOT_MEASURED in tables.filled(EMPTY)


def test_a_grid_has_a_row_for_what_stands_between_prefix_and_column(results: Path):
    names = ("ask.python.accuracy", "ask.python.wordings.drop", "ask.python.kind.x.accuracy", "ask.hpo.accuracy")
    results.write_text(json.dumps([*({**ROWS[0], "name": name} for name in names), ROWS[-1]]))
    text = tables.filled(EMPTY.replace("table: ask accuracy", "grid: ask ask accuracy wordings.drop"))
    assert "| | accuracy | wordings.drop |" in text
    assert "| python | 90 ± 3.1 % (90) | 90 ± 3.1 % (90) |\n| hpo | 90 ± 3.1 % (90) |  |\n" in text
    assert "kind" not in text
    assert tables.filled(text) == text


def test_targets_are_shown_where_there_are_some(results: Path):
    results.write_text(json.dumps([{**ROWS[0], "target": 0.85}, *ROWS[1:]]))
    text = tables.filled(EMPTY.replace(" accuracy", ""))
    assert "| accuracy/python | 90 ± 3.1 % | 90 | BM25: 25 % | 85 % |" in text
    assert "| latency/warm | 12.34 ms | 5 |  |  |" in text


def test_large_numbers_have_no_exponent(results: Path):
    results.write_text(json.dumps([{**ROWS[1], "value": 1234567.0, "spread": 12345.0, "unit": "1/s"}]))
    assert "| 1,235,000 ± 12,000 1/s |" in tables.filled(EMPTY.replace(" accuracy", ""))


def test_long_functions_and_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(size, "ROOT", tmp_path)
    (tmp_path / "src").mkdir()
    path = tmp_path / "src" / "long.py"
    path.write_text('def f():\n    """Say."""\n' + "    x = 1\n" * 80)
    assert size.measure(path) == (82, [(81, 80, "src/long.py:1 f()")])
    assert size.main() == 1
    path.write_text("x = 1\n" * 601)
    assert size.main() == 1
    path.write_text("x = 1\n" * 401)
    assert size.main() == 0


def test_a_trade_off_has_a_panel_for_each_text_and_none_without_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pictures, "IMAGES", tmp_path)
    pictures.tradeoff({"quality.wiki.8k.ppl_increase": {"value": 0.01, "spread": 0.001}})
    assert not list(tmp_path.iterdir())
    widths = []
    for texts in (["wiki"], ["wiki", "python"]):
        rows = {
            f"tradeoff.{text}.8k.{method}.keys_{keys}.ppl_increase": {"value": 10 / keys, "spread": 0.001}
            for text in texts for method in pictures.METHODS for keys in (512, 1097)
        }  # fmt: skip
        rows["tradeoff.wiki.8k.tuili.keys_1097.ppl_increase"]["target"] = 0.012
        pictures.tradeoff(rows)
        widths.append(int.from_bytes((tmp_path / "tradeoff.png").read_bytes()[16:20]))
    assert widths[1] > 1.5 * widths[0]
