import json
from pathlib import Path

import pytest

from tuili.errors import InputError
from tuili.knowledge.graph import Graph
from tuili.knowledge.link import Linker
from tuili.knowledge.store import Store
from tuili.reason.route import route, scores

QUESTIONS = Path(__file__).resolve().parents[2] / "benchmarks" / "questions"
MIN_SHARE = 0.97


@pytest.fixture(scope="module")
def linkers(python_base, formulas_base, hpo_base):
    return {path.stem: Linker(Graph(Store.open(path))) for path in (python_base, formulas_base, hpo_base)}


def test_questions_and_their_wordings_find_their_base(linkers):
    found = []
    for name in linkers:
        for line in (QUESTIONS / f"{name}_dev.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts = [row["question"], *row["wordings"]] if row["answerable"] else []
            found += [(route(text, linkers) == name, text) for text in texts]
    wrong = [text for is_right, text in found if not is_right]
    assert len(wrong) <= (1 - MIN_SHARE) * len(found), wrong


def test_a_base_of_the_users_own_is_found(linkers, tiny_base):
    with_films = linkers | {"films": Linker(Graph(Store.open(tiny_base)))}
    assert route("Which films did Ridley Scott direct?", with_films) == "films"
    assert route("Which parameter of json.dumps controls indentation?", with_films) == "python"


def test_a_known_module_outweighs_an_unknown_function(linkers):
    assert route("What does shutil.teleport return?", linkers) == "python"


def test_of_equal_bases_the_first_is_taken(linkers):
    assert set(scores("zorbitosis frobnicates", linkers).values()) == {0.0}
    assert route("zorbitosis frobnicates", linkers) == next(iter(linkers))


def test_a_question_without_words_is_refused(linkers):
    with pytest.raises(InputError):
        route("???", linkers)
