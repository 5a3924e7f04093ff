"""Learning a walk for a base from beginning to end: train on most questions, judge and calibrate on the others.

What `tuili learn` runs. Stage 1 (what questions say about relations) is kept beside the file when it is done, PPO
writes its own checkpoint, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuili.errors import InputError, ModelFileError
from tuili.reason.calibration import calibrate, ece
from tuili.reason.conditioning import Conditioning
from tuili.reason.guide import Guide
from tuili.reason.learn import LearnConfig, OnStage, fit_conditioning, improve, search_paths
from tuili.reason.reading import Reader
from tuili.reason.supervision import f_score
from tuili.reason.walk import ConditionedWalk, Walked
from tuili.reason.walk_file import Learned, Sureness, load, save
from tuili.reason.worlds.hops import Hops
from tuili.reason.worlds.questions import Asked

if TYPE_CHECKING:
    from tuili.reason.ppo import Update

VALIDATED = 0.2
MAX_VALIDATED = 1_000
LEAST = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """How a walk does on questions kept out of training: shares of right best answers, mean F1, edges a question."""

    hits1: float
    f1: float
    edges: float
    num_questions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What came of learning. `policy` and `prior`: with what PPO learned, and without; `kept` tells which is saved."""

    prior: Judged
    policy: Judged | None
    kept: str
    ece: float
    num_trained: int
    curve: list[dict[str, float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What is told while learning: stages with things done and in all, and updates of PPO."""

    on_stage: OnStage = lambda stage, done, total: None
    on_update: Callable[[Update], None] = lambda update: None


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Where a run keeps what is done: beside the file that it writes in the end."""

    out: Path

    @property
    def stage1(self) -> Path:
        """The conditioning, when it is trained."""
        return self.out.with_suffix(".stage1.safetensors")

    @property
    def ppo(self) -> Path:
        """PPO's checkpoint."""
        return self.out.with_suffix(".ppo.safetensors")

    def clear(self) -> None:
        """Remove what is left of a run."""
        self.stage1.unlink(missing_ok=True)
        self.ppo.unlink(missing_ok=True)


def learn_base(
    hops: Hops,
    questions: Sequence[Asked],
    trained_for: str,
    reader: Reader,
    files: Files,
    config: LearnConfig | None = None,
    start: Learned | None = None,
    watch: Watch | None = None,
) -> Report:
    """Learn, judge, write `files.out`, and return the report. Deterministic under its seed; resumes what was begun.

    Raises:
        InputError: there are too few questions.
        ModelFileError: what was begun is damaged.
    """
    config, watch = config or LearnConfig(), watch or Watch()
    train, kept_out = _split(questions, config.seed)
    begun = ConditionedWalk(start.conditioning, reader, hops, policy=start.policy) if start else None
    run = _run_hash(train, config, trained_for, start)
    conditioning = _stage1(hops, train, config, reader, begun, files, run, watch.on_stage)
    curve: list[dict[str, float]] = []

    def note(update: Update) -> None:
        point = {"update": update.index, "reward": update.reward, "hops": update.length, "entropy": update.entropy}
        curve.append(point)
        watch.on_update(update)

    guide = Guide(conditioning, reader, hops)
    first = start.policy if start and start.policy else None
    policy = improve(guide, hops, train, config, first, files.ppo, note)
    watch.on_stage("judging", 0, 0)
    found = {
        "prior": _walk_all(ConditionedWalk(conditioning, reader, hops), kept_out),
        "policy": _walk_all(ConditionedWalk(conditioning, reader, hops, policy=policy), kept_out),
    }
    judged = {name: judge(walked, kept_out) for name, walked in found.items()}
    kept = "policy" if _worth(judged["policy"]) >= _worth(judged["prior"]) else "prior"
    said, right = shares(found[kept], kept_out)
    sureness = calibrate(said, right)
    report = Report(
        prior=judged["prior"],
        policy=judged["policy"],
        kept=kept,
        ece=ece(np.array([sureness.of(share) for share in said]), right),
        num_trained=len(train),
        curve=curve,
    )
    chosen = replace(policy, trained_for=trained_for) if kept == "policy" else None
    save(Learned(conditioning, chosen, sureness, trained_for, report.to_json()), files.out)
    files.clear()
    return report


def _split(questions: Sequence[Asked], seed: int) -> tuple[list[Asked], list[Asked]]:
    """Keep a fifth of the questions out, at most `MAX_VALIDATED`."""
    if len(questions) < 2 * LEAST:
        raise InputError(f"{len(questions)} questions can be learned from, at least {2 * LEAST} are needed; give more")
    order = np.random.default_rng([seed, 1]).permutation(len(questions))
    num_out = min(MAX_VALIDATED, max(LEAST, round(VALIDATED * len(questions))))
    return [questions[at] for at in order[num_out:]], [questions[at] for at in order[:num_out]]


def _run_hash(train: Sequence[Asked], config: LearnConfig, trained_for: str, start: Learned | None) -> str:
    digest = hashlib.sha256(f"{config!r}{trained_for}{start.trained_for if start else ''}".encode())
    for one in train:
        digest.update(json.dumps([one.text, one.start.tolist(), one.answers.tolist()]).encode())
    return digest.hexdigest()


def _stage1(
    hops: Hops,
    train: Sequence[Asked],
    config: LearnConfig,
    reader: Reader,
    begun: ConditionedWalk | None,
    files: Files,
    run: str,
    on_stage: OnStage,
) -> Conditioning:
    """Return the conditioning, from the file of a run that was stopped if there is one of the same run."""
    if files.stage1.exists():
        done = load(files.stage1)
        if done.trained_for == run:
            return done.conditioning
        raise ModelFileError(f"{files.stage1} is of another run; give --restart to begin anew, or the same settings")
    examples = search_paths(hops, train, config, on_stage)
    if not examples:
        tried = config.budget.max_hops
        raise InputError(f"none of {len(train)} questions has a path of up to {tried} hops to an answer")
    conditioning = fit_conditioning(hops, examples, config, reader, begun, on_stage)
    save(Learned(conditioning, None, Sureness(), run), files.stage1)
    return conditioning


# -- judging -------------------------------------------------------------------------------------


def _walk_all(walk: ConditionedWalk, questions: Sequence[Asked]) -> list[Walked]:
    walk.guide.prepare([one.text for one in questions])
    return [walk.ask(one.text, one.start.tolist()) for one in questions]


def judge(walked: Sequence[Walked], questions: Sequence[Asked]) -> Judged:
    """Return how the walks did."""
    pairs = list(zip(walked, questions, strict=True))
    hits = [bool(one.answers) and one.answers[0].node in asked.answers for one, asked in pairs]
    scores = [f_score(one.answer_set, asked.answers) for one, asked in pairs]
    return Judged(
        hits1=float(np.mean(hits)),
        f1=float(np.mean(scores)),
        edges=float(np.mean([one.num_edges for one in walked])),
        num_questions=len(questions),
    )


def _worth(judged: Judged) -> float:
    return judged.hits1 + judged.f1


def shares(walked: Sequence[Walked], questions: Sequence[Asked]) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability that each best answer has under the walk, and whether it is right."""
    said, right = [], []
    for one, asked in zip(walked, questions, strict=True):
        if one.answers:
            said.append(one.answers[0].score)
            right.append(one.answers[0].node in asked.answers)
    return np.array(said), np.array(right, dtype=float)
