import pytest

from tuili.reason.answer import Answer, Number, Scored
from tuili.reason.voice import MAX_NAMES, Voice, check, first_sentence, messages

INDENT = Answer("Which parameter of json.dumps controls indentation?", "indent", "python", (Scored("indent", 0.9),))
FORCE = Answer("What force do 2 kg at 3 m/s² need?", "force = 6 newton", "formulas", value=Number(6, "newton"))
NO = Answer("Is arthritis a kind of gout?", "No", "hpo")
YES = Answer("Is gout a kind of arthritis?", "Yes: Gout – is a – Arthritis", "hpo")


class Parrot:
    """A language model that says what it is told to."""

    def __init__(self, text):
        self.text = text

    def generate(self, messages, max_new_tokens, seed=None):
        return self.text


def word(answer, text):
    return Voice(Parrot(text)).word(answer)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (INDENT, "The parameter of json.dumps that controls indentation is indent."),
        (FORCE, "2 kg at 3 m/s² need a force of 6 newtons."),
        (NO, "No, arthritis is not a kind of gout."),
        (YES, "Yes, gout is a kind of arthritis."),
    ],
)
def test_a_wording_that_keeps_everything_is_taken(answer, text):
    worded = word(answer, text)
    assert worded.text == text and answer.text in worded.notes[-1]
    assert (worded.entities, worded.value) == (answer.entities, answer.value)


@pytest.mark.parametrize(
    ("answer", "text", "why"),
    [
        (INDENT, "", "empty"),
        (INDENT, "It controls the indentation.", "lacks 'indent'"),
        (INDENT, "It is json.dumps.indent.", "lacks 'indent'"),
        (INDENT, "The parameter is indent, as in json.load.", "json.load"),
        (INDENT, "The parameter indent takes 4.", "number '4'"),
        (INDENT, "The parameter indent, or sort_keys.", "sort_keys"),
        (INDENT, "The parameter is indent, says Guido.", "Guido"),
        (INDENT, "The parameter is not indent.", "denies"),
        (FORCE, "The force is 60 newton.", "6"),
        (FORCE, "The force is 6.5 newton.", "6"),
        (FORCE, "The force is 6 joule.", "lacks 'newton'"),
        (FORCE, "The force is -6 newton.", "6"),
        (NO, "Yes, it is.", "begin with No"),
        (NO, "No, it is.", "plainly"),
        (YES, "Yes, gout is not a kind of arthritis.", "plainly"),
    ],
)
def test_a_wording_that_loses_or_changes_something_is_refused(answer, text, why):
    worded = word(answer, text)
    assert worded.text == answer.text and "refused" in worded.notes[-1] and why in worded.notes[-1]


def test_abstentions_and_long_answers_are_not_worded():
    abstained = Answer("x", "no supported answer: y", "films", abstained=True)
    many = Answer("x", "y", "films", tuple(Scored(f"n{number}", 1.0) for number in range(MAX_NAMES + 1)))
    for answer in (abstained, many):
        worded = word(answer, "anything")
        assert worded.text == answer.text and "not worded" in worded.notes[-1]


def test_only_the_first_sentence_is_kept():
    assert first_sentence("It is json.dumps.\nIt is  nice. And") == "It is json.dumps."
    assert first_sentence("Half a sen") == "Half a sen"


def test_the_model_gets_yes_or_no_without_the_facts():
    assert messages(YES)[-1]["content"].endswith("Answer: Yes")


def test_the_real_model_words_an_answer_or_the_template_stays(models, monkeypatch):
    monkeypatch.setenv("TUILI_HOME", str(models.parent))
    voice = Voice.load()
    for answer in (INDENT, NO):
        worded = voice.word(answer)
        assert worded.notes
        assert worded.text == answer.text or not check(answer, worded.text)
    assert worded.text.startswith("No")
