import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuili import Dialogue, Reasoner, ReasonerConfig
from tuili.errors import InputError, TuiliError
from tuili.reason.followup import is_fact, parse_fact


def dialogue_on(path, monkeypatch, neural=True):
    monkeypatch.setenv("TUILI_HOME", str(path.parent.parent))
    return Dialogue(Reasoner(path.stem, config=ReasonerConfig(neural=neural)))


@pytest.fixture
def films(home, tiny_base, monkeypatch):
    (home / "kb").mkdir(parents=True)
    return dialogue_on(shutil.copy(tiny_base, home / "kb" / "films.sqlite"), monkeypatch, neural=False)


@pytest.fixture
def python(python_base, models, monkeypatch):
    return dialogue_on(python_base, monkeypatch)


@pytest.fixture
def formulas(formulas_base, monkeypatch):
    return dialogue_on(formulas_base, monkeypatch)


@pytest.fixture
def hpo(hpo_base, monkeypatch):
    return dialogue_on(hpo_base, monkeypatch)


@pytest.mark.parametrize(
    "turns",
    [
        [
            ("Which parameter of json.dumps controls indentation?", "indent"),
            ("And its default?", "None"),
            ("and for json.dump?", "None"),
        ],
        [
            ("How many parameters does shutil.copy have?", "3"),
            ("what about shutil.copytree?", "7"),
            ("Does it take symlinks?", "Yes"),
        ],
        [("Default of maxsize in functools.lru_cache?", "128"), ("and typed?", "False")],
        [
            ("Which base class do json.JSONDecodeError and UnicodeDecodeError share?", "ValueError"),
            ("What is its base class?", "Exception"),
        ],
    ],
)
def test_python_turns(python, turns):
    for question, text in turns:
        answer = python.ask(question)
        assert text is None or answer.text.split(":")[0] == text, answer.notes
    assert answer.notes[0].startswith("read as: ")


@pytest.mark.parametrize(
    "turns",
    [
        [
            ("A car accelerates from rest at 3 m/s² for 5 s. How far does it go?", 37.5),
            ("what about 10 s?", 150.0),
            ("and its final speed?", 30.0),
        ],
        [
            ("What is the kinetic energy of a 1500 kg car at 90 km/h?", 468.75),
            ("And its momentum?", 37500.0),
            ("and at 45 km/h?", 18750.0),
        ],
    ],
)
def test_quantities_are_carried(formulas, turns):
    for question, magnitude in turns:
        answer = formulas.ask(question)
        assert answer.value and answer.value.magnitude == pytest.approx(magnitude, rel=0.01), (question, answer.text)


@pytest.mark.parametrize("question", ["and in Loeys-Dietz syndrome 1?", "what about scoliosis?"])
def test_facts_about_facts_are_asked_again(hpo, question):
    assert hpo.ask("How frequent is arachnodactyly in Marfan syndrome?").query.aggregate == "qualifier"
    answer = hpo.ask(question)
    assert answer.query.aggregate == "qualifier" and "frequent" in answer.notes[0]


def test_quantities_of_another_question_are_not_carried(formulas):
    formulas.ask("What is the kinetic energy of a 1500 kg car at 90 km/h?")
    assert set(formulas.given) == {"mass", "speed"}
    formulas.ask("What is the wavelength of a 100 MHz wave?")
    assert set(formulas.given) == {"frequency"}


def test_findings_are_carried(hpo):
    assert hpo.ask("Is arthritis a kind of gout?").text == "No"
    assert "Joint inflammation" in hpo.ask("And another name for it?").text


def test_a_question_of_its_own_stays_as_it_is(films):
    films.ask("Which genre does Alien have?")
    answer = films.ask("Which films are directed by Ridley Scott?")
    assert {item.name for item in answer.entities} == {"Alien", "The Duellists"}
    assert not any(note.startswith("read as") for note in answer.notes)


def test_a_follow_up_without_a_turn_before_it_is_a_question(films):
    assert films.ask("And its genre?").abstained or films.last is not None


def test_told_facts_are_used_and_forgotten(films):
    question = "Which films are directed by James Cameron?"
    assert films.ask(question).abstained
    films.tell("fact: Aliens | directed by | James Cameron")
    films.tell("Alien\tdirected by\tJames Cameron")
    answer = films.ask("Is Alien directed by James Cameron?")
    assert answer.text.startswith("Yes") and "told in this conversation" in answer.sources[0]
    films.forget()
    assert films.facts == [] and films.last is None and films.ask(question).abstained


@pytest.mark.parametrize("line", ["fact: a | b", "fact: | b | c", "a\tb\t", "fact:", ""])
def test_lines_that_hold_no_fact_are_refused(films, line):
    with pytest.raises(InputError, match="fact: subject"):
        films.tell(line)


def test_what_counts_as_a_fact():
    assert is_fact("Fact: a | b | c") and is_fact("a\tb\tc")
    assert not is_fact("is a fact: this?") and not is_fact("a | b | c")
    assert parse_fact("fact: a | r | b c").object == "b c"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
@given(st.text(max_size=60))
def test_any_text_is_answered_or_refused(films, text):
    films.ask("Which genre does Alien have?")
    for line in (text, f"and {text}", f"what about {text}?", f"its {text}"):
        try:
            films.ask(line)
        except TuiliError as error:
            assert str(error)
