"""Learning a walk for a base from beginning to end: judged on questions kept out, resumed, the same under a seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from tuili.errors import InputError, ModelFileError
from tuili.reason.cold_start import cold_questions
from tuili.reason.conditioning_fit import FitConfig
from tuili.reason.learn import LearnConfig
from tuili.reason.learning import Files, Report, Watch, learn_base
from tuili.reason.ppo import PPOConfig, Update
from tuili.reason.reading import MASK, WordReader
from tuili.reason.walk_file import load
from tuili.reason.worlds.hops import ArrayHops
from tuili.reason.worlds.questions import Asked

if TYPE_CHECKING:
    from conftest import Family

CONFIG = LearnConfig(
    fit=FitConfig(size=32, epochs=12, least_steps=0, batch=16, learning_rate=5e-3),
    ppo=PPOConfig(num_updates=3, num_walks=32, hidden=8),
)


def learned(family: Family, out: Path, watch: Watch | None = None, config: LearnConfig = CONFIG) -> Report:
    return learn_base(family.hops, family.asked, "a" * 64, WordReader(), Files(out=out), config, None, watch)


def same(one: Path, other: Path) -> bool:
    """Tell whether two files hold the same walk; the order of a header's entries is left to chance."""
    tensors = [load_file(path) for path in (one, other)]
    heads = [(walk.sureness, walk.info, walk.trained_for) for walk in map(load, (one, other))]
    return heads[0] == heads[1] and all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[1])


@pytest.fixture(scope="module")
def report(family: Family, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("walk") / "family.safetensors"
    return learned(family, out), out


def test_questions_kept_out_are_answered_and_judged(report: tuple[Report, Path], family: Family) -> None:
    found, out = report
    best = found.policy if found.kept == "policy" else found.prior
    assert best is not None and best.hits1 > 0.85 and best.f1 > 0.8 and best.edges < 50
    assert found.num_trained + best.num_questions == len(family.asked)
    assert [point["update"] for point in found.curve] == [1, 2, 3] and 0 <= found.ece < 0.2
    assert load(out, trained_for="a" * 64).info["kept"] == found.kept
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_stopped_run_goes_on_to_the_same_walk(report: tuple[Report, Path], family: Family, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(update: Update) -> None:
        raise StopError

    out, stages = tmp_path / "walk.safetensors", []
    with pytest.raises(StopError):
        learned(family, out, Watch(on_update=stop))
    assert Files(out=out).stage1.is_file() and not out.exists()
    learned(family, out, Watch(on_stage=lambda stage, done, total: stages.append(stage)))
    assert "searching paths" not in stages
    assert same(out, report[1])


def test_what_another_run_began_is_refused(family: Family, tmp_path: Path, report: tuple[Report, Path]) -> None:
    files = Files(out=tmp_path / "walk.safetensors")
    files.stage1.write_bytes(report[1].read_bytes())
    with pytest.raises(ModelFileError, match=r"of another run; give --restart"):
        learned(family, files.out)
    files.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_walk_may_start_from_another(family: Family, tmp_path: Path, report: tuple[Report, Path]) -> None:
    renamed = ArrayHops(np.array([[1, 0, 0], [2, 0, 0], [0, 1, 3]]), ("mother", "employer"), 4, {})
    walk = load(report[1])
    asked = [Asked(f"who is the mother of {MASK}", np.array([at]), np.array([0])) for at in (1, 2)] * 3
    short = replace(CONFIG, ppo=PPOConfig(num_updates=1, num_walks=8, hidden=8))
    start = walk if walk.policy else replace(walk, policy=None)
    found = learn_base(renamed, asked, "b" * 64, WordReader(), Files(out=tmp_path / "w.safetensors"), short, start)
    assert found.prior.hits1 == 1.0


@pytest.mark.parametrize("num", [0, 3])
def test_too_few_questions_are_refused(family: Family, tmp_path: Path, num: int) -> None:
    with pytest.raises(InputError, match=f"{num} questions can be learned from, at least 4"):
        learn_base(family.hops, family.asked[:num], "", WordReader(), Files(out=tmp_path / "w.safetensors"), CONFIG)


def test_questions_without_a_path_are_refused(family: Family, tmp_path: Path) -> None:
    lost = [replace(one, answers=np.array([10_000])) for one in family.asked[:8]]
    with pytest.raises(InputError, match="has a path of up to 3 hops"):
        learn_base(family.hops, lost, "", WordReader(), Files(out=tmp_path / "w.safetensors"), CONFIG)


# -- a cold start --------------------------------------------------------------------------------


def test_questions_are_made_of_relations_and_have_their_answers(family: Family) -> None:
    made = cold_questions(family.hops, range(60), 40, seed=1)
    assert len(made) == 40 and len({one.text for one in made}) > 10
    assert all(MASK in one.text and len(one.answers) and len(one.start) == 1 for one in made)
    assert [one.text for one in cold_questions(family.hops, range(60), 40, seed=1)] == [one.text for one in made]


def test_a_base_without_facts_gives_no_questions() -> None:
    empty = ArrayHops(np.empty((0, 3), dtype=np.int64), ("r",), 2)
    with pytest.raises(InputError, match="give --questions FILE"):
        cold_questions(empty, [0, 1], 3)
