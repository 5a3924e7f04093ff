"""From a reading to pieces: what the question's mentions become before they are connected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tuili.knowledge.graph import Graph
from tuili.knowledge.lexicon import Mention, Role
from tuili.knowledge.segment import Reading
from tuili.knowledge.text import QUESTION_WORDS, Token, is_light

_APPOSITION = frozenset("the a an called named : ( argument ) module class function keyword".split())
_JOINING = frozenset(
    "and or , & + / vs versus as well together with plus also along the a an of in to for by both between . ;".split()
)
_ENUMERATING = frozenset(": everything all whatever anything".split())
_AUXILIARIES = frozenset(
    "is are was were does do did can could has have had may might must shall should will would isn doesn don".split()
)


@dataclass(slots=True)
class Piece:
    """A variable in the making: a kind word, a named entity, or several joined ones.

    `members` are the entity mentions; `text` the words that describe it; `implied` the relation
    that called for it when the question has no word of its own for it.
    """

    start: int
    end: int
    kinds: tuple[str, ...] = ()
    members: list[Mention] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    label: str = ""
    negated: list[bool] = field(default_factory=list)
    any_of: bool = False
    ordinal: int = 0
    plural: bool = True
    implied: str = ""
    named_kind: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the question does not name the entity."""
        return not self.members


@dataclass(slots=True)
class Pieces:
    """All pieces of a reading, with what is left: relations, operations, words."""

    pieces: list[Piece]
    relations: list[Mention]
    qualifiers: list[Mention]
    operations: list[Mention]
    texts: list[tuple[int, int]]
    wh: int
    asks: bool
    num_misplaced: int = 0

    def operation(self, name: str) -> Mention | None:
        """Return the first operation of this name."""
        return next((mention for mention in self.operations if mention.value == name), None)


def cut(graph: Graph, tokens: Sequence[Token], reading: Reading) -> Pieces:
    """Turn a reading into pieces: appositions merged, enumerations joined, negations placed."""
    pieces = [
        _piece(graph, tokens, mention) for mention in reading.mentions if mention.role in (Role.ENTITY, Role.KIND)
    ]
    by_role = {role: [mention for mention in reading.mentions if mention.role == role] for role in Role}
    wh = next((at for at, token in enumerate(tokens) if token.text.casefold() in QUESTION_WORDS), -1)
    asks = _asks(tokens) or any(mention.value == "ask" for mention in by_role[Role.OPERATION])
    asks = asks or (wh < 0 and _doubts(tokens, pieces, by_role))
    asks = asks and not _opens_with_kind(pieces)
    pieces = _merge_appositions(graph, tokens, pieces)
    pieces = _join(tokens, pieces, by_role[Role.OPERATION])
    _offer_choices(tokens, pieces)
    num_misplaced = _negate(tokens, pieces, by_role[Role.OPERATION], by_role[Role.RELATION])
    place_ordinals(pieces, by_role[Role.OPERATION])
    if asks:
        pieces = _identify(graph, pieces)
    stated = {kind for piece in pieces if piece.members for kind in piece.kinds}
    return Pieces(
        pieces,
        by_role[Role.RELATION],
        [mention for mention in by_role[Role.QUALIFIER] if mention.value.split("\n")[1] not in stated],
        by_role[Role.OPERATION],
        _texts(tokens, reading),
        wh,
        asks,
        num_misplaced,
    )


def _piece(graph: Graph, tokens: Sequence[Token], mention: Mention) -> Piece:
    label = " ".join(token.text for token in tokens[mention.start : mention.end])
    if mention.role == Role.ENTITY:
        beside = mention.noun
        return Piece(mention.start, mention.end, mention.kinds, [mention], [], label, [False], named_kind=beside)
    last = tokens[mention.end - 1].text.casefold()
    plural = last.endswith("s") and not last.endswith("ss")
    return Piece(
        mention.start,
        mention.end,
        tuple(graph.subkinds(mention.value)),
        label=label,
        negated=[False],
        plural=plural,
        named_kind=True,
    )


def _asks(tokens: Sequence[Token]) -> bool:
    words = [token.text.casefold() for token in tokens if not token.is_mark]
    if words[0] in _AUXILIARIES or words[0] == "whether":
        return True
    stated = tokens[-1].text == "?" and not QUESTION_WORDS & set(words)
    return stated and bool(_AUXILIARIES & set(words[1:]))


def _doubts(tokens: Sequence[Token], pieces: Sequence[Piece], by_role: Mapping[Role, Sequence[Mention]]) -> bool:
    """Tell whether a phrase with a question mark states something of named things ("gout a kind of arthritis?")."""
    words = {token.text.casefold() for token in tokens}
    return (
        tokens[-1].text == "?"
        and not words & _ENUMERATING
        and len(pieces) > 1
        and all(piece.members for piece in pieces)
        and not by_role[Role.OPERATION]
        and not any(mention.noun and not mention.inverse for mention in by_role[Role.RELATION])
    )


def _opens_with_kind(pieces: Sequence[Piece]) -> bool:
    """Tell whether the question begins with what it asks for ("arguments that F and G have?")."""
    return bool(pieces) and pieces[0].start == 0 and pieces[0].is_open and pieces[0].plural


def _merge_appositions(graph: Graph, tokens: Sequence[Token], pieces: list[Piece]) -> list[Piece]:
    """Make one piece of a kind word and a name beside it ("the maxsize parameter")."""
    merged: list[Piece] = []
    for piece in pieces:
        before = merged[-1] if merged else None
        if before is not None and _apposed(tokens, before, piece):
            named, kind = (before, piece) if before.members else (piece, before)
            merged[-1] = _restrict(graph, named, kind)
        else:
            merged.append(piece)
    return merged


def _apposed(tokens: Sequence[Token], left: Piece, right: Piece) -> bool:
    if left.is_open == right.is_open or left.end > right.start:
        return False
    named, kind = (left, right) if left.members else (right, left)
    if kind is right and kind.plural:
        return False
    gap = [token.text.casefold() for token in tokens[left.end : right.start]]
    return bool(set(named.kinds) & set(kind.kinds)) and all(word in _APPOSITION for word in gap)


def _restrict(graph: Graph, named: Piece, kind: Piece) -> Piece:
    mention = named.members[0]
    ids = tuple(entity.id for entity in graph.entities(mention.ids) if entity.kind in kind.kinds)
    kinds = tuple(sorted({graph.entity(number).kind for number in ids}))
    member = Mention(
        mention.start, mention.end, mention.role, mention.value, mention.score + 0.4, mention.how, ids, kinds
    )
    return Piece(
        min(named.start, kind.start),
        max(named.end, kind.end),
        kinds,
        [member],
        label=named.label,
        negated=[False],
        named_kind=True,
        plural=kind.plural,
    )


def _join(tokens: Sequence[Token], pieces: list[Piece], operations: Sequence[Mention]) -> list[Piece]:
    """Make one piece of named entities that are enumerated ("A, B and C")."""
    joined: list[Piece] = []
    covered = {at: mention.value for mention in operations for at in range(mention.start, mention.end)}
    for piece in pieces:
        before = joined[-1] if joined else None
        if before is not None and before.members and piece.members and _joins(tokens, before, piece, covered):
            before.members.extend(piece.members)
            before.negated.append(False)
            gap = range(before.end, piece.start)
            before.any_of |= any(covered.get(at) == "or" for at in gap)
            before.kinds = tuple(kind for kind in before.kinds if kind in piece.kinds)
            before.end, before.label = piece.end, f"{before.label}, {piece.label}"
        else:
            joined.append(piece)
    return joined


def _joins(tokens: Sequence[Token], left: Piece, right: Piece, covered: dict[int, str]) -> bool:
    gap = range(left.end, right.start)
    words = [tokens[at].text.casefold() for at in gap]
    fits = all(word in _JOINING or covered.get(at) in ("or", "share") for word, at in zip(words, gap, strict=True))
    joint = any(
        word in ("and", "or", ",", "&", "+", "/", "plus", "vs", "versus", "as", "together", "along", "with")
        for word in words
    )
    lone_with = "with" in words and not {"together", "along"} & set(words) and "and" not in words
    of_gap = bool({"of", "in"} & set(words)) and not {"and", "or", "as"} & set(words)
    return bool(set(left.kinds) & set(right.kinds)) and fits and joint and not lone_with and not of_gap


def _offer_choices(tokens: Sequence[Token], pieces: Sequence[Piece]) -> None:
    """Mark an enumeration after "which of" or "between" as a choice."""
    for piece in pieces:
        before = [token.text.casefold() for token in tokens[max(0, piece.start - 5) : piece.start]]
        choosing = {"of", "between", "among"} & set(before[-1:]) or {"two"} & set(before[-2:])
        if len(piece.members) > 1 and choosing and ({"which", "one", "between"} & set(before) or before[0:1] == ["of"]):
            piece.any_of = True


def _negate(
    tokens: Sequence[Token],
    pieces: Sequence[Piece],
    operations: Sequence[Mention],
    relations: Sequence[Mention],
) -> int:
    """Give each negation to the named piece it speaks of: the next one, or the one before a final negation.

    Return how many were given to the piece before although words follow.
    """
    num_misplaced = 0
    relation_at = {at for mention in relations for at in range(mention.start, mention.end)}
    for operation in operations:
        if operation.value != "not":
            continue
        following = next((piece for piece in pieces if piece.start >= operation.end and piece.members), None)
        if following is not None and _only_grammar(tokens, operation.end, following.start, relation_at):
            following.negated = [True] * len(following.members)
            continue
        earlier = [piece for piece in pieces if piece.end <= operation.start and piece.members]
        if earlier:
            earlier[-1].negated[-1] = True
            num_misplaced += not all(is_light(token) for token in tokens[operation.end :])
    return num_misplaced


def _only_grammar(tokens: Sequence[Token], start: int, end: int, relation_at: set[int]) -> bool:
    words = [tokens[at].text.casefold() for at in range(start, end)]
    return not QUESTION_WORDS & set(words) and all(
        is_light(tokens[at]) or at in relation_at for at in range(start, end)
    )


def place_ordinals(pieces: Sequence[Piece], operations: Sequence[Mention]) -> None:
    """Give each position ("the second") to the next open piece, else to the first one."""
    for operation in operations:
        if operation.value != "ordinal":
            continue
        kinds = [piece for piece in pieces if piece.is_open]
        after = [piece for piece in kinds if piece.start >= operation.end]
        nearest = (after or kinds)[:1] if after or kinds else []
        for piece in nearest:
            piece.ordinal = operation.argument
            piece.plural = False


def _identify(graph: Graph, pieces: list[Piece]) -> list[Piece]:
    """In a yes/no question, make one piece of a name and a kind word that it may be ("is X a parameter of F")."""
    kept = list(pieces)
    for kind in [piece for piece in pieces if piece.is_open and not piece.text]:
        named = next(
            (
                piece
                for piece in kept
                if piece.members and len(piece.members) == 1 and set(piece.kinds) & set(kind.kinds)
            ),
            None,
        )
        if named is not None:
            kept[kept.index(named)] = _restrict(graph, named, kind)
            kept.remove(kind)
    return kept


def _texts(tokens: Sequence[Token], reading: Reading) -> list[tuple[int, int]]:
    """Return runs of tokens that nothing explains, without grammar words at their ends."""
    runs = [(mention.start, mention.end) for mention in reading.mentions if mention.role == Role.TEXT]
    covered = {at for mention in reading.mentions for at in range(mention.start, mention.end)}
    at = 0
    while at < len(tokens):
        end = at
        while end < len(tokens) and end not in covered and tokens[end].text not in ".?!;:":
            end += 1
        start, stop = at, end
        while start < stop and tokens[start].is_function_word:
            start += 1
        while stop > start and tokens[stop - 1].is_function_word:
            stop -= 1
        if start < stop:
            runs.append((start, stop))
        at = end + 1
    return sorted(runs)


__all__ = ["Piece", "Pieces", "cut", "place_ordinals"]
