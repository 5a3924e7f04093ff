"""A pipeline over devices of different speed: layers shared out evenly, and as the planner proposes.

Two real processes train a small decoder in a pipeline (1F1B, gloo). What makes one slow is artificial: each layer that
a process holds waits, forward and backward, the slow process twice as long, so that waiting outweighs the CPU's own
work. `predicted` is the planner's ratio of the slowest stages' times; `speedup` is measured on whole steps, where the
pipeline fills and empties as well.
"""

from __future__ import annotations

import multiprocessing as mp
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner import Options, Result, run, say, timing

NUM_LAYERS, SPEEDS = 12, (1.0, 0.5)
WAIT_S = 0.03
MICRO_BATCHES, STEPS = 8, 5
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 12,
}


def measure(options: Options) -> Iterator[Result]:
    """Yield step times of both splits in turn, and their ratio beside the planner's."""
    from tuili.train.planning.speeds import even_split, slowest, split_layers

    costs = [1.0] * NUM_LAYERS
    splits = {"even": even_split(NUM_LAYERS, 2), "planned": split_layers(costs, SPEEDS)}
    steps = 1 if options.smoke else STEPS
    times = {name: step_times(counts, steps) for name, counts in splits.items()}
    for name, each in times.items():
        say(f"{name}: {splits[name]} layers")
        yield timing(f"uneven.{name}.time", each, "s")
    predicted = slowest(costs, splits["even"], SPEEDS) / slowest(costs, splits["planned"], SPEEDS)
    yield Result("uneven.predicted", predicted, "times", None, 1)
    pairs = [even / planned for even, planned in zip(times["even"], times["planned"], strict=True)]
    yield timing("uneven.speedup", pairs, "times", target=1.0)


def step_times(counts: list[int], steps: int) -> list[float]:
    """Return the seconds of each step of two processes, the first step dropped."""
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        queue = context.Queue()
        ranks = [
            context.Process(target=train, args=(rank, str(Path(folder) / "store"), tuple(counts), steps, queue))
            for rank in range(2)
        ]
        for each in ranks:
            each.start()
        found = queue.get(timeout=300)
        for each in ranks:
            each.join()
    return found[1:]


def train(rank: int, store: str, counts: tuple[int, ...], steps: int, queue: Any) -> None:
    """Make steps as one process of the pipeline; the first one tells how long each took."""
    import torch
    import torch.distributed as dist

    from tuili.train.engine import Batch, build_engine
    from tuili.train.spec import ParallelSpec, TrainingConfig
    from tuili.train.split import decoder_layers

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    spec = ParallelSpec(pp=2, micro_batches=MICRO_BATCHES, layers_per_stage=counts)
    engine = build_engine(decoder, spec, TrainingConfig())
    for layer in decoder_layers(engine.parts[0]):
        layer.register_forward_hook(lambda *_: time.sleep(WAIT_S / SPEEDS[rank]))
        layer.register_full_backward_hook(lambda *_: time.sleep(WAIT_S / SPEEDS[rank]))
    ids = torch.randint(64, (MICRO_BATCHES, 17), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids_BT=ids[:, :-1].contiguous(), labels_BT=ids[:, 1:].contiguous())
    times = []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        engine.step(batch)
        times.append(time.perf_counter() - begin)
    if rank == 0:
        queue.put(times)
    dist.destroy_process_group()


def decoder() -> Any:
    """Return the decoder that is trained."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


if __name__ == "__main__":
    run(__doc__ or "", measure)
