"""Every layout that a job could have, priced; those that fit ranked by step time, the others counted with reasons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from tuili.errors import InputError
from tuili.train.planning.cost import Job, Step, fullest, price, problems
from tuili.train.planning.devices import MAX_DEVICES, Cluster, Group
from tuili.train.planning.layout import RECOMPUTES, Layout
from tuili.train.planning.memory import HEADROOM

MAX_MICRO_BATCH = 64
VIRTUALS = (2, 3, 4)
SEARCHED = ("1f1b", "interleaved", "zero-bubble")
"""Schedules that are tried: GPipe takes as long as 1F1B and holds more."""
MAX_GROWTH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the search may choose among; `fixed` holds what is given, by the names of `Layout`.

    Without `sequence_parallel` tensor slices keep activations whole where they don't divide the work.
    """

    schedules: tuple[str, ...] = SEARCHED
    recomputes: tuple[str, ...] = RECOMPUTES
    fixed: Mapping[str, int] = field(default_factory=dict)
    sequence_parallel: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search found.

    Attributes:
        ranked: what fits, the fastest first.
        misses: the layouts that are nearest to fitting, and don't.
        num_too_large, num_impossible: layouts that don't fit, and that numbers rule out; `reasons`: of the latter.
    """

    job: Job
    ranked: tuple[Step, ...]
    misses: tuple[Step, ...]
    num_too_large: int
    num_impossible: int
    reasons: tuple[tuple[str, int], ...]

    def shown(self, num: int) -> tuple[Step, ...]:
        """Return the best of each way to share out the devices, then other variants, in order of step time."""
        best: dict[tuple[int, int, int, int], Step] = {}
        for step in self.ranked:
            layout = step.layout
            best.setdefault((layout.pp, layout.dp_replicate, layout.dp_shard, layout.tp), step)
        first = list(best.values())[:num]
        others = [step for step in self.ranked if step not in first][: num - len(first)]
        return tuple(sorted((*first, *others), key=_by_time))


def usable_gib(step: Step) -> float:
    """Return the memory of the fullest device that a step may take."""
    return step.memory_limit * (1 - HEADROOM)


def fits(step: Step) -> bool:
    """Tell whether a step fits its devices, with some room left."""
    return step.memory.total <= usable_gib(step)


def search(job: Job, choices: Choices | None = None) -> Plan:
    """Return the layouts of a job, ranked by predicted step time.

    Raises:
        InputError: no layout is possible, or none fits; the message says what would.
    """
    choices = choices or Choices()
    ranked: list[Step] = []
    large: list[tuple[float, Layout]] = []
    reasons = Counter[str]()
    for layout in candidates(job, choices):
        found = problems(job, layout)
        if found:
            reasons[found[0]] += 1
            continue
        memory, limit = fullest(job, layout)
        if memory.total <= limit * (1 - HEADROOM):
            ranked.append(price(job, layout))
        else:
            large.append((memory.total / limit, layout))
    if not ranked and not large:
        raise InputError(_none_possible(job, reasons))
    large.sort(key=lambda pair: pair[0])
    if not ranked:
        raise InputError(_none_fits(job, choices, price(job, large[0][1])))
    ranked.sort(key=_by_time)
    return Plan(
        job=job,
        ranked=tuple(ranked),
        misses=tuple(price(job, layout) for _, layout in large[:3]),
        num_too_large=len(large),
        num_impossible=sum(reasons.values()),
        reasons=tuple(reasons.most_common(3)),
    )


def _by_time(step: Step) -> tuple[float, float]:
    return step.total, step.memory.total


# -- candidates ----------------------------------------------------------------------------------


def candidates(job: Job, choices: Choices) -> Iterator[Layout]:
    """Yield the layouts to look at: every way to share out the devices, with micro-batches in powers of two."""
    num_devices = job.cluster.num_devices
    for tp in _divisors(num_devices, choices.fixed.get("tp")):
        if tp > job.cluster.per_node and "tp" not in choices.fixed:
            continue
        for pp in _divisors(num_devices // tp, choices.fixed.get("pp")):
            for replicate, shard in _data(job, num_devices // tp // pp, tp, choices):
                for micro_batch in _micro_batches(job, replicate * shard, choices):
                    layout = Layout(
                        pp=pp,
                        dp_replicate=replicate,
                        dp_shard=shard,
                        tp=tp,
                        micro_batch=micro_batch,
                        sequence_parallel=choices.sequence_parallel,
                    )
                    yield from _variants(layout, choices)


def _divisors(number: int, fixed: int | None) -> list[int]:
    if fixed is not None:
        return [fixed] if number % fixed == 0 else []
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def _data(job: Job, data: int, tp: int, choices: Choices) -> list[tuple[int, int]]:
    """Return replicas and shards: all replicas, all shards, and shards within a node."""
    inside = max(1, job.cluster.per_node // tp)
    ways = [(data, 1), (1, data)]
    if 1 < inside < data and data % inside == 0:
        ways.append((data // inside, inside))
    wanted = choices.fixed.get("dp_replicate"), choices.fixed.get("dp_shard")
    if wanted[1] is not None and data % wanted[1] == 0:
        ways = [(data // wanted[1], wanted[1])]
    elif wanted[0] is not None and data % wanted[0] == 0:
        ways = [(wanted[0], data // wanted[0])]
    return [
        (replicate, shard)
        for replicate, shard in dict.fromkeys(ways)
        if wanted[0] in (None, replicate) and wanted[1] in (None, shard)
    ]


def _micro_batches(job: Job, data: int, choices: Choices) -> list[int]:
    if "micro_batch" in choices.fixed:
        return [choices.fixed["micro_batch"]]
    most = min(MAX_MICRO_BATCH, max(1, job.batch // data))
    powers = [1 << power for power in range(most.bit_length())]
    return [size for size in powers if size == 1 or job.batch % (data * size) == 0]


def _variants(layout: Layout, choices: Choices) -> Iterator[Layout]:
    for recompute in choices.recomputes:
        if layout.pp == 1:
            if choices.fixed.get("virtual", 1) == 1:
                yield replace(layout, recompute=recompute)
            continue
        for schedule in choices.schedules:
            for virtual in _virtuals(schedule, choices.fixed.get("virtual")):
                yield replace(layout, recompute=recompute, schedule=schedule, virtual=virtual)


def _virtuals(schedule: str, given: int | None) -> tuple[int, ...]:
    """Return the numbers of chunks a stage to try; only the interleaved schedule has several."""
    if given is None:
        return VIRTUALS if schedule == "interleaved" else (1,)
    return (given,) if (schedule == "interleaved") == (given > 1) else ()


# -- refusals ------------------------------------------------------------------------------------


def _none_possible(job: Job, reasons: Counter[str]) -> str:
    model = job.model.name
    if not reasons:
        return (
            f"{job.cluster.num_devices} devices can't be shared out as asked; give pp, dp and tp whose product is "
            "the number of devices"
        )
    why = "; ".join(reason for reason, _ in reasons.most_common(3))
    return f"no layout of {model} on {job.cluster.num_devices} devices is possible: {why}"


def _none_fits(job: Job, choices: Choices, nearest: Step) -> str:
    message = (
        f"nothing fits: the layout that needs least ({name_of(nearest.layout)}) takes "
        f"{nearest.memory.total:.1f} GiB on a device, {usable_gib(nearest):.1f} are usable"
    )
    grown = _what_fits(job, choices)
    if grown is not None:
        return f"{message}; {grown.layout.num_devices} such devices would hold it ({name_of(grown.layout)})"
    return f"{message}; give shorter sequences, a smaller model, or devices with more memory"


def _what_fits(job: Job, choices: Choices) -> Step | None:
    """Return the first step that fits when the devices, and the batch if it must, are doubled again and again."""
    growth = 2
    while growth <= MAX_GROWTH and growth * job.cluster.num_devices <= MAX_DEVICES:
        groups = tuple(
            Group(replace(group.node, per_node=_filled(group)), group.num_devices * growth)
            for group in job.cluster.groups
        )
        grown = replace(job, cluster=Cluster(groups), batch=job.batch * growth)
        few = replace(choices, schedules=("1f1b",), recomputes=choices.recomputes[-1:], fixed={"micro_batch": 1})
        for layout in candidates(grown, few):
            if not problems(grown, layout) and fits(step := price(grown, layout)):
                return step
        growth *= 2
    return None


def _filled(group: Group) -> int:
    """Return how many devices a node has in a larger cluster: what it has, or its kind's number if that is one node."""
    usual = group.node.device.per_node
    return usual if group.num_devices < usual and usual % group.num_devices == 0 else group.node.per_node


def name_of(layout: Layout) -> str:
    """Return a layout in one line."""
    data = (
        f"dp={layout.dp_replicate}" if layout.dp_shard == 1 else f"dp={layout.dp_replicate}x{layout.dp_shard} sharded"
    )
    stages = f", {schedule_of(layout)}" if layout.pp > 1 else ""
    return (
        f"pp={layout.pp} {data} tp={layout.tp}, micro-batch {layout.micro_batch}{stages}, recompute {layout.recompute}"
    )


def schedule_of(layout: Layout) -> str:
    """Return the schedule with its virtual stages, "-" without a pipeline."""
    if layout.pp == 1:
        return "-"
    return layout.schedule + (f" v={layout.virtual}" if layout.virtual > 1 else "")
