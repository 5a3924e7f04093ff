import multiprocessing
import threading

import pytest

from tuili.errors import InputError, StoreError, UsageError
from tuili.knowledge import bases
from tuili.knowledge.sources import BUILT_IN, origin_of, split_source
from tuili.knowledge.store import Store, base_path

ROWS = "a\tr\tb\nb\tr\tc\n"


@pytest.fixture
def tsv(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text(ROWS)
    return path


def test_a_built_in_base_is_built_on_first_use_only(home, monkeypatch):
    seen = []
    path = bases.ensure_base("formulas", lambda stage, done, total: seen.append(stage))
    built = path.stat().st_mtime_ns
    assert any(stage.startswith("formulas: ") for stage in seen)
    assert bases.ensure_base("formulas").stat().st_mtime_ns == built
    with Store.open(path) as store:
        assert store.meta()["origin"] == origin_of("formulas")
    assert bases.is_current("formulas") and not bases.outdated("formulas")


def _ensure(name, barrier, counts):
    from tuili.knowledge import bases

    build, built = bases._build, []
    bases._build = lambda *args: (built.append(1), build(*args))[1]
    barrier.wait()
    bases.ensure_base(name)
    counts.put(len(built))


def test_two_processes_build_a_base_once(home):
    context = multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_ensure, args=("formulas", barrier, counts)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [counts.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted(found) == [0, 1]
    with Store.open(base_path("formulas")) as store:
        assert store.check() == []


def test_two_threads_add_a_base_once(home, tsv):
    results = []

    def add():
        try:
            results.append(bases.add_base("rows", str(tsv)).num_edges)
        except InputError:
            results.append("refused")

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == ["2", "refused"]


def test_a_failed_build_keeps_the_old_base(home, tsv):
    bases.add_base("rows", str(tsv))
    before = base_path("rows").read_bytes()
    tsv.write_text("one column\n")
    with pytest.raises(InputError, match="line 1"):
        bases.add_base("rows", str(tsv), replace=True)
    assert base_path("rows").read_bytes() == before


def test_an_unknown_base_is_told_with_what_is_near(home):
    with pytest.raises(StoreError, match="did you mean 'python'"):
        bases.ensure_base("pyton")
    with pytest.raises(InputError):
        bases.ensure_base("../python")


def test_available_bases_are_the_built_in_ones_and_the_users(home, tsv):
    bases.add_base("rows", str(tsv))
    assert bases.available() == [*BUILT_IN, "rows"]
    bases.remove_base("rows")
    assert bases.available() == list(BUILT_IN)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("python", ("python", "")),
        ("python:requests", ("python", "requests")),
        ("hpo:/a b", ("hpo", "/a b")),
        ("C:/x.tsv", ("triples", "C:/x.tsv")),
        ("python:x.tsv", ("python", "x.tsv")),
        ("a.jsonl.gz", ("triples", "a.jsonl.gz")),
    ],
)
def test_sources(source, parts):
    assert split_source(source) == parts


@pytest.mark.parametrize("source", ["", "x", "python:", "ruby:x", "a.csv", ":x"])
def test_sources_that_nobody_reads(source):
    with pytest.raises(UsageError, match="no importer reads"):
        split_source(source)
