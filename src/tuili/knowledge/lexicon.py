"""The lexicon: which words of a language name a base's kinds and relations, and the operations of all bases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tuili.knowledge.graph import Graph
from tuili.knowledge.records import Relation, normalise
from tuili.knowledge.text import FUNCTION_WORDS, Token, stem, stems


class Role(StrEnum):
    """What a mention stands for."""

    ENTITY = "entity"
    KIND = "kind"
    RELATION = "relation"
    TEXT = "text"
    QUALIFIER = "qualifier"
    OPERATION = "operation"


@dataclass(frozen=True, slots=True)
class Mention:
    """Tokens `start` to `end` (exclusive) of a question read as something of the base.

    `value` is the kind, relation or operation; `ids` are the entities; `inverse` tells that a
    relation phrase reads from object to subject, `directed` that the order of words tells the
    ends at all; `noun` that it names one of its ends, or, of an entity, that a kind word stands beside it;
    `argument` is an operation's number.
    """

    start: int
    end: int
    role: Role
    value: str
    score: float
    how: str = "exact"
    ids: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    inverse: bool = False
    noun: bool = False
    argument: int = 0
    directed: bool = True


# Operations every base understands: phrase by phrase, as written.
_OPERATIONS: dict[str, str] = {
    "count": (
        "how many|what number of|what is the number of|what s the number of|tell me the number of|"
        "number of|count of|total number|how large a number|in how many|to how many|count"
    ),
    "not": (
        "compared with|compared to|unlike|in contrast to|as opposed to|in comparison with|not|no|without|"
        "lack|lacks|lacking|except|excluding|excludes|missing|misses|absent|cannot|nor|minus|never|"
        "unknown to|free of|n t|don t|doesn t|isn t|can t|won t|aren t|haven t|hasn t|couldn t|wouldn t|shouldn t|"
        "didn t|wasn t|weren t|needn t|mustn t|w o|cant|dont|doesnt|isnt|wont|"
        "rather than|instead of|fail to have|though no|but no|"
        "missing from|apart from|other than|leaving out|leave out"
    ),
    "or": "or|either|versus|vs",
    "share": "share|shared|in common|common|both|jointly|same|at the same time|at once|alike|overlap|the two",
    "most": "more|most|larger number|largest number|longer list|longest|greater number|greatest number|bigger",
    "least": "fewer|fewest|least|smaller number|smallest number|shortest|less",
    "direct": "direct|directly|immediate|immediately|one level|right above|right below|directly above",
    "naming": (
        "the name of|name of|name|names|named|term|terms|word|words|call|called|known|known as|label|"
        "title|say|mean|means|stand for|stands for|synonym|go by|goes by|term for|name for|word for|"
        "called as a term|refer to|meant by|aka|a k a|also known as|official name|official term|proper name|"
        "proper term|medical term|medical name|formal name|formal term|filed|listed as|synonyms"
    ),
    "other": "other|another|else|otherwise|besides|alternative|different|also|synonym|synonyms|differently|aka|a k a",
    "describe": "describe|definition of|define|meaning of",
    "ask": "y n|yes no|yes or no|true or false|right or wrong|or not",
    "nearest": "close|closest|nearest|lowest|most specific|most recent|narrowest",
}
_WEAK = {"naming": 0.1, "other": 0.15}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_CARDINALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_LAST = ("last", "final", "rearmost")


@dataclass
class Lexicon:
    """The phrases of a base's schema and the operations, by their stems."""

    phrases: dict[tuple[str, ...], list[Mention]] = field(default_factory=dict)
    longest: int = 1

    def add(self, phrase: str, mention: Mention) -> None:
        """Add a phrase."""
        words = normalise(phrase).removeprefix("be ").split()
        while len(words) > 1 and words[0] in ("a", "an", "the"):
            words.pop(0)
        if mention.role != Role.OPERATION and all(word in FUNCTION_WORDS for word in words):
            return
        key = stems(" ".join(words)) if mention.role in (Role.RELATION, Role.QUALIFIER) else ("=", *words)
        if key and mention not in self.phrases.setdefault(key, []):
            self.phrases[key].append(mention)
            self.longest = max(self.longest, len(words))


def build_lexicon(graph: Graph) -> Lexicon:
    """Return the words of a base's schema and the operations."""
    lexicon = Lexicon()
    for name, phrases in _OPERATIONS.items():
        for phrase in phrases.split("|"):
            lexicon.add(
                phrase,
                Mention(0, 0, Role.OPERATION, name, _WEAK.get(name, 0.3 if phrase == "number of" else 0.6)),
            )
    for position, word in enumerate(_ORDINALS, 1):
        for form in (
            word,
            f"{position}{_suffix(position)}",
            f"position {_CARDINALS[position - 1]}",
            f"position {position}",
            f"{word} place",
            f"{word} position",
        ):
            lexicon.add(form, Mention(0, 0, Role.OPERATION, "ordinal", 0.6, argument=position))
    for word in _LAST:
        lexicon.add(word, Mention(0, 0, Role.OPERATION, "ordinal", 0.6, argument=-1))
    for kind in graph.kinds.values():
        for word in (kind.name, *kind.words):
            lexicon.add(word, Mention(0, 0, Role.KIND, kind.name, 0.8))
    for relation in graph.relations.values():
        _add_relation(graph, lexicon, relation)
    return lexicon


def _add_relation(graph: Graph, lexicon: Lexicon, relation: Relation) -> None:
    kinds = {stems(word) for kind in graph.kinds.values() for word in (kind.name, *kind.words)}
    for phrase, mention in _relation_phrases(relation):
        if _bare(phrase) not in kinds:
            lexicon.add(phrase, mention)
    for qualifier, words in relation.qualifiers.items():
        for word in (qualifier, *words):
            lexicon.add(word, Mention(0, 0, Role.QUALIFIER, f"{relation.name}\n{qualifier}", 0.9))


def _relation_phrases(relation: Relation) -> Iterator[tuple[str, Mention]]:
    """Yield the phrases that name a relation, with how each reads."""
    name = relation.name
    described = bool(relation.words or relation.nouns or relation.inverse_words)
    noun = Mention(0, 0, Role.RELATION, name, 0.8, noun=True)
    verb = Mention(0, 0, Role.RELATION, name, 0.7)
    is_noun = described and normalise(name).split()[-1] not in FUNCTION_WORDS
    yield name, replace(noun, score=0.9, noun=is_noun, directed=described)
    if relation.inverse:
        yield relation.inverse, replace(noun, score=0.9, inverse=True)
    yield from ((phrase, noun) for phrase in relation.nouns)
    yield from ((phrase, replace(noun, inverse=True)) for phrase in relation.inverse_nouns)
    yield from ((phrase, verb) for phrase in relation.words)
    yield from ((phrase, replace(verb, inverse=True)) for phrase in relation.inverse_words)
    if not described:
        yield from ((phrase, _guess(name)) for phrase in _guessed_words(name))
        yield from ((phrase, replace(noun, score=0.7)) for phrase in _agents(name))


def _bare(phrase: str) -> tuple[str, ...]:
    """Return a phrase's stems without a preposition at its end ("parameter of" says no more than its kind)."""
    words = normalise(phrase).removeprefix("be ").split()
    while len(words) > 1 and words[-1] in FUNCTION_WORDS:
        words.pop()
    return stems(" ".join(words))


def singular(word: str) -> str:
    """Return the singular of a regular plural."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "xes", "ches", "shes")) else word[:-1]


def is_plural(token: Token) -> bool:
    """Tell whether a token is a regular plural."""
    return singular(normalise(token.text)) != normalise(token.text)


def _guess(name: str) -> Mention:
    """Return how the words of an undescribed relation read, as far as its name tells.

    "directed by": who directs is the object; "born in": a verb from subject to object; "genre": a noun.
    """
    last = normalise(name).split()[-1]
    is_verb = last in FUNCTION_WORDS
    return Mention(0, 0, Role.RELATION, name, 0.7, inverse=last == "by", noun=not is_verb, directed=False)


def _guessed_words(name: str) -> list[str]:
    """Return words for a relation that nobody described: its name's content words."""
    words = normalise(name).split()
    content = [word for word in words if word not in FUNCTION_WORDS]
    return [" ".join(content), *content] if content else words


def _agents(name: str) -> list[str]:
    """Return words for who does what a relation like "directed by" tells: "director"."""
    first, *rest = normalise(name).split()
    if rest != ["by"]:
        return []
    verb = stem(first)
    return [verb + ending for ending in ("er", "or", "r")]


def _suffix(position: int) -> str:
    return {1: "st", 2: "nd", 3: "rd"}.get(position, "th")
