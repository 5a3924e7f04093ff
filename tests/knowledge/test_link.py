import pytest

from tuili.knowledge.build import build
from tuili.knowledge.graph import Graph
from tuili.knowledge.lexicon import Role
from tuili.knowledge.link import Linker
from tuili.knowledge.records import Edge, Kind, Node
from tuili.knowledge.store import Store
from tuili.knowledge.text import tokenise


@pytest.fixture
def linker(garden):
    return garden.base("small").linker


@pytest.fixture
def mentions(linker):
    """Return a function that gives (words, value, how) of a question's mentions of one role, the best first."""

    def find(question, role):
        words = [token.text for token in tokenise(question)]
        found = sorted(linker.mentions(question), key=lambda one: -one.score)
        return [(" ".join(words[one.start : one.end]), one.value, one.how) for one in found if one.role == role]

    return find


@pytest.fixture
def entities(linker):
    """Return a function that gives the keys that the best mention of some words stands for."""

    def find(question, words):
        tokens = [token.text for token in tokenise(question)]
        found = [
            one
            for one in linker.mentions(question)
            if one.role == Role.ENTITY and " ".join(tokens[one.start : one.end]) == words
        ]
        best = max(found, key=lambda one: one.score)
        return {linker.graph.entity(number).key for number in best.ids}

    return find


@pytest.mark.parametrize(("question", "expected"), [
    ("is it late blight", ("late blight", "late blight", "name")),
    ("is it LATE-BLIGHT", ("LATE - BLIGHT", "late blight", "name")),
    ("is it potato murrain", ("potato murrain", "potato murrain", "alias")),
    ("is it droopping", ("droopping", "drooping", "spelling")),
    ("many tomatoes", ("tomatoes", "tomato", "name")),
])  # fmt: skip
def test_names_are_found_and_how_they_were_found_is_told(mentions, question, expected):
    assert mentions(question, Role.ENTITY)[0] == expected


@pytest.mark.parametrize("question", ["is it zorbitis", "Welche Krankheit", "ab", "推理", "🍅 x"])
def test_what_nothing_is_called_is_no_mention(mentions, question):
    assert mentions(question, Role.ENTITY) == []


@pytest.mark.parametrize(("question", "role", "value"), [
    ("which symptoms", Role.KIND, "sign"),
    ("which crop", Role.KIND, "plant"),
    ("what attacked it", Role.RELATION, "affects"),
    ("how often", Role.QUALIFIER, "shows\nfrequency"),
    ("how many", Role.OPERATION, "count"),
    ("the second", Role.OPERATION, "ordinal"),
    ("but not", Role.OPERATION, "not"),
])  # fmt: skip
def test_words_of_the_schema_and_of_operations(mentions, question, role, value):
    assert value in [found for _, found, _ in mentions(question, role)]


def test_ordinals_have_their_number_and_inverse_phrases_are_marked(linker):
    ordinals = {one.argument for one in linker.mentions("the last") if one.value == "ordinal"}
    assert ordinals == {-1}
    directions = {
        phrase: {one.inverse for one in linker.mentions(phrase) if one.value == "treated by" and one.end == last}
        for phrase, last in (("treated with", 2), ("cures", 1))
    }
    assert directions == {"treated with": {False}, "cures": {True}}


def test_a_name_that_many_have_is_meant_of_what_is_named_beside_it(entities):
    assert entities("speed of the mower", "speed") == {"setting:mower.speed"}
    assert entities("speed of the trimmer", "speed") == {"setting:trimmer.speed"}
    assert entities("which speed", "speed") == {"setting:mower.speed", "setting:trimmer.speed"}


def test_a_short_name_far_from_all_that_is_named_counts_less(linker):
    def score(question):
        return max(one.score for one in linker.mentions(question) if one.value == "route")

    assert score("route of the trimmer") < score("route of the robot mower")


def test_a_name_and_the_kind_word_beside_it_are_one_mention(entities):
    assert entities("the speed setting of the mower", "speed setting") == {"setting:mower.speed"}
    assert entities("the disease late blight", "disease late blight") == {"disease:late"}


def test_a_part_of_a_hyphenated_word_is_no_mention(mentions):
    assert ("mower", "mower", "name") not in mentions("a mower-like thing", Role.ENTITY)
    assert ("mower", "mower", "name") in mentions("a mower like this", Role.ENTITY)


def test_a_kind_word_within_a_name_is_no_kind(mentions):
    question = "is it mosaic virus disease"
    assert mentions(question, Role.KIND) == []
    assert mentions("is it a disease", Role.KIND)[0][0] == "disease"


def test_clauses_are_offered_as_descriptions(mentions):
    found = [words for words, _, _ in mentions("the remedy that kills fungi quickly", Role.TEXT)]
    assert "kills fungi quickly" in found
    assert mentions("the mower", Role.TEXT) == []


def test_dotted_names_are_read_whole_and_by_their_end(tmp_path):
    path = tmp_path / "code.sqlite"
    records = [
        Kind("function"),
        Node("f", "function", "json.dumps", aliases=("dumps",)),
        Node("g", "function", "json.load"),
    ]
    build(path, records, origin="test")
    linker = Linker(Graph(Store.open(path)))
    by_question = {
        question: {linker.graph.entity(number).name for one in linker.mentions(question) for number in one.ids}
        for question in ("json.dumps", "json.dumps()", "dumps", "json.dumpss", "yaml.dumps")
    }
    assert by_question == {
        "json.dumps": {"json.dumps"},
        "json.dumps()": {"json.dumps"},
        "dumps": {"json.dumps"},
        "json.dumpss": {"json.dumps"},
        "yaml.dumps": set(),
    }


def test_an_overlay_s_words_are_known_at_once(tmp_path):
    path = tmp_path / "base.sqlite"
    build(path, [Edge("Ann", "knows", "Bob")], origin="test")
    graph = Graph(Store.open(path))
    assert not [one for one in Linker(graph).mentions("Who employs Carla?") if one.role != Role.TEXT]
    graph.overlay([Edge("Zenith", "employs", "Carla")])
    found = {one.value for one in Linker(graph).mentions("Who employs Carla?")}
    assert {"employs", "carla"} <= found


def test_an_empty_base_has_words_for_operations_only(tmp_path):
    build(tmp_path / "empty.sqlite", [], origin="test")
    found = Linker(Graph(Store.open(tmp_path / "empty.sqlite"))).mentions("How many films star Al Pacino?")
    assert {one.role for one in found} <= {Role.OPERATION, Role.TEXT}
