"""The fit of the planner's constants gives those that are shipped, from the rows set apart for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tuili.train.planning import tables as published
from tuili.train.planning.devices import device

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def fit_plan(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("fit_plan")


def test_the_shipped_constants_are_those_of_the_fit(fit_plan: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where it stands the fit stays, and it never looks at a row that is held out."""
    seen: set[str] = set()
    real = published.Row.error

    def watched(row: published.Row, on: object = None) -> float:
        seen.add(f"{row.name}{row.fits}")
        return real(row, on)  # type: ignore[arg-type]

    monkeypatch.setattr(published.Row, "error", watched)
    shipped = json.loads(fit_plan.OUT.read_text(encoding="utf-8"))
    a100 = fit_plan.fit_share(
        fit_plan.fit_products(device("a100-80")), fit_plan.fitted_row("narayanan_zero3", "slow"), "slow"
    )
    h100 = fit_plan.fit_h100(a100)
    for kind, found in (("a100", a100), ("h100", h100)):
        for name, value in shipped[kind].items():
            assert getattr(found, name) == pytest.approx(value, rel=0.01), name
    allowed = {
        f"{row.name}{row.fits}" for one in published.tables() for row in one.rows if one.role == "fitted" or row.fits
    }
    assert seen == allowed


def test_a_share_is_found_that_makes_a_row_exact(fit_plan: ModuleType) -> None:
    row = fit_plan.fitted_row("torchtitan_8b_8gpus", "matmul")
    found = fit_plan.fit_share(replace(device("h100-96"), matmul=0.9), row, "matmul")
    assert row.error(found) == pytest.approx(0, abs=1e-6)


def test_descent_finds_a_valley(fit_plan: ModuleType) -> None:
    found = fit_plan.descend((1.0, 1.0), (0.5, 0.5), lambda x: (x[0] - 2.3) ** 2 + 10 * (x[1] - 0.7) ** 2)
    assert found == pytest.approx([2.3, 0.7], abs=0.01)
