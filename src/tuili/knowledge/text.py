"""Words of a question: tokens with their places, stems, function words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from tuili.errors import InputError, LimitError
from tuili.knowledge.records import normalise

MAX_QUESTION = 4_000
_TOKEN = re.compile(
    r"""(?P<quoted>`[^`\n]+`|"[^"\n]+"|“[^”\n]+”|(?<!\w)'[^'\n]+'(?!\w))
    |(?P<dotted>[^\W\d]\w*(?:\.[^\W\d]\w*)+)
    |(?P<ordinal>\d+(?:st|nd|rd|th)\b)
    |(?P<number>\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?)
    |(?P<word>\w+)
    |(?P<mark>[^\w\s])""",
    re.VERBOSE,
)
_CAMEL = re.compile(r"[a-z][A-Z]|[A-Z]{2,}[a-z]")

# Words that carry grammar, not content: they never name an entity unless written as code.
FUNCTION_WORDS = frozenset(
    """a an the this that these those which what who whom whose when why how is are was were be been being am do
    does did doing done has have had having can could may might must shall should will would of in on at by for
    from to with within into onto as than then and or but nor not no if it its they them their there here any
    all some each every both either neither one ones same other another such so just also too very much many
    more most less least few fewer yet although though while whereas own still i me my you your we us our s t
    please about called named mean means get gets got use used using between among per via out up down over
    total altogether together come comes whether it's exactly actually exist exists available provide provided
    let lets need needs want wants""".split()
)

# Words with a meaning, but none that tells one entity from another: left out of descriptions.
LIGHT_WORDS = frozenset(
    """people person persons patient patients somebody someone anybody anyone individual individuals man woman
    child boy girl case cases likely possible possibly probably best well fit fits match matches matching
    suggest suggests explain explains combine combines combined think thought consider considered question see
    seen sees occur occurs occurring appear appears happen happens known know call calls called say says said
    place placed stand stands lie lies part parts thing things something anything everything else otherwise
    besides whatever remain remains given typical typically usual usually certain particular particularly single
    whole yes true correct answer entry entries item whether complain complains suffer suffers eye his her he
    she one's plus way ways leaving listed registered recorded annotated documented written put word words
    instead simply really possess possesses tree ontology hierarchy medical database described describes proper
    record records must want wanted like interested tell told add added go goes going get gets got object
    objects instance instances calling caller callers chosen choose chooses supplied supply mention mentioning
    valid allowed nobody taken takes declared deciding able remember somewhere live lives ultimately clause
    handle additional additionally extra hold holds found find finds standard library look looks made
    responsible merely alone ends list lists signature sequence names offered offers exposed exposes belongs
    there's what's where handy okay ok set sets setting controls control governs govern decides decide
    determines determine specifies indicates tells various several available specified specify specifying passed
    pass passing hand handed d ll re ve m w aka sit sits leave leaving aside therefore hence apply applies
    overlapping overlap classed mind actual medicine medically doctors doctor clinicians physicians officially
    official proper properly formally formal typed compute computes computing calculate calculates perform performs
    yield yields give gives giving""".split()
)

NEGATIONS = frozenset("not no never without except lacks lacking cannot".split())
QUESTION_WORDS = frozenset("which what who whom whose where when how".split())

# Words that ask for something when a question begins with them.
OPENING_WORDS = frozenset("tell show give list name find compare count state say print display".split())


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a question: `start` and `end` are character offsets."""

    text: str
    start: int
    end: int
    stem: str
    is_code: bool = False
    is_mark: bool = False

    @property
    def is_function_word(self) -> bool:
        """Whether the word carries grammar only."""
        folded = self.text.casefold()
        opening = self.start == 0 and folded in OPENING_WORDS
        grammar = folded in FUNCTION_WORDS or (folded.removesuffix("s") in FUNCTION_WORDS and len(folded) > 3)
        return not self.is_code and (self.is_mark or grammar or opening)


@cache
def _stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")


# Irregular verbs, so that "wrote" and "written" have the stem of "write".
_IRREGULAR = {
    form: base
    for base, *forms in (
        line.split()
        for line in """write wrote written|make made|sing sang sung|give gave given|take took taken|begin began
        begun|break broke broken|build built|buy bought|catch caught|choose chose chosen|come came|draw
        drew drawn|drive drove driven|eat ate eaten|fall fell fallen|feel felt|fight fought|find
        found|fly flew flown|get got gotten|go went gone|grow grew grown|hear heard|hold held|keep
        kept|know knew known|lead led|leave left|lose lost|mean meant|meet met|pay paid|rise rose
        risen|run ran|say said|see saw seen|sell sold|send sent|shine shone|show shown|speak spoke
        spoken|spend spent|stand stood|swim swam swum|teach taught|tell told|think thought|throw threw
        thrown|understand understood|wear wore worn|win won""".split("|")
    )
    for form in forms
}


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Return the stem of one word (Snowball, English)."""
    folded = _IRREGULAR.get(normalise(word), normalise(word))
    return str(_stemmer().stemWord(folded)) if folded.isalpha() else folded


def stems(text: str) -> tuple[str, ...]:
    """Return the stems of a phrase's words."""
    return tuple(stem(word) for word in normalise(text).split())


def is_light(token: Token) -> bool:
    """Tell whether a token says nothing that could tell one entity from another."""
    return token.is_function_word or (not token.is_code and token.text.casefold() in LIGHT_WORDS)


def tokenise(question: str) -> list[Token]:
    """Split a question into tokens.

    Raises:
        InputError: the question is empty or holds no word.
        LimitError: it is longer than `MAX_QUESTION` characters.
    """
    if len(question) > MAX_QUESTION:
        raise LimitError(f"the question has {len(question)} characters, the limit is {MAX_QUESTION}; shorten it")
    tokens = [_token(match) for match in _TOKEN.finditer(question)]
    if not any(not token.is_mark for token in tokens):
        raise InputError(
            f"the question {question[:40]!r} holds no word; ask, for example: "
            '"default of maxsize in functools.lru_cache"'
        )
    return tokens


def _token(match: re.Match[str]) -> Token:
    text = match.group()
    start, end = match.span()
    if match.lastgroup == "quoted":
        text, start, end = text[1:-1], start + 1, end - 1
        return Token(text, start, end, stem(text), is_code=True)
    if text == "#":
        return Token(text, start, end, stem("number"))
    is_code = match.lastgroup == "dotted" or "_" in text or bool(_CAMEL.search(text))
    return Token(text, start, end, stem(text), is_code, match.lastgroup == "mark")


def telling_stems(text: str) -> list[str]:
    """Return the stems of the words that tell one entity from another; all content if none does."""
    words = [word for word in re.findall(r"[^\W_]+", text.replace("_", " ")) if word.casefold() not in LIGHT_WORDS]
    return content_stems(" ".join(words)) or content_stems(text)


def content_stems(text: str) -> list[str]:
    """Return the stems of the words that carry content, in order, repeated ones once."""
    words = re.findall(r"[^\W_]+", text.replace("_", " "))
    kept = (stem(word) for word in words if word.casefold() not in FUNCTION_WORDS)
    return list(dict.fromkeys(kept))
