"""Routing: which knowledge base a question is for.

Each base's linker says which words it can explain; the base that explains most wins. Values with
units count for bases of quantities. No word list of any base's topic is kept here: the bases' own
names, kinds and relations are the evidence, so a base that a user adds is found the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuili.errors import LimitError
from tuili.knowledge.graph import Graph
from tuili.knowledge.lexicon import Mention, Role
from tuili.knowledge.link import Linker
from tuili.knowledge.records import normalise
from tuili.knowledge.text import Token, tokenise
from tuili.knowledge.values import find_values

QUANTITY = "quantity"

# How much of a word a mention explains, by how it was found.
_ONE_WORD = {"name": 0.7, "alias": 0.6, "spelling": 0.3, "elsewhere": 0.1}
_PART_OF_NAME = 0.2
_LONG_NAME = 1.0
_SCHEMA = {Role.KIND: 0.5, Role.RELATION: 0.35, Role.QUALIFIER: 0.35}
_VALUE = 1.5
_PREFIX = 0.7


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
    return {
        name: _explained(question, tokens, linker) + _VALUE * num_values * (QUANTITY in linker.graph.kinds)
        for name, linker in linkers.items()
    }


def _num_values(question: str) -> int:
    try:
        return sum(1 for item in find_values(question) if item.unit or item.is_money)
    except LimitError:
        return 0


def _explained(question: str, tokens: Sequence[Token], linker: Linker) -> float:
    """Return the sum over words of how well the base explains each; "json.foo" counts if "json" is known.

    Words that only say what is asked ("another name", "how many") are no evidence for any base.
    """
    best = [0.0] * len(tokens)
    mentions = linker.mentions(question, list(tokens))
    asking = {at for mention in mentions if mention.role == Role.OPERATION for at in range(mention.start, mention.end)}
    for mention in mentions:
        if mention.end - mention.start == 1 and mention.start in asking:
            continue
        share = _share(tokens, mention, linker.graph)
        for at in range(mention.start, mention.end):
            if not tokens[at].is_function_word and not tokens[at].text[0].isdigit():
                best[at] = max(best[at], share)
    unknown = [at for at, token in enumerate(tokens) if "." in token.text and best[at] < _PREFIX]
    for at in unknown:
        first = normalise(tokens[at].text.split(".")[0])
        best[at] = max(best[at], _PREFIX * bool(linker.graph.by_label([first])))
    return sum(best)


def _share(tokens: Sequence[Token], mention: Mention, graph: Graph) -> float:
    if mention.role != Role.ENTITY:
        return _SCHEMA.get(mention.role, 0.0)
    is_code = any(token.is_code for token in tokens[mention.start : mention.end])
    if mention.how in ("name", "alias"):
        if is_code or len(mention.value.split()) > 1:
            return _LONG_NAME
        if not any(_is_called(graph, number, mention.value) for number in mention.ids):
            return _PART_OF_NAME
    return _ONE_WORD.get(mention.how, 0.0)


def _is_called(graph: Graph, number: int, norm: str) -> bool:
    """Tell whether a word is an entity's whole name, not the last part of it or one that many share.

    Plain words such as "name" or "order" are what parameters are called; they tell little.
    """
    entity = graph.entity(number)
    kind = graph.kinds.get(entity.kind)
    return not (kind and kind.by_name) and not normalise(entity.name).endswith(f".{norm}")
