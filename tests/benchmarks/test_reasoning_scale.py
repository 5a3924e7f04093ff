from pathlib import Path

import pytest

import reasoning_scale
from runner import Options


def test_small_bases_give_every_figure_and_right_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning_scale, "SIZES_SMOKE", (2, 3))
    found = {one.name: one for one in reasoning_scale.measure(Options(tmp_path, None, None, True, ""))}
    assert {name for name in found if name.endswith(".growth")} == {
        f"scale.{kind}.growth" for kind in ("one", "two", "hub")
    }
    assert all(one.value == 1.0 for name, one in found.items() if name.endswith(".right"))
    assert all(one.value > 0 for name, one in found.items() if name.endswith((".time", ".growth")))
