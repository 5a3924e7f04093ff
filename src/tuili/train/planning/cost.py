"""The time of a whole step under a layout, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from tuili.errors import InputError
from tuili.train.planning.devices import Cluster, Node
from tuili.train.planning.layers import ELEMENT, Parts, Pass, ends_pass, every_other, layer_pass
from tuili.train.planning.layout import Layout, Practice
from tuili.train.planning.memory import MASTER, MOMENTS, Memory, stage_memory
from tuili.train.planning.models import Model, Reading
from tuili.train.planning.speeds import split_layers

EXPOSED = 0.05
"""Share of an all-reduce behind the backward pass that nothing hides: the last bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be trained on what: a model, a cluster, sequences a step, tokens a sequence.

    Raises:
        InputError: the batch or the sequence is empty.
    """

    model: Model
    cluster: Cluster
    batch: int
    seq: int
    practice: Practice = field(default=Practice())

    def __post_init__(self) -> None:
        if self.batch < 1 or self.seq < 1:
            raise InputError(f"a batch of {self.batch} sequences of {self.seq} tokens; give at least 1 of each")
        if self.practice.fp8:
            without = [group.node.device.name for group in self.cluster.groups if not group.node.device.peak_fp8]
            if without:
                raise InputError(f"{without[0]} multiplies nothing in 8 bits; leave out fp8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A predicted step: seconds by what they are spent on.

    Attributes:
        matmul, attention, elementwise: of the slowest stage, all its micro-batches, recomputation included.
        tensor, pipeline, data: waiting for communication of each kind, without what hides behind computation.
        bubble: waiting for other stages at the step's beginning and end.
        counts: layers of each chunk of the pipeline.
        operations, recomputed: floating-point operations of the step, and of what is computed again.
    """

    layout: Layout
    num_micro: int
    counts: tuple[int, ...]
    matmul: float
    attention: float
    elementwise: float
    tensor: float
    bubble: float
    pipeline: float
    data: float
    optimiser: float
    memory: Memory
    memory_limit: float
    tokens: int
    operations: float
    recomputed: float
    peak: float

    @property
    def compute(self) -> float:
        """Seconds of products, attention and element-wise operations, recomputation included."""
        return self.matmul + self.attention + self.elementwise

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.compute + self.tensor + self.bubble + self.pipeline + self.data + self.optimiser

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of all devices together."""
        return self.tokens / self.total

    @property
    def mfu(self) -> float:
        """Share of the peak that the model's own operations make. Source: Chowdhery et al. 2022 (arXiv:2204.02311)."""
        return self.operations / self.total / self.peak

    @property
    def hfu(self) -> float:
        """Share of the peak that is computed, recomputation included."""
        return (self.operations + self.recomputed) / self.total / self.peak


def problems(job: Job, layout: Layout) -> list[str]:
    """Return what makes a layout impossible; empty if nothing does."""
    model, cluster, found = job.model, job.cluster, []
    if layout.num_devices != cluster.num_devices:
        found.append(
            f"the layout takes pp x dp x tp = {layout.num_devices} devices, the cluster has {cluster.num_devices}; "
            "give a layout that takes them all"
        )
    for what, number in (("heads", model.num_heads), ("key-value heads", model.num_kv_heads), ("mlp width", model.mlp)):
        if number % layout.tp:
            found.append(f"tp={layout.tp} doesn't divide the {number} {what} of {model.name}; give a tp that does")
    if layout.tp > cluster.per_node:
        found.append(f"tp={layout.tp} is more than the {cluster.per_node} devices behind fast links; give less")
    elif cluster.per_node % layout.tp:
        found.append(
            f"tp={layout.tp} doesn't divide the {cluster.per_node} devices behind fast links, so that some slices "
            "would lie on two nodes; give a tp that does"
        )
    if layout.pp * layout.virtual > model.num_layers:
        found.append(
            f"pp={layout.pp} x virtual={layout.virtual} is more than the {model.num_layers} layers of {model.name}; "
            "give less"
        )
    if not found and cluster.nodes_of_stages(layout.pp) is None:
        found.append(f"with pp={layout.pp} a stage would have devices of two kinds; give a pp that parts the kinds")
    return found + _batch_problems(job, layout)


def _batch_problems(job: Job, layout: Layout) -> list[str]:
    if job.batch % (layout.data * layout.micro_batch):
        return [
            f"a batch of {job.batch} sequences is no multiple of {layout.data} replicas x {layout.micro_batch} a "
            "micro-batch; give a batch, or a micro-batch, that is"
        ]
    num_micro = job.batch // (layout.data * layout.micro_batch)
    if layout.virtual > 1 and num_micro % layout.pp:
        return [
            f"{num_micro} micro-batches are no multiple of pp={layout.pp}, which the interleaved schedule needs; "
            "give another micro-batch, or 1f1b"
        ]
    return []


def predict(job: Job, layout: Layout) -> Step:
    """Return what a step takes under a layout.

    Raises:
        InputError: the layout is impossible; the message says which numbers don't go together.
    """
    found = problems(job, layout)
    if found:
        raise InputError(found[0])
    return price(job, layout)


def price(job: Job, layout: Layout) -> Step:
    """Return what a step takes under a layout that has no problems."""
    model, practice, seq = job.model, job.practice, job.seq
    num_micro = job.batch // (layout.data * layout.micro_batch)
    nodes, counts = _placed(job, layout)
    stages = _stages(job, layout, nodes, counts)
    slowest = max(stages, key=lambda stage: stage.total)
    bubble = (sum(stage.total for stage in stages) - slowest.total) * _bubble_share(layout, slowest)
    steady = (slowest.forward + slowest.backward).times(num_micro)
    params = stage_params(model, layout, counts)
    ranks = _different(layout.pp, nodes, counts)
    memory, memory_limit = fullest(job, layout)
    return Step(
        layout=layout,
        num_micro=num_micro,
        counts=counts,
        matmul=steady.matmul,
        attention=steady.attention,
        elementwise=steady.elementwise,
        tensor=steady.tensor,
        bubble=bubble,
        pipeline=num_micro * _hop(job, layout, nodes),
        data=max(
            _data(job, layout, nodes[rank], stages[rank], num_micro, params[rank], sum(counts[rank :: layout.pp]))
            for rank in ranks
        ),
        optimiser=max(_optimiser(job, layout, nodes[rank], params[rank]) for rank in ranks),
        memory=memory,
        memory_limit=memory_limit,
        tokens=job.batch * seq,
        operations=job.batch * seq * model.operations_per_token(seq),
        recomputed=job.batch * seq * recomputed_operations(model, layout, practice, seq),
        peak=job.cluster.peak,
    )


def fullest(job: Job, layout: Layout) -> tuple[Memory, float]:
    """Return what the fullest device holds, and what it can hold, in GiB."""
    num_micro = job.batch // (layout.data * layout.micro_batch)
    nodes, counts = _placed(job, layout)
    held = [
        (stage_memory(job.model, layout, job.practice, job.seq, num_micro, counts, rank), nodes[rank].device.memory_gib)
        for rank in _different(layout.pp, nodes, counts)
    ]
    return max(held, key=lambda pair: pair[0].total / pair[1])


def _placed(job: Job, layout: Layout) -> tuple[tuple[Node, ...], tuple[int, ...]]:
    """Return the node of each stage and the layers of each chunk."""
    nodes = tuple(job.cluster.nodes_of_stages(layout.pp) or ())
    return nodes, _split(job.model, nodes, _core(layout), job.practice, job.seq, layout.pp, layout.virtual)


@lru_cache(maxsize=4096)
def _different(pp: int, nodes: tuple[Node, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the first rank of each sort: with the same device, number of layers, and ends of the model."""
    sorts: dict[tuple[Node, int, bool, bool], int] = {}
    for rank in range(pp):
        sorts.setdefault((nodes[rank], sum(counts[rank::pp]), rank == 0, rank == pp - 1), rank)
    return tuple(sorts.values())


# -- stages --------------------------------------------------------------------------------------


def _core(layout: Layout) -> Layout:
    """Return what of a layout the time of a layer depends on."""
    return Layout(
        tp=layout.tp,
        micro_batch=layout.micro_batch,
        recompute=layout.recompute,
        sequence_parallel=layout.sequence_parallel,
    )


@lru_cache(maxsize=4096)
def _passes(
    model: Model, node: Node, core: Layout, practice: Practice, seq: int
) -> tuple[dict[Reading, Pass], Pass, Pass]:
    """Return the time of each sort of layer, of the embedding, and of the output layer."""
    by_reading = {reading: layer_pass(model, reading, node, core, practice, seq) for reading in set(model.readings)}
    return by_reading, *ends_pass(model, node, core, practice, seq)


@lru_cache(maxsize=4096)
def _split(
    model: Model, nodes: tuple[Node, ...], core: Layout, practice: Practice, seq: int, pp: int, virtual: int
) -> tuple[int, ...]:
    """Return the layers of each chunk; a chunk on a faster device gets more."""
    by_reading, first, last = _passes(model, nodes[0], core, practice, seq)
    own = {}
    for node in dict.fromkeys(nodes):
        times = _passes(model, node, core, practice, seq)[0]
        own[node] = sum(times[reading].total for reading in model.readings)
    speeds = [own[nodes[0]] / own[nodes[at % pp]] for at in range(pp * virtual)]
    costs = [by_reading[reading].total for reading in model.readings]
    return tuple(split_layers(costs, speeds, first.total, last.total))


def _stages(job: Job, layout: Layout, nodes: Sequence[Node], counts: tuple[int, ...]) -> list[Pass]:
    """Return what one micro-batch takes on each rank of the pipeline, all chunks of the rank together."""
    stages = [Pass(Parts(), Parts())] * layout.pp
    readings, start = job.model.readings, 0
    for at, count in enumerate(counts):
        rank = at % layout.pp
        by_reading, first, last = _passes(job.model, nodes[rank], _core(layout), job.practice, job.seq)
        within = {readings[0]: count} if len(by_reading) == 1 else Counter(readings[start : start + count])
        for reading, number in within.items():
            stages[rank] = stages[rank] + by_reading[reading].times(number)
        if at == 0:
            stages[rank] = stages[rank] + first
        if at == len(counts) - 1:
            stages[rank] = stages[rank] + last
        start += count
    return stages


def stage_params(model: Model, layout: Layout, counts: tuple[int, ...]) -> list[float]:
    """Return the parameters that a tensor rank of each stage computes with; tied embeddings count at both ends."""
    params = [float(sum(counts[rank :: layout.pp]) * model.layer_params) for rank in range(layout.pp)]
    params[0] += model.embedding_params
    params[-1] += model.head_params
    if model.tied and layout.pp > 1:
        params[-1] += model.vocab * model.hidden
    return [number / layout.tp for number in params]


def _bubble_share(layout: Layout, stage: Pass) -> float:
    """Return what part of a micro-batch's way through the other stages is waited for.

    Source: interleaved: Narayanan et al. 2021 (arXiv:2104.04473), section 2.2.2, 1 / v of it. Zero-bubble (ZB-H1): Qi
    et al. 2023 (arXiv:2401.10241), section 2.3, (F + B - W) of (F + B + W), W being the gradients of weights.
    """
    if layout.schedule == "zero-bubble":
        return max(0.0, stage.total - 2 * stage.forward.matmul) / stage.total
    return 1 / layout.virtual


# -- communication and the optimiser -------------------------------------------------------------


def _hop(job: Job, layout: Layout, nodes: Sequence[Node]) -> float:
    """Return the seconds a micro-batch waits for what stages send each other, there and back, for each chunk.

    Source: scatter and gather: Narayanan et al. 2021, section 4.1.
    """
    if layout.pp == 1:
        return 0.0
    sent = ELEMENT * layout.micro_batch * job.seq * job.model.hidden
    is_inside = layout.num_devices <= job.cluster.per_node
    devices = [node.device for node in nodes]
    bandwidth = min(each.fast_link * each.fast if is_inside else each.slow_link * each.slow for each in devices)
    latency = max(each.fast_latency_s if is_inside else each.slow_latency_s for each in devices)
    is_cut = layout.sequence_parallel or job.practice.scatter_gather
    gathered = 0.0
    if job.practice.scatter_gather and not layout.sequence_parallel:
        gathered = max(node.gather_time(sent, 1, layout.tp) for node in set(nodes))
    return 2 * layout.virtual * (sent / (layout.tp if is_cut else 1) / bandwidth + latency + gathered)


def _data(job: Job, layout: Layout, node: Node, stage: Pass, num_micro: int, params: float, num_layers: int) -> float:
    """Return the seconds of waiting for gradients and shards.

    Shards are gathered for the forward and again for the backward pass and gradients scattered, for each micro-batch,
    or with a pipeline once a step; layer by layer, so that all but one layer can hide behind computation. Replicas
    all-reduce gradients once a step, behind the backward pass of the last micro-batch. Source: Rajbhandari et al. 2020
    (arXiv:1910.02054), section 7; Zhao et al. 2023 (arXiv:2304.11277), section 3.
    """
    practice, waited = job.practice, 0.0
    if layout.dp_shard > 1:
        once = layout.pp > 1
        gather = node.gather_time(ELEMENT * params, layout.tp, layout.dp_shard, rails=practice.rails)
        scatter = node.gather_time(practice.reduce_bytes * params, layout.tp, layout.dp_shard, rails=practice.rails)
        again = 0.0 if once else gather
        forward = _exposed(gather, stage.forward.total, num_layers) if practice.overlap_gather else gather
        hidden = (again if practice.overlap_gather else 0.0) + (scatter if practice.overlap_reduce else 0.0)
        backward = _exposed(hidden, stage.backward.total, num_layers) + again + scatter - hidden
        waited += (1 if once else num_micro) * (forward + backward)
    if layout.dp_replicate > 1:
        sent = practice.reduce_bytes * params / layout.dp_shard
        stride = layout.tp * layout.dp_shard
        reduce = 2 * node.gather_time(sent, stride, layout.dp_replicate, rails=practice.rails)
        waited += max(EXPOSED * reduce, reduce - stage.backward.total) if practice.overlap_reduce else reduce
    return waited


def _exposed(sent: float, computed: float, num_layers: int) -> float:
    """Return what of a communication doesn't hide behind computation: at least one layer's."""
    return max(sent / max(num_layers, 1), sent - computed)


def _optimiser(job: Job, layout: Layout, node: Node, params: float) -> float:
    """Return the seconds of Adam: gradients read twice (norm, update), master and moments read and written, a copy."""
    moved = 2 * job.practice.gradient_bytes + 2 * (MASTER + MOMENTS) + ELEMENT
    return node.device.memory_time(params / layout.dp_shard * moved)


def recomputed_operations(model: Model, layout: Layout, practice: Practice, seq: int) -> float:
    """Return the floating-point operations a token that are computed a second time."""
    attention = model.attention_operations(seq)
    matrices = [2 * inputs * outputs * model.num_layers for inputs, outputs, _ in model.matrices]
    if layout.recompute == "full":
        return sum(matrices) + attention
    if layout.recompute == "none":
        return 0.0
    if not practice.flash:
        return attention
    return sum(share * matrix for share, matrix in zip(every_other(model), matrices, strict=True))
