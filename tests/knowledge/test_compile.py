"""What questions of every kind compile to: told by the answer that comes out over two small bases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import LimitError, TuiliError
from tuili.knowledge.query import Aggregate
from tuili.knowledge.sources.triples import read_tsv

FILMS = """
Alien|directed_by|Ridley Scott
Blade Runner|directed_by|Ridley Scott
Gladiator|directed_by|Ridley Scott
Heat|directed_by|Michael Mann
Collateral|directed_by|Michael Mann
Witness|directed_by|Peter Weir
Alien|starred_actors|Sigourney Weaver
Blade Runner|starred_actors|Harrison Ford
Witness|starred_actors|Harrison Ford
Gladiator|starred_actors|Russell Crowe
Heat|starred_actors|Al Pacino
Heat|starred_actors|Robert De Niro
Collateral|starred_actors|Tom Cruise
Collateral|starred_actors|Jamie Foxx
Alien|has_genre|Horror
Heat|has_genre|Crime
Alien|release_year|1979
Heat|release_year|1995
Alien|written_by|Dan O'Bannon
Heat|written_by|Michael Mann
"""


def broken(*case, why):
    return pytest.param(*case, marks=pytest.mark.xfail(reason=why))


def names(answer):
    return set() if answer.abstained else {item.name for item in answer.entities if item.probability >= 0.5}


LISTS = [
    ("Which diseases affect the tomato?", {"Late blight", "Fusarium wilt"}),
    ("Which diseases affect the rose?", {"Rose rust"}),
    # enumerations
    ("Which diseases affect tomato or rose?", {"Late blight", "Fusarium wilt", "Rose rust"}),
    ("Which diseases affect tomato as well as potato?", {"Late blight"}),
    ("Which diseases affect the tomato and the potato?", {"Late blight"}),
    ("Which diseases affect both tomato and potato?", {"Late blight"}),
    ("Which diseases show leaf curl, brown spot and fruit rot?", {"Late blight"}),
    ("Which of copper spray and sulphur dust treats late blight?", {"Copper spray"}),
    ("Is late blight or rose rust treated with sulphur dust?", {"Rose rust"}),
    # phrases that are no sentences
    ("Diseases that affect both tomato and potato?", {"Late blight"}),
    ("tomato diseases without drooping", {"Late blight"}),
    # words that ask, not describe
    ("I'd like the diseases that affect the tomato.", {"Late blight", "Fusarium wilt"}),
    # negations
    ("Which diseases do not affect the tomato?", {"Rose rust", "Mosaic virus disease"}),
    ("Which diseases affect no tomato?", {"Rose rust", "Mosaic virus disease"}),
    ("Of the diseases that affect the tomato, which doesn't show drooping?", {"Late blight"}),
    ("Which diseases w/o drooping affect the potato?", {"Late blight", "Mosaic virus disease"}),
    ("Which diseases affect the potato but not the tomato?", {"Mosaic virus disease"}),
    ("Which diseases show leaf curl but not drooping?", {"Late blight", "Mosaic virus disease"}),
    ("Which diseases show leaf curl without drooping?", {"Late blight", "Mosaic virus disease"}),
    ("Which diseases with leaf curl lack drooping?", {"Late blight", "Mosaic virus disease"}),
    ("Which sign of late blight does Fusarium wilt lack?", {"Brown spot", "Fruit rot"}),
    ("Which signs does late blight have that Fusarium wilt lacks?", {"Brown spot", "Fruit rot"}),
    ("Which of late blight and Fusarium wilt lacks drooping?", {"Late blight"}),
    ("Which settings of the mower does the trimmer not have?", {"depth", "noise"}),
    # ordinals
    ("What is the second setting of the mower?", {"depth"}),
    ("What is the last setting of the mower?", {"noise"}),
    ("What is the fifth setting of the mower?", set()),
    # comparisons
    ("Which has more settings, the mower or the trimmer?", {"Mower"}),
    ("Which has fewer settings, the mower or the trimmer?", {"Trimmer"}),
    ("Which has fewer settings, the mower or the mini robot mower?", {"Mini robot mower"}),
    # hierarchies
    ("Which sign are brown spot and orange spot both a kind of?", {"Leaf spot"}),
    ("What kind of sign is brown spot?", {"Leaf spot"}),
    ("Which diseases show leaf spot?", {"Late blight", "Rose rust"}),
    ("What is the base machine of the mini robot mower?", {"Robot mower"}),
    ("Which variants does the mower have?", {"Robot mower"}),
    # what facts tell about themselves
    ("Which very frequent signs does late blight show?", {"Brown spot", "Leaf curl"}),
    ("Which signs are occasional in late blight?", {"Fruit rot"}),
    ("How often does late blight show fruit rot?", {"Occasional"}),
    # names
    ("What is another name for brown spot?", {"Brown fleck", "Dark fleck"}),
    ("What is the proper name of dark fleck?", {"Brown spot"}),
    ("What do you call a love apple?", {"Tomato"}),
    ("Which diseases affect the love apple?", {"Late blight", "Fusarium wilt"}),
    ("Which diseases affect the tomatto?", {"Late blight", "Fusarium wilt"}),
    # several steps
    ("Which remedies treat diseases of the rose?", {"Copper spray", "Sulphur dust"}),
    ("Which diseases of the tomato are treated with copper spray?", {"Late blight"}),
    ("Which numbers does the mower have?", {"5"}),
    ("What is the default of the speed of the mower?", {"5"}),
    ("What is the default of speed in the trimmer?", {"3"}),
    # kinds whose entities are the same when their names are
    ("Which setting do the mower and the trimmer share?", {"speed"}),
    ("Which tools have the setting speed?", {"Mower", "Trimmer"}),
    # appositions
    ("The disease late blight shows which signs?", {"Brown spot", "Fruit rot", "Leaf curl"}),
    ("Which signs does the disease called late blight show?", {"Brown spot", "Fruit rot", "Leaf curl"}),
    # descriptions
    ("Which setting of the mower is about the height of the cut?", {"depth"}),
    ("Which remedy is a yellow powder that dries spores?", {"Sulphur dust"}),
]


@pytest.mark.parametrize(("question", "expected"), LISTS)
def test_questions_for_entities(garden, question, expected):
    assert names(garden.ask(question)) == expected


@pytest.mark.parametrize(("question", "count"), [
    ("How many diseases affect the tomato?", 2),
    ("How many settings does the mower have?", 3),
    ("What number of signs does late blight show?", 3),
    ("How many settings do the mower and the trimmer share?", 1),
    ("How many remedies treat the mosaic virus disease?", 0),
])  # fmt: skip
def test_counts(garden, question, count):
    answer = garden.ask(question)
    assert not answer.abstained and answer.value.magnitude == count and answer.text == str(count)


@pytest.mark.parametrize("question", ["When was Alien made?", "Who directed the sequel of Alien?", "Is it?"])
def test_a_relation_is_not_guessed(films, question):
    assert films.ask(question).abstained


@pytest.mark.parametrize(("question", "verdict"), [
    ("Does late blight show brown spot?", "Yes"),
    ("Does late blight show drooping?", "No"),
    ("Does late blight show leaf spot?", "Yes"),
    ("Is Fusarium wilt treated with copper spray?", "No"),
    ("Is brown spot a kind of leaf change?", "Yes"),
    ("Is leaf change a kind of brown spot?", "No"),
    ("Is brown spot directly a kind of leaf change?", "No"),
    ("Is brown spot directly a kind of leaf spot?", "Yes"),
    ("Does the mini robot mower have a noise setting?", "Yes"),
    ("Does the trimmer have a noise setting?", "No"),
    ("Is the mini robot mower based on the mower?", "Yes"),
    ("Is the mower based on the mini robot mower?", "No"),
])  # fmt: skip
def test_yes_or_no(garden, question, verdict):
    answer = garden.ask(question)
    assert not answer.abstained and answer.text.partition(":")[0] == verdict
    assert answer.entities == () and bool(answer.paths) == (verdict == "Yes")


@pytest.mark.parametrize(("question", "share"), [("How frequent is brown spot in late blight?", 0.9)])
def test_a_measured_share_is_a_value(garden, question, share):
    answer = garden.ask(question)
    assert answer.value.magnitude == share and answer.entities == ()


def test_a_description(garden):
    answer = garden.ask("Describe copper spray.")
    assert answer.query.aggregate == Aggregate.DESCRIBE
    assert answer.text == "Copper spray: A blue liquid that kills fungi."


@pytest.mark.parametrize("question", [
    "Which diseases affect the zorbit?",
    "How many diseases affect the zorbit?",
    "Is Zorbitis treated with copper spray?",
    "Does the mower have a zorbit?",
    "Which diseases does the mower have?",
    "What is the default of the noise of the mower?",
    "What is the default of the noise of the trimmer?",
    "How frequent is drooping in late blight?",
    "How frequent is drooping in Fusarium wilt?",
    "Which diseases show zorbing and brown spot?",
    "When does late blight show brown spot?",
    "¿Qué enfermedades afectan al tomate?",
    "Welche Krankheiten befallen die Rose?",
    "哪些疾病影响番茄？",
    "ما هي الأمراض التي تصيب الطماطم؟",
    "'; DROP TABLE node; --",
    '" OR 1=1; DELETE FROM edge',
    "🍅🍅🍅 why 🍅?",
    "‮?otamot eht tceffa sesaesid hcihW",
    "the of and in by",
    "what",
])  # fmt: skip
def test_what_the_base_cannot_answer_gets_the_reason(garden, question):
    answer = garden.ask(question)
    assert answer.abstained and answer.reason and answer.reason in answer.text
    assert answer.entities == () and answer.value is None


@pytest.mark.parametrize(("question", "named"), [
    ("Is Zorbitis treated with copper spray?", "Zorbitis"),
    ("What is the default of the noise of the mower?", "default"),
    ("Which blorb has the frotz?", "frotz"),
])  # fmt: skip
def test_the_reason_names_what_is_unknown(garden, question, named):
    assert named in garden.ask(question).reason


WORDS = (
    "which what how many is does not and or both more second sign disease tomato late blight brown spot speed "
    "the of in mower has shows zorbit ? , '"
)


@given(st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=14).map(" ".join) | st.text(max_size=60))
def test_no_question_breaks_anything(garden, question):
    try:
        answer = garden.ask(question)
    except TuiliError:
        return
    assert answer.abstained == bool(answer.reason) and 0 <= answer.confidence <= 1
    assert answer.text


def test_the_longest_question_is_read(garden):
    assert garden.ask("Which diseases affect the tomato" + " and the potato" * 50 + "?").text
    assert garden.ask("Which diseases affect the tomato? " + "zorbit " * 560).abstained
    with pytest.raises(LimitError, match="ask in parts"):
        garden.ask("Which diseases affect the tomato and " + "the potato and " * 260)


# -- triples without a schema ------------------------------------------------------------------


@pytest.fixture(scope="module")
def films(reasoner_over, tmp_path_factory):
    path = tmp_path_factory.mktemp("triples") / "films.tsv"
    path.write_text(FILMS.strip().replace("|", "\t") + "\n", encoding="utf-8")
    return reasoner_over(read_tsv(path))


NOUNS = "a noun for the only kind of a base counts as unknown"


@pytest.mark.parametrize(("question", "expected"), [
    ("Which films star Harrison Ford?", {"Blade Runner", "Witness"}),
    ("Which films star Al Pacino and Robert De Niro?", {"Heat"}),
    ("When was Alien released?", {"1979"}),
    ("What was the release year of Heat?", {"1995"}),
    ("Which of Alien and Heat was directed by Michael Mann?", {"Heat"}),
    ("Which films star Meryl Streep?", set()),
    ("Who composed Alien?", set()),
    ("Who directed Alien?", {"Ridley Scott"}),
    ("Who directed both Heat and Collateral?", {"Michael Mann"}),
    ("Who starred in Heat?", {"Al Pacino", "Robert De Niro"}),
    ("What is the genre of Alien?", {"Horror"}),
    ("What films did Ridley Scott direct?", {"Alien", "Blade Runner", "Gladiator"}),
    ("Which films are directed by Ridley Scott?", {"Alien", "Blade Runner", "Gladiator"}),
    ("Which films directed by Ridley Scott star Harrison Ford?", {"Blade Runner"}),
    broken("Films directed by Ridley Scott that star Harrison Ford", {"Blade Runner"}, why=NOUNS),
    ("Who directed the films that star Harrison Ford?", {"Ridley Scott", "Peter Weir"}),
])  # fmt: skip
def test_triples_without_a_schema(films, question, expected):
    assert names(films.ask(question)) == expected


@pytest.mark.parametrize(("question", "verdict"), [
    ("Does Heat star Al Pacino?", "Yes"),
    ("Does Heat star Tom Cruise?", "No"),
    ("Did Ridley Scott direct Heat?", "No"),
    ("Did Ridley Scott direct Alien?", "Yes"),
    ("Is Alien directed by Ridley Scott?", "Yes"),
])  # fmt: skip
def test_yes_or_no_over_triples(films, question, verdict):
    assert films.ask(question).text.partition(":")[0] == verdict
