"""A sandwich of ten million parameters beside a dense and a sliding-window decoder: same data, tokens and seeds.

Rows of 512 tokens first, which all three read whole and alike, so that one run serves them all; from its weights each
goes on at 2,048 tokens in its own way, then at 8,192: `tuili train recipes/sandwich_10m.py:first`, then `:sandwich_2k`
and `:sandwich_8k`; the same with `dense` and `window`. Short rows first, since it is the number of steps that brings a
new decoder past the frequencies of single words. Texts are the source of Python's standard library (its packages
`HELD_OUT` are only evaluated on). `benchmarks/sandwich.py --retrain` runs all of it, with prose.

Computed in bfloat16, which processors with instructions for it (AVX-512 BF16, AMX) do twice as fast as float32 and
others far slower; `--set training.precision=float32` there.
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
FIRST = "512"
LENGTHS = {FIRST: 512, "2k": 2048, "8k": 8192}
STEPS = {FIRST: 1300, "2k": 440, "8k": 60}
ROWS = {FIRST: 4, "2k": 1, "8k": 1}
RATES = {FIRST: 2e-3, "2k": 2e-3, "8k": 3e-4}
WARM_UP = {FIRST: 100, "2k": 20, "8k": 0}
EVALUATED = {FIRST: 96, "2k": 24, "8k": 6}
PRECISION = "bfloat16"


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
    """Return the recipe of one run; at 2k it goes on from `FIRST`, which is the dense decoder's, at 8k from its 2k."""
    files, held_out = texts()
    if context == FIRST:
        before, model = None, ModelConfig(family="llama", settings=SIZES)
    else:
        before = runs / (f"dense-{FIRST}-s{seed}" if context == "2k" else f"{kind}-2k-s{seed}") / "model"
        as_sandwich = context == "2k" and kind != "dense"
        model = ModelConfig(start=before, settings={"layer_plan": plan(kind)} if as_sandwich else {})
    return Recipe(
        out=runs / f"{kind}-{context}-s{seed}",
        model=model,
        data=DataConfig(
            files=files, held_out=held_out, length=LENGTHS[context], vocab_size=4096, cache=runs / "data",
            tokenizer=before,
        ),
        steps=STEPS[context],
        batch=ROWS[context],
        training=TrainingConfig(learning_rate=RATES[context], precision=PRECISION),
        parallel=ParallelSpec(micro_batch=ROWS[context]),
        rate=RateConfig(
            kind="cosine" if context == "2k" else "linear", warm_up=WARM_UP[context],
            floor=0.1 if context == "2k" else 1.0,
        ),
        checkpoints=CheckpointConfig(every=25 if context == "8k" else 100, keep=1),
        seed=seed,
        evaluate_every=STEPS[context] // 4,
        evaluate_most=EVALUATED[context],
    )  # fmt: skip


def recipe() -> Recipe:
    """Return what comes first."""
    return first()


def first() -> Recipe:
    """Return the run on short rows, from which every kind goes on."""
    return make("dense", FIRST)


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
