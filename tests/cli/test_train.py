"""`tuili train` as a command; what a run does is tested in tests/train."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tuili.cli import train as command

RECIPE = """
from pathlib import Path

from tuili.train.recipe import CheckpointConfig, DataConfig, ModelConfig, RateConfig, Recipe
from tuili.train.spec import TrainingConfig

SIZES = dict(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
    max_position_embeddings=64,
)


def recipe():
    return Recipe(
        out=Path("run"),
        model=ModelConfig(family="llama", settings=SIZES),
        data=DataConfig(files=(Path("text.txt"),), length=16, vocab_size=300),
        steps=6,
        batch=4,
        training=TrainingConfig(learning_rate=1e-2),
        rate=RateConfig(warm_up=2),
        checkpoints=CheckpointConfig(every=2),
        evaluate_every=3,
    )
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a text and a recipe, in which the command runs."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tiny.py").write_text(RECIPE)
    (tmp_path / "text.txt").write_text(
        "".join(f"The lamp number {i} is red and the chair is old.\n" for i in range(300))
    )
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def rows(place, out="run"):
    return [json.loads(line) for line in (place / out / "metrics.jsonl").read_text().splitlines()]


def test_a_recipe_is_trained_told_and_gone_on_with(tuili, place):
    shown = tuili("train", "tiny")
    assert shown.code == 0, shown.err
    assert shown.out == f"{Path('run/model')}\n" and (place / "run" / "model" / "model.safetensors").is_file()
    assert "step 3: held-out loss" in shown.err and "tokens/s" in shown.err and "left" in shown.err
    assert (place / "run" / "curves.png").is_file()
    shown = tuili("train", "tiny", "--set", "steps=8", "--json")
    assert shown.code == 0 and "going on after step 6 of 8" in shown.err
    assert shown.json["step"] == 8 and shown.json["loss"] > 0 and shown.json["held_out_loss"] > 0
    assert [row["step"] for row in rows(place) if "loss" in row] == list(range(1, 9))
    shown = tuili("train", "tiny", "--fresh")
    assert "going on" not in shown.err and [row["step"] for row in rows(place) if "loss" in row] == list(range(1, 7))


def test_a_terminal_has_a_bar(tuili, place, monkeypatch):
    monkeypatch.setattr(command, "is_terminal", lambda stream: True)
    shown = tuili("train", "tiny", "--set", "steps=3")
    assert shown.code == 0, shown.err
    assert "step 3: held-out loss" in shown.err and "tokens/s" not in shown.err.split("held-out")[0]


def test_settings_are_shown_and_changed(tuili, place):
    shown = tuili(
        "train", "tiny", "--show", "--set", "training.learning_rate=0.5", "--set", "model.settings.head_dim=4"
    )
    assert shown.code == 0 and shown.json["training"]["learning_rate"] == 0.5
    assert shown.json["model"]["settings"]["head_dim"] == 4 and not (place / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tinny"], 2, "did you mean 'tiny'"),
        (["tiny", "--set", "step=3"], 2, "no setting 'step'; did you mean 'steps'"),
        (["tiny", "--set", "steps=many"], 2, "steps must be a whole number"),
        (["tiny", "--set", "data.files=none.txt"], 4, "there is no file none.txt"),
        (
            ["tiny", "--set", "data.length=60", "--set", "model.settings.max_position_embeddings=32"],
            2,
            "data.length is 60",
        ),
        (["tiny", "--set", "parallel.tp=2"], 2, "the layout needs 2 processes"),
        (["tiny", "--set", "parallel.micro_batch=3"], 2, "batch is 4"),
        (["tiny", "--set", "data.vocab_size=9000"], 2, "vocab_size is 9000"),
    ],
)
def test_what_can_not_be_trained_is_refused(tuili, place, arguments, code, message):
    shown = tuili("train", *arguments)
    assert shown.code == code and message in shown.err and shown.out == "", shown.err


def test_of_an_error_that_all_see_one_process_tells(tuili, place, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    shown = tuili("train", "tyni")
    assert (shown.code, shown.err, shown.out) == (2, "", "")
    monkeypatch.setenv("RANK", "0")
    shown = tuili("train", "tiny")
    assert shown.code == 2 and "the layout needs 1 processes" in shown.err


def test_a_run_of_another_model_is_refused_with_what_to_do(tuili, place):
    assert tuili("train", "tiny").code == 0
    shown = tuili("train", "tiny", "--set", "model.settings.hidden_size=32")
    assert shown.code == 2 and "--fresh" in shown.err
    assert tuili("train", "tiny", "--set", "model.settings.hidden_size=32", "--fresh").code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for one process")
def test_ctrl_c_saves_and_the_same_command_goes_on(place, tuili):
    arguments = ["train", "tiny", "--set", "steps=100000", "--set", "checkpoints.every=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tuili", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 100
    while not (place / "run" / "metrics.jsonl").is_file() or len(rows_so_far(place)) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in err, err
    step = rows(place)[-1]["step"]
    shown = tuili("train", "tiny", "--set", f"steps={step + 1}")
    assert shown.code == 0 and f"going on after step {step} of {step + 1}" in shown.err


def rows_so_far(place):
    """The lines that are written so far; the last may be half of one."""
    return (place / "run" / "metrics.jsonl").read_text().split("\n")[:-1]
