"""The question compiler: pieces are connected by the base's own schema into one typed query.

No grammar of sentences: the pieces of a reading become a tree whose edges are relations that
the base really has between such kinds, chosen for the words that name them and for nearness
(a maximum spanning tree). So the order of the words hardly matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tuili.knowledge.graph import Graph
from tuili.knowledge.lexicon import Mention
from tuili.knowledge.pieces import Piece, Pieces, cut, place_ordinals
from tuili.knowledge.query import Aggregate, Constraint, Query, Var
from tuili.knowledge.segment import Reading
from tuili.knowledge.span import Link, Spanner
from tuili.knowledge.text import NEGATIONS, OPENING_WORDS, Token, is_light

_AUXILIARY_AFTER_WH = frozenset("do does did can could has have had will would should must may might".split())
_ODD_QUESTION_WORDS = frozenset("who whom whose when why".split())
_MAX_CLOSED = 5
_MAX_LISTED = 500
_LOST_NOUN = 1.5
_LOST_VERB = 0.7
_SKIPPED = 0.6


def _is_described(parts: Pieces, piece: Piece) -> bool:
    """Tell whether words that describe a kind word stand next to it."""
    return any(start - piece.end in (0, 1) or piece.start == end for start, end in parts.texts)


@dataclass(slots=True)
class Compiled:
    """A query with how well the question supports it (higher is better)."""

    query: Query
    score: float
    mentions: tuple[Mention, ...]
    realised: int = 0
    notes: list[str] = field(default_factory=list)


class Compiler:
    """Compiles readings of one question over one base."""

    def __init__(self, graph: Graph, tokens: Sequence[Token]) -> None:
        self.graph = graph
        self.tokens = tokens
        self.spanner = Spanner(graph, tokens)

    def compile(self, reading: Reading) -> list[Compiled]:
        """Return the queries that a reading can mean, at most a few."""
        parts = cut(self.graph, self.tokens, reading)
        if not any(piece.members for piece in parts.pieces) and not parts.texts:
            return []
        special = self._special(parts, reading)
        if special is not None:
            return [special]
        return [
            compiled
            for target_kind in self._target_kinds(parts)
            if (compiled := self._assemble(parts, reading, target_kind)) is not None
        ]

    # -- questions about one entity ------------------------------------------------------------

    def _special(self, parts: Pieces, reading: Reading) -> Compiled | None:
        """Compile a question for other names, for the preferred name, or for a description.

        A name that is not the preferred one asks for that, unless other names are asked for.
        """
        named = [piece for piece in parts.pieces if piece.members]
        busy = parts.relations or any(
            parts.operation(name) for name in ("count", "ordinal", "most", "least", "not", "share")
        )
        if len(named) != 1 or len(named[0].members) != 1 or busy or parts.qualifiers:
            return None
        open_ = [piece for piece in parts.pieces if piece.is_open]
        if any(not set(named[0].kinds) <= set(piece.kinds) for piece in open_):
            return None
        naming, describe = parts.operation("naming"), parts.operation("describe")
        if naming is None and describe is None and not parts.operation("other"):
            return None
        is_alias = named[0].members[0].how == "alias"
        target = named[0].end <= parts.wh == len(self.tokens) - 1 - self.tokens[-1].is_mark
        aggregate = Aggregate.ALIASES
        if describe is not None and naming is None:
            aggregate = Aggregate.DESCRIBE
        elif is_alias and (not parts.operation("other") or open_ or target):
            aggregate = Aggregate.LIST
        unexplained = self._words(parts.texts)
        if unexplained:
            return None
        query = Query((self._var("x0", named[0], 0),), (), ("x0",), aggregate, unexplained=unexplained)
        return Compiled(query, reading.score + 0.4 - 0.7 * len(unexplained), reading.mentions, 1)

    # -- everything else -----------------------------------------------------------------------

    def _target_kinds(self, parts: Pieces) -> Sequence[str | None]:
        """Return what an unnamed target may be: decided by the pieces (None), or each neighbouring kind."""
        if any(piece.is_open for piece in parts.pieces) or self._implied(parts):
            return [None]
        closed = self._is_closed(parts)
        if closed and (parts.asks or parts.qualifiers):
            return [None]
        kinds: dict[str, None] = {}
        for piece in parts.pieces:
            for subject, object_ in self.graph.signatures:
                if subject in piece.kinds:
                    kinds[object_] = None
                if object_ in piece.kinds:
                    kinds[subject] = None
        open_kinds = [kind for kind in kinds if not self._is_closed_class(kind)][:8]
        return [None, *open_kinds] if closed else open_kinds

    def _is_closed_class(self, kind: str) -> bool:
        """Tell whether a kind has a few members only, which are said of things rather than asked for."""
        return len(self.graph.members(kind, _MAX_CLOSED + 1)) <= _MAX_CLOSED and len(self.graph.kinds) > 1

    def _is_closed(self, parts: Pieces) -> bool:
        named = [piece for piece in parts.pieces if piece.members]
        choice = any(piece.any_of for piece in named)
        return (
            parts.asks
            or (parts.operation("count") is None and parts.wh < 0 and len(named) > 1 and not parts.texts)
            or choice
            or bool(parts.qualifiers)
        )

    def _implied(self, parts: Pieces) -> list[Piece]:
        """Return a piece for every relation that lacks one of its ends."""
        implied: list[Piece] = []
        asks_there = parts.wh >= 0 and not any(piece.is_open and piece.start > parts.wh for piece in parts.pieces)
        for mention in parts.relations:
            pieces = parts.pieces + implied
            if self._has_pair(pieces, mention.value, parts.asks) or any(
                piece.implied == mention.value for piece in implied
            ):
                continue
            kinds = self._missing_end(parts.pieces, mention)
            if kinds:
                is_object = asks_there and parts.wh >= mention.end
                start, end = (parts.wh, parts.wh + 1) if is_object else (mention.start, mention.end)
                implied.append(
                    Piece(
                        start,
                        end,
                        kinds,
                        label=mention.value,
                        negated=[False],
                        implied=mention.value,
                        plural=True,
                    )
                )
        return implied + self._surplus(parts, implied)

    def _surplus(self, parts: Pieces, implied: Sequence[Piece]) -> list[Piece]:
        """Return a piece for what the question asks where it has more relations than pieces to relate."""
        relations = list(dict.fromkeys(mention.value for mention in parts.relations))
        num_pieces = len(parts.pieces) + len(implied)
        if parts.wh < 0 or num_pieces < 2 or len(relations) < num_pieces:
            return []
        mention = next((one for one in parts.relations if one.start > parts.wh), parts.relations[0])
        kinds = self._missing_end(parts.pieces, mention)
        return [Piece(parts.wh, parts.wh, kinds, label="?", negated=[False], implied=mention.value)] if kinds else []

    def _has_pair(self, pieces: Sequence[Piece], relation: str, asks: bool) -> bool:
        """Tell whether two pieces can be the ends of a relation; named ones must really be, unless that is asked."""
        return any(
            relation in self.spanner.relations(subject, object_)
            and (asks or self.spanner.is_real(subject, object_, relation))
            for subject in pieces
            for object_ in pieces
            if subject is not object_
        )

    def _missing_end(self, pieces: Sequence[Piece], mention: Mention) -> tuple[str, ...]:
        """Return the kinds of the end that no piece fills, given that one fills the other."""
        ends = [
            (subject, object_) for (subject, object_), names in self.graph.signatures.items() if mention.value in names
        ]
        have = {kind for piece in pieces for kind in piece.kinds}
        objects = tuple(dict.fromkeys(object_ for subject, object_ in ends if subject in have))
        subjects = tuple(dict.fromkeys(subject for subject, object_ in ends if object_ in have))
        wants_subject = mention.noun and mention.inverse
        return (subjects or objects) if wants_subject else (objects or subjects)

    def _assemble(self, parts: Pieces, reading: Reading, target_kind: str | None) -> Compiled | None:
        filtering = {kind for kind, _ in self._filters(parts)}
        pieces = [
            piece
            for piece in [*parts.pieces, *self._implied(parts)]
            if not (piece.members and filtering & set(piece.kinds))
        ]
        if target_kind is not None:
            at = parts.wh if parts.wh >= 0 else len(self.tokens)
            pieces.append(Piece(at, at, (target_kind,), label="?", negated=[False], implied="?"))
        if not pieces:
            return None
        pieces = [self._copy(piece) for piece in pieces]
        if not any(piece.ordinal for piece in pieces):
            place_ordinals(pieces, parts.operations)
        aggregate, target, counted = self._aim(parts, pieces)
        if len(self.graph.kinds) > 1:
            pieces, target, counted = self._drop_redundant(parts, pieces, target, counted)
        unexplained = self._attach_texts(parts, pieces, target)
        links, loose = self.spanner.span(parts, pieces)
        twin = self._twin(pieces, links, target)
        if twin is not None:
            pieces = [piece for at, piece in enumerate(pieces) if at != target]
            target = pieces.index(twin)
            links, loose = self.spanner.span(parts, pieces)
        if loose:
            return None
        unexplained += self._lost_negations(reading)
        if self._is_pointless(parts, pieces, links, aggregate, target):
            return None
        unexplained += self._odd_question_word(parts, pieces, links, target)
        query, realised = self._query(parts, pieces, links, aggregate, target, counted, unexplained)
        unrealised = sum(
            _LOST_NOUN if mention.noun else _LOST_VERB
            for mention in parts.relations
            if not any(link.relation == mention.value for link in links)
        )
        implied = sum(bool(piece.implied) for piece in pieces)
        is_lost = 0.7 if aggregate != Aggregate.ASK else 1.4
        penalty = unrealised + is_lost * len(unexplained) + 0.4 * implied + 0.4 * (target_kind is not None)
        score = reading.score + sum(link.score - 1.0 for link in links) - penalty - 2.0 * (not links)
        score -= _LOST_VERB * parts.num_misplaced
        score -= _SKIPPED * (aggregate == Aggregate.ASK and not parts.asks and any(link.through[0] for link in links))
        score -= 0.8 * (aggregate == Aggregate.QUALIFIER and any(piece.is_open for piece in pieces))
        score -= parts.asks and aggregate == Aggregate.LIST and not any(piece.any_of for piece in pieces)
        return Compiled(query, score, reading.mentions, realised)

    @staticmethod
    def _drop_redundant(parts: Pieces, pieces: list[Piece], target: int, counted: int) -> tuple[list[Piece], int, int]:
        """Drop kind words that only say what kind the named entities are ("lockjaw and trismus are signs of")."""
        named = [piece for piece in pieces if piece.members]
        goal, count = (pieces[at] if at >= 0 else None for at in (target, counted))
        choice = next((piece for piece in named if piece.any_of and len(piece.members) > 1), None)
        if goal is not None and goal.is_open and choice is not None and set(choice.kinds) <= set(goal.kinds):
            pieces = [piece for piece in pieces if piece is not goal]
            goal = choice
        kept = [
            piece
            for piece in pieces
            if piece in (goal, count)
            or piece.members
            or piece.text
            or piece.implied
            or not any(set(other.kinds) <= set(piece.kinds) and abs(other.start - piece.start) < 12 for other in named)
        ]
        if len(parts.texts) > 0 and len(kept) < len(pieces):
            kept = [piece for piece in pieces if piece in kept or (parts.texts and _is_described(parts, piece))]
        return (kept, kept.index(goal) if goal in kept else -1, kept.index(count) if count in kept else -1)

    @staticmethod
    def _twin(pieces: Sequence[Piece], links: Sequence[Link], target: int) -> Piece | None:
        """Return the named piece that is the one thing asked for ("which parameter sets the indent": indent)."""

        def place(at: int) -> list[tuple[str, int, bool]]:
            return [
                (link.relation, link.right if link.left == at else link.left, link.left == at)
                for link in links
                if at in (link.left, link.right)
            ]

        goal = pieces[target] if target >= 0 else None
        if goal is None or goal.members or goal.plural or goal.ordinal or goal.text:
            return None
        twins = [
            piece
            for at, piece in enumerate(pieces)
            if len(piece.members) == 1 and not any(piece.negated) and set(piece.kinds) <= set(goal.kinds)
            if len(place(at)) == 1 and place(at) == place(target)
        ]
        return twins[0] if len(twins) == 1 else None

    @staticmethod
    def _copy(piece: Piece) -> Piece:
        return replace(piece, members=[*piece.members], text=[*piece.text], negated=[*piece.negated])

    def _lost_negations(self, reading: Reading) -> tuple[str, ...]:
        """Return the negations that a reading leaves out: what it finds is not what was asked."""
        covered = {at for mention in reading.mentions for at in range(mention.start, mention.end)}
        return tuple(
            token.text
            for at, token in enumerate(self.tokens)
            if at not in covered and token.text.casefold() in NEGATIONS
        )

    def _is_pointless(
        self, parts: Pieces, pieces: Sequence[Piece], links: Sequence[Link], aggregate: Aggregate, target: int
    ) -> bool:
        """Tell whether a reading can't be meant: a list for a yes/no question, or the many that are not something."""
        if target < 0 or aggregate == Aggregate.ASK:
            return False
        invites = parts.wh >= 0 or any(token.text.casefold() in OPENING_WORDS for token in self.tokens)
        if parts.asks and aggregate == Aggregate.LIST and not invites and not pieces[target].any_of:
            return True
        around = [link for link in links if target in (link.left, link.right)]
        others = [pieces[link.right if link.left == target else link.left] for link in around]
        return (
            bool(others)
            and pieces[target].is_open
            and not pieces[target].text
            and not self._is_short(pieces[target].kinds)
            and all(other.members and all(other.negated) for other in others)
        )

    def _is_short(self, kinds: Sequence[str]) -> bool:
        """Tell whether all entities of these kinds make a list that somebody could ask for."""
        return sum(len(self.graph.members(kind, _MAX_LISTED + 1)) for kind in kinds) <= _MAX_LISTED

    def _odd_question_word(
        self, parts: Pieces, pieces: Sequence[Piece], links: Sequence[Link], target: int
    ) -> tuple[str, ...]:
        """Return "who", "when" or "why" where nothing in the question says what the base could answer to it."""
        word = self.tokens[parts.wh].text.casefold() if parts.wh >= 0 else ""
        stated = any(link.mention is not None and target in (link.left, link.right) for link in links)
        return (word,) if word in _ODD_QUESTION_WORDS and not stated else ()

    # -- what is asked -------------------------------------------------------------------------

    def _aim(self, parts: Pieces, pieces: list[Piece]) -> tuple[Aggregate, int, int]:
        """Return the aggregation, the target piece and the counted piece (-1: none)."""
        if parts.qualifiers:
            return Aggregate.QUALIFIER, -1, -1
        most, least = parts.operation("most"), parts.operation("least")
        extreme = most or least
        counted = self._nearest_open(pieces, extreme.end) if extreme is not None else -1
        if extreme is not None and counted >= 0 and self._compares(parts, extreme.end, pieces[counted].start):
            choice = next((at for at, piece in enumerate(pieces) if len(piece.members) > 1), -1)
            target = choice if choice >= 0 else self._target(parts, pieces, skip=counted)
            if counted >= 0 and target >= 0 and counted != target:
                if choice >= 0:
                    pieces[choice].any_of = True
                return (Aggregate.MOST if most else Aggregate.LEAST), target, counted
        target = self._target(parts, pieces)
        count = parts.operation("count")
        if count is not None and self._counts(parts, pieces, count):
            near = self._nearest_open(pieces, count.end)
            return Aggregate.COUNT, near if near >= 0 else target, -1
        if target >= 0 and (pieces[target].members and pieces[target].any_of):
            return Aggregate.LIST, target, -1
        if parts.asks and not any(piece.implied for piece in pieces):
            return Aggregate.ASK, -1, -1
        if target < 0 and not parts.asks:
            target = next((at for at, piece in enumerate(pieces) if piece.named_kind and len(piece.members) == 1), -1)
        return (Aggregate.ASK if target < 0 else Aggregate.LIST), target, -1

    @staticmethod
    def _counts(parts: Pieces, pieces: Sequence[Piece], count: Mention) -> bool:
        """Tell whether "how many" counts things of the base: no other noun stands next to it ("how many threads")."""
        near = min((piece.start for piece in pieces if piece.is_open and piece.start >= count.end), default=-1)
        nouns = [start for start, _ in parts.texts if start >= count.end]
        if near < 0:
            return not nouns
        return not any(start < near for start in nouns)

    @staticmethod
    def _compares(parts: Pieces, after: int, counted: int) -> bool:
        """Tell whether "more" speaks of the number of what is counted, not of how much it is something."""
        return abs(counted - after) <= 2 and not any(after <= start < counted for start, _ in parts.texts)

    @staticmethod
    def _nearest_open(pieces: Sequence[Piece], at: int) -> int:
        """Return the first open piece from token `at` on, else the last one before, else -1."""
        places = [place for place, piece in enumerate(pieces) if piece.is_open]
        after = [place for place in places if pieces[place].start >= at and not pieces[place].implied]
        before = [place for place in places if pieces[place].end <= at]
        return after[0] if after else before[-1] if before else places[0] if places else -1

    def _target(self, parts: Pieces, pieces: Sequence[Piece], skip: int = -2) -> int:
        open_ = [at for at, piece in enumerate(pieces) if piece.is_open and at != skip]
        choice = [at for at, piece in enumerate(pieces) if piece.any_of and len(piece.members) > 1]
        if parts.wh >= 0 and open_:
            after = [at for at in open_ if pieces[at].start >= parts.wh]
            following = self.tokens[parts.wh + 1].text.casefold() if parts.wh + 1 < len(self.tokens) else ""
            implied = [at for at in open_ if pieces[at].implied]
            if following in _AUXILIARY_AFTER_WH and implied:
                return implied[0]
            narrows = self.tokens[0].text.casefold() in ("of", "among") and open_[0] not in after
            if narrows and set(after) <= set(implied):
                return open_[0]
            near = sorted(after, key=lambda at: pieces[at].start)
            if near:
                return near[0]
        if choice:
            return choice[0]
        if open_:
            return next((at for at in open_ if pieces[at].implied), open_[0])
        return -1

    # -- descriptions --------------------------------------------------------------------------

    def _attach_texts(self, parts: Pieces, pieces: Sequence[Piece], target: int) -> tuple[str, ...]:
        """Give each run of unexplained words to the open piece it describes; return the rest."""
        rest = []
        for start, end in parts.texts:
            piece = self._described(pieces, start, end, target)
            words = [token.text for token in self.tokens[start:end] if not token.is_mark]
            heavy = [token.text for token in self.tokens[start:end] if not is_light(token)]
            if piece is None:
                rest.extend(heavy)
            elif heavy:
                piece.text.append(" ".join(words))
        return tuple(rest)

    def _described(self, pieces: Sequence[Piece], start: int, end: int, target: int) -> Piece | None:
        able = [piece for piece in pieces if piece.is_open and piece.implied in ("", "?")]
        if not able:
            return None
        right = [piece for piece in able if piece.start == end]
        left = [piece for piece in able if piece.end <= start and not piece.implied]
        if right and not any(piece.end == start for piece in left):
            return right[0]
        if left:
            return max(left, key=lambda piece: piece.end)
        return min(able, key=lambda piece: abs(piece.start - start))

    def _words(self, runs: Iterable[tuple[int, int]]) -> tuple[str, ...]:
        return tuple(token.text for start, end in runs for token in self.tokens[start:end] if not is_light(token))

    # -- the query -----------------------------------------------------------------------------

    def _query(
        self,
        parts: Pieces,
        pieces: Sequence[Piece],
        links: Sequence[Link],
        aggregate: Aggregate,
        target: int,
        counted: int,
        unexplained: tuple[str, ...],
    ) -> tuple[Query, int]:
        names, variables = self._variables(pieces, target)
        constraints = []
        share = parts.operation("share") is not None
        filters = self._filters(parts)
        for number, link in enumerate(links):
            for left in names[link.left]:
                for right in names[link.right]:
                    negated = any(
                        self._is_negated(pieces, place, name, names)
                        for place, name in ((link.left, left), (link.right, right))
                    )
                    constraints.extend(self._constraints(link, left, right, negated, number, variables))
        open_names = {var.name for var in variables if not var.is_constant}
        constraints = self._close(constraints, aggregate, share, parts, filters, open_names)
        qualifier = parts.qualifiers[0].value.split("\n")[1] if parts.qualifiers else ""
        targets = tuple(names[target]) if target >= 0 else tuple(var.name for var in variables)[:1]
        query = Query(
            tuple(variables),
            tuple(constraints),
            targets,
            aggregate,
            names[counted][0] if counted >= 0 else "",
            qualifier,
            None,
            unexplained,
        )
        return query, sum(link.mention is not None for link in links)

    def _variables(self, pieces: Sequence[Piece], target: int) -> tuple[list[list[str]], list[Var]]:
        names: list[list[str]] = []
        variables: list[Var] = []
        for place, piece in enumerate(pieces):
            if piece.members and not piece.any_of and place != target:
                own = [self._var(f"x{len(variables) + at}", piece, at) for at in range(len(piece.members))]
            else:
                own = [self._choice(f"x{len(variables)}", piece)]
            variables.extend(own)
            names.append([var.name for var in own])
        return names, variables

    def _var(self, name: str, piece: Piece, at: int) -> Var:
        member = piece.members[at]
        label = " ".join(token.text for token in self.tokens[member.start : member.end])
        return Var(name, member.kinds, member.ids, label, "", piece.ordinal, piece.plural)

    def _choice(self, name: str, piece: Piece) -> Var:
        ids = tuple(dict.fromkeys(number for member in piece.members for number in member.ids))
        return Var(name, piece.kinds, ids, piece.label, " ".join(piece.text), piece.ordinal, piece.plural)

    @staticmethod
    def _is_negated(pieces: Sequence[Piece], place: int, name: str, names: Sequence[Sequence[str]]) -> bool:
        flags = pieces[place].negated
        at = names[place].index(name)
        return flags[at] if at < len(flags) else False

    @staticmethod
    def _constraints(
        link: Link, left: str, right: str, negated: bool, number: int, variables: list[Var]
    ) -> list[Constraint]:
        kind, second = link.through
        stated = link.mention is not None
        if not second:
            return [Constraint(left, link.relation, right, negated, stated=stated)]
        middle = f"m{number}{left}{right}"
        variables.append(Var(middle, (kind,), label=kind))
        return [
            Constraint(left, link.relation, middle, negated, stated=stated),
            Constraint(middle, second, right, negated, stated=stated),
        ]

    def _close(
        self,
        constraints: Sequence[Constraint],
        aggregate: Aggregate,
        share: bool,
        parts: Pieces,
        filters: Sequence[tuple[str, str]],
        open_names: set[str],
    ) -> list[Constraint]:
        """Follow transitive relations to any depth where the question tests rather than lists them."""
        direct = parts.operation("direct") is not None
        whole = share or aggregate in (Aggregate.ASK, Aggregate.MOST, Aggregate.LEAST)
        closed = []
        for constraint in constraints:
            relation = self.graph.relations[constraint.relation]
            ends = {constraint.subject, constraint.object} & open_names
            tests = whole or any(ends & {one.subject, one.object} for one in constraints if one is not constraint)
            closure = relation.transitive and tests and not direct
            where = next(((name, value) for name, value in filters if name in relation.qualifiers), ("", ""))
            closed.append(replace(constraint, closure=closure, where=where))
        return closed

    def _filters(self, parts: Pieces) -> list[tuple[str, str]]:
        """Return the conditions on what facts tell about themselves ("very frequent")."""
        found = []
        for piece in parts.pieces:
            for kind in piece.kinds:
                if piece.members and any(kind in relation.qualifiers for relation in self.graph.relations.values()):
                    found.append((kind, self.graph.entity(piece.members[0].ids[0]).name))
        return found
