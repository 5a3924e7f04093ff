"""Routing: which knowledge base a question is for.

Each base's linker says which words it can explain; the base that explains most wins. Values with
units count for bases of quantities. No word list of any base's topic is kept here: the bases' own
names, kinds and relations are the evidence, so a base that a user adds is found the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuili.errors import LimitError
from tuili.knowledge.link import Linker, Mention, Role
from tuili.knowledge.text import Token, tokenise
from tuili.knowledge.values import find_values

QUANTITY = "quantity"

# How much of a word a mention explains: as one word of plain text, or as part of a longer or code name.
_ONE_WORD = {"name": 0.6, "alias": 0.5, "spelling": 0.3, "elsewhere": 0.2}
_LONG_NAME = 1.0
_SCHEMA = {Role.KIND: 0.6, Role.RELATION: 0.35, Role.QUALIFIER: 0.35}
_VALUE = 1.0


def route(question: str, linkers: Mapping[str, Linker]) -> str:
    """Return the name of the base that explains most of a question; of equal ones the first.

    Raises:
        InputError: the question holds no word.
    """
    found = scores(question, linkers)
    return max(found, key=found.__getitem__)


def scores(question: str, linkers: Mapping[str, Linker]) -> dict[str, float]:
    """Return how many of a question's words each base explains; a value with a unit counts as one."""
    tokens = tokenise(question)
    num_values = _num_values(question)
    return {name: _explained(question, tokens, linker) + _VALUE * num_values * (QUANTITY in linker.graph.kinds)
            for name, linker in linkers.items()}


def _num_values(question: str) -> int:
    try:
        return sum(1 for item in find_values(question) if item.unit or item.is_money)
    except LimitError:
        return 0


def _explained(question: str, tokens: Sequence[Token], linker: Linker) -> float:
    best = [0.0] * len(tokens)
    for mention in linker.mentions(question, list(tokens)):
        share = _share(tokens, mention)
        for at in range(mention.start, mention.end):
            if not tokens[at].is_function_word and not tokens[at].text[0].isdigit():
                best[at] = max(best[at], share)
    return sum(best)


def _share(tokens: Sequence[Token], mention: Mention) -> float:
    if mention.role != Role.ENTITY:
        return _SCHEMA.get(mention.role, 0.0)
    span = tokens[mention.start:mention.end]
    if mention.how in ("name", "alias") and (len(mention.value.split()) > 1 or any(token.is_code for token in span)):
        return _LONG_NAME
    return _ONE_WORD.get(mention.how, 0.0)
