"""Conversation: later questions may leave out what earlier ones said.

A follow-up is rewritten to a question of its own, and the rewritten form is shown in the notes:
pronouns stand for what the last answer was about, and "what about X?" asks the last question again
with X in place of the mention of the same kind. Quantities of earlier turns are remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tuili.errors import InputError
from tuili.knowledge.graph import Entity, Graph
from tuili.knowledge.lexicon import Role
from tuili.knowledge.query import Aggregate, Value, Var
from tuili.knowledge.records import Edge, normalise
from tuili.reason.answer import Answer
from tuili.reason.followup import (
    OPENER,
    about_focus,
    bare_of,
    is_same_dimension,
    named,
    parse_fact,
    question_form,
    refers,
    statement_of,
    substituted,
    value_in,
    with_mention,
    with_owner,
    with_value,
)

if TYPE_CHECKING:
    from tuili.reasoner import Base, Reasoner

MAX_FACTS = 1_000
MAX_JOINED = 5


@dataclass(frozen=True)
class Turn:
    """A question as it was read, and its answer."""

    question: str
    answer: Answer
    is_follow_up: bool = False


@dataclass(frozen=True)
class Reading:
    """A question that a follow-up can stand for, with the quantities it may use.

    `is_again`: it is the last question with a part replaced, so its answer is of the same sort.
    """

    question: str
    memory: Mapping[str, Value] = field(default_factory=dict)
    is_again: bool = False

    def describe(self) -> str:
        """Return the reading as the notes of an answer show it."""
        known = ", ".join(f"{key.replace('_', ' ')} {value.text}" for key, value in self.memory.items())
        return f"read as: {self.question}" + (f" (known: {known})" if known else "")


@dataclass
class Dialogue:
    """Questions and answers that follow each other, and the facts told in between.

    >>> dialogue = Dialogue(Reasoner(kb="python"))
    >>> dialogue.ask("Which parameter of json.dumps controls indentation?").text
    'indent'
    >>> dialogue.ask("And its default?").text
    'None'
    """

    reasoner: Reasoner
    kb: str | None = None
    last: Turn | None = None
    facts: list[Edge] = field(default_factory=list)
    given: dict[str, Value] = field(default_factory=dict)
    found: dict[str, Value] = field(default_factory=dict)

    def ask(self, text: str) -> Answer:
        """Answer a question, in the light of the ones before.

        Raises:
            InputError: the question is empty, too long or not text.
        """
        turn = self._follow_up(text) or self._plain(text)
        self._remember(turn)
        return turn.answer

    def tell(self, line: str) -> Edge:
        """Add a fact, "fact: subject | relation | object" or separated by tabs, for this conversation only.

        Raises:
            InputError: the line holds no fact, or there are too many.
        """
        edge = parse_fact(line, len(self.facts) + 1)
        if len(self.facts) >= MAX_FACTS:
            raise InputError(
                f"{MAX_FACTS} facts were told, that is the limit; import more with: tuili kb add NAME FILE.tsv"
            )
        name = self._fixed_kb or self.reasoner.choose(f"{edge.subject} {edge.relation} {edge.object}")
        self.reasoner.base(name).overlay([edge])
        self.facts.append(edge)
        return edge

    def forget(self) -> None:
        """Forget the facts told, the questions asked and the quantities known."""
        self.reasoner.forget_overlays()
        self.facts.clear()
        self.given.clear()
        self.found.clear()
        self.last = None

    @property
    def _fixed_kb(self) -> str | None:
        return self.kb or self.reasoner.kb

    @property
    def _memory(self) -> dict[str, Value]:
        return self.given | self.found

    def _plain(self, text: str) -> Turn:
        """Answer a question as it stands; what it leaves open is taken from the last turn."""
        answer = self.reasoner.ask(text, kb=self._fixed_kb)
        return self._first_answered(self._completed(text, answer)) or Turn(text, answer)

    def _completed(self, text: str, answer: Answer) -> list[Reading]:
        """Return how the last turn completes a question that names nothing, or only what has owners."""
        if self.last is None:
            return []
        base = self.reasoner.base(self.last.answer.kb)
        if not answer.abstained:
            return [Reading(question) for question in self._owned(text, answer, base)]
        if self._names_something(text, answer.kb):
            return []
        readings = [Reading(text, self._memory)] if self._is_solving else []
        return [*readings, *map(Reading, about_focus(text, self._focus(text), base.linker))]

    def _owned(self, text: str, answer: Answer, base: Base) -> Iterator[str]:
        """Yield "what type does cls of json.load accept" if json.load was spoken of and cls has many owners."""
        assert self.last is not None  # the caller checked it
        constants = _constants(base.graph, answer) if answer.kb == base.graph.name else []
        if constants and all(_is_by_name(base.graph, entity) for entity in constants):
            for owner in _constants(base.graph, self.last.answer):
                if not _is_by_name(base.graph, owner):
                    yield with_owner(text, constants[0].name, owner.name)

    def _names_something(self, text: str, kb: str) -> bool:
        assert self.last is not None  # the caller checked it
        return any(named(self.reasoner.base(name).linker, text) for name in {kb, self.last.answer.kb})

    @property
    def _is_solving(self) -> bool:
        query = self.last.answer.query if self.last else None
        return query is not None and query.aggregate == Aggregate.SOLVE

    def _follow_up(self, text: str) -> Turn | None:
        """Answer a question that refers to the last one; None if it does not."""
        if self.last is None or not text.strip():
            return None
        base = self.reasoner.base(self.last.answer.kb)
        rest = OPENER.sub("", text).strip()
        has_opener = rest != text.strip()
        if not rest or not (has_opener or refers(base.linker, rest)):
            return None
        return self._first_answered(self._readings(rest, base, has_opener))

    def _first_answered(self, readings: Iterable[Reading]) -> Turn | None:
        """Return the first reading that has an answer of the sort expected, else of any; None if none has."""
        others: list[Turn] = []
        for reading in readings:
            assert self.last is not None  # a follow-up has a turn before it
            answer = self.reasoner.ask(reading.question, kb=self.last.answer.kb, memory=reading.memory)
            turn = Turn(reading.question, replace(answer, notes=(reading.describe(), *answer.notes)), True)
            if not answer.abstained and (not reading.is_again or _sort(answer) == _sort(self.last.answer)):
                return turn
            others += [] if answer.abstained else [turn]
        return others[0] if others else None

    def _readings(self, rest: str, base: Base, has_opener: bool) -> Iterator[Reading]:
        """Yield the questions that a follow-up can stand for, the likeliest first."""
        assert self.last is not None  # a follow-up has a turn before it
        if has_opener:
            yield from self._asked_again(rest, base)
        if self._is_solving:
            if statement := statement_of(self.last.question):
                yield Reading(f"{statement} {question_form(rest)}")
            yield Reading(rest, self._memory)
            return
        focus = self._focus(rest)
        referring = [question for name in focus if (question := substituted(rest, name))]
        yield from map(Reading, referring)
        if has_opener and not referring:
            yield from map(Reading, about_focus(rest, focus, base.linker))
        if has_opener:
            yield Reading(rest)

    def _asked_again(self, rest: str, base: Base) -> Iterator[Reading]:
        """Yield the last question with the mention or value of the follow-up in place of its own."""
        assert self.last is not None  # a follow-up has a turn before it
        bare, last = bare_of(rest), self.last.question
        if (new := value_in(bare, last)) is None:
            yield from (Reading(question, is_again=True) for question in with_mention(last, bare, base.linker))
        elif replaced := with_value(last, new):
            yield Reading(replaced, is_again=True)
        else:
            same = (key for key, known in self.given.items() if is_same_dimension(known.unit, new.unit))
            yield from (Reading(last, self.given | {key: new}, is_again=True) for key in same)

    def _focus(self, rest: str) -> list[str]:
        """Return what the last turn was about, as a question would say it, the likeliest first."""
        assert self.last is not None  # a follow-up has a turn before it
        answer = self.last.answer
        base = self.reasoner.base(answer.kb)
        constants = _constants(base.graph, answer)
        results = [
            entity
            for item in answer.entities
            if item.probability >= 0.5
            for entity in _resolve(base.graph, item.name, answer)
        ][:MAX_JOINED]
        owners = [entity for entity in constants if not _is_by_name(base.graph, entity)]
        single = results if len({entity.name for entity in results}) == 1 else []
        found = [_said(base.graph, entity, owners) for entity in _fitting([*single[:1], *constants], rest, base)]
        if len(results) > 1 and re.search(r"\b(?:they|them|their|these|those)\b", rest, re.IGNORECASE):
            found.insert(0, " and ".join(dict.fromkeys(entity.name for entity in results)))
        return list(dict.fromkeys(found))

    def _remember(self, turn: Turn) -> None:
        if turn.answer.abstained and self.last is not None:
            return
        given, found = _quantities(self.reasoner.base(turn.answer.kb).graph, turn.answer)
        if not turn.is_follow_up:
            self.given.clear()
            self.found.clear()
        if any(self.given.get(key, value).magnitude != value.magnitude for key, value in given.items()):
            self.found.clear()
        self.last = turn
        self.given |= given
        self.found |= found


def _sort(answer: Answer) -> str:
    return answer.query.aggregate if answer.query else ""


def _constants(graph: Graph, answer: Answer) -> list[Entity]:
    """Return the entities that the last question named, as its query holds them."""
    if answer.query is None:
        return []
    return [graph.entity(var.ids[0]) for var in answer.query.variables if var.ids and var.value is None]


def _resolve(graph: Graph, name: str, answer: Answer) -> list[Entity]:
    """Return the entity behind an answer's name: the one at the end of a path's fact."""
    ids = graph.by_label([normalise(name)]).get(normalise(name), [])
    found = [entity for entity in graph.entities(ids[:50]) if entity.name == name]
    return found[:1]


def _is_by_name(graph: Graph, entity: Entity) -> bool:
    kind = graph.kinds.get(entity.kind)
    return bool(kind and kind.by_name)


def _said(graph: Graph, entity: Entity, owners: Sequence[Entity]) -> str:
    """Return an entity as a question would name it; one known by its owner only is named with it."""
    owner = next((other for other in owners if other.id != entity.id), None)
    return f"{entity.name} of {owner.name}" if _is_by_name(graph, entity) and owner else entity.name


def _fitting(entities: Sequence[Entity], rest: str, base: Base) -> list[Entity]:
    """Return the entities that can have what the question asks for, else those that can have anything."""
    mentions = base.linker.mentions(rest)
    relations = {mention.value for mention in mentions if mention.role == Role.RELATION}
    kinds = {mention.value for mention in mentions if mention.role == Role.KIND}
    facts = base.graph.signatures.items()
    asked = {start for (start, end), names in facts if relations & set(names) or end in kinds}
    for starts in (asked, {start for (start, _), _ in facts}):
        if fitting := [entity for entity in entities if entity.kind in starts]:
            return fitting
    return list(entities)


def _quantities(graph: Graph, answer: Answer) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return the quantities that a derivation was given and those it found, by quantity id."""
    query = answer.query
    if query is None or query.aggregate != Aggregate.SOLVE:
        return {}, {}
    given = {_quantity(graph, var): var.value for var in query.variables if var.ids and var.value}
    targets = [query.var(name) for name in query.targets]
    found = {
        _quantity(graph, var): Value(number.magnitude, number.unit, f"{number.magnitude:g} {number.unit}".strip())
        for var, number in zip(targets, answer.values, strict=False)
        if var.ids
    }
    return given, found


def _quantity(graph: Graph, var: Var) -> str:
    return graph.entity(var.ids[0]).key.removeprefix("quantity:")
