import inspect
import shutil
import threading

import pytest

from tuili import DependencyError, InputError, LimitError, ModelFileError, Reasoner, ReasonerConfig, StoreError

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


def test_a_count_that_hits_the_budget_is_withheld(films):
    question = "How many films did Ridley Scott direct?"
    assert Reasoner("films").ask(question).value is not None
    answer = Reasoner("films", config=ReasonerConfig(max_nodes=1)).ask(question)
    assert answer.abstained and "budget" in answer.reason


@pytest.mark.parametrize("max_nodes", [0, -1])
def test_a_budget_of_nothing_is_refused(max_nodes):
    with pytest.raises(InputError, match="max_nodes"):
        ReasonerConfig(max_nodes=max_nodes)


@pytest.mark.parametrize("limit", [-1, float("nan")])
def test_a_time_limit_below_nothing_is_refused(limit):
    with pytest.raises(InputError, match="time_limit_s"):
        ReasonerConfig(time_limit_s=limit)


def test_at_the_time_limit_the_best_so_far_is_marked(films, formulas_base):
    answer = Reasoner("films", config=ReasonerConfig(time_limit_s=0)).ask(QUESTION)
    assert any("the time limit" in note and "incomplete" in note for note in answer.notes)
    plenty = Reasoner("films", config=ReasonerConfig(time_limit_s=60)).ask(QUESTION)
    assert names(plenty) == {"Alien", "The Duellists"} and not any("time limit" in note for note in plenty.notes)


@pytest.fixture(scope="module")
def built_in(models, python_base, formulas_base, hpo_base):
    """A reasoner over the built-in bases, with the encoder."""
    reasoner = Reasoner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUILI_HOME", str(models.parent))
        for path in (python_base, formulas_base, hpo_base):
            reasoner.base(path.stem)
        _ = reasoner.encoder
    return reasoner


SHUTIL = {
    f"shutil.{name}"
    for name in shutil.__all__
    if inspect.isfunction(function := getattr(shutil, name))
    and "follow_symlinks" in inspect.signature(function).parameters
}
LDS_AND_MARFAN = {"Aortic root aneurysm", "Retrognathia", "Strabismus", "Joint hypermobility"}


@pytest.mark.parametrize(("kb", "question", "expected"), [
    ("python", "Which parameter of json.dumps controls indentation?", {"indent"}),
    ("python", "default of maxsize in functools.lru_cache", {"128"}),
    ("python", "Which functions of shutil take follow_symlinks?", SHUTIL),
    ("python", "Which base class do json.JSONDecodeError and UnicodeDecodeError share?", {"ValueError"}),
    ("python", "What type does the parameter that sets the timeout of subprocess.run accept?", {"float", "None"}),
    ("python", "default of the parameter that controls indentation of the json function that writes to a file object",
     {"None"}),
    ("hpo", "Which diseases show ectopia lentis, arachnodactyly and aortic root aneurysm?", {"Marfan syndrome"}),
    ("hpo", "Which findings do Marfan syndrome and Loeys-Dietz syndrome 1 share?", LDS_AND_MARFAN),
    ("hpo", "Which of Marfan syndrome and Loeys-Dietz syndrome 1 lacks ectopia lentis?", {"Loeys-Dietz syndrome 1"}),
    ("hpo", "Give another name for arachnodactyly.", {"Spider fingers"}),
])  # fmt: skip
def test_questions_for_entities_of_the_built_in_bases(built_in, kb, question, expected):
    answer = built_in.ask(question, kb=kb)
    found = {item.name for item in answer.entities if item.probability >= 0.5}
    assert not answer.abstained and (found >= expected if kb == "hpo" else found == expected)
    assert {item.name for item in answer.entities[:1]} <= found
    assert kb != "hpo" or "diseases" not in question or answer.entities[0].name == "Marfan syndrome"


@pytest.mark.parametrize(("question", "value", "unit"), [
    ("A car accelerates from rest at 3 m/s² for 5 s. How far does it get?", 37.5, "meter"),
    ("kinetic energy of a 1500 kg car at 90 km/h", 468_750, "joule"),
    ("12 V across 4 ohm, power", 36, "watt"),
    ("How long does a 2 kW kettle need for 1.5 kg of water from 20 to 100 °C?", 251.2, "second"),
    ("wavelength of a 100 MHz wave", 2.998, "meter"),
    ("A stone falls 20 m: at what speed does it land, and what is its momentum at 2 kg?", 39.6, "newton * second"),
    ("A car of 1200 kg with 4 doors and 2 passengers drives at 20 m/s. What is its kinetic energy?", 240_000, "joule"),
])  # fmt: skip
def test_word_problems(built_in, question, value, unit):
    from tuili.reason.verify import convert

    answer = built_in.ask(question)
    assert answer.kb == "formulas" and not answer.abstained
    assert convert(answer.value.magnitude, answer.value.unit, unit) == pytest.approx(value, rel=0.02)


@pytest.mark.parametrize(("kb", "question", "text"), [
    ("python", "How many positional-only parameters does sorted have?", "1"),
    ("python", "Does pathlib.Path.read_text take an encoding?", "Yes"),
    ("python", "Does json.dumps take an encoding?", "No"),
    ("hpo", "Is arthritis a kind of gout?", "No"),
    ("hpo", "Is gout a kind of arthritis?", "Yes"),
    ("hpo", "How frequent is arachnodactyly in Marfan syndrome?", "0.6294"),
    ("hpo", "How frequent is zorbitis in Marfan syndrome?", "no supported answer"),
    ("python", "default of zorbit in functools.lru_cache", "no supported answer"),
])  # fmt: skip
def test_yes_no_counts_frequencies_and_what_is_not_there(built_in, kb, question, text):
    assert built_in.ask(question, kb=kb).text.startswith(text)


@pytest.mark.parametrize("question", [
    "a" * 4000,
    "🍅" * 50 + " x",
    "\u202ejson.dumps",
    "'; DROP TABLE node; --",
    "Welche Krankheiten zeigen Arachnodaktylie?",
    "哪个参数控制缩进？",
    "a\tb",
    "%s %d {} \\",
])  # fmt: skip
def test_odd_questions_get_an_answer_or_a_reason(built_in, question):
    for kb in ("python", "formulas", "hpo"):
        answer = built_in.ask(question, kb=kb)
        assert answer.text and answer.abstained == bool(answer.reason)


@pytest.mark.parametrize("question", ["json.dumps " * 300, "x " * 2000])
def test_a_question_that_speaks_of_too_much_is_refused(built_in, question):
    with pytest.raises(LimitError, match="ask in parts"):
        built_in.ask(question, kb="python")
