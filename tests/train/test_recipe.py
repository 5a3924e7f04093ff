import subprocess
import sys
from pathlib import Path

import pytest

from tuili.config import override
from tuili.errors import UsageError
from tuili.train.recipe import DataConfig, ModelConfig, Recipe, find_recipe
from tuili.train.spec import ParallelSpec

ROOT = Path(__file__).resolve().parents[2]
CODE = """
from pathlib import Path
from tuili.train.recipe import DataConfig, ModelConfig, Recipe

def recipe():
    return Recipe(out=Path("out"), model=ModelConfig(), data=DataConfig(files=(Path("a.txt"),)), steps=5, batch=4)

def other():
    return 3

def broken():
    return undefined
"""


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "recipes"


def small(**more):
    return Recipe(
        **{"out": Path("out"), "model": ModelConfig(), "data": DataConfig(files=()), "steps": 10, "batch": 8} | more
    )


def test_a_recipe_is_found_by_name_by_file_and_by_function(recipes):
    for name in ("mine", "recipes/mine.py", str(recipes / "mine.py"), "mine:recipe", "recipes/mine.py:recipe"):
        assert find_recipe(name).steps == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mien", r"no recipe recipes/mien\.py; did you mean 'mine'"),
        ("recipes/none.py", "no recipe recipes/none.py"),
        ("mine:recpe", "no function 'recpe'; did you mean 'recipe'"),
        ("mine:other", "gives a int, a Recipe is needed"),
        ("mine:broken", r"mine\.py:12: NameError: name 'undefined'"),
        ("syntax", "SyntaxError"),
        ("imports", r"imports\.py:1: ModuleNotFoundError"),
    ],
)
def test_what_is_no_recipe_is_refused(recipes, name, message):
    (recipes / "syntax.py").write_text("def recipe(:\n")
    (recipes / "imports.py").write_text("import nothing_like_this\n")
    with pytest.raises(UsageError, match=message):
        find_recipe(name)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"steps": 0}, "steps must be a whole number, at least 1"),
        ({"seed": -1}, "seed must be"),
        (
            {"batch": 6, "parallel": ParallelSpec(dp_shard=2, micro_batch=2)},
            "needs a multiple of 4",
        ),
        ({"patience_s": 0.0}, "patience_s must be"),
    ],
)
def test_settings_that_do_not_fit_are_refused(more, message):
    with pytest.raises(UsageError, match=message):
        small(**more)


def test_groups_check_themselves():
    for make, message in [
        (lambda: DataConfig(files=(), length=0), "data.length"),
        (lambda: DataConfig(files=(), held_out_share=1.0), "held_out_share"),
        (lambda: ModelConfig(start=Path("x"), settings={"a": 1}), r"model.settings.a has no effect beside model.start"),
        (lambda: ModelConfig(start=Path("x"), family="llama"), r"model.family is 'llama', which has no effect beside"),
        (
            lambda: DataConfig(files=(), tokenizer=Path("x"), vocab_size=99),
            "vocab_size is 99, .* beside data.tokenizer",
        ),
        (
            lambda: DataConfig(files=(), held_out=(Path("x"),), held_out_share=0.2),
            "held_out_share is 0.2, .* beside data.held_out",
        ),
        (lambda: override(small(), ["rate.warm_up=11"]), "the run has 10"),
        (lambda: override(small(), ["checkpoints.every=0"]), "checkpoints.every"),
        (lambda: override(small(), ["checkpoints.on_failure=ignore"]), "on_failure"),
    ]:
        with pytest.raises(UsageError, match=message):
            make()


def test_settings_change_together():
    changed = override(small(), ["parallel.dp_shard=3", "batch=9", "training.learning_rate=0.01"])
    assert changed.parallel.world_size == 3 and changed.training.learning_rate == 0.01


@pytest.mark.parametrize("name", ["sandwich_tiny", "sandwich_tiny:llama"])
def test_the_recipes_of_the_project_are_sound(monkeypatch, name):
    monkeypatch.chdir(ROOT)
    assert all(path.exists() for path in find_recipe(name).data.files)


def test_a_recipe_is_read_without_torch():
    code = "import sys, tuili.train.recipe; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
