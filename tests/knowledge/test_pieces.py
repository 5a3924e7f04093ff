import pytest

from tuili.knowledge.lexicon import Role
from tuili.knowledge.pieces import cut
from tuili.knowledge.segment import readings
from tuili.knowledge.text import tokenise


@pytest.fixture
def pieces(garden):
    """Return a function that gives the pieces of a question's best reading."""
    base = garden.base("small")

    def read(question):
        tokens = tokenise(question)
        mentions = [one for one in base.linker.mentions(question) if one.role != Role.TEXT]
        return cut(base.graph, tokens, readings(tokens, mentions, 1)[0])

    return read


def values(piece):
    return [member.value for member in piece.members]


def test_a_kind_word_is_open_and_a_name_is_not(pieces):
    kind, name = pieces("Which diseases affect the tomato?").pieces
    assert kind.is_open and kind.plural and kind.kinds == ("disease",)
    assert not name.is_open and values(name) == ["tomato"]


@pytest.mark.parametrize("question", ["the tool mower", "the mower tool", "the tool called mower"])
def test_a_name_and_its_kind_word_are_one_piece(pieces, question):
    (piece,) = pieces(question).pieces
    assert values(piece) == ["mower"] and piece.kinds == ("tool",)


@pytest.mark.parametrize(
    "question", ["the disease mower", "which diseases affect the tomato", "diseases like late blight"]
)
def test_a_kind_word_of_another_kind_a_verb_between_or_a_plural_makes_two(pieces, question):
    assert len(pieces(question).pieces) == 2


@pytest.mark.parametrize(("question", "any_of"), [
    ("what shows brown spot and leaf curl", False),
    ("what shows brown spot as well as leaf curl", False),
    ("what shows brown spot, together with leaf curl", False),
    ("what shows brown spot or leaf curl", True),
    ("which one of brown spot and leaf curl", True),
])  # fmt: skip
def test_enumerated_names_are_one_piece(pieces, question, any_of):
    (piece,) = [piece for piece in pieces(question).pieces if piece.members]
    assert values(piece) == ["brown spot", "leaf curl"] and piece.any_of == any_of


def test_names_of_other_kinds_or_with_words_between_are_not_joined(pieces):
    assert len(pieces("the mower and the tomato").pieces) == 2
    assert len(pieces("brown spot shown quickly leaf curl").pieces) == 2


@pytest.mark.parametrize(("question", "negated"), [
    ("brown spot but not leaf curl", [False, True]),
    ("brown spot without leaf curl", [False, True]),
    ("brown spot and leaf curl", [False, False]),
    ("not brown spot, shows leaf curl", [True, False]),
])  # fmt: skip
def test_a_negation_holds_for_the_name_after_it(pieces, question, negated):
    flags = [flag for piece in pieces(question).pieces if piece.members for flag in piece.negated]
    assert flags == negated


def test_a_negation_at_the_end_holds_for_the_name_before_it(pieces):
    first, second = [piece for piece in pieces("late blight shows what the rose rust lacks").pieces if piece.members]
    assert (first.negated, second.negated) == ([False], [True])


@pytest.mark.parametrize(
    ("question", "ordinal"), [("the second setting", 2), ("the last setting", -1), ("the setting", 0)]
)
def test_an_ordinal_goes_to_the_kind_word(pieces, question, ordinal):
    (piece,) = pieces(question).pieces
    assert piece.ordinal == ordinal


@pytest.mark.parametrize(("question", "asks"), [
    ("Is late blight a disease?", True),
    ("Whether late blight is a disease", True),
    ("Late blight is a disease?", True),
    ("Which disease is it?", False),
    ("late blight", False),
])  # fmt: skip
def test_questions_for_yes_or_no_are_known(pieces, question, asks):
    assert pieces(question).asks == asks


def test_in_such_a_question_a_kind_word_says_what_the_name_is(pieces):
    found = pieces("Is speed a setting of the mower?").pieces
    assert [values(piece) for piece in found] == [["speed"], ["mower"]]


def test_what_nothing_explains_is_text(pieces):
    found = pieces("which remedy kills fungi quickly")
    words = [token.text for token in tokenise("which remedy kills fungi quickly")]
    assert [words[start:end] for start, end in found.texts] == [["kills", "fungi", "quickly"]]
    assert pieces("which diseases affect the tomato").texts == []
