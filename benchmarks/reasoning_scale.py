"""What a question costs as the base grows, at a fixed budget: the same questions on 10^4 to 10^6 facts.

Every base holds the same planted people and films among ever more others with the same words in their names, the same
number of facts each; one genre is shared by a quarter of all facts. Each question is asked of a newly opened base.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner import Options, Result, run, say, timing

SIZES, SIZES_SMOKE = (4, 5, 6), (3, 4)  # powers of ten, facts
MAX_NODES = 2_000
NUM_ROUNDS, NUM_ROUNDS_SMOKE = 7, 3
PLANTED = (
    ("Quiet Harbour", "directed by", "Irma Quill"),
    ("Quiet Harbour", "stars", "Anton Brask"),
    ("Quiet Harbour", "has genre", "Drama"),
    ("Second Harbour", "directed by", "Irma Quill"),
    ("Second Harbour", "stars", "Lena Fosk"),
    ("Second Harbour", "has genre", "Western"),
)
QUESTIONS = {
    "one": ("Who directed Quiet Harbour?", {"Irma Quill"}),
    "two": ("Who stars in the films directed by Irma Quill?", {"Anton Brask", "Lena Fosk"}),
    "hub": ("Which films directed by Irma Quill have genre Drama?", {"Quiet Harbour"}),
}
WORDS = [first + second for first in "Ba Co Du Fe Gi Ho Ju Ka Lo Mi".split() for second in "rk lm nd st x".split()]


def measure(options: Options) -> Iterator[Result]:
    """Yield, for each kind of question, time and share of right answers at each size, and how time grows."""
    sizes = SIZES_SMOKE if options.smoke else SIZES
    with tempfile.TemporaryDirectory() as folder:
        bases = {power: write_base(Path(folder), power) for power in sizes}
        yield from _asked(bases, NUM_ROUNDS_SMOKE if options.smoke else NUM_ROUNDS)


def write_base(folder: Path, power: int) -> Path:
    """Build a base of about 10^power facts and return its file."""
    from tuili.knowledge.build import build
    from tuili.knowledge.records import Edge

    say(f"  a base of 10^{power} facts")
    path = folder / f"facts{power}.sqlite"
    facts = [*PLANTED, *_others(10**power - len(PLANTED))]
    build(path, (Edge(*fact, 1.0, f"films.tsv:{line}") for line, fact in enumerate(facts, 1)), origin="generated")
    return path


def _others(num_facts: int) -> Iterator[tuple[str, str, str]]:
    """Yield facts about films of three facts each; names are words in common with all others and a number."""
    rng = random.Random(num_facts)
    num_films = num_facts // 3
    for number in range(num_films):
        film = f"{rng.choice(WORDS)} Harbour {number}"
        yield film, "directed by", f"{rng.choice(WORDS)} Quill {rng.randrange(num_films)}"
        yield film, "stars", f"Anton {rng.choice(WORDS)} {rng.randrange(num_films)}"
        yield film, "has genre", "Drama"


def _asked(bases: dict[int, Path], num_rounds: int) -> Iterator[Result]:
    """Ask in turn, so that what slows the machine down slows all sizes."""
    times: dict[tuple[str, int], list[float]] = {(kind, power): [] for kind in QUESTIONS for power in bases}
    rights = {key: 0 for key in times}
    for _ in range(num_rounds):
        for power, path in bases.items():
            for kind, (question, wanted) in QUESTIONS.items():
                seconds, names = _ask(path, question)
                times[kind, power].append(1e3 * seconds)
                rights[kind, power] += names == wanted
    for kind in QUESTIONS:
        for power in bases:
            yield timing(f"scale.{kind}.1e{power}.time", times[kind, power], "ms")
            yield Result(
                f"scale.{kind}.1e{power}.right", rights[kind, power] / num_rounds, "fraction", None, num_rounds
            )
        yield _growth(kind, [times[kind, power] for power in (min(bases), max(bases))])


def _ask(path: Path, question: str) -> tuple[float, set[str]]:
    from tuili.knowledge.graph import Graph
    from tuili.knowledge.store import Store
    from tuili.reasoner import Base, Reasoner, ReasonerConfig

    reasoner = Reasoner(kb=path.stem, config=ReasonerConfig(max_nodes=MAX_NODES, neural=False))
    with Store.open(path) as store:
        reasoner._bases[path.stem] = Base(Graph(store))
        start = time.perf_counter()
        answer = reasoner.ask(question)
        return time.perf_counter() - start, {entity.name for entity in answer.entities if entity.probability >= 0.5}


def _growth(kind: str, ends: Sequence[Sequence[float]]) -> Result:
    """How many times as long the largest base takes as the smallest, median of the rounds' ratios."""
    ratios = [large / small for small, large in zip(*ends, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [0.0, 0.0, 0.0]
    return Result(f"scale.{kind}.growth", statistics.median(ratios), "x", quartiles[2] - quartiles[0], len(ratios))


if __name__ == "__main__":
    run("What a question costs as the base grows", measure)
