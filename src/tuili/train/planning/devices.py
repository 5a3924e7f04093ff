"""Hardware as the planner sees it: what a device computes, holds and sends, and what of that is reached."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from tuili.errors import InputError, LimitError, UsageError

GIB = float(1 << 30)
MAX_DEVICES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Device:
    """One kind of accelerator or host, with the links it has; compared by identity, as the search asks for it often.

    Attributes:
        peak: bf16 operations a second by data sheet; `peak_fp8`: those in 8 bits, 0 where there are none.
        memory_gib: what a process can use. `memory_bw`: bytes a second by data sheet.
        fast_link, slow_link: bytes a second and direction of one device inside and between nodes, by data sheet.
        per_node: devices behind fast links, as usual.
        matmul, matmul_fp8, memory, fast, slow: shares of these that large operations reach.
        flash: share of `peak` that fused attention reaches.
        warm_up: columns of the inner dimension that the start and end of a product's tiles cost.
        fast_latency_s, slow_latency_s: seconds of one hop of a message.
        checked: what published figures its shares were fitted on or checked against.
    """

    name: str
    peak: float
    memory_gib: float
    memory_bw: float
    fast_link: float
    slow_link: float
    per_node: int
    matmul: float
    warm_up: float
    memory: float
    fast: float
    slow: float
    flash: float
    checked: str
    peak_fp8: float = 0.0
    matmul_fp8: float = 0.0
    fast_latency_s: float = 5e-6
    slow_latency_s: float = 10e-6

    def memory_time(self, num_bytes: float) -> float:
        """Return the seconds that moving bytes to or from the device's own memory takes."""
        return num_bytes / (self.memory_bw * self.memory)


@dataclass(frozen=True, slots=True)
class Node:
    """Devices of one kind behind fast links, connected with other nodes by slow ones."""

    device: Device
    per_node: int

    def link(self, stride: int, size: int, *, rails: bool = True) -> tuple[float, float]:
        """Return bytes a second and seconds a hop in a ring of `size` devices that lie `stride` ranks apart.

        A ring between nodes enters and leaves a node once; with `rails` the members that it has there share its
        traffic over the slow links of all of them. A ring is inside a node if all of its kind are.
        """
        device = self.device
        fast = device.fast_link * device.fast
        if self.per_node % (stride * size) == 0:
            return fast, device.fast_latency_s
        members = min(max(1, self.per_node // stride), size) if rails else 1
        return min(device.slow_link * device.slow * members, max(fast, device.slow_link)), device.slow_latency_s

    def gather_time(self, num_bytes: float, stride: int, size: int, *, rails: bool = True) -> float:
        """Return the seconds of an all-gather (or a reduce-scatter) of `num_bytes` in all.

        Source: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", 2005:
        (n - 1) / n of the bytes over every link, and log2(n) latencies, as large groups use trees.
        """
        if size == 1:
            return 0.0
        bandwidth, latency = self.link(stride, size, rails=rails)
        return (size - 1) / size * num_bytes / bandwidth + 2 * math.log2(size) * latency


@dataclass(frozen=True, slots=True)
class Group:
    """So many devices of one kind in a cluster."""

    node: Node
    num_devices: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """Groups of devices, in the order in which a pipeline passes through them.

    Raises:
        InputError: there are no devices, or they don't fill their nodes.
        LimitError: there are more than `MAX_DEVICES`.
    """

    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        if not self.groups:
            raise InputError("the cluster has no devices; give some, for example a100-80:8")
        for group in self.groups:
            name, count, per_node = group.node.device.name, group.num_devices, group.node.per_node
            if count < 1 or per_node < 1:
                raise InputError(f"{count} devices {name}, {per_node} a node; give at least 1 of each")
            if count > per_node and count % per_node:
                raise InputError(
                    f"{count} devices {name} don't fill nodes of {per_node}; give a multiple of {per_node}, "
                    "or other devices per node"
                )

        if self.num_devices > MAX_DEVICES:
            raise LimitError(f"a cluster of {self.num_devices:,} devices; at most {MAX_DEVICES:,} can be planned for")

    @property
    def num_devices(self) -> int:
        """Devices of all groups."""
        return sum(group.num_devices for group in self.groups)

    @property
    def peak(self) -> float:
        """Operations a second of all devices by data sheet."""
        return sum(group.num_devices * group.node.device.peak for group in self.groups)

    @property
    def per_node(self) -> int:
        """Devices behind fast links in every group."""
        return min(group.node.per_node for group in self.groups)

    def nodes_of_stages(self, pp: int) -> list[Node] | None:
        """Return the node of each pipeline stage, None if a stage would have devices of two groups."""
        each = self.num_devices // pp
        if any(group.num_devices % each for group in self.groups):
            return None
        return [group.node for group in self.groups for _ in range(group.num_devices // each)]


def one_kind(device: Device, num_devices: int, per_node: int | None = None) -> Cluster:
    """Return a cluster of devices of one kind; nodes are those of the data sheet, or as small as the cluster."""
    per_node = min(device.per_node, num_devices) if per_node is None else per_node
    return Cluster((Group(Node(device, max(per_node, 1)), num_devices),))


@cache
def devices() -> Mapping[str, Device]:
    """Return the kinds of devices by name; what is fitted for a family holds for all of its members."""
    folder = resources.files(__package__) / "data"
    fitted = json.loads((folder / "fitted.json").read_text(encoding="utf-8"))
    kinds = tomllib.loads((folder / "devices.toml").read_text(encoding="utf-8"))
    families = {name: fitted.get(values.pop("family", ""), {}) for name, values in kinds.items()}
    return {name: Device(name=name, **values, **families[name]) for name, values in kinds.items()}


def device(name: str) -> Device:
    """Return a kind of device.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in devices():
        raise UsageError(f"there is no device {name!r}; give one of {', '.join(devices())}")
    return devices()[name]
