"""What a plan says to set is a layout that a recipe takes."""

from dataclasses import replace
from pathlib import Path

import pytest

from tuili.config import override
from tuili.train.planning.cost import Job, predict
from tuili.train.planning.devices import device, one_kind
from tuili.train.planning.layout import Layout, Practice
from tuili.train.planning.models import preset
from tuili.train.planning.search import Choices, search
from tuili.train.planning.settings import settings
from tuili.train.recipe import DataConfig, ModelConfig, Recipe
from tuili.train.spec import ParallelSpec

RECIPE = Recipe(out=Path("x"), model=ModelConfig(), data=DataConfig(files=()), steps=1, batch=1)
JOB = Job(model=preset("llama2-7b"), cluster=one_kind(device("a100-80"), 16), batch=64, seq=2048)
ODD = replace(JOB.model, vocab=32001)
H100 = one_kind(device("h100-80"), 16)


def overridden(found):
    """Return the recipe with the settings, given as on the command line."""
    return override(RECIPE, found.options.split()[1::2])


@pytest.mark.parametrize("schedules", [("1f1b",), ("interleaved",), ("zero-bubble",), ("gpipe",)])
def test_every_layout_that_a_run_follows_to_the_letter_is_one_a_recipe_takes(schedules):
    choices = Choices(schedules=schedules, recomputes=("none", "full"), sequence_parallel=False)
    followed = 0
    for step in search(JOB, choices).ranked:
        found = settings(JOB, step)
        if found.otherwise:
            assert step.layout.schedule == "zero-bubble" or step.num_micro < step.layout.pp
            continue
        recipe, layout = overridden(found), step.layout
        spec = recipe.parallel
        sizes = ("pp", "dp_replicate", "dp_shard", "tp", "micro_batch", "virtual")
        assert [getattr(spec, name) for name in sizes] == [getattr(layout, name) for name in sizes]
        assert spec.world_size == 16 and (recipe.batch, recipe.data.length) == (64, 2048)
        assert recipe.training.activation_checkpointing == (layout.recompute == "full")
        assert recipe.batch == spec.dp_size * spec.row_unit * (1 if layout.pp > 1 else step.num_micro)
        followed += 1
    assert followed >= 10


def test_uneven_stages_are_handed_on():
    job = replace(JOB, model=preset("llama3-8b"))
    step = predict(job, Layout(pp=16, sequence_parallel=False))
    assert len(set(step.counts)) > 1
    assert overridden(settings(job, step)).parallel.layers_per_stage == step.counts


@pytest.mark.parametrize(("layout", "job", "told"), [
    (Layout(dp_shard=16, recompute="selective"), JOB, ["whole layers again or nothing"]),
    (Layout(dp_shard=8, tp=2), JOB, ["activations whole"]),
    (Layout(dp_shard=8, tp=2, sequence_parallel=False), replace(JOB, model=ODD), ["32001"]),
    (Layout(dp_shard=16), replace(JOB, practice=Practice(fp8=True), cluster=H100), ["8-bit"]),
    (Layout(pp=2, dp_shard=8, schedule="zero-bubble", recompute="full"), JOB, ["V-shaped", "computed again"]),
    (Layout(pp=16, micro_batch=8), JOB, ["1F1B needs at least 16 micro-batches, not 8"]),
    (Layout(pp=2, dp_shard=8), JOB, []),
])  # fmt: skip
def test_what_a_run_does_otherwise_is_told(layout, job, told):
    found = settings(job, predict(job, layout)).otherwise
    assert len(found) == len(told)
    assert all(text in sentence for text, sentence in zip(told, found, strict=True))


def test_the_zero_bubble_schedule_of_a_run_is_one_that_there_is():
    step = predict(JOB, Layout(pp=4, dp_shard=4, micro_batch=2, schedule="zero-bubble"))
    spec = overridden(settings(JOB, step)).parallel
    assert spec == ParallelSpec(
        pp=4, dp_shard=4, micro_batch=2, schedule="ZBVZeroBubble", virtual=2, micro_batches=step.num_micro
    )
