"""How a step is laid out on devices, and how the software computes it."""

from __future__ import annotations

from dataclasses import dataclass

from tuili.errors import UsageError

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero-bubble")
RECOMPUTES = ("none", "selective", "full")
OVERLAPS = ("none", "backward", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Devices by what they share out: pipeline stages, replicas, shards of replicas, slices of layers.

    Attributes:
        pp, dp_replicate, dp_shard, tp: devices along each; their product is the number of devices.
        micro_batch: sequences that a device computes at once.
        virtual: stages that each pipeline rank holds; more than 1 only with "interleaved".
        recompute: what the backward pass computes again: "none"; "selective": where scores are stored, attention, else
            every other matrix; "full": the whole layer.
        sequence_parallel: what tensor slices don't divide is divided over them by tokens.
    """

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    tp: int = 1
    micro_batch: int = 1
    schedule: str = "1f1b"
    virtual: int = 1
    recompute: str = "none"
    sequence_parallel: bool = True

    def __post_init__(self) -> None:
        for name in ("pp", "dp_replicate", "dp_shard", "tp", "micro_batch", "virtual"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give at least 1")
        for name, known in (("schedule", SCHEDULES), ("recompute", RECOMPUTES)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; give one of {', '.join(known)}")
        if self.virtual > 1 and self.schedule != "interleaved":
            raise UsageError(f"virtual={self.virtual} has no effect with the schedule {self.schedule}; use interleaved")

    @property
    def data(self) -> int:
        """Devices that read different sequences."""
        return self.dp_replicate * self.dp_shard

    @property
    def num_devices(self) -> int:
        """Devices in all."""
        return self.pp * self.data * self.tp


@dataclass(frozen=True, slots=True, kw_only=True)
class Practice:
    """How the software computes.

    Attributes:
        flash: attention is fused and skips what is masked; else scores are stored and masked ones computed.
        fused: element-wise operations are compiled into few kernels.
        fp8: matrices inside the layers are multiplied in 8 bits.
        gradient_bytes: of an accumulated gradient. `reduce_bytes`: of one that is sent.
        overlap_tensor: what hides behind products: no tensor communication, that of the backward pass, or all of it.
        overlap_gather, overlap_reduce: parameters, gradients travel while layers compute.
        scatter_gather: what goes to the next stage is cut over tensor ranks and gathered again in the node.
        chunked_loss: logits are computed a few at a time, so that they take no memory worth counting.
        rails: whether a ring between nodes uses the slow links of all its members in a node, or one.
    """

    flash: bool = True
    fused: bool = True
    fp8: bool = False
    gradient_bytes: int = 4
    reduce_bytes: int = 4
    overlap_tensor: str = "none"
    overlap_gather: bool = True
    overlap_reduce: bool = True
    scatter_gather: bool = False
    chunked_loss: bool = False
    rails: bool = True

    def __post_init__(self) -> None:
        if self.overlap_tensor not in OVERLAPS:
            raise UsageError(f"overlap_tensor is {self.overlap_tensor!r}; give one of {', '.join(OVERLAPS)}")
