"""Knowledge bases: import of a million triples, opening, durable writes, builds of the built-in bases.

What each row means and what it does not say is in `benchmarks/README.md`.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from runner import Options, Result, Spent, measure_process, run, say, timing
from tuili.knowledge.records import Edge
from tuili.knowledge.sources import BUILT_IN
from tuili.knowledge.store import Store

NUM_TRIPLES, NUM_TRIPLES_SMOKE = 1_000_000, 50_000
NUM_RUNS, NUM_RUNS_SMOKE = 3, 1
NUM_WRITES, NUM_WRITES_SMOKE = 500, 50
BATCH = 1_000
IMPORT_TARGET_S, MEMORY_TARGET_MIB, OPEN_TARGET_MS = 90.0, 1536.0, 1000.0
RELATIONS = "employs owns supplies advises visits funds teaches trusts follows paints".split()
SYLLABLES = [first + second for first in "bdfgklmnprst" for second in "aeiou"]

HERE = Path(__file__).resolve().parent
PEERS = {"sqlite3": "load_sqlite", "networkx": "load_networkx"}


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for."""
    if options.test is not None:
        say("--test changes nothing here: the triples are generated")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if options.wants("kb.import") or options.wants("kb.open"):
            yield from _million(options, home)
        if options.wants("kb.write"):
            yield from _writes(home, NUM_WRITES_SMOKE if options.smoke else NUM_WRITES)
        if options.wants("kb.build"):
            yield from _builds(home, ["formulas"] if options.smoke else list(BUILT_IN))


# -- a million triples ---------------------------------------------------------------------------


def _million(options: Options, home: Path) -> Iterator[Result]:
    num_triples = NUM_TRIPLES_SMOKE if options.smoke else NUM_TRIPLES
    triples = write_triples(home / "triples.tsv", num_triples)
    runs: dict[str, list[Spent]] = {"tuili": [], **{name: [] for name in PEERS}}
    for number in range(NUM_RUNS_SMOKE if options.smoke else NUM_RUNS):
        for name, spent in runs.items():
            say(f"  import of {num_triples} triples: {name}, run {number + 1}")
            spent.append(measure_process(_import_command(name, triples, home), {"TUILI_HOME": str(home)}))
    peer = {name: timing("", [run.wall_s for run in spent], "s").value for name, spent in runs.items()}
    memory = {name: timing("", [run.peak_mib for run in spent], "MiB").value for name, spent in runs.items()}
    yield timing(
        "kb.import.time",
        [run.wall_s for run in runs["tuili"]],
        "s",
        baseline={"name": "sqlite3 executemany, one index", "value": peer["sqlite3"]},
        target=IMPORT_TARGET_S,
    )
    yield timing(
        "kb.import.memory",
        [run.peak_mib for run in runs["tuili"]],
        "MiB",
        baseline={"name": "networkx", "value": memory["networkx"]},
        target=MEMORY_TARGET_MIB,
    )
    yield timing("kb.import.time.networkx", [run.wall_s for run in runs["networkx"]], "s")
    yield Result("kb.import.triples", num_triples, "count", None, 1)
    yield from _opening(home, triples, NUM_RUNS_SMOKE if options.smoke else 2 * NUM_RUNS)


def _import_command(name: str, triples: Path, home: Path) -> list[str]:
    if name == "tuili":
        return [sys.executable, "-m", "tuili", "kb", "add", "big", str(triples), "--force", "--quiet"]
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import kb; kb.{PEERS[name]}(*sys.argv[1:])"
    return [sys.executable, "-c", code, str(triples), str(home / "peer.sqlite")]


def write_triples(path: Path, num_triples: int) -> Path:
    """Write distinct triples over a fifth as many entities, the same on every machine."""
    draw = random.Random(0)
    num_entities = max(num_triples // 5, 10)
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_triples):
            subject, object_ = number % num_entities, draw.randrange(num_entities)
            relation = RELATIONS[(number // num_entities + subject) % len(RELATIONS)]
            file.write(f"{entity_name(subject)}\t{relation}\t{entity_name(object_)}\n")
    return path


def entity_name(number: int) -> str:
    """Return a name that can be spoken and belongs to this number alone."""
    syllables = []
    for _ in range(4):
        number, place = divmod(number, len(SYLLABLES))
        syllables.append(SYLLABLES[place])
    return "".join(syllables).capitalize()


def load_sqlite(triples: str, path: str) -> None:
    """Peer: put the triples into one plain table, then index it."""
    Path(path).unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, open(triples, encoding="utf-8") as file:
        connection.execute("CREATE TABLE triple(subject TEXT, relation TEXT, object TEXT)")
        rows = (line.rstrip("\n").split("\t") for line in file)
        connection.executemany("INSERT INTO triple VALUES (?, ?, ?)", rows)
        connection.execute("CREATE INDEX subject ON triple(subject, relation)")
        connection.commit()


def load_networkx(triples: str, _: str) -> Any:
    """Peer: hold the triples in memory as a graph."""
    import networkx

    graph = networkx.MultiDiGraph()
    with open(triples, encoding="utf-8") as file:
        for line in file:
            subject, relation, object_ = line.rstrip("\n").split("\t")
            graph.add_edge(subject, object_, key=relation)
    return graph


# -- opening -------------------------------------------------------------------------------------


def _opening(home: Path, triples: Path, num_runs: int) -> Iterator[Result]:
    """Yield how long a new process needs from the file to facts, and to the first answer."""
    with triples.open(encoding="utf-8") as file:
        subject, relation, object_ = file.readline().rstrip("\n").split("\t")
    arguments = [str(home / "kb" / "big.sqlite"), str(home / "peer.sqlite"), subject, relation, object_]
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import kb; kb.print_opening(*sys.argv[1:])"
    runs = []
    for _ in range(num_runs):
        spent = measure_process([sys.executable, "-c", code, *arguments], {"TUILI_HOME": str(home)})
        runs.append(json.loads(spent.stdout))
    plain = {"name": "sqlite3 SELECT", "value": timing("", [run["sqlite3"] for run in runs], "ms").value}
    yield timing("kb.open.facts", [run["facts"] for run in runs], "ms", baseline=plain, target=OPEN_TARGET_MS)
    yield timing("kb.open.answer", [run["answer"] for run in runs], "ms", baseline=plain, target=OPEN_TARGET_MS)
    rights = [float(run["is_right"]) for run in runs]
    yield Result("kb.open.answer.right", sum(rights) / len(rights), "fraction", None, len(rights))


def print_opening(base: str, peer: str, subject: str, relation: str, object_: str) -> None:
    """Open the base and find the objects of one subject and relation: by the graph, by question, by SELECT."""
    from tuili import Reasoner
    from tuili.knowledge.graph import Graph
    from tuili.knowledge.records import normalise

    def facts() -> object:
        graph = Graph(Store.open(Path(base)))
        norm = normalise(subject)
        return [
            graph.entity(fact.object).name
            for number in graph.by_label([norm])[norm]
            for fact in graph.step(number, relation)
        ]

    def select() -> object:
        with closing(sqlite3.connect(peer)) as connection:
            query = "SELECT object FROM triple WHERE subject = ? AND relation = ?"
            return connection.execute(query, (subject, relation)).fetchall()

    def answer() -> object:
        verb = relation.removesuffix("s")
        return [item.name for item in Reasoner(kb="big").ask(f"What does {subject} {verb}?").entities]

    taken = {"facts": _milliseconds(facts)[0], "sqlite3": _milliseconds(select)[0]}
    taken["answer"], names = _milliseconds(answer)
    print(json.dumps({**taken, "is_right": names == [object_]}))


def _milliseconds(call: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return 1e3 * (time.perf_counter() - start), result


# -- writes --------------------------------------------------------------------------------------


def _writes(home: Path, num_writes: int) -> Iterator[Result]:
    """Yield acknowledged facts per second, one by one and in batches, beside plain SQLite doing the same.

    Both commit with a write-ahead log and synchronous=FULL, one after the other on the same disk.
    """
    base = home / "kb" / "written.sqlite"
    first = home / "first.tsv"
    first.write_text("Bala\temploys\tDori\n", encoding="utf-8")
    measure_process(
        [sys.executable, "-m", "tuili", "kb", "add", "written", str(first), "--force", "--quiet"],
        {"TUILI_HOME": str(home)},
    )
    for size, name in ((1, "single"), (BATCH, "batch")):
        rates: dict[str, list[float]] = {"tuili": [], "sqlite3": []}
        with Store.open(base, writable=True) as store, closing(_plain(home / "plain.sqlite")) as plain:
            for number in range(num_writes if size == 1 else max(num_writes // 50, 3)):
                edges = [
                    Edge(entity_name(size * number + row), f"{name} write", entity_name(row)) for row in range(size)
                ]
                rates["tuili"].append(_rate(size, lambda: store.add_facts(edges)))  # noqa: B023
                rates["sqlite3"].append(_rate(size, lambda: _insert(plain, edges)))  # noqa: B023
        peer = {"name": "sqlite3 INSERT", "value": timing("", rates["sqlite3"], "1/s").value}
        yield timing(f"kb.write.{name}", rates["tuili"], "1/s", baseline=peer)


def _rate(num_facts: int, write: Callable[[], object]) -> float:
    return num_facts / max(_milliseconds(write)[0] / 1e3, 1e-9)


def _plain(path: Path) -> sqlite3.Connection:
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE triple(subject TEXT, relation TEXT, object TEXT)")
    connection.execute("CREATE INDEX subject ON triple(subject, relation)")
    return connection


def _insert(connection: sqlite3.Connection, edges: list[Edge]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    rows = [(edge.subject, edge.relation, edge.object) for edge in edges]
    connection.executemany("INSERT INTO triple VALUES (?, ?, ?)", rows)
    connection.execute("COMMIT")


# -- the built-in bases --------------------------------------------------------------------------


def _builds(home: Path, names: list[str]) -> Iterator[Result]:
    """Yield what building the built-in bases takes, each in a process of its own."""
    for name in names:
        say(f"  build of {name}")
        command = [sys.executable, "-m", "tuili", "kb", "add", name, "--force", "--quiet", "--json"]
        spent = measure_process(command, {"TUILI_HOME": str(home)})
        report = json.loads(spent.stdout)
        yield Result(f"kb.build.{name}.time", spent.wall_s, "s", None, 1)
        yield Result(f"kb.build.{name}.memory", spent.peak_mib, "MiB", None, 1)
        yield Result(f"kb.build.{name}.entities", report["num_entities"], "count", None, 1)
        yield Result(f"kb.build.{name}.facts", report["num_facts"], "count", None, 1)
        yield Result(
            f"kb.build.{name}.size", os.path.getsize(home / "kb" / f"{name}.sqlite") / (1 << 20), "MiB", None, 1
        )


if __name__ == "__main__":
    run(__doc__ or "", measure)
