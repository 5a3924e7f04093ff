"""A sandwich of ten million parameters beside a dense and a sliding-window decoder: same data, tokens and seeds.

2,048 tokens of context first, then on at 8,192: `tuili train recipes/sandwich_10m.py:sandwich_2k`, then
`recipes/sandwich_10m.py:sandwich_8k`; the same with `dense` and `window`. Texts are the source of Python's standard
library (its packages `HELD_OUT` are only evaluated on). `benchmarks/sandwich.py --retrain` runs all of it, with prose.
"""

from __future__ import annotations

import json.decoder
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuili.train.recipe import CheckpointConfig, DataConfig, ModelConfig, RateConfig, Recipe
from tuili.train.spec import ParallelSpec, TrainingConfig

LIBRARY = Path(json.decoder.__file__).parent.parent
HELD_OUT = {"email", "http", "logging", "argparse.py", "difflib.py", "tarfile.py", "statistics.py", "shutil.py"}
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "encodings", "lib2to3", "pydoc_data", "__pycache__"}
SIZES = {
    "hidden_size": 384,
    "intermediate_size": 1152,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "initializer_range": 0.05,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    "tie_word_embeddings": True,
}
KINDS = ("sandwich", "dense", "window")
STEPS = {"2k": 344, "8k": 24}
LENGTHS = {"2k": 2048, "8k": 8192}


def plan(kind: str) -> dict[str, Any]:
    """Return the layer plan of the sandwich, or of the decoder whose layers all read a window of 512 keys."""
    wide = {"kind": "dense", "window": 2048, "past": 4096, "sink": 16}
    budget = {"block": 16, "keep": 32, "sink": 1, "local": 4, "coverage": None, "beam": None}
    if kind == "window":
        return {"crossover": 0, "default": {"kind": "dense", "window": 512, "past": 0, "sink": 0}, "layers": {}}
    return {
        "crossover": 512,
        "default": {"kind": "sparse", "budget": budget, "sub": 4},
        "layers": {"0": wide, "5": {"kind": "pooled", "block": 32, "window": 512, "sink": 16}},
    }


def texts() -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the files to train on and those held out."""
    files = [file for file in sorted(LIBRARY.rglob("*.py")) if file.stat().st_size]
    parts = {file: file.relative_to(LIBRARY).parts for file in files}
    kept = [file for file in files if not LEFT_OUT & set(parts[file])]
    held_out = tuple(file for file in kept if parts[file][0] in HELD_OUT)
    return tuple(file for file in kept if file not in set(held_out)), held_out


def make(kind: str, context: str, seed: int = 0, runs: Path = Path("runs/sandwich_10m")) -> Recipe:
    """Return the recipe of one run; at 8k it continues the run of the same kind and seed at 2k."""
    files, held_out = texts()
    before = runs / f"{kind}-2k-s{seed}" / "model"
    settings = SIZES if kind == "dense" else {**SIZES, "layer_plan": plan(kind)}
    first = context == "2k"
    data = DataConfig(
        files=files, held_out=held_out, length=LENGTHS[context], vocab_size=4096, cache=runs / "data",
        tokenizer=None if first else before,
    )  # fmt: skip
    return Recipe(
        out=runs / f"{kind}-{context}-s{seed}",
        model=ModelConfig(family="llama" if kind == "dense" else "sandwich", settings=settings)
        if first
        else ModelConfig(start=before),
        data=data,
        steps=STEPS[context],
        batch=1,
        training=TrainingConfig(learning_rate=2e-3 if first else 3e-4),
        parallel=ParallelSpec(micro_batch=1),
        rate=RateConfig(kind="cosine", warm_up=20) if first else RateConfig(kind="linear", floor=1.0),
        checkpoints=CheckpointConfig(every=25, keep=1),
        seed=seed,
        evaluate_every=STEPS[context] // 4,
        evaluate_most=24 if first else 6,
    )


def recipe() -> Recipe:
    """Return the sandwich at 2k."""
    return make("sandwich", "2k")


def sandwich_2k() -> Recipe:
    """Return the sandwich at 2k."""
    return make("sandwich", "2k")


def sandwich_8k() -> Recipe:
    """Return the sandwich that goes on at 8k."""
    return make("sandwich", "8k")


def dense_2k() -> Recipe:
    """Return the dense decoder at 2k."""
    return make("dense", "2k")


def dense_8k() -> Recipe:
    """Return the dense decoder that goes on at 8k."""
    return make("dense", "8k")


def window_2k() -> Recipe:
    """Return the sliding-window decoder at 2k."""
    return make("window", "2k")


def window_8k() -> Recipe:
    """Return the sliding-window decoder that goes on at 8k."""
    return make("window", "8k")


def with_prose(made: Recipe, train: Path, held_out: Path) -> Recipe:
    """Return a recipe that reads two more files, one to train on and one to evaluate on."""
    data = replace(made.data, files=(*made.data.files, train), held_out=(*made.data.held_out, held_out))
    return replace(made, data=data)
