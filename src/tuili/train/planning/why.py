"""Why a layout is the best, in words."""

from __future__ import annotations

from collections.abc import Iterator

from tuili.train.planning.cost import Step
from tuili.train.planning.search import Plan, name_of, usable_gib

PARTS = {
    "matmul": "products of matrices",
    "attention": "attention",
    "elementwise": "element-wise operations (memory bandwidth)",
    "tensor": "tensor-parallel communication",
    "bubble": "the pipeline bubble",
    "pipeline": "sending between stages",
    "data": "gradients and shards (data-parallel communication)",
    "optimiser": "the optimiser",
}
SAME = 0.002
"""Share of a step below which two are called equally fast."""


def parts_of(step: Step) -> dict[str, float]:
    """Return the seconds of a step by part."""
    return {name: getattr(step, name) for name in PARTS}


def runner_up(plan: Plan) -> Step | None:
    """Return the fastest layout that shares out the devices otherwise than the best."""
    best = plan.ranked[0].layout
    key = (best.pp, best.tp, best.dp_shard)
    others = (step for step in plan.ranked[1:] if (step.layout.pp, step.layout.tp, step.layout.dp_shard) != key)
    return next(others, None)


def explain(plan: Plan) -> list[str]:
    """Return sentences: what bounds the best layout, what the runner-up loses to, what the memory allows."""
    best = plan.ranked[0]
    return [*_bound(best), *_against(plan, best), *_memory(plan, best)]


def _bound(best: Step) -> Iterator[str]:
    parts = sorted(parts_of(best).items(), key=lambda part: -part[1])
    first, second = parts[0], parts[1]
    yield (
        f"The best is bound by {PARTS[first[0]]}: {first[1] / best.total:.0%} of the step; then come "
        f"{PARTS[second[0]]} with {second[1] / best.total:.0%}."
    )
    layout = best.layout
    if layout.tp > 1:
        yield (
            f"tp={layout.tp} stays within the fast links of a node; waiting for it takes "
            f"{best.tensor / best.total:.1%} of the step."
        )
    if layout.pp > 1:
        yield (
            f"{best.num_micro} micro-batches over pp={layout.pp} leave a bubble of {best.bubble / best.total:.1%}; "
            f"{_spread(best.counts)}."
        )


def _spread(counts: tuple[int, ...]) -> str:
    if len(set(counts)) == 1:
        return f"every chunk has {counts[0]} layers"
    return f"chunks have {min(counts)} to {max(counts)} layers, the last, with the output layer, {counts[-1]}"


def _against(plan: Plan, best: Step) -> Iterator[str]:
    other = runner_up(plan)
    if other is None:
        return
    slower = other.total / best.total - 1
    if slower < SAME:
        yield f"{name_of(other.layout)} is as fast ({slower:+.2%})."
        return
    gaps = {name: seconds - parts_of(best)[name] for name, seconds in parts_of(other).items()}
    losses = sorted(((gap, name) for name, gap in gaps.items() if gap > 0.1 * (other.total - best.total)), reverse=True)
    gains = sorted((gap, name) for name, gap in gaps.items() if gap < -0.1 * (other.total - best.total))
    text = " and ".join(f"{seconds(gap)} to {PARTS[name]}" for gap, name in losses[:2])
    won = f", and wins {seconds(-gains[0][0])} in {PARTS[gains[0][1]]}" if gains else ""
    yield f"The runner-up ({name_of(other.layout)}) is {slower:.1%} slower: it loses {text}{won}."


def _memory(plan: Plan, best: Step) -> Iterator[str]:
    yield (
        f"It holds {best.memory.total:.1f} of {usable_gib(best):.1f} usable GiB on the fullest device; "
        f"{plan.num_too_large} layouts don't fit and {plan.num_impossible} are ruled out by numbers."
    )
    for step in plan.misses[:1]:
        yield (
            f"The nearest miss ({name_of(step.layout)}) needs {step.memory.total:.1f} GiB, most of it for "
            f"{_largest(step)}."
        )


def _largest(step: Step) -> str:
    held = ("parameters", "gradients", "optimiser", "activations")
    return max(held, key=lambda name: float(getattr(step.memory, name)))


def seconds(value: float) -> str:
    """Return a time that people can read."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"
