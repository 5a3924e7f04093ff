"""Small runs for the tests of the loop and of what surrounds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuili.config import override
from tuili.train.loop import Outcome, Step, train
from tuili.train.metrics import read
from tuili.train.processes import Session, join
from tuili.train.recipe import CheckpointConfig, DataConfig, ModelConfig, RateConfig, Recipe
from tuili.train.spec import ParallelSpec, TrainingConfig

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "attention_dropout": 0.1,
}


def write_texts(folder: Path) -> Path:
    """Write a text and a file of JSON lines; return their folder."""
    folder = folder / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("".join(f"The lamp number {i} is red and the chair is old.\n" for i in range(300)))
    rows = [{"text": f"def f{i}(x):\n    return x + {i}\n", "id": i} for i in range(200)]
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def small_recipe(texts: Path, out: Path, *assignments: str) -> Recipe:
    """Return a recipe of twelve steps, with dropout, so that random numbers matter."""
    recipe = Recipe(
        out=out,
        model=ModelConfig(family="llama", settings=SIZES),
        data=DataConfig(files=(texts,), length=16, vocab_size=300, held_out_share=0.05),
        steps=12,
        batch=4,
        training=TrainingConfig(learning_rate=1e-2),
        parallel=ParallelSpec(micro_batch=2),
        rate=RateConfig(warm_up=2),
        checkpoints=CheckpointConfig(every=4),
        evaluate_every=6,
        evaluate_most=8,
    )
    return override(recipe, assignments)


class Watching:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.evaluations: list[tuple[int, float]] = []
        self.told: list[str] = []

    def on_step(self, step: Step) -> None:
        self.steps.append(step)

    def on_evaluation(self, step: int, loss: float) -> None:
        self.evaluations.append((step, loss))

    def on_progress(self, stage: str, done: int, total: int) -> None:
        pass

    def tell(self, text: str) -> None:
        self.told.append(text)


def run(recipe: Recipe, watching: Watching | None = None, **more: Any) -> Outcome:
    """Make a run in this process."""
    with join(recipe.parallel, 20.0) as session:
        return train(recipe, session, watching or Watching(), **more)


def run_among(recipe: Recipe, session: Session) -> Outcome:
    """Make a run on processes that have met already."""
    return train(recipe, session, Watching())


def losses(out: Path) -> list[float]:
    """Return the losses of a run's steps, each of which must be there once."""
    rows = [row for row in read(out / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def held_out_losses(out: Path) -> dict[int, float]:
    """Return the losses of a run's evaluations by step."""
    return {row["step"]: row["held_out_loss"] for row in read(out / "metrics.jsonl") if "held_out_loss" in row}
