import sys

import pytest

from tuili.errors import DependencyError
from tuili.train.curves import draw

ROWS = [
    {"step": step, "tokens": 10 * step, "loss": 9 / step, "rate": 0.1, "grad_norm": 1.0} for step in range(1, 40)
] + [{"step": 30, "tokens": 300, "held_out_loss": 1.0}, {"step": 40, "tokens": 400, "loss": None, "grad_norm": None}]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[-2:], []])
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_any_run_has_a_picture(tmp_path, rows, suffix):
    path = tmp_path / f"curves.{suffix}"
    draw(rows, path, "a run with $ and _ in its name")
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert path.read_bytes().startswith(start) and len(path.read_bytes()) > 5000


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"tuili\[draw\]"):
        draw(ROWS, tmp_path / "a.png", "run")
