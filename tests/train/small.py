"""Small decoders, batches with padding, and runs of an engine whose results can be compared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tuili.attention.plan import Dense, LayerPlan, Pooled, Sparse
from tuili.attention.select import Budget
from tuili.model.sandwich import SandwichConfig, SandwichForCausalLM
from tuili.train.engine import Batch, Engine, StepReport, build_engine
from tuili.train.schedule import IGNORED
from tuili.train.spec import ParallelSpec, TrainingConfig

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
}
ROWS, LENGTH = 16, 12
PLAN = LayerPlan(
    default=Sparse(budget=Budget(block=2, keep=3, sink=1, local=1), sub=2),
    layers={0: Dense(), 3: Pooled(block=2, window=4, sink=2)},
    crossover=4,
)
TRAINING = TrainingConfig(learning_rate=1e-2)


def make_model(kind: str) -> nn.Module:
    """Return a decoder with the same weights on every call.

    Args:
        kind: llama, mild (smaller weights), tied (its embeddings are its head), qwen3 (norms of heads, tied) or
            sandwich (dense, sparse and pooled layers, gates that learn, tied); with "-64" after it in float64, where
            layouts differ by the rounding of that only.
    """
    if kind.endswith("-64"):
        return make_model(kind.removesuffix("-64")).double()
    torch.manual_seed(0)
    if kind == "sandwich":
        return SandwichForCausalLM(SandwichConfig(**SIZES, tie_word_embeddings=True, layer_plan=PLAN.to_dict()))
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True))
    sizes = {**SIZES, "initializer_range": 0.02} if kind == "mild" else SIZES
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=kind == "tied"))


def batches(num_steps: int, rows: int = ROWS) -> Iterator[Batch]:
    """Yield global batches, in which every row has another number of labels and the first one none."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        ids = torch.randint(SIZES["vocab_size"], (rows, LENGTH + 1), generator=generator)
        labels = ids[:, 1:].clone()
        for row in range(rows):
            labels[row, row % (LENGTH + 1) :] = IGNORED
        yield Batch(ids_BT=ids[:, :-1], labels_BT=labels)


def share(batch: Batch, engine: Engine) -> Batch:
    """Return an engine's rows of a global batch."""
    rows = len(batch.ids_BT) // engine.dp_size
    return batch.split(rows)[engine.dp_rank]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came out of some steps: reports, the loss of a last evaluation, the weights on this process."""

    reports: list[StepReport]
    evaluated: tuple[float, int]
    weights: dict[str, Tensor]


def whole_weights(engine: Engine) -> dict[str, Tensor]:
    """Return the whole parameters of the parts that this process has, by name."""
    named = ((name, each) for part in engine.parts for name, each in part.named_parameters())
    return {name: (each.full_tensor() if isinstance(each, DTensor) else each).detach().clone() for name, each in named}


def train(
    spec: ParallelSpec,
    kind: str = "llama",
    training: TrainingConfig = TRAINING,
    num_steps: int = 3,
    make: Callable[[str], nn.Module] = make_model,
) -> Run:
    """Make some steps on this process's rows, then evaluate the last batch."""
    engine = build_engine(functools.partial(make, kind), spec, training)
    reports = []
    for batch in batches(num_steps):
        reports.append(engine.step(share(batch, engine)))
    return Run(reports=reports, evaluated=engine.evaluate(share(batch, engine)), weights=whole_weights(engine))


@functools.cache
def alone(kind: str = "llama", training: TrainingConfig = TRAINING, num_steps: int = 3) -> Run:
    """Return the run on one process, with all rows in one pass."""
    return train(ParallelSpec(micro_batch=ROWS), kind, training, num_steps)


def assert_same(runs: list[Run], expected: Run, *, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    """Check losses, gradient norms, the evaluation and the weights of every process."""
    for run in runs:
        for found, wanted in zip(run.reports, expected.reports, strict=True):
            assert abs(found.loss - wanted.loss) < atol
            assert abs(found.grad_norm - wanted.grad_norm) < rtol * wanted.grad_norm
            assert (found.num_tokens, found.skipped) == (wanted.num_tokens, wanted.skipped)
        assert run.evaluated[1] == expected.evaluated[1]
        assert abs(run.evaluated[0] - expected.evaluated[0]) < atol * expected.evaluated[1]
        for name, weight in run.weights.items():
            torch.testing.assert_close(weight, expected.weights[name], atol=10 * atol, rtol=10 * atol, msg=name)
    assert {name for run in runs for name in run.weights} == expected.weights.keys()
