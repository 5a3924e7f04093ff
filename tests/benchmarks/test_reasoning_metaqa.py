"""MetaQA's reader, parts, scores and peers, and the whole benchmark on a few films made up here."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import reasoning_ablation
from reasoning import metaqa
from reasoning.metaqa_data import folds, part, question, read_base, read_questions
from reasoning.metaqa_peers import Exhaustive, GoldPath, PathClassifier, TemplateMemory, edges_within
from reasoning.metaqa_rows import RELATIONS
from reasoning.metaqa_scores import Reply, score
from reasoning_metaqa import measure
from runner import Options
from tuili.errors import DependencyError
from tuili.reason.conditioning_fit import Example
from tuili.reason.supervision import Budget, leads
from tuili.reason.worlds.hops import start_at

NUM_FILMS, NUM_PEOPLE = 24, 9
WORDINGS = {
    "movie_to_director": ("who directed [{}]", "who is the director of [{}]"),
    "movie_to_genre": ("what genre is [{}]", "the film [{}] has which genre"),
    "director_to_movie_to_genre": (
        "what genres do the films directed by [{}] have",
        "genres of films of director [{}]",
    ),
    "movie_to_director_to_movie": ("which films share the director of [{}]", "the director of [{}] directed what"),
    "movie_to_director_to_movie_to_genre": (
        "what genres do the films by the director of [{}] have",
        "the director of [{}] directed films of which genres",
    ),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder of data sets with a small MetaQA."""
    folder = tmp_path / "data" / "metaqa"
    folder.mkdir(parents=True)
    director = [f"Person {film % NUM_PEOPLE}" for film in range(NUM_FILMS)]
    genre = [("Drama", "Comedy", "Horror", "War")[film * 7 % 4] for film in range(NUM_FILMS)]
    rows = [(f"Film {film}", "directed_by", director[film]) for film in range(NUM_FILMS)]
    rows += [(f"Film {film}", "has_genre", genre[film]) for film in range(NUM_FILMS)]
    _write(folder / "kb.tsv", ["\t".join(row) for row in rows])
    for num_hops, path in itertools.product((1, 2, 3), WORDINGS):
        if path.count("_to_") == num_hops:
            lines = [line for one in range(NUM_FILMS) for line in _lines(path, one, director, genre)]
            with (folder / f"{num_hops}hop_dev.tsv").open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
    return tmp_path / "data"


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(path: str, film: int, director: list[str], genre: list[str]) -> list[str]:
    mine = director[film] if path.startswith("movie") else f"Person {film % NUM_PEOPLE}"
    of_mine = [one for one in range(NUM_FILMS) if director[one] == mine]
    others = [one for one in of_mine if one != film]
    answers = {
        "movie_to_director": {mine},
        "movie_to_genre": {genre[film]},
        "director_to_movie_to_genre": {genre[one] for one in of_mine},
        "movie_to_director_to_movie": {f"Film {one}" for one in others},
        "movie_to_director_to_movie_to_genre": {genre[one] for one in others},
    }[path]
    topic = f"Film {film}" if path.startswith("movie") else mine
    return [f"{wording.format(topic)}\t{'|'.join(sorted(answers))}\t{path}" for wording in WORDINGS[path]]


def test_a_row_is_read_whatever_its_brackets_and_columns() -> None:
    one = question("who acted in [Alien [3]]\tA|B\tmovie_to_actor", 1)
    assert one.answers == {"A", "B"} and one.path == "movie_to_actor"
    plain = question("describe [É, ç: the Film]\tx", 1)
    assert (plain.topic, plain.template, plain.path) == ("É, ç: the Film", "describe xyz", "")
    with pytest.raises(ValueError, match="no \\[topic\\]"):
        question("who\tA", 1)


def test_parts_are_apart_and_templates_fall_into_one_fold(data: Path) -> None:
    questions = read_questions(data / "metaqa")
    parts = part(questions, 0)
    ids = [{(one.text, one.num_hops) for one in some} for some in (parts.train, parts.valid, parts.test)]
    assert all(not left & right for left, right in itertools.combinations(ids, 2))
    assert len(parts.train) <= len(questions) / 2 and sum(map(len, ids)) == len(
        {(q.text, q.num_hops) for q in questions}
    )
    held = folds(questions, 3, 0)
    assert sum(map(len, held)) == len({one.template for one in questions if one.num_hops > 1})


def test_sets_are_scored_by_name(data: Path) -> None:
    base = read_base(data / "metaqa" / "kb.tsv")
    one = question("x [Film 0]\tDrama|Comedy|Unknown", 1)
    drama, comedy = base.numbers["Drama"], base.numbers["Comedy"]
    found = score(Reply(drama, np.array(sorted([drama, comedy])), 5), one, base)
    assert (found.hit, found.exact, found.f1, found.num_edges) == (1, 0, pytest.approx(4 / 5), 5)
    nothing = score(Reply(-1, np.array([], dtype=np.int64)), one, base)
    assert (nothing.hit, nothing.exact, nothing.f1) == (0, 0, 0)


def test_half_a_base_is_half_of_its_edges(data: Path) -> None:
    base = read_base(data / "metaqa" / "kb.tsv")
    half = base.half(0)
    assert len(half.triples_E3) == NUM_FILMS and half.names == base.names
    assert {tuple(row) for row in half.triples_E3.tolist()} < {tuple(row) for row in base.triples_E3.tolist()}
    assert not np.array_equal(half.triples_E3, base.half(1).triples_E3)


def test_exhaustive_expansion_counts_each_node_once(data: Path) -> None:
    base = read_base(data / "metaqa" / "kb.tsv")
    hops, start = base.hops(), start_at([base.numbers["Film 0"]])
    assert edges_within(hops, start, 1) == 2
    reached = {name for name in base.names if name in ("Person 0", "Drama")}
    degrees = sum(int(hops.leaving(np.array([base.numbers[name]])).sum()) for name in reached)
    assert edges_within(hops, start, 2) == 2 + degrees


def test_peers_answer_wordings_that_they_know(data: Path) -> None:
    base = read_base(data / "metaqa" / "kb.tsv")
    hops, questions = base.hops(), read_questions(data / "metaqa")
    examples = [
        Example(one.template, tuple(leads(hops, base.start(one), base.answers(one), Budget()))) for one in questions
    ]
    peers = [
        GoldPath(base, hops, RELATIONS),
        TemplateMemory(base, hops, examples),
        PathClassifier(base, hops, examples),
    ]
    directors = [one for one in questions if one.path == "movie_to_director"]
    for peer in peers:
        assert all(score(peer.answer(one), one, base).exact for one in directors), peer.name
    assert score(Exhaustive(base, hops).answer(directors[0]), directors[0], base).exact


@pytest.mark.parametrize("with_test", [False, True])
def test_every_part_runs_on_a_small_set(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_test: bool
) -> None:
    def no_encoder(name: str) -> None:
        raise DependencyError("tokenizers", "models", "reading a text")

    monkeypatch.setattr("tuili.model.encoder.Encoder.load", no_encoder)
    monkeypatch.setattr(metaqa, "NUM_SMOKE_TRAIN", 12)
    monkeypatch.setattr(metaqa, "NUM_SMOKE_TEST", 6)
    folder = tmp_path / "hidden"
    folder.mkdir()
    line = "who directed [Film 3]\tPerson 3\n"
    (folder / "1hop_test.tsv").write_text(line, encoding="utf-8")
    (folder / "2hop_test.tsv").write_text(
        "which films share the director of [Film 3]\tFilm 12|Film 21\n", encoding="utf-8"
    )
    (folder / "3hop_test.tsv").write_text(
        "what genres do the films by the director of [Film 3] have\tDrama|Comedy\n", encoding="utf-8"
    )
    options = Options(tmp_path / "out.json", data, folder if with_test else None, smoke=True, only="")
    results = {one.name: one for one in measure(options)}
    wanted = [f"metaqa.{num}hop.hits1" for num in (1, 2, 3)]
    wanted += [] if with_test else [f"metaqa.{num}hop.heldout_templates.hits1" for num in (2, 3)]
    wanted += ["metaqa.3hop.half_kb.hits1", "metaqa.3hop.edges_ratio", "metaqa.1hop.ppo_gain.hits1"]
    assert set(wanted) <= set(results)
    assert all(0 <= one.value <= 1 for one in results.values() if one.unit == "fraction" and "gain" not in one.name)
    assert ("metaqa.1hop.gold_path.hits1" in results) is not with_test
    if with_test:
        assert results["metaqa.1hop.hits1"].n == 1


def test_without_data_it_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(measure(Options(tmp_path / "out.json", None, None, smoke=True, only=""))) == []
    assert "MetaQA is not there" in capsys.readouterr().err


def test_the_ablation_switches_each_part_off_and_bounds_edges(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reasoning_ablation, "BUDGETS", (0, 1, 10_000))
    options = Options(tmp_path / "out.json", data, None, smoke=True, only="")
    results = {one.name: one for one in reasoning_ablation.measure(options)}
    for part_off in ("attention", "likeness", "relations", "ppo"):
        assert {f"ablation.2hop.without.{part_off}.hits1", f"ablation.2hop.gain.{part_off}"} <= set(results)
    assert results["ablation.2hop.curve.0.policy.hits1"].value == 0
    assert results["ablation.2hop.curve.1.prior.edges"].value <= 1
    whole = results["ablation.2hop.whole.hits1"].value
    assert results["ablation.2hop.curve.10000.policy.hits1"].value == pytest.approx(whole)


def test_the_ablation_without_data_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(reasoning_ablation.measure(Options(tmp_path / "out.json", None, None, smoke=True, only=""))) == []
    assert "MetaQA is not there" in capsys.readouterr().err
