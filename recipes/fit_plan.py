"""Fit the planner's few constants on the rows that are set apart for that, and on no others.

`python recipes/fit_plan.py` writes `src/tuili/train/planning/data/fitted.json`: for the A100 the share of its peak that
large products reach and the columns that a product's start and end cost, by least squares of the logarithms over the
ten rows of narayanan_t1; the share of the slow links, on one row of narayanan_zero3; for the H100 its two shares of
products, on one row each of torchtitan_8b_8gpus. The H100 takes the other two from the A100. It prints how the fitted
table's error depends on what is assumed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tuili.files import write_text
from tuili.train.planning.devices import Device, device
from tuili.train.planning.tables import Row, mean, table

OUT = Path(__file__).resolve().parent.parent / "src" / "tuili" / "train" / "planning" / "data" / "fitted.json"
FITTED_TABLE = "narayanan_t1"
ROUNDS = 4
ASSUMED = {"memory": (0.8, 0.9), "fast": (0.65, 0.85), "slow": (0.5, 0.9)}


def fitted_row(name: str, constant: str) -> Row:
    """Return the one row of a table that a constant is fitted on."""
    (row,) = (row for row in table(name).rows if row.fits == constant)
    return row


def spread(kind: Device, rows: Sequence[Row]) -> float:
    """Return the root of the mean squared logarithm of predicted over published time."""
    return math.sqrt(mean([math.log1p(row.error(kind)) ** 2 for row in rows]))


def descend(start: Sequence[float], steps: Sequence[float], loss: Callable[[Sequence[float]], float]) -> list[float]:
    """Return where a loss is least, by walking along one axis at a time in ever smaller steps."""
    best, steps = list(start), list(steps)
    least = loss(best)
    while max(step / value for step, value in zip(steps, best, strict=True)) > 1e-3:
        moved = False
        for axis, step in enumerate(steps):
            for change in (step, -step):
                tried = [*best[:axis], best[axis] + change, *best[axis + 1 :]]
                if tried[axis] > 0 and (found := loss(tried)) < least:
                    best, least, moved = tried, found, True
        if not moved:
            steps = [step / 2 for step in steps]
    return best


def fit_products(kind: Device) -> Device:
    """Return the A100 with its products fitted on the fitted table."""
    rows = table(FITTED_TABLE).rows

    def loss(values: Sequence[float]) -> float:
        matmul, warm_up = values
        return spread(replace(kind, matmul=matmul, warm_up=warm_up), rows) if matmul <= 1 else math.inf

    matmul, warm_up = descend((kind.matmul, kind.warm_up), (0.02, 20.0), loss)
    return replace(kind, matmul=matmul, warm_up=warm_up)


def fit_share(kind: Device, row: Row, constant: str) -> Device:
    """Return a device whose one constant makes one row exact; a larger share makes a step shorter."""
    low, high = 0.05, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        changed = replace(kind, **{constant: middle})  # type: ignore[arg-type]
        low, high = (middle, high) if row.error(changed) > 0 else (low, middle)
    return replace(kind, **{constant: (low + high) / 2})  # type: ignore[arg-type]


def fit_a100() -> Device:
    """Return the A100 with all three constants; each is fitted again with the others' new values."""
    kind = device("a100-80")
    for _ in range(ROUNDS):
        kind = fit_share(fit_products(kind), fitted_row("narayanan_zero3", "slow"), "slow")
    return kind


def fit_h100(a100: Device) -> Device:
    """Return the H100 with its two shares of products, and the other constants of the A100."""
    kind = replace(device("h100-96"), warm_up=round(a100.warm_up), slow=round(a100.slow, 3))
    for constant in ("matmul", "matmul_fp8"):
        kind = fit_share(kind, fitted_row("torchtitan_8b_8gpus", constant), constant)
    return kind


def report(a100: Device) -> None:
    """Print the fitted table's error, and what it becomes with other assumptions and products fitted anew."""
    rows = table(FITTED_TABLE).rows
    print(f"{FITTED_TABLE}: mean error {mean([abs(row.error(a100)) for row in rows]):.2%}")
    for name, values in ASSUMED.items():
        for value in values:
            other = fit_products(replace(a100, **{name: value}))
            error = mean([abs(row.error(other)) for row in rows])
            print(f"  {name} {value}: {error:.2%} (matmul {other.matmul:.3f}, warm_up {other.warm_up:.0f})")


def main() -> None:
    """Fit, report, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    a100 = fit_a100()
    h100 = fit_h100(a100)
    report(a100)
    shared = {"warm_up": round(a100.warm_up), "slow": round(a100.slow, 3)}
    fitted = {
        "a100": {"matmul": round(a100.matmul, 3), **shared},
        "h100": {"matmul": round(h100.matmul, 3), "matmul_fp8": round(h100.matmul_fp8, 3), **shared},
    }
    write_text(out, json.dumps(fitted, indent=1) + "\n")
    print(json.dumps(fitted))


if __name__ == "__main__":
    main()
