"""Ranked layouts as a picture: what a step's time is spent on, and memory against what a device has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuili.errors import DependencyError, UsageError
from tuili.train.planning.cost import Step
from tuili.train.planning.search import Plan, schedule_of, usable_gib

NUM_SHOWN = 8
DPI = 150
TIMES = (
    ("matmul", "products", "#2f6f9f"),
    ("attention", "attention", "#7fb2d9"),
    ("elementwise", "element-wise", "#c3dcef"),
    ("tensor", "tensor comm.", "#e08a3c"),
    ("bubble", "bubble", "#b8c1cc"),
    ("pipeline", "stage comm.", "#c85a54"),
    ("data", "data comm.", "#8a5aa8"),
    ("optimiser", "optimiser", "#5f9e6e"),
)
MEMORIES = (
    ("parameters", "parameters", "#2f6f9f"),
    ("gradients", "gradients", "#e08a3c"),
    ("optimiser", "optimiser", "#5f9e6e"),
    ("activations", "activations", "#b8c1cc"),
)
INK = "#1f2430"


def draw(plan: Plan, path: Path) -> None:
    """Write the picture of a plan's best layouts to an .svg or .png file.

    Raises:
        UsageError: the file's name ends otherwise.
        DependencyError: matplotlib is not installed.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise UsageError(f"a picture is written as .svg or .png, not {path.suffix!r}; give such a name")
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError("matplotlib", "draw", "drawing to .svg or .png") from error
    steps = plan.shown(NUM_SHOWN)
    figure = Figure(figsize=(11, 1.9 + 0.52 * len(steps)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    times, memories = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _stack(times, steps, TIMES, lambda step, name: getattr(step, name))
    _stack(memories, steps, MEMORIES, lambda step, name: getattr(step.memory, name))
    _label(times, memories, steps, plan)
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else {})


def _stack(axes: Any, steps: tuple[Step, ...], parts: Any, value: Any) -> None:
    places = range(len(steps))
    left = [0.0] * len(steps)
    for name, label, color in parts:
        widths = [value(step, name) for step in steps]
        if max(widths) > 0.001 * max(sum(value(step, other) for other, _, _ in parts) for step in steps):
            axes.barh(
                places, widths, left=left, color=color, label=label, height=0.62, edgecolor="white", linewidth=0.6
            )
        left = [start + width for start, width in zip(left, widths, strict=True)]


def _label(times: Any, memories: Any, steps: tuple[Step, ...], plan: Plan) -> None:
    times.set_yticks(range(len(steps)), [_name(step) for step in steps], fontsize=8.5, color=INK)
    times.invert_yaxis()
    longest = max(step.total for step in steps)
    for place, step in enumerate(steps):
        text = f"{step.total:.3g} s, MFU {step.mfu:.0%}"
        times.text(step.total + 0.01 * longest, place, text, va="center", fontsize=8, color=INK)
    times.set(xlim=(0, 1.22 * longest), xlabel="seconds of a step")
    limit = max(step.memory_limit for step in steps)
    memories.axvline(limit, color="#c85a54", linewidth=1.4)
    memories.axvline(max(usable_gib(step) for step in steps), color="#c85a54", linewidth=1, linestyle=(0, (4, 3)))
    memories.set(xlim=(0, 1.06 * limit), xlabel="GiB a device (dashed: usable)")
    for axes in (times, memories):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5, colors=INK)
        num_columns = 4 if axes is times else 2
        axes.legend(
            frameon=False, fontsize=8, ncols=num_columns, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2
        )
    figure = times.figure
    job = plan.job
    kinds = " + ".join(f"{group.num_devices} x {group.node.device.name}" for group in job.cluster.groups)
    title = f"{job.model.name} on {kinds}, {job.batch:,} sequences of {job.seq:,} tokens a step: predicted"
    figure.suptitle(title, fontsize=10.5, color=INK, x=0.01, ha="left")


def _name(step: Step) -> str:
    layout = step.layout
    data = f"dp {layout.data}" + (f" (shard {layout.dp_shard})" if layout.dp_shard > 1 else "")
    stages = f" {schedule_of(layout)}" if layout.pp > 1 else ""
    first = f"pp {layout.pp}{stages}, {data}, tp {layout.tp}"
    return f"{first}\nmicro-batch {layout.micro_batch}, recompute {layout.recompute}"
