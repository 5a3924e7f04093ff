"""A small sandwich trained on the source of Python's standard library: about a minute on two cores.

`tuili train sandwich_tiny`; `llama` beside it is a dense decoder of the same size on the same data:
`tuili train recipes/sandwich_tiny.py:llama`.
"""

from __future__ import annotations

import json.decoder
from dataclasses import replace
from pathlib import Path

from tuili.attention.plan import Dense, LayerPlan, Pooled, Sparse
from tuili.attention.select import Budget
from tuili.train.recipe import CheckpointConfig, DataConfig, ModelConfig, RateConfig, Recipe
from tuili.train.spec import ParallelSpec, TrainingConfig

LIBRARY = Path(json.decoder.__file__).parent.parent
FOLDERS = (
    "asyncio",
    "concurrent",
    "email",
    "html",
    "http",
    "importlib",
    "json",
    "logging",
    "unittest",
    "urllib",
    "xml",
)
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}

PLAN = LayerPlan(
    default=Sparse(budget=Budget(block=8, keep=8, sink=1, local=2), sub=4),
    layers={0: Dense(), 3: Pooled(block=16, window=64, sink=8)},
    crossover=64,
)
"""A dense layer, two that read 64 of at most 256 keys, and a pooled one."""


def recipe() -> Recipe:
    """Return the sandwich."""
    return Recipe(
        out=Path("runs/sandwich_tiny"),
        model=ModelConfig(family="sandwich", settings={**SIZES, "layer_plan": PLAN.to_dict()}),
        data=DataConfig(files=tuple(LIBRARY / name for name in FOLDERS), length=256, vocab_size=2048),
        steps=60,
        batch=8,
        training=TrainingConfig(learning_rate=4e-3),
        parallel=ParallelSpec(micro_batch=4),
        rate=RateConfig(kind="cosine", warm_up=10),
        checkpoints=CheckpointConfig(every=20),
        evaluate_every=20,
        evaluate_most=32,
    )


def llama() -> Recipe:
    """Return the dense decoder."""
    sandwich = recipe()
    return replace(sandwich, out=Path("runs/llama_tiny"), model=ModelConfig(family="llama", settings=SIZES))
