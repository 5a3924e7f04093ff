"""Connecting the pieces of a question: a maximum spanning tree over what the base's schema allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tuili.knowledge.graph import HUB, Graph
from tuili.knowledge.lexicon import Mention
from tuili.knowledge.pieces import Piece, Pieces
from tuili.knowledge.text import Token

_MAX_DISTANCE = 20
_MAX_CHECKED = 60
_UNREAL = 0.4
_RARER = 0.1
_DISTANCE = 0.03
_STATED = 0.6
_DEEP = 0.4
_UNSTATED = 0.15


@dataclass(slots=True)
class Link:
    """A possible edge between two pieces: `left` is the subject."""

    left: int
    right: int
    relation: str
    score: float
    mention: Mention | None = None
    through: tuple[str, str] = ("", "")

    def spends(self, spent: set[Mention]) -> float:
        """Return the bonus that this link loses because its words already name another link."""
        return _STATED * self.mention.score if self.mention is not None and self.mention in spent else 0.0


class Spanner:
    """Finds how the pieces of one question hang together in one base."""

    def __init__(self, graph: Graph, tokens: Sequence[Token]) -> None:
        self.graph = graph
        self.tokens = tokens

    def relations(self, subject: Piece, object_: Piece) -> list[str]:
        """Return the relations between two pieces' kinds, the most frequent first."""
        signatures = self.graph.signatures
        return list(
            dict.fromkeys(
                relation
                for left in subject.kinds
                for right in object_.kinds
                for relation in signatures.get((left, right), ())
            )
        )

    def span(self, parts: Pieces, pieces: Sequence[Piece]) -> tuple[list[Link], list[Piece]]:
        """Return the best tree over the pieces, and the pieces that nothing connects."""
        candidates = list(self._candidates(parts, pieces))
        group = list(range(len(pieces)))
        chosen: list[Link] = []
        spent: set[Mention] = set()
        while open_ := [link for link in candidates if group[link.left] != group[link.right]]:
            link = max(open_, key=lambda link: link.score - link.spends(spent))
            link.score -= link.spends(spent)
            old, new = group[link.right], group[link.left]
            group = [new if number == old else number for number in group]
            chosen.append(link)
            if link.mention is not None:
                spent.add(link.mention)
        main = max(set(group), key=group.count) if group else 0
        return chosen, [piece for place, piece in enumerate(pieces) if group[place] != main]

    def _candidates(self, parts: Pieces, pieces: Sequence[Piece]) -> Iterable[Link]:
        """Yield every link that the schema allows, with how well the question supports it."""
        deep = self._deep(pieces)
        for left, subject in enumerate(pieces):
            for right, object_ in enumerate(pieces):
                if left == right:
                    continue
                relations = self.relations(subject, object_)
                for rank, relation in enumerate(relations):
                    link = self._link(parts, pieces, left, right, relation)
                    if link is not None:
                        link.score += _DEEP * (subject in deep and object_.is_open) - _RARER * rank
                        yield link
                if not relations and not subject.implied and not object_.implied:
                    distance = min(abs(subject.start - object_.start), _MAX_DISTANCE)
                    yield from self._two_steps(left, right, subject, object_, distance)

    def _link(self, parts: Pieces, pieces: Sequence[Piece], left: int, right: int, relation: str) -> Link | None:
        subject, object_ = pieces[left], pieces[right]
        ends = (subject.implied, object_.implied)
        if any(ends) and relation not in ends and "?" not in ends:
            return None
        is_real = self.is_real(subject, object_, relation)
        if not is_real and not parts.asks:
            return None
        is_real = is_real and self._has_any(subject, relation, False) and self._has_any(object_, relation, True)
        mention = self._mention(parts, relation, subject, object_)
        qualified = any(qualifier.value.startswith(f"{relation}\n") for qualifier in parts.qualifiers)
        score = 1.0 - _DISTANCE * min(abs(subject.start - object_.start), _MAX_DISTANCE) - _UNREAL * (not is_real)
        score += (_STATED * mention.score if mention else -_UNSTATED) + qualified
        if set(subject.kinds) & set(object_.kinds):
            if mention is not None:
                score += (0.5 if mention.directed else 0.1) * self._direction(mention, pieces, left, right)
            elif parts.asks:
                score += 0.3 if subject.start < object_.start else -0.3
        return Link(left, right, relation, score, mention)

    def _deep(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Return the named pieces that lie in another one (a function's parameter): they are meant rather than it."""
        named = [piece for piece in pieces if piece.members]
        return [
            inner
            for inner in named
            if any(
                not self.graph.relations[relation].transitive and self.is_real(outer, inner, relation)
                for outer in named
                if outer is not inner
                for relation in self.relations(outer, inner)
            )
        ]

    def _has_any(self, piece: Piece, relation: str, inverse: bool) -> bool:
        """Tell whether a named piece has any fact of a relation on this side; open ones may."""
        ids = [number for member in piece.members for number in member.ids]
        return (
            not ids
            or len(ids) > _MAX_CHECKED
            or any(self.graph.step(number, relation, inverse=inverse, limit=1) for number in ids)
        )

    def is_real(self, subject: Piece, object_: Piece, relation: str) -> bool:
        """Tell whether two named pieces really have a fact of this relation between them."""
        left = {number for member in subject.members for number in member.ids}
        right = {number for member in object_.members for number in member.ids}
        if not left or not right or min(len(left), len(right)) > _MAX_CHECKED:
            return True
        if self.graph.relations[relation].transitive:
            return any(right & self.graph.closure(number, relation).keys() for number in left)
        small, inverse, other = (left, False, right) if len(left) <= len(right) else (right, True, left)
        return any(self.graph.meets(number, relation, other, inverse=inverse) for number in small)

    def _mention(self, parts: Pieces, relation: str, subject: Piece, object_: Piece) -> Mention | None:
        places = (subject.start + object_.start) / 2
        found = [mention for mention in parts.relations if mention.value == relation]
        return min(found, key=lambda mention: abs(mention.start - places)) if found else None

    def _direction(self, mention: Mention, pieces: Sequence[Piece], left: int, right: int) -> float:
        """Return +1 if `left` reads as the subject of a relation between like kinds, else -1.

        A verb reads from left to right ("A extends B"); a noun names the end that is asked for and
        what follows it is the other end ("base class of A"). `inverse` phrases swap the ends.
        """
        subject, object_ = pieces[left], pieces[right]
        after = [piece for piece in (subject, object_) if piece.start >= mention.end and not piece.implied]
        open_ = [piece for piece in (subject, object_) if piece.is_open]
        if mention.noun and len(open_) == 1:
            follows = self.tokens[mention.end].text.casefold() if mention.end < len(self.tokens) else ""
            is_complement = follows == "of" and after[:1] == open_
            flips = is_complement != self._owns(mention)
            second = next(piece for piece in (subject, object_) if (piece in open_) != flips)
        elif after:
            first = min(after, key=lambda piece: piece.start)
            second = (object_ if first is subject else subject) if mention.noun else first
        else:
            named = [piece for piece in (subject, object_) if not piece.implied]
            nearest = max(named, key=lambda piece: piece.end) if named else subject
            second = object_ if nearest is subject else subject
        return 1.0 if (second is object_) != mention.inverse else -1.0

    def _owns(self, mention: Mention) -> bool:
        """Tell whether the open end has, rather than is, what a noun names ("whose base is A", "with A as base")."""
        before = [token.text.casefold() for token in self.tokens[max(0, mention.start - 2) : mention.start]]
        return bool({"whose", "as", "with"} & set(before))

    def _two_steps(self, left: int, right: int, subject: Piece, object_: Piece, distance: int) -> Iterable[Link]:
        """Yield links over one entity that the question leaves out (a module's functions' parameters)."""
        signatures = self.graph.signatures
        for (first, middle), names in signatures.items():
            if first not in subject.kinds:
                continue
            for kind in object_.kinds:
                for second in signatures.get((middle, kind), ()):
                    for name in names:
                        if self._is_real_path(subject, object_, name, second):
                            yield Link(left, right, name, 0.2 - 0.03 * distance, None, (middle, second))

    def _is_real_path(self, subject: Piece, object_: Piece, first: str, second: str) -> bool:
        """Tell whether two facts really lead from one named piece to the other."""
        left = {number for member in subject.members for number in member.ids}
        right = {number for member in object_.members for number in member.ids}
        if not left or not right or len(left) > 5:
            return True
        middles = {fact.object for number in left for fact in self.graph.step(number, first, limit=HUB + 1)}
        if len(middles) > HUB:
            return True
        checked = list(right)[:_MAX_CHECKED]
        return any(self.graph.meets(number, second, middles, inverse=True) for number in checked)
