"""SIGKILL while a checkpoint is written, and processes that die or stop in the middle of a run: nothing is lost."""

import multiprocessing as mp
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))

from runs import losses, run, run_among, small_recipe, write_texts

from tuili.errors import TuiliError
from tuili.train.checkpoint import checkpoints, step_of
from tuili.train.heartbeat import DEAD
from tuili.train.processes import join
from tuili.train.spec import ParallelSpec

NUM_KILLS = int(os.environ.get("TUILI_KILLS", "20"))
PATIENCE_S = 2.0
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is neither SIGKILL nor fork")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def forked(function, *args):
    """Start a function in a process that is forked from this one, so that nothing is imported again."""
    process = mp.get_context("fork").Process(target=function, args=args)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
        process.start()
    return process


def wait_for_a_save(folder, process, seen):
    """Wait until a checkpoint that was not there before is being written."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.is_alive():
        found = {path.name for path in folder.glob("step-*.tmp")} - seen
        if found:
            return
        time.sleep(0.001)
    pytest.fail("no checkpoint was begun")


@pytest.mark.timeout(60 + 10 * NUM_KILLS)
def test_a_run_that_is_killed_while_it_saves_always_resumes(tmp_path):
    texts = write_texts(tmp_path)
    every_step = ["checkpoints.every=1", f"steps={3 * NUM_KILLS}", "evaluate_every=1000"]
    recipe = small_recipe(texts, tmp_path / "run", *every_step)
    folder = recipe.out / "checkpoints"
    step, dice = 0, random.Random(7)
    for _ in range(NUM_KILLS):
        seen = {path.name for path in folder.glob("step-*.tmp")} if dice.random() < 0.5 else set()
        process = forked(run, recipe)
        wait_for_a_save(folder, process, seen)
        time.sleep(dice.expovariate(100))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run ended by itself"
        newest = step_of(checkpoints(folder)[0]) if checkpoints(folder) else 0
        assert newest >= step, "what was saved once stays"
        step = newest
    outcome = run(recipe)
    undisturbed = small_recipe(texts, tmp_path / "undisturbed", *every_step, "checkpoints.every=1000")
    run(undisturbed)
    assert losses(recipe.out) == pytest.approx(losses(undisturbed.out), abs=1e-6)
    assert outcome.model.is_dir() and not list(folder.glob("*.tmp"))


def be_one_of(rank, port, recipe, silent):
    """Be one process of a run of several."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(recipe.parallel.world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.dup2(os.open(silent, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    try:
        with join(recipe.parallel, PATIENCE_S) as session:
            run_among(recipe, session)
    except TuiliError as error:
        os._exit(error.exit_code)


@pytest.mark.timeout(300)
def test_a_run_of_two_processes_that_are_killed_while_they_save_always_resumes(tmp_path):
    """One dies, so that the other is left with its half; or both at once, as a host that fails does."""
    texts = write_texts(tmp_path)
    every_step = ["model.settings.attention_dropout=0", "checkpoints.every=1", "evaluate_every=1000", "steps=24"]
    recipe = small_recipe(texts, tmp_path / "run", *every_step, "parallel.dp_shard=2", "parallel.micro_batch=1")
    folder, step, dice = recipe.out / "checkpoints", 0, random.Random(3)
    for victims in ([1], [0, 1], [0], [0, 1]):
        seen = {path.name for path in folder.glob("step-*.tmp")}
        port = free_port()
        processes = [forked(be_one_of, rank, port, recipe, tmp_path / "said") for rank in range(2)]
        wait_for_a_save(folder, processes[0], seen)
        time.sleep(dice.expovariate(100))
        for victim in victims:
            processes[victim].kill()
        for process in processes:
            process.join(60)
            assert process.exitcode not in (None, 0), "the run ended by itself, or hangs"
        newest = step_of(checkpoints(folder)[0]) if checkpoints(folder) else 0
        assert newest >= step, "what was saved once stays"
        step = newest
    alone = small_recipe(texts, recipe.out, *every_step)
    run(alone)
    undisturbed = small_recipe(texts, tmp_path / "undisturbed", *every_step, "checkpoints.every=1000")
    run(undisturbed)
    assert losses(recipe.out) == pytest.approx(losses(undisturbed.out), abs=1e-5)
    assert not list(folder.glob("*.tmp"))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def meet(rank, port, folder, fate):
    """Be one of two processes; the second one meets its fate while the first waits for it."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.dup2(os.open(folder / f"{rank}.err", os.O_CREAT | os.O_WRONLY), 2)
    try:
        with join(ParallelSpec(dp_shard=2), PATIENCE_S) as session:
            session.control.gather(rank)
            if rank == 1:
                fate()
            session.control.gather(rank)
    except TuiliError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(error.exit_code)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def fail():
    raise TuiliError("the second process has no text")


def fates(folder, fate):
    """Let the second process meet its fate; return the first one's exit code, what it said, and the seconds it took."""
    port = free_port()
    processes = [forked(meet, rank, port, folder, fate) for rank in range(2)]
    begin = time.monotonic()
    try:
        processes[0].join(60)
        return processes[0].exitcode, (folder / "0.err").read_text(), time.monotonic() - begin
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("fate", [die, stop])
def test_a_process_that_dies_or_stops_is_named_in_time(tmp_path, fate):
    code, said, seconds = fates(tmp_path, fate)
    assert code == DEAD and "process 1 (pid " in said and f"on {socket.gethostname()})" in said
    assert "has been silent" in said and "resumes from its last checkpoint" in said
    assert seconds < PATIENCE_S + 10


def test_a_process_that_ends_with_an_error_is_not_called_dead(tmp_path):
    code, said, _ = fates(tmp_path, fail)
    assert code == 1 and "another process of the run ended" in said
    assert "no text" in (tmp_path / "1.err").read_text()


RECIPE = """
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})

from runs import small_recipe
from tuili.train.engine import Engine

original, made = Engine.step, []


def dying(self, batch):
    made.append(1)
    if len(made) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, batch)


def recipe():
    return small_recipe(Path("texts"), Path("run"), "model.settings.attention_dropout=0", *{layout!r})


def dies_once():
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        Engine.step = dying
    return recipe()
"""


def torchrun(place, function, layout, *arguments):
    """Run `tuili train` on two processes; return what was printed."""
    (place / "recipe.py").write_text(RECIPE.format(tests=str(ROOT / "tests" / "train"), layout=layout))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--max-restarts", "1", "-m", "tuili", "train", f"recipe.py:{function}", *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def place(tmp_path):
    write_texts(tmp_path)
    return tmp_path


def undisturbed(place):
    """The losses of one process that nothing happened to."""
    run(small_recipe(place / "texts", place / "alone", "model.settings.attention_dropout=0"))
    return losses(place / "alone")


def test_a_killed_process_is_named_and_the_run_resumes_by_itself(place):
    layout = ["parallel.dp_shard=2", "parallel.micro_batch=1", "checkpoints.wait=true"]  # else step 4 may be unfinished
    out, err = torchrun(place, "dies_once", layout)
    assert "exitcode: -9" in err and "local_rank: 1" in err
    assert err.count("going on after step 4 of 12") == 1
    assert out.splitlines() == ["run/model"]
    assert losses(place / "run") == pytest.approx(undisturbed(place), abs=1e-5)


def test_processes_share_a_pipeline_and_one_of_them_speaks(place):
    out, err = torchrun(place, "recipe", ["parallel.pp=2"], "--json")
    assert out.count("held_out_loss") == 1 and err.count("step 12: held-out loss") == 1
    assert losses(place / "run") == pytest.approx(undisturbed(place), abs=1e-5)
