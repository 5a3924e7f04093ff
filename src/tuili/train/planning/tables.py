"""Published step times with their sources, and how far predictions are from them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

from tuili.train.planning.cost import Job, Step, predict
from tuili.train.planning.devices import Device, device, one_kind
from tuili.train.planning.layout import Layout, Practice
from tuili.train.planning.models import Model, gpt, preset

VOCAB = 51_200
"""Padded vocabulary of the GPT models of Narayanan et al. and Korthikanti et al."""
SECONDS_PER_DAY = 86_400
LAYOUT_KEYS = frozenset(field.name for field in fields(Layout))
PRACTICE_KEYS = frozenset(field.name for field in fields(Practice))


@dataclass(frozen=True, slots=True)
class Row:
    """One published measurement: what ran, seconds of a step, and GiB where they are published."""

    name: str
    job: Job
    layout: Layout
    seconds: float
    memory_gib: float | None
    params_e9: float | None
    fits: str

    def predicted(self, on: Device | None = None) -> Step:
        """Return the predicted step; `on` takes the place of the row's device."""
        if on is None:
            return predict(self.job, self.layout)
        cluster = one_kind(on, self.job.cluster.num_devices, self.job.cluster.per_node)
        job = Job(
            model=self.job.model, cluster=cluster, batch=self.job.batch, seq=self.job.seq, practice=self.job.practice
        )
        return predict(job, self.layout)

    def error(self, on: Device | None = None) -> float:
        """Return by what share of the published time the prediction is too long."""
        return self.predicted(on).total / self.seconds - 1


@dataclass(frozen=True, slots=True)
class Table:
    """A published table; `role` is "fitted" or "held out"."""

    name: str
    device: str
    role: str
    source: str
    rows: tuple[Row, ...]

    @property
    def judged(self) -> tuple[Row, ...]:
        """The rows that count for the table's error: all of a fitted table, else those that nothing is fitted on."""
        return self.rows if self.role == "fitted" else tuple(row for row in self.rows if not row.fits)

    def mean_error(self) -> float:
        """Return the mean of the absolute errors."""
        return mean([abs(row.error()) for row in self.judged])

    def max_error(self) -> float:
        """Return the largest absolute error."""
        return max(abs(row.error()) for row in self.judged)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)


@cache
def tables() -> tuple[Table, ...]:
    """Return every bundled table."""
    text = (resources.files(__package__) / "data" / "tables.toml").read_text(encoding="utf-8")
    return tuple(_table(entry) for entry in tomllib.loads(text)["table"])


def table(name: str) -> Table:
    """Return one bundled table."""
    return next(one for one in tables() if one.name == name)


def held_out_error(kind: str | None = None) -> tuple[float, float, int]:
    """Return mean and largest error, and the number, of all held-out rows; `kind`: of devices whose names begin so."""
    chosen = [one for one in tables() if one.role == "held out" and one.device.startswith(kind or "")]
    errors = [abs(row.error()) for one in chosen for row in one.judged]
    return mean(errors), max(errors), len(errors)


def _table(entry: Mapping[str, Any]) -> Table:
    rows = tuple(_row(entry, row) for row in entry["rows"])
    return Table(entry["name"], entry["device"], entry["role"], entry["source"], rows)


def _row(entry: Mapping[str, Any], row: Mapping[str, Any]) -> Row:
    model, seq = _model(row), row.get("seq", entry["seq"])
    practice = Practice(**{key: row.get(key, value) for key, value in _settings(entry, row).items()})
    job = Job(
        model=model,
        cluster=one_kind(device(entry["device"]), row["devices"]),
        batch=row["batch"],
        seq=seq,
        practice=practice,
    )
    seconds = _seconds(row, model, job)
    return Row(row["name"], job, _layout(row), seconds, row.get("memory_gib"), row.get("params"), row.get("fits", ""))


def _settings(entry: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry["practice"], **{key: row[key] for key in row if key in PRACTICE_KEYS}}


def _layout(row: Mapping[str, Any]) -> Layout:
    """Return a row's layout; devices that it doesn't speak of are replicas. GPT rows recompute all by default."""
    given = {key: row[key] for key in row if key in LAYOUT_KEYS}
    given.setdefault("recompute", "full")
    given.setdefault("schedule", "interleaved" if row.get("virtual", 1) > 1 else "1f1b")
    given.setdefault("sequence_parallel", "model" in row or given["recompute"] == "selective")
    others = given.get("pp", 1) * given.get("tp", 1) * given.get("dp_shard", 1)
    return Layout(dp_replicate=row["devices"] // others, **given)


def _model(row: Mapping[str, Any]) -> Model:
    if "model" in row:
        return preset(row["model"])
    sizes = {"num_layers": row["layers"], "hidden": row["hidden"], "num_heads": row["heads"]}
    return gpt(row["name"], **sizes, vocab=VOCAB, positions=2048)


def _seconds(row: Mapping[str, Any], model: Model, job: Job) -> float:
    if "seconds" in row:
        return float(row["seconds"])
    if "tokens_per_s" in row:
        return float(job.batch * job.seq / row["devices"] / row["tokens_per_s"])
    if "days" in row:
        return float(row["days"] * SECONDS_PER_DAY * job.batch * job.seq / (row["tokens_e9"] * 1e9))
    return gpt_operations(model, job.batch, job.seq) / (row["devices"] * row["tflops"] * 1e12)


def gpt_operations(model: Model, batch: int, seq: int) -> float:
    """Return the floating-point operations of a step with full recomputation, as published rates count them.

    Source: Narayanan et al. 2021, equation 3: 96 B s l h^2 (1 + s / 6h + V / 16 l h).
    """
    layers, hidden = model.num_layers, model.hidden
    rest = 1 + seq / (6 * hidden) + model.vocab / (16 * layers * hidden)
    return 96.0 * batch * seq * layers * hidden**2 * rest
