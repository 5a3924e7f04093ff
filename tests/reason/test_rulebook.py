import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tuili.errors import ModelFileError
from tuili.knowledge.build import build
from tuili.knowledge.graph import Graph
from tuili.knowledge.records import Edge
from tuili.knowledge.store import Store
from tuili.reason import rulebook
from tuili.reason.rulebook import BaseRule, Census, Rulebook, load_rules, mine_base, save_rules
from tuili.reason.worlds.hops import Action

Make = Callable[..., Graph]
GRAND = Action("grandparent")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(*triples: tuple[str, str, str]) -> Graph:
        path = tmp_path / "family.sqlite"
        path.unlink(missing_ok=True)
        build(path, [Edge(*triple, 1.0, f"line {at}") for at, triple in enumerate(triples)], origin="made")
        return Graph(Store.open(path))

    return made


def families(num: int, num_known: int) -> list[tuple[str, str, str]]:
    """Three generations; of the last families the grandparents are not stated."""
    rows = [(f"child {at}", "parent", f"father {at}") for at in range(num)]
    rows += [(f"father {at}", "parent", f"elder {at}") for at in range(num)]
    return rows + [(f"child {at}", "grandparent", f"elder {at}") for at in range(num_known)]


def test_a_rule_is_counted_where_its_relation_is_known(make: Make) -> None:
    census = Census.of(make(*families(9, 6), ("child 0", "parent", "mother"), ("mother", "parent", "other elder")))
    parent, grand, back = (
        census.number(action) for action in (Action("parent"), GRAND, Action("grandparent", inverse=True))
    )
    assert census.count(grand, (parent, parent)) == (6, 7)
    up = census.number(Action("parent", inverse=True))
    assert census.count(back, (up, up)) == (6, 6)


def test_no_fact_supports_itself(make: Make) -> None:
    census = Census.of(make(("a", "near", "b"), ("b", "near", "a"), ("c", "near", "d"), ("e", "near", "d")))
    near, back = census.number(Action("near")), census.number(Action("near", inverse=True))
    assert census.count(near, (back,)) == (2, 2)
    assert census.count(near, (near, back, near)) == (0, 0)
    # e near d, c near d: from c over d to e, and from e to c, which are no facts.
    assert census.count(near, (near, back)) == (0, 2)


def test_self_loops_and_an_empty_base(make: Make) -> None:
    assert mine_base(make(("a", "near", "a"))).rules == ()
    census = Census.of(make(("a", "near", "a"), ("a", "near", "b")))
    assert census.count(0, (0, 0)) == (0, 0)
    assert census.number(Action("unknown")) == -1


def test_a_rule_of_too_many_cases_is_not_counted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    census = Census.of(make(*families(9, 9)))
    monkeypatch.setattr(rulebook, "MAX_CASES", 8)
    parent = census.number(Action("parent"))
    assert census.count(census.number(GRAND), (parent, parent)) is None


def test_heads_beyond_the_bound_are_evenly_spaced(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    census = Census.of(make(*families(9, 9)))
    monkeypatch.setattr(rulebook, "MAX_HEADS", 3)
    parent = census.number(Action("parent"))
    assert census.count(census.number(GRAND), (parent, parent)) == (3, 3)


def test_the_rule_that_holds_is_mined_and_its_mirror(make: Make) -> None:
    book = mine_base(make(*families(30, 20)))
    rule = book.of(GRAND)[0]
    assert rule.show() == "grandparent(X,Y) ← parent(X,Z), parent(Z,Y)"
    assert (rule.support, rule.num_cases, rule.confidence) == (20, 20, 1.0)
    mirrored = book.of(Action("grandparent", inverse=True))[0]
    assert mirrored.show() == "grandparent(Y,X) ← parent(Z,X), parent(Y,Z)"
    assert book == mine_base(make(*families(30, 20)))


def test_what_rarely_holds_is_no_rule(make: Make) -> None:
    rows = families(30, 20) + [(f"child {at}", "parent", f"mother {at}") for at in range(30)]
    rows += [(f"mother {at}", "parent", f"{who} {at}") for at in range(30) for who in ("opa", "oma")]
    assert not mine_base(make(*rows)).of(GRAND)


def test_few_cases_make_no_rule_sure() -> None:
    sure = [BaseRule(GRAND, (Action("parent"),), num, num).sure for num in (1, 5, 50, 500)]
    assert sure == sorted(sure) and sure[0] < 0.25 and sure[-1] > 0.99
    assert BaseRule(GRAND, (Action("parent"),), 50, 100).sure == pytest.approx(0.4038, abs=1e-4)


def test_a_file_gives_back_what_was_saved(make: Make, tmp_path: Path) -> None:
    book, path = mine_base(make(*families(30, 20))), tmp_path / "rules.json"
    save_rules(book, path)
    assert load_rules(path, book.trained_for) == book
    with pytest.raises(ModelFileError, match="other relations"):
        load_rules(path, "another")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": "tuili-rules-1"}',
        '{"format": "tuili-rules-1", "rules": [{"head": 1, "body": []}], "trained_for": ""}',
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rules.json"
    path.write_text(content)
    with pytest.raises(ModelFileError, match="tuili learn"):
        load_rules(path, "")
    path.unlink()
    with pytest.raises(ModelFileError, match="damaged"):
        load_rules(path, "")


@pytest.mark.parametrize("counts", [(2, 1), (0, 0), (-1, 5), (1.5, 3)])
def test_counts_that_can_t_be_are_refused(tmp_path: Path, counts: tuple[float, float]) -> None:
    path = tmp_path / "rules.json"
    save_rules(Rulebook((BaseRule(GRAND, (Action("parent"),), 7, 9),)), path)
    document = json.loads(path.read_text())
    document["rules"][0] |= {"support": counts[0], "num_cases": counts[1]}
    path.write_text(json.dumps(document))
    with pytest.raises(ModelFileError, match="damaged"):
        load_rules(path, "")
