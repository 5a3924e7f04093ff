import gzip
import json
import sqlite3

import pytest

ROWS = "Alien\tdirected by\tRidley Scott\t0.9\tfilms.tsv:1\nAliens\tdirected by\tJames Cameron\n"


@pytest.fixture
def tsv(tmp_path):
    folder = tmp_path / "a folder ü"
    folder.mkdir()
    path = folder / "films.tsv"
    path.write_text(ROWS, encoding="utf-8")
    return path


def tables(path):
    """Return everything that makes a base, ids included."""
    connection = sqlite3.connect(path)
    try:
        return {
            table: sorted(connection.execute(f"SELECT * FROM {table}"))
            for table in ("kind", "relation", "node", "label", "edge", "signature")
        }
    finally:
        connection.close()


def test_add_show_check_rm(home, tuili, tsv):
    added = tuili("kb", "add", "films", tsv, "--json")
    assert (added.json["num_entities"], added.json["num_facts"], added.json["bad_rows"]) == (4, 2, [])
    assert added.json["seconds"] >= 0 and added.err == ""
    listed = {base["name"]: base["state"] for base in tuili("kb", "ls", "--json").json}
    assert listed == {"python": "missing", "formulas": "missing", "hpo": "missing", "films": "ready"}
    shown = tuili("kb", "show", "films", "--json").json
    assert shown["kinds"] == {"entity": 4}
    assert shown["relations"][0]["examples"][0] == "Alien | directed by | Ridley Scott"
    assert "Alien | directed by | Ridley Scott  [films.tsv:1]" in tuili("kb", "show", "films", "alien").out
    assert tuili("kb", "check", "films").out == "films is sound\n"
    assert tuili("kb", "check", "films", "--fix", "--json").json == {"name": "films", "problems": []}
    assert tuili("kb", "rm", "films").out == "removed films\n"
    assert not [path for path in (home / "kb").glob("films*")]


def test_a_base_is_not_replaced_unless_forced(home, tuili, tsv):
    assert tuili("kb", "add", "films", tsv).code == 0
    refused = tuili("kb", "add", "films", tsv)
    assert refused.code == 3 and "--force" in refused.err
    assert tuili("kb", "add", "films", tsv, "--force").code == 0


def test_wrong_rows_are_refused_or_left_out_with_their_lines(home, tuili, tsv):
    tsv.write_text(ROWS + "only two\tcolumns\nAlien\tyear\t1979\tnan\n", encoding="utf-8")
    refused = tuili("kb", "add", "films", tsv)
    assert refused.code == 3 and "line 3" in refused.err and "--skip-bad" in refused.err
    assert not (home / "kb" / "films.sqlite").exists()
    skipped = tuili("kb", "add", "films", tsv, "--skip-bad", "--json")
    assert skipped.code == 0 and [row["line"] for row in skipped.json["bad_rows"]] == [3, 4]
    told = tuili("kb", "add", "films", tsv, "--skip-bad", "--force")
    assert "2 facts" in told.out and "left out line 3" in told.err


@pytest.mark.parametrize(
    ("args", "code", "hint"),
    [
        (["kb", "add", "films"], 2, "not built in"),
        (["kb", "add", "films", "films.xls"], 2, "no importer"),
        (["kb", "add", "films", "nowhere.tsv"], 4, "no file"),
        (["kb", "add", "../films", "films.tsv"], 3, "can't name"),
        (["kb", "add", "x", "hpo:/nowhere"], 4, "no folder"),
        (["kb", "add", "x", "python:nosuchpackage"], 4, "nosuchpackage"),
        (["kb", "show", "pyton"], 4, "did you mean 'python'"),
        (["kb", "rm", "films"], 4, "no knowledge base"),
        (["kb", "rm", "python"], 4, "python"),
        (["kb", "export", "films"], 4, "no knowledge base"),
        (["kb", "check", "films"], 4, "no knowledge base"),
    ],
)
def test_what_can_not_be_done_is_told(home, tuili, args, code, hint):
    shown = tuili(*args)
    assert shown.code == code and hint in shown.err and shown.out == ""


def test_an_unknown_entity_gets_near_names(films, tuili):
    shown = tuili("kb", "show", "films", "Ridly Scot")
    assert shown.code == 3 and "Ridley Scott" in shown.err


def test_a_damaged_base_is_reported(films, tuili):
    path = films / "kb" / "films.sqlite"
    path.write_bytes(path.read_bytes()[:5000])
    assert tuili("kb", "check", "films").code in (1, 4)
    assert tuili("kb", "show", "films").code == 4
    assert [base["state"] for base in tuili("kb", "ls", "--json").json if base["name"] == "films"] == ["damaged"]


def test_exported_jsonl_gives_the_same_base_again(films, tuili, tmp_path):
    out = tmp_path / "out put.jsonl"
    assert tuili("kb", "export", "films", "-o", out, "--json").json["num_lines"] > 10
    assert tuili("kb", "add", "again", out).code == 0
    assert tables(films / "kb" / "again.sqlite") == tables(films / "kb" / "films.sqlite")


@pytest.mark.parametrize("name", ["python", "formulas", "hpo"])
def test_built_in_bases_survive_the_round_trip(home, request, tuili, tmp_path, name):
    base = request.getfixturevalue(f"{name}_base")
    (home / "kb").mkdir(parents=True)
    (home / "kb" / f"{name}.sqlite").write_bytes(base.read_bytes())
    out = tmp_path / "all.jsonl"
    assert tuili("kb", "export", name, "-o", out).code == 0
    assert tuili("kb", "add", "again", out, "--quiet").code == 0
    again, first = tables(home / "kb" / "again.sqlite"), tables(base)
    for table, rows in first.items():
        assert again[table] == rows, table


def test_exported_tsv_holds_the_facts(films, tuili, tmp_path):
    shown = tuili("kb", "export", "films", "--format", "tsv").out
    assert "film:alien\tdirected by\tperson:scott\t1.0\tfilms.tsv:1\n" in shown
    packed = tmp_path / "facts.tsv.gz"
    packed.write_bytes(gzip.compress(shown.encode()))
    assert tuili("kb", "add", "facts", packed, "--json").json["num_facts"] == 4
    assert tuili("kb", "export", "films", "--json").code == 2


def test_facts_are_added_and_taken_back_by_name(films, tuili):
    added = tuili("kb", "fact", "add", "films", "Alien", "has genre", "Horror", "--source", "a book", "--json")
    assert added.json == {"added": {"subject": "film:alien", "relation": "has genre", "object": "genre:horror"}}
    assert "Alien | has genre | Horror  [a book]" in tuili("kb", "show", "films", "Alien").out
    assert tuili("kb", "fact", "retract", "films", "Alien", "has genre", "Horror").code == 0
    again = tuili("kb", "fact", "retract", "films", "Alien", "has genre", "Horror")
    assert again.code == 3 and "no fact" in again.err


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["Alien", "r", "x", "--weight", "nan"], 3),
        (["Alien", "r", "x", "--weight", "-1"], 3),
        (["", "r", "x"], 3),
        (["Alien", "r\x01", "x"], 3),
        (["Alien", "r", "x" * 2000], 3),
    ],
)
def test_bad_facts_are_refused(films, tuili, args, code):
    before = tables(films / "kb" / "films.sqlite")
    assert tuili("kb", "fact", "add", "films", *args).code == code
    assert tables(films / "kb" / "films.sqlite") == before


def test_sql_in_names_is_a_name(films, tuili):
    name = "'); DROP TABLE node; --"
    assert tuili("kb", "fact", "add", "films", name, "r", "x").code == 0
    assert json.loads(tuili("kb", "show", "films", name, "--json").out)[0]["name"] == name
    assert tuili("kb", "check", "films").code == 0


def test_a_built_in_base_that_is_current_is_not_built_again(home, tuili, formulas_base):
    first = tuili("kb", "add", "formulas", "--json")
    assert first.code == 0 and first.json["is_new"]
    again = tuili("kb", "add", "formulas", "--json")
    assert again.code == 0 and not again.json["is_new"]
    assert tuili("kb", "add", "formulas", "formulas").code == 3
