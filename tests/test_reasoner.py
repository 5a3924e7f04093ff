import shutil
import threading

import pytest

from tuili import DependencyError, InputError, ModelFileError, Reasoner, ReasonerConfig, StoreError

QUESTION = "Which films are directed by Ridley Scott?"


@pytest.fixture
def films(home, tiny_base):
    (home / "kb").mkdir(parents=True)
    shutil.copy(tiny_base, home / "kb" / "films.sqlite")
    return home


def names(answer):
    return {item.name for item in answer.entities}


def test_an_answer_has_its_proof_and_its_timings(films):
    answer = Reasoner("films").ask(QUESTION)
    assert names(answer) == {"Alien", "The Duellists"} and answer.kb == "films"
    assert answer.sources == ["films.tsv:1", "films.tsv:2"]
    assert answer.timings_ms["total"] >= max(answer.timings_ms[lap] for lap in ("choose_base", "explain"))
    assert "Alien" in answer._repr_html_()


def test_one_reasoner_answers_over_several_bases(films):
    shutil.copy(films / "kb" / "films.sqlite", films / "kb" / "movies.sqlite")
    reasoner = Reasoner()
    assert [reasoner.ask(QUESTION, kb=kb).kb for kb in ("films", "movies", "films")] == ["films", "movies", "films"]


@pytest.mark.parametrize("question", ["", " \n ", "?!", "a\x00b", "\ud800", "x" * 4001])
def test_bad_questions_are_refused(films, question):
    with pytest.raises(InputError):
        Reasoner("films").ask(question)


def test_an_unknown_base_is_refused(films):
    with pytest.raises(StoreError, match="did you mean 'films'"):
        Reasoner("film").ask("x")


def test_a_damaged_base_is_left_out_and_noted(films, monkeypatch):
    monkeypatch.setattr("tuili.knowledge.bases.BUILT_IN", {})
    (films / "kb" / "broken.sqlite").write_bytes(b"no database" * 1000)
    answer = Reasoner().ask(QUESTION)
    assert answer.kb == "films" and any("broken is left out" in note for note in answer.notes)
    (films / "kb" / "films.sqlite").unlink()
    with pytest.raises(StoreError, match="no knowledge base can be opened"):
        Reasoner().ask(QUESTION)


@pytest.mark.parametrize("error", [DependencyError("torch", "models", "x"), ModelFileError("the model is not here")])
def test_without_the_encoder_words_decide_and_a_note_says_so(films, monkeypatch, error):
    def broken(self):
        raise error

    monkeypatch.setattr(Reasoner, "encoder", property(broken))
    answer = Reasoner("films").ask("Which films are about a crew that meets somebody strange?")
    assert any("words alone" in note for note in answer.notes)
    quiet = Reasoner("films", config=ReasonerConfig(neural=False)).ask(QUESTION)
    assert not any("words alone" in note for note in quiet.notes)


def test_threads_may_share_a_reasoner(films):
    reasoner, found = Reasoner("films", config=ReasonerConfig(neural=False)), []
    threads = [threading.Thread(target=lambda: found.append(names(reasoner.ask(QUESTION)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"Alien", "The Duellists"}] * 8
