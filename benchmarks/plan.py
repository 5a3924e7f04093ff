"""The planner against published tables: how far predicted step times are from measured ones.

Nothing is trained and nothing timed: rows of published tables are predicted, and the errors printed. What each row
means and does not say is in `benchmarks/README.md`. Constants were fitted on narayanan_t1, and on one row each of
narayanan_zero3 and torchtitan_8b_8gpus twice, which don't count there; everything else is held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from runner import Options, Result, run, say
from tuili.train.planning.batches import fits_batch
from tuili.train.planning.claim import readings
from tuili.train.planning.devices import device
from tuili.train.planning.layout import Practice
from tuili.train.planning.tables import Row, Table, mean, tables

FITTED_BOUND, HELD_OUT_BOUND = 0.05, 0.10
BATCH, LENGTHS = 64, (512, 2048)
CONSTANT = "the same share of the peak everywhere"
CLAIMS = ("same_gpus", "four_times_the_gpus")


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for; `--test` has no meaning here."""
    if options.test is not None:
        say("--test changes nothing here: the tables come with tuili")
    for table in tables():
        if options.wants(f"plan.{table.name}"):
            yield from _errors(table)
    if options.wants("plan.held_out"):
        yield from _all_held_out()
    if options.wants("plan.params"):
        yield _params()
    if options.wants("plan.memory"):
        yield _memory()
    if options.wants("plan.claim"):
        yield from _claims()
    if options.wants("plan.batch64"):
        yield from _batches()


def _errors(table: Table) -> Iterator[Result]:
    """Yield the mean and the largest error of a table, and of a rule that knows one share of the peak."""
    errors = [abs(row.error()) for row in table.judged]
    simple = [abs(simple_error(row)) for row in table.judged]
    bound = FITTED_BOUND if table.role == "fitted" else HELD_OUT_BOUND
    baseline = {"name": CONSTANT, "value": mean(simple)}
    yield Result(f"plan.{table.name}.mean_error", mean(errors), "fraction", None, len(errors), baseline, bound)
    baseline = {"name": CONSTANT, "value": max(simple)}
    yield Result(f"plan.{table.name}.max_error", max(errors), "fraction", None, len(errors), baseline)


def simple_error(row: Row) -> float:
    """Return the error of a time that is operations over a constant share of the peak."""
    step = row.predicted()
    seconds = (step.operations + step.recomputed) / step.peak / constant_share(row.job.practice.fp8, _family(row))
    return seconds / row.seconds - 1


@cache
def constant_share(fp8: bool, family: str) -> float:
    """Return the share of the bf16 peak, recomputation counted, of the rows that products are fitted on."""
    rows = [row for table in tables() for row in fitted_rows(table) if _family(row) == family]
    shares = []
    for row in rows:
        if row.job.practice.fp8 == fp8:
            step = row.predicted()
            shares.append((step.operations + step.recomputed) / step.peak / row.seconds)
    return mean(shares)


def fitted_rows(table: Table) -> Sequence[Row]:
    """Return the rows of a table on which products are fitted."""
    return table.rows if table.role == "fitted" else [row for row in table.rows if row.fits.startswith("matmul")]


def _family(row: Row) -> str:
    return row.job.cluster.groups[0].node.device.name.partition("-")[0]


def _all_held_out() -> Iterator[Result]:
    for family in ("a100", "h100"):
        held_out = [table for table in tables() if table.role == "held out" and table.device.startswith(family)]
        errors = [abs(row.error()) for table in held_out for row in table.judged]
        yield Result(f"plan.held_out.{family}.mean_error", mean(errors), "fraction", None, len(errors))
        yield Result(f"plan.held_out.{family}.max_error", max(errors), "fraction", None, len(errors))


def _params() -> Result:
    """Return the largest gap between published and computed numbers of parameters, in billions."""
    rows = [row for table in tables() for row in table.rows if row.params_e9 is not None]
    gaps = [abs(row.job.model.num_params / 1e9 - (row.params_e9 or 0.0)) for row in rows]
    return Result("plan.params.max_gap", max(gaps), "billion", None, len(gaps), None, 0.1)


def _memory() -> Result:
    """Return the mean error of predicted against measured peak memory; no constant is fitted for it."""
    rows = [row for table in tables() for row in table.rows if row.memory_gib is not None]
    errors = [abs(row.predicted().memory.total / (row.memory_gib or 1.0) - 1) for row in rows]
    return Result("plan.memory.torchtitan.mean_error", mean(errors), "fraction", None, len(errors))


def _claims() -> Iterator[Result]:
    """Yield the predicted hours of the two readings of "100B, 72 h become 18 h"."""
    for name, one in zip(CLAIMS, readings(), strict=True):
        yield Result(f"plan.claim.{name}.hours", one.hours, "h", None, 1, {"name": "before", "value": 72.0})
        yield Result(f"plan.claim.{name}.tokens", one.tokens / 1e9, "billion", None, 1)


def _batches() -> Iterator[Result]:
    """Yield how many of the named models hold 64 sequences at once in 80 GB, sharded as far as it takes."""
    for seq in LENGTHS:
        for name, practice in (("", Practice()), (".chunked_loss", Practice(chunked_loss=True))):
            found = fits_batch(BATCH, device("a100-80"), seq, practice)
            num_fitting = sum(any(fit.num_shards is not None for fit in fits) for fits in found.values())
            yield Result(f"plan.batch64.{seq}{name}.models", num_fitting, "count", None, len(found))


if __name__ == "__main__":
    run(__doc__ or "", measure)
