"""The two honest readings of "100 billion parameters, 72 hours become 18", as predictions.

No published table shows a factor of four. One reading keeps the GPUs and changes how the step is laid out, from
sharding alone as DeepSpeed did it in 2021 to three-dimensional parallelism with sequence-parallel slices and attention
recomputed; the other keeps the layout and takes four times the GPUs. In both the slower run takes 72 hours by
definition, which says how many tokens it trains on, and the faster one's time is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tuili.train.planning.cost import Job, Step, predict
from tuili.train.planning.devices import device, one_kind
from tuili.train.planning.layout import Layout, Practice
from tuili.train.planning.models import gpt

HOURS = 72.0
BATCH, SEQ = 1536, 2048
SHARDING_2021 = Practice(flash=False, gradient_bytes=2, reduce_bytes=2, rails=False, overlap_reduce=False)
THREE_D_2022 = Practice(flash=False, overlap_tensor="backward", overlap_reduce=False)


@dataclass(frozen=True, slots=True)
class Reading:
    """A slower and a faster run of the same training."""

    name: str
    before: Step
    after: Step

    @property
    def hours(self) -> float:
        """Hours of the faster run."""
        return HOURS * self.after.total / self.before.total

    @property
    def tokens(self) -> float:
        """Tokens that both runs train on."""
        return self.before.tokens * HOURS * 3600 / self.before.total


def readings() -> tuple[Reading, Reading]:
    """Return both readings, for a decoder of GPT's form with 100 billion parameters on A100."""
    model = gpt("100B of GPT's form", num_layers=80, hidden=10240, num_heads=80, vocab=51_200, positions=SEQ)
    kind = device("a100-80")

    def job(num_devices: int, practice: Practice) -> Job:
        cluster = one_kind(kind, num_devices)
        return Job(model=model, cluster=cluster, batch=BATCH, seq=SEQ, practice=practice)

    three_d = Layout(pp=8, tp=8, dp_replicate=24, schedule="interleaved", virtual=2, recompute="selective")
    sharded = Layout(dp_shard=1536, recompute="full", sequence_parallel=False)
    return (
        Reading(
            "the same 1,536 GPUs, laid out otherwise",
            predict(job(1536, SHARDING_2021), sharded),
            predict(job(1536, THREE_D_2022), three_d),
        ),
        Reading(
            "four times the GPUs, 128 and 512, laid out alike",
            predict(job(128, THREE_D_2022), replace(three_d, dp_replicate=2)),
            predict(job(512, THREE_D_2022), replace(three_d, dp_replicate=8)),
        ),
    )
