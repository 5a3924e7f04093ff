"""What `tuili plan` prints: tables for people, objects for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tuili.train.planning.batches import Fit
from tuili.train.planning.claim import HOURS, Reading
from tuili.train.planning.cost import Job, Step
from tuili.train.planning.devices import Device
from tuili.train.planning.memory import HEADROOM, Memory
from tuili.train.planning.search import Plan, name_of, schedule_of, usable_gib
from tuili.train.planning.settings import settings
from tuili.train.planning.tables import Table, held_out_error
from tuili.train.planning.uneven import Proposal
from tuili.train.planning.why import explain, parts_of


def columns(head: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows below a head whose words are the columns' names, flush right but for the first."""
    table = [head.split("|"), *rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    lines = []
    for first, *others in table:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join((first.ljust(widths[0]), *cells)).rstrip())
    return lines


def _memory_json(memory: Memory) -> dict[str, float]:
    return {**asdict(memory), "total": memory.total}


# -- the plan ------------------------------------------------------------------------------------


def plan_json(plan: Plan, dense: Plan | None, top: int) -> dict[str, Any]:
    """Return a plan as JSON holds it; seconds, GiB, shares of the peak."""
    value: dict[str, Any] = {
        "model": plan.job.model.name,
        "num_params": plan.job.model.num_params,
        "batch": plan.job.batch,
        "seq": plan.job.seq,
        "cluster": [
            {"device": group.node.device.name, "num_devices": group.num_devices, "per_node": group.node.per_node}
            for group in plan.job.cluster.groups
        ],
        "is_prediction": True,
        "num_fitting": len(plan.ranked),
        "num_too_large": plan.num_too_large,
        "num_impossible": plan.num_impossible,
        "impossible": [{"reason": reason, "count": count} for reason, count in plan.reasons],
        "layouts": [_with_recipe(plan.job, step) for step in plan.shown(top)],
        "nearest_misses": [_with_recipe(plan.job, step) for step in plan.misses],
        "why": explain(plan),
        "model_error": _error_json(_kind_of(plan)),
    }
    if dense is not None:
        value["dense"] = _with_recipe(dense.job, dense.ranked[0])
        value["times_as_fast_as_dense"] = dense.ranked[0].total / plan.ranked[0].total
    return value


def _with_recipe(job: Job, step: Step) -> dict[str, Any]:
    recipe = settings(job, step)
    return {**_step_json(step), "recipe": {"settings": recipe.values, "otherwise": list(recipe.otherwise)}}


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "layout": asdict(step.layout),
        "num_micro_batches": step.num_micro,
        "layers_of_chunks": list(step.counts),
        "step_s": step.total,
        "parts_s": parts_of(step),
        "tokens_per_s": step.tokens_per_s,
        "mfu": step.mfu,
        "hfu": step.hfu,
        "memory_gib": _memory_json(step.memory),
        "memory_usable_gib": usable_gib(step),
    }


def _kind_of(plan: Plan) -> str | None:
    """Return "a100" or "h100" if the cluster is of that alone; None where no table speaks of its devices."""
    kinds = {group.node.device.name.partition("-")[0] for group in plan.job.cluster.groups}
    return kinds.pop() if len(kinds) == 1 and kinds <= {"a100", "h100"} else None


def _error_json(kind: str | None) -> dict[str, Any] | None:
    if kind is None:
        return None
    mean, largest, count = held_out_error(kind)
    return {"mean": mean, "max": largest, "n": count}


def plan_lines(plan: Plan, dense: Plan | None, top: int) -> list[str]:
    """Return a plan for people."""
    job = plan.job
    kinds = " + ".join(f"{group.num_devices} x {group.node.device.name}" for group in job.cluster.groups)
    lines = [
        f"{job.model.name} ({job.model.num_params / 1e9:.2f}B parameters) on {kinds}, a step of {job.batch:,} "
        f"sequences of {job.seq:,} tokens. Predicted, nothing was run:",
        "",
        *_ranked(plan.shown(top)),
        "",
        *explain(plan),
        *_as_recipe(plan),
    ]
    if dense is not None:
        lines += ["", _against_dense(plan, dense)]
    return [*lines, _trust(plan)]


def _ranked(steps: Sequence[Step]) -> list[str]:
    head = "#|pp|dp|tp|micro|schedule|recompute|step|tokens/s|MFU|HFU|bubble|tensor|stages|data|GiB"
    rows = []
    for place, step in enumerate(steps, start=1):
        layout = step.layout
        data = f"{layout.dp_replicate}" if layout.dp_shard == 1 else f"{layout.dp_replicate}x{layout.dp_shard}s"
        shares = [f"{part / step.total:.1%}" for part in (step.bubble, step.tensor, step.pipeline, step.data)]
        rows.append([
            str(place), str(layout.pp), data, str(layout.tp), str(layout.micro_batch), schedule_of(layout),
            layout.recompute, f"{step.total:.3g} s", f"{step.tokens_per_s:,.0f}", f"{step.mfu:.1%}", f"{step.hfu:.1%}",
            *shares, f"{step.memory.total:.1f}",
        ])  # fmt: skip
    return [
        *columns(head, rows),
        "The best of each way to share out the devices, then variants. dp 2x8s: 2 replicas, each sharded "
        "over 8 devices. Shares of the step are waiting times.",
    ]


def _as_recipe(plan: Plan) -> list[str]:
    recipe = settings(plan.job, plan.ranked[0])
    lines = [f"The best as a run: tuili train RECIPE {recipe.options}"]
    return lines + ([f"There, otherwise than planned: {'; '.join(recipe.otherwise)}."] if recipe.otherwise else [])


def _against_dense(plan: Plan, dense: Plan) -> str:
    best, other = plan.ranked[0], dense.ranked[0]
    return (
        f"With every layer dense the best layout ({name_of(other.layout)}) takes {other.total:.3g} s at this length: "
        f"the layer plan is {other.total / best.total:.2f} times as fast; "
        f"{best.attention / best.total:.1%} of its step is attention with its gate, of the dense one "
        f"{other.attention / other.total:.1%}."
    )


def _trust(plan: Plan) -> str:
    kind = _kind_of(plan)
    if kind is None:
        return "No published table speaks of such a cluster: take the order seriously, and the times as guesses."
    mean, largest, count = held_out_error(kind)
    return (
        f"On {count} published {kind.upper()} rows that nothing was fitted on the model is {mean:.1%} off in the mean, "
        f"{largest:.1%} at most (tuili plan --tables)."
    )


# -- the other questions -------------------------------------------------------------------------


def split_json(proposed: Proposal) -> dict[str, Any]:
    """Return a split as JSON holds it."""
    return {**asdict(proposed), "gain": proposed.gain}


def split_lines(proposed: Proposal) -> list[str]:
    """Return a split for people."""
    rows = [
        [str(stage), f"{speed:g}", str(count), f"{time:.1%}", str(even), f"{even_time:.1%}"]
        for stage, (speed, count, time, even, even_time) in enumerate(
            zip(proposed.speeds, proposed.counts, proposed.times, proposed.even, proposed.even_times, strict=True)
        )
    ]
    return [
        *columns("stage|speed|layers|time|even|even time", rows),
        f"Predicted: {proposed.gain:.2f} times as fast as an even split, many micro-batches given. Times are shares of "
        "the slowest stage of the even split; the last stage has the output layer besides.",
    ]


def fits_json(found: Mapping[str, tuple[Fit, ...]], batch: int, kind: Device, seq: int) -> dict[str, Any]:
    """Return which models fit as JSON holds it."""
    models = {
        name: [
            {"recompute": fit.recompute, "alone_gib": _memory_json(fit.alone), "num_shards": fit.num_shards}
            | {"largest": fit.largest}
            for fit in fits
        ]
        for name, fits in found.items()
    }
    usable = kind.memory_gib * (1 - HEADROOM)
    return {"batch": batch, "seq": seq, "device": kind.name, "usable_gib": usable, "models": models}


def fits_lines(found: Mapping[str, tuple[Fit, ...]], batch: int, kind: Device, seq: int) -> list[str]:
    """Return which models fit for people."""
    rows = [[name, *(_fit_text(fit) for fit in fits)] for name, fits in found.items()]
    return [
        f"{batch} sequences of {seq:,} tokens at once on one {kind.name} ({kind.memory_gib * (1 - HEADROOM):.1f} GiB "
        "usable), training in bf16 with Adam, without pipeline or tensor slices. Predicted:",
        "",
        *columns("model|recompute none|selective|full", rows),
        "",
        "fits: on one device alone. sharded N: if parameters, gradients and optimiser are sharded over N devices. "
        "at most N: activations of more sequences are too much for one device, however the rest is sharded; the batch "
        "is then reached by accumulation, or with tensor slices.",
    ]


def _fit_text(fit: Fit) -> str:
    if fit.largest == 0:
        return "not even 1"
    if fit.num_shards is None:
        return f"at most {fit.largest}"
    return f"fits, {fit.alone.total:.1f} GiB" if fit.num_shards == 1 else f"sharded {fit.num_shards}"


def claim_json(found: Sequence[Reading]) -> dict[str, Any]:
    """Return the two readings as JSON holds them."""
    readings = [
        {
            "name": one.name,
            "tokens": one.tokens,
            "before": {**_step_json(one.before), "hours": HOURS, "num_devices": one.before.layout.num_devices},
            "after": {**_step_json(one.after), "hours": one.hours, "num_devices": one.after.layout.num_devices},
        }
        for one in found
    ]
    return {"is_prediction": True, "readings": readings, "model_error": _error_json("a100")}


def claim_lines(found: Sequence[Reading]) -> list[str]:
    """Return the two readings for people."""
    mean, largest, count = held_out_error("a100")
    lines = ["100 billion parameters, 72 hours become 18: two readings, both predicted, neither measured by us."]
    for number, one in enumerate(found, start=1):
        lines += [
            "",
            f"{number}. {one.name[0].upper()}{one.name[1:]}: {one.tokens / 1e9:.1f} billion tokens in {HOURS:.0f} h "
            f"become {one.hours:.1f} h.",
            *(
                f"   {label}: {step.layout.num_devices} A100, {name_of(step.layout)}: {step.total:.1f} s a step, "
                f"MFU {step.mfu:.1%}"
                for label, step in (("before", one.before), ("after", one.after))
            ),
        ]
    return [
        *lines,
        "",
        f"The model is {mean:.1%} off in the mean and {largest:.1%} at most on {count} published A100 rows that "
        "nothing was fitted on. No published table shows a factor of four on the same GPUs; and either way this is a "
        "run over some billion tokens, not one of 20 tokens a parameter.",
    ]


def tables_json(found: Sequence[Table]) -> list[dict[str, Any]]:
    """Return the published tables beside predictions as JSON holds them."""
    return [
        {
            "name": table.name,
            "device": table.device,
            "role": table.role,
            "source": table.source,
            "mean_error": table.mean_error(),
            "max_error": table.max_error(),
            "rows": [
                {"name": row.name, "published_s": row.seconds, "error": row.error(), "fits": row.fits or None}
                | {"predicted_s": row.predicted().total}
                for row in table.rows
            ],
        }
        for table in found
    ]


def tables_lines(found: Sequence[Table]) -> list[str]:
    """Return the published tables beside predictions for people."""
    lines = []
    for table in found:
        rows = [
            [row.name, f"{row.seconds:.3g} s", f"{row.predicted().total:.3g} s", f"{row.error():+.1%}", row.fits]
            for row in table.rows
        ]
        lines += [
            f"{table.name} ({table.device}, {table.role}): {table.mean_error():.1%} off in the mean, "
            f"{table.max_error():.1%} at most",
            f"  {table.source}",
            *(f"  {line}" for line in columns("row|published|predicted|error|fits", rows)),
            "",
        ]
    mean, largest, count = held_out_error()
    return [*lines, f"All {count} held-out rows: {mean:.1%} off in the mean, {largest:.1%} at most."]
