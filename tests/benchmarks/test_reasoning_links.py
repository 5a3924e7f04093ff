"""The benchmark of missing links: ranks as defined, no leaks, and a whole run on a tiny set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import reasoning_links
from reasoning import links_report
from reasoning.links_data import read
from reasoning.links_scoring import measure, ranks
from runner import run
from tuili.errors import SourceError


def test_ranks_are_filtered_and_ties_take_the_mean() -> None:
    scores = np.array([[3.0, 2.0, 2.0, 9.0, 1.0]])
    known = np.array([[False, False, False, True, False]])
    assert ranks(scores, np.array([1]), known).tolist() == [2.5]
    assert ranks(scores, np.array([0]), known).tolist() == [1.0]
    assert ranks(np.zeros((1, 5)), np.array([4]), np.zeros((1, 5), bool)).tolist() == [3.0]


def test_a_score_that_is_no_number_is_no_hit() -> None:
    with pytest.raises(ValueError, match="not a number"):
        ranks(np.full((1, 2), np.nan), np.array([0]), np.zeros((1, 2), bool))


def test_metrics_of_ranks() -> None:
    found = measure(np.array([1.0, 2.0, 10.0, 11.0]))
    assert found["hits1"] == 0.25
    assert found["hits3"] == 0.5
    assert found["hits10"] == 0.75
    assert found["mrr"] == pytest.approx((1 + 0.5 + 0.1 + 1 / 11) / 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Families: `grand` is `parent` twice; some of it is held out."""
    rows: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for family in range(16):
        old, middle, young = (f"{who}{family}" for who in ("old", "middle", "young"))
        rows["train"] += [f"{old}\tparent\t{middle}", f"{middle}\tparent\t{young}"]
        split = "test" if family % 4 == 0 else "valid" if family % 4 == 1 else "train"
        rows[split].append(f"{old}\tgrand\t{young}")
    made = tmp_path / "families"
    made.mkdir()
    for split, lines in rows.items():
        (made / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


def test_held_out_facts_are_no_training_facts(folder: Path) -> None:
    links = read("families", folder)
    for edges in (links.valid_Q3, links.test_Q3):
        assert not links.facts.holds(*edges.T).any()
        own = np.arange(len(edges)), edges[:, 2]
        assert not links.known(edges, with_test=True)[own].any()


def test_a_damaged_file_is_refused(folder: Path) -> None:
    (folder / "test.txt").write_text("a\tb\n", encoding="utf-8")
    with pytest.raises(SourceError, match="line 1"):
        read("families", folder)
    (folder / "test.txt").unlink()
    with pytest.raises(SourceError, match="a folder with"):
        read("families", folder)


def test_without_the_package_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = tmp_path / "out.json"
    run("", reasoning_links.measure, ["--out", str(out)])
    assert "tuili[bench]" in capsys.readouterr().err
    assert [row for row in json.loads(out.read_text(encoding="utf-8")) if "name" in row] == []


def test_a_whole_run_on_a_tiny_set(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUILI_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(links_report, "RECIPES", {})
    monkeypatch.setattr(reasoning_links, "EVERY", 1)
    out = tmp_path / "out.json"
    run("", reasoning_links.measure, ["--smoke", "--test", str(folder), "--out", str(out)])
    rows = {row["name"]: row for row in json.loads(out.read_text(encoding="utf-8")) if "name" in row}
    names = ("hits1", "mrr", "peers.reinforce.hits1", "alone.rules.hits1", "without.beam.hits1", "beam4.policy_gain")
    assert {f"families.{name}" for name in names} <= rows.keys()
    assert rows["families.alone.rules.hits1"]["value"] >= 0.75
    assert rows["families.hits1"]["baseline"]["name"] in {"reinforce", "uniform", "best_first", "pruner"}
