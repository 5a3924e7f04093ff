"""The sandwich beside a dense and a sliding-window decoder of ten million parameters: loss, speed, loss at equal time.

Same data, tokens and two seeds (`recipes/sandwich_10m.py`). Training curves are read from `results/sandwich/`, where
`--retrain` puts new ones (hours; it goes on where it was stopped, and a second process takes the other seed). Speeds
are measured anew: whole reading of 16,384 tokens, and steps of training at 8,192, models in turn. `loss_vs_dense` is
the held-out loss over that of the dense decoder less one, the mean of the seeds; `loss_at_equal_time` is the same with
the dense decoder's loss after as much time of training at 8,192 tokens, where the learning rate is constant, as the
sandwich took for all of it.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runner import ROOT, Options, Result, commit, run, say, timing

if TYPE_CHECKING:
    from tuili.train.recipe import Recipe

sys.path.insert(0, str(ROOT / "recipes"))
CURVES = ROOT / "benchmarks" / "results" / "sandwich"
SEEDS, CONTEXTS = (0, 1), ("2k", "8k")
MOST_LOSS, LEAST_SPEEDUP = 0.012, 2.3
LENGTH, ROUNDS = 16_384, 5
PROSE = Path("text") / "wikitext2_valid.txt"
PROSE_HELD_OUT = 0.1


def measure(options: Options) -> Iterator[Result]:
    """Yield losses from the curves and speeds measured now."""
    if options.retrain:
        train_all(options)
    curves = {place: found for place in places() if (found := read_curve(*place)) is not None}
    for context in CONTEXTS:
        if options.wants(f"sandwich.{context}"):
            yield from losses(curves, context)
    if options.wants("sandwich.16k"):
        yield from speeds(options)
    if options.wants("sandwich.8k.loss_at_equal_time"):
        yield from at_equal_time(curves, options)


def places() -> Iterator[tuple[str, str, int]]:
    """Yield kind, context and seed of every run, each after the one that it continues."""
    from sandwich_10m import FIRST

    for seed in SEEDS:
        yield "dense", FIRST, seed
        yield from ((kind, context, seed) for kind in kinds() for context in CONTEXTS)


# -- training ------------------------------------------------------------------------------------


def train_all(options: Options) -> None:
    """Make every run that is not done; a run that was stopped goes on.

    Started several times side by side, each process takes a seed that no other has; one with nothing left to do ends.
    """
    from filelock import FileLock, Timeout

    from tuili.files import data_dir

    runs = data_dir() / "benchmarks" / "sandwich_10m"
    runs.mkdir(parents=True, exist_ok=True)
    with FileLock(runs / "prose.lock"):
        prose = split_prose(options.data, runs)
    taken = []
    for seed in SEEDS:
        try:
            with FileLock(runs / f"s{seed}.lock", timeout=0):
                for place in places():
                    if place[2] == seed:
                        train_one(*place, runs, prose)
        except Timeout:
            taken.append(str(seed))
    if taken:
        raise SystemExit(f"other processes still train seed {', '.join(taken)}; when done, run without --retrain")


def train_one(kind: str, context: str, seed: int, runs: Path, prose: tuple[Path, Path] | None) -> None:
    """Train one decoder at one context, if that is not done, and keep its curve."""
    from sandwich_10m import make, with_prose

    from tuili.train.loop import train
    from tuili.train.processes import join

    out = runs / f"{kind}-{context}-s{seed}"
    if (out / "done").is_file():
        say(f"{out.name} is trained already; remove {out} to train it again")
        return
    recipe = make(kind, context, seed, runs)
    recipe = recipe if prose is None else with_prose(recipe, *prose)
    say(f"training {recipe.out.name}")
    with join(recipe.parallel, recipe.patience_s) as session:
        train(recipe, session, _Told(recipe.out.name))
    keep_curve(recipe.out, {"prose": prose is not None, "recipe": told(recipe)})


def told(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a run without the places of files; `start` is the run that it goes on from."""
    from tuili.config import to_dict

    facts: dict[str, Any] = to_dict(recipe)
    start = recipe.model.start
    facts["model"]["start"] = start and start.parent.name
    facts["data"] = {name: facts["data"][name] for name in ("length", "vocab_size")}
    return {name: value for name, value in facts.items() if name != "out"}


def split_prose(data: Path | None, runs: Path) -> tuple[Path, Path] | None:
    """Write the prose to train on and its last tenth, held out; None where there is no data."""
    if data is None or not (data / PROSE).is_file():
        say(f"no {PROSE} in --data: trained on source alone")
        return None
    lines = (data / PROSE).read_text(encoding="utf-8").splitlines(keepends=True)
    cut = round(len(lines) * (1 - PROSE_HELD_OUT))
    runs.mkdir(parents=True, exist_ok=True)
    parts = (runs / "prose_train.txt", lines[:cut]), (runs / "prose_held_out.txt", lines[cut:])
    for path, part in parts:
        path.write_text("".join(part), encoding="utf-8")
    return parts[0][0], parts[1][0]


def keep_curve(out: Path, facts: dict[str, Any]) -> None:
    """Put a run's curve where it is committed, with what it was made by."""
    from tuili.train import metrics

    rows = metrics.read(out / "metrics.jsonl")
    about = {"run": out.name, "commit": commit(), "tokens": rows[-1]["tokens"], **facts}
    CURVES.mkdir(parents=True, exist_ok=True)
    kept = [{name: row[name] for name in ("step", "tokens", "loss", "held_out_loss") if name in row} for row in rows]
    lines = [json.dumps(about), *(json.dumps(row) for row in kept)]
    (CURVES / f"{out.name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    (out / "done").touch()


class _Told:
    """Says where a run is, every minute."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, 0.0

    def on_step(self, step: Any) -> None:
        if time.monotonic() - self.last > 60:
            self.last = time.monotonic()
            where = f"step {step.step} of {step.steps}"
            say(f"  {self.name}: {where}, loss {step.loss:.3f}, {step.tokens_per_s:.0f} tokens/s")

    def on_evaluation(self, step: int, loss: float) -> None:
        say(f"  {self.name}: step {step}, held out {loss:.4f}")

    def on_progress(self, stage: str, done: int, total: int) -> None:
        pass

    def tell(self, text: str) -> None:
        say(f"  {self.name}: {text}")


# -- losses --------------------------------------------------------------------------------------


def read_curve(kind: str, context: str, seed: int) -> list[tuple[int, float]] | None:
    """Return tokens and held-out loss of a run's evaluations; None where it was not made."""
    path = CURVES / f"{kind}-{context}-s{seed}.jsonl"
    if not path.is_file():
        say(f"no curve {path.name}: its figures are left out (--retrain makes it)")
        return None
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return [(row["tokens"], row["held_out_loss"]) for row in rows if "held_out_loss" in row]


Curves = dict[tuple[str, str, int], list[tuple[int, float]]]


def losses(curves: Curves, context: str) -> Iterator[Result]:
    """Yield the last held-out loss of each kind, and how far it is from the dense decoder's."""
    last = {place: curve[-1][1] for place, curve in curves.items() if place[1] == context}
    for kind in dict.fromkeys(place[0] for place in last):
        values = [last[place] for place in last if place[0] == kind]
        yield over_seeds(f"sandwich.{context}.{kind}.loss", values, "nats")
    for kind, name in (("sandwich", "loss_vs_dense"), ("window", "window_vs_dense")):
        gaps = [
            last[kind, context, seed] / last["dense", context, seed] - 1
            for seed in SEEDS
            if {(kind, context, seed), ("dense", context, seed)} <= last.keys()
        ]
        if gaps:
            target = MOST_LOSS if kind == "sandwich" else None
            yield over_seeds(f"sandwich.{context}.{name}", gaps, "fraction", target)


def over_seeds(name: str, values: list[float], unit: str, target: float | None = None) -> Result:
    """Return the mean over seeds, its spread the standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Result(name, statistics.fmean(values), unit, spread, len(values), None, target)


# -- speeds --------------------------------------------------------------------------------------


def speeds(options: Options) -> Iterator[Result]:
    """Yield how much faster than the dense decoder the others read a text of 16,384 tokens."""
    import torch

    length, rounds = (1024, 1) if options.smoke else (LENGTH, ROUNDS)
    models = {kind: fresh(kind).eval() for kind in kinds()}
    ids = torch.randint(0, models["dense"].config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))

    def read(kind: str) -> None:
        with torch.inference_mode():
            models[kind](ids, use_cache=False, logits_to_keep=1)

    yield from ratios("sandwich.16k", in_turn(read, rounds), "speedup", LEAST_SPEEDUP)


def at_equal_time(curves: Curves, options: Options) -> Iterator[Result]:
    """Yield times of a training step at 8,192 tokens, and the loss where training took equally long."""
    length, rounds = (512, 1) if options.smoke else (8192, 3)
    engines = {kind: engine(kind) for kind in kinds()}
    batch = random_batch(length)
    times = in_turn(lambda kind: engines[kind].step(batch), rounds)
    yield from ratios("sandwich.8k.step", times, "speedup", None)
    per_token = {kind: statistics.median(each) / length for kind, each in times.items()}
    gaps = []
    for seed in SEEDS:
        ours, dense = (curves.get((kind, "8k", seed)) for kind in ("sandwich", "dense"))
        if ours and dense:
            same_time = ours[-1][0] * per_token["sandwich"] / per_token["dense"]
            gaps.append(ours[-1][1] / at(dense, same_time) - 1)
    if gaps:
        yield over_seeds("sandwich.8k.loss_at_equal_time", gaps, "fraction", 0.0)


def at(curve: list[tuple[int, float]], tokens: float) -> float:
    """Return the loss at a number of tokens, between two evaluations in a straight line."""
    return float(np.interp(tokens, [place for place, _ in curve], [loss for _, loss in curve]))


def ratios(prefix: str, times: dict[str, list[float]], name: str, target: float | None) -> Iterator[Result]:
    """Yield the time of each kind and how much faster than dense it is, from pairs of one round."""
    for kind, each in times.items():
        yield timing(f"{prefix}.{kind}.time", each, "s")
    for kind in ("sandwich", "window"):
        pairs = [dense / other for dense, other in zip(times["dense"], times[kind], strict=True)]
        wanted = target if kind == "sandwich" else None
        whole = f"{prefix}.{name}" if kind == "sandwich" else f"{prefix}.window.{name}"
        yield timing(whole, pairs, "times", target=wanted)


def in_turn(work: Any, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each kind's work, kinds in turn; a first round is dropped."""
    times: dict[str, list[float]] = {kind: [] for kind in kinds()}
    for number in range(rounds + 1):
        for kind, each in times.items():
            begin = time.perf_counter()
            work(kind)
            if number:
                each.append(time.perf_counter() - begin)
    return times


def kinds() -> tuple[str, ...]:
    """Return the kinds of decoders."""
    from sandwich_10m import KINDS

    return KINDS


def fresh(kind: str) -> Any:
    """Return an untrained decoder of a kind."""
    import torch
    from sandwich_10m import SIZES, plan
    from transformers import LlamaConfig, LlamaForCausalLM

    from tuili.model.sandwich import SandwichConfig, SandwichForCausalLM

    torch.manual_seed(0)
    if kind == "dense":
        return LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=4096))
    return SandwichForCausalLM(SandwichConfig(**SIZES, vocab_size=4096, layer_plan=plan(kind)))


def engine(kind: str) -> Any:
    """Return an engine that trains an untrained decoder of a kind, as the recipe does."""
    from sandwich_10m import PRECISION

    from tuili.train.engine import build_engine
    from tuili.train.spec import ParallelSpec, TrainingConfig

    return build_engine(lambda: fresh(kind), ParallelSpec(), TrainingConfig(precision=PRECISION))


def random_batch(length: int) -> Any:
    """Return one row of random tokens with labels."""
    import torch

    from tuili.train.engine import Batch

    ids = torch.randint(0, 4096, (1, length + 1), generator=torch.Generator().manual_seed(0))
    return Batch(ids_BT=ids[:, :-1].contiguous(), labels_BT=ids[:, 1:].contiguous())


if __name__ == "__main__":
    run(__doc__ or "", measure, retrains=True)
