"""Reading a follow-up: what refers to the last question, and what the last question becomes.

Text in, text out; which reading holds is decided by asking (`tuili.reason.dialogue`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from tuili.errors import InputError, TuiliError
from tuili.knowledge.lexicon import Mention, Role
from tuili.knowledge.link import Linker
from tuili.knowledge.query import Value
from tuili.knowledge.records import Edge
from tuili.knowledge.text import Token, content_stems, tokenise
from tuili.knowledge.values import find_values

MAX_REPLACED = 3
FACT = re.compile(r"\s*fact\s*:\s*(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
OPENER = re.compile(r"^\s*(?:and|but|or|so|then|now|ok|okay|what about|how about|what if)\b[\s,]*", re.IGNORECASE)
_OWNER = re.compile(r"\b(?:its|their|this one's|that one's)\b", re.IGNORECASE)
_PRONOUN = re.compile(
    r"\b(?:it|they|them|that one|this one|these|those|the same one|(?<=of )that|(?<=for )that)\b", re.IGNORECASE
)
_ASKING = re.compile(
    r"\s*(?:what|which|how|when|where|who|is|are|does|do|find|give|calculate|compute|tell)\b", re.IGNORECASE
)
_TRAILING = re.compile(r"\s+(?:ones?|then|instead|as well|too)$", re.IGNORECASE)
_LEADING = re.compile(
    r"^(?:(?:what|how) about|for|of|with|in|on|at|if|it|is|was|the|a|an|only|instead)\s+", re.IGNORECASE
)


def parse_fact(line: str, number: int = 1) -> Edge:
    """Return the fact of a line: "fact: subject | relation | object", or three fields between tabs.

    Raises:
        InputError: it has not three fields with text.
    """
    match = FACT.match(line)
    body = match["rest"] if match else line
    cells = [cell.strip() for cell in (body.split("\t") if "\t" in body else body.split("|"))]
    if len(cells) != 3 or not all(cells):
        raise InputError(f"{line[:80]!r} holds no fact; write it as: fact: subject | relation | object")
    return Edge(cells[0], cells[1], cells[2], source=f"told in this conversation, fact {number}")


def is_fact(line: str) -> bool:
    """Tell whether a line tells a fact instead of asking."""
    return bool(FACT.match(line)) or line.count("\t") == 2


def refers(linker: Linker, rest: str) -> bool:
    """Tell whether a pronoun of the question refers to something before it."""
    found = [match for pattern in (_OWNER, _PRONOUN) if (match := pattern.search(rest))]
    if not found:
        return False
    first = min(match.start() for match in found)
    tokens = tokenise(rest)
    return not any(tokens[mention.start].start < first for mention in _firm(linker, rest, tokens))


def _firm(linker: Linker, text: str, tokens: list[Token]) -> list[Mention]:
    """Return the names in a text that are surely meant: code, several words, or an entity's whole name."""
    return [
        mention
        for mention in linker.mentions(text, tokens)
        if mention.role == Role.ENTITY
        and mention.how in ("name", "alias")
        and (mention.score >= 1.0 or any(token.is_code for token in tokens[mention.start : mention.end]))
    ]


def named(linker: Linker, text: str) -> list[Mention]:
    return _firm(linker, text, tokenise(text))


def bare_of(rest: str) -> str:
    """Return a follow-up without its small leading words and end mark ("for json.dump?" -> "json.dump")."""
    bare = _TRAILING.sub("", rest.rstrip(" ?.!"))
    while (shorter := _LEADING.sub("", bare)) != bare:
        bare = shorter
    return bare


def with_mention(last: str, bare: str, linker: Linker) -> list[str]:
    """Return the last question with `bare` in place of a mention, one of the same kind first; [] if it is none."""
    try:
        tokens = tokenise(bare)
    except InputError:
        return []
    whole = [
        mention
        for mention in linker.mentions(bare, tokens)
        if mention.role == Role.ENTITY
        and mention.start == 0
        and mention.end == len(tokens)
        and mention.how != "spelling"
    ]
    return _with_entity(last, bare, {kind for mention in whole for kind in mention.kinds}, linker) if whole else []


def statement_of(last: str) -> str:
    """Return the sentences of a question that state something ("A car accelerates ...")."""
    sentences = re.split(r"(?<=[.!?;])\s+", last.strip())
    return " ".join(sentence for sentence in sentences if not sentence.endswith("?") and not _ASKING.match(sentence))


def question_form(rest: str) -> str:
    """Return "its final speed?" as "What is the final speed?"."""
    plain = _OWNER.sub("the", rest, count=1)
    return plain if _ASKING.match(plain) else f"What is {plain.rstrip(' ?.!')}?"


def value_in(bare: str, last: str) -> Value | None:
    """Return the one value of a follow-up that holds nothing else but words of the last question."""
    values = find_values(bare)
    if len(values) != 1:
        return None
    value = values[0].value
    rest = content_stems(f"{bare[: value.start]} {bare[value.end :]}")
    return value if set(rest) <= {*content_stems(last), "it", "valu"} else None


def with_value(last: str, new: Value) -> str:
    """Replace the value of the same unit, else the only one of the same dimension; "" if there is none."""
    known = find_values(last)
    same = [item.value for item in known if item.unit == new.unit] or [
        item.value for item in known if is_same_dimension(item.unit, new.unit)
    ]
    return f"{last[: same[-1].start]}{new.text}{last[same[-1].end :]}" if same else ""


def is_same_dimension(left: str, right: str) -> bool:
    from tuili.reason.verify import dimension

    try:
        return dimension(left) == dimension(right)
    except TuiliError:
        return False


def _with_entity(last: str, bare: str, kinds: set[str], linker: Linker) -> list[str]:
    tokens = tokenise(last)
    known = [
        mention
        for mention in linker.mentions(last, tokens)
        if mention.role == Role.ENTITY and mention.how in ("name", "alias")
    ]
    whole = [mention for mention in known if not any(_is_inside(mention, other) for other in known)]
    same = [mention for mention in whole if kinds & set(mention.kinds)] or _firm(linker, last, tokens)

    def likeness(mention: Mention) -> tuple[int, float]:
        text = last[tokens[mention.start].start : tokens[mention.end - 1].end]
        return mention.end - mention.start, difflib.SequenceMatcher(None, text, bare).ratio()

    best = sorted(same, key=likeness, reverse=True)
    spans = dict.fromkeys((tokens[mention.start].start, tokens[mention.end - 1].end) for mention in best)
    return [f"{last[:start]}{bare}{last[end:]}" for start, end in list(spans)[:MAX_REPLACED]]


def _is_inside(mention: Mention, other: Mention) -> bool:
    return (
        other.start <= mention.start
        and mention.end <= other.end
        and mention.end - mention.start < other.end - other.start
    )


def with_owner(text: str, name: str, owner: str) -> str:
    """Return a question with "cls" as "cls of json.load"."""
    return re.sub(
        rf"(?<![\w.]){re.escape(name)}(?![\w.]*\w)", lambda found: f"{found.group()} of {owner}", text, count=1
    )


def substituted(rest: str, name: str) -> str:
    """Put a name in the place of the first pronoun; "" if there is none."""
    if match := _OWNER.search(rest):
        following = rest[match.end() :].rstrip(" ?.!")
        return f"{rest[: match.start()]}the{following} of {name}?"
    if match := _PRONOUN.search(rest):
        return f"{rest[: match.start()]}{name}{rest[match.end() :]}"
    return ""


def about_focus(rest: str, focus: Sequence[str], linker: Linker) -> list[str]:
    """Return a question that lacks its subject with the focus added ("the default?")."""
    asks = any(mention.role in (Role.KIND, Role.RELATION) for mention in linker.mentions(rest))
    return [] if named(linker, rest) or not asks else [f"{rest.rstrip(' ?.!')} of {name}?" for name in focus]
