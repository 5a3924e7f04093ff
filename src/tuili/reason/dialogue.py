"""Conversation: later questions may leave out what earlier ones said.

A follow-up is rewritten to a question of its own, and the rewritten form is shown in the notes:
pronouns stand for what the last answer was about, and "what about X?" asks the last question again
with X in place of the mention of the same kind. Quantities of earlier turns are remembered.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tuili.errors import InputError
from tuili.knowledge.graph import Entity, Graph
from tuili.knowledge.link import Linker, Mention, Role
from tuili.knowledge.query import Aggregate, Value, Var
from tuili.knowledge.records import Edge
from tuili.knowledge.text import Token, tokenise
from tuili.knowledge.values import find_values
from tuili.reason.answer import Answer
from tuili.reasoner import Base, Reasoner

MAX_FACTS = 1_000
MAX_JOINED = 5
FACT = re.compile(r"\s*fact\s*:\s*(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_OPENER = re.compile(r"^\s*(?:and|but|or|so|then|now|ok|okay|what about|how about|what if)\b[\s,]*", re.IGNORECASE)
_OWNER = re.compile(r"\b(?:its|their|this one's|that one's)\b", re.IGNORECASE)
_PRONOUN = re.compile(r"\b(?:it|they|them|that one|this one|these|those|the same one|(?<=of )that|(?<=for )that)\b",
                      re.IGNORECASE)
_ASKING = re.compile(r"\s*(?:what|which|how|when|where|who|is|are|does|do|find|give|calculate|compute|tell)\b", re.IGNORECASE)
_LEADING = re.compile(r"^(?:(?:what|how) about|for|of|with|in|on|at|if|it|is|was|the|a|an|only|instead)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Turn:
    """A question as it was read, and its answer."""

    question: str
    answer: Answer


@dataclass(frozen=True)
class Reading:
    """A question that a follow-up can stand for, with the quantities it may use."""

    question: str
    memory: Mapping[str, Value] = field(default_factory=dict)

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
            raise InputError(f"{MAX_FACTS} facts were told, that is the limit; import more with: tuili kb add NAME FILE.tsv")
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
        """Answer a question as it stands; if it names nothing, also as one about the last turn."""
        answer = self.reasoner.ask(text, kb=self._fixed_kb)
        if answer.abstained and self.last and not self._names_something(text, answer.kb):
            linker = self.reasoner.base(self.last.answer.kb).linker
            readings = [Reading(text, self._memory)] if self._is_solving else []
            readings += map(Reading, _about_focus(text, self._focus(text), linker))
            return self._first_answered(readings) or Turn(text, answer)
        return Turn(text, answer)

    def _names_something(self, text: str, kb: str) -> bool:
        assert self.last is not None  # the caller checked it
        return any(_named(self.reasoner.base(name).linker, text) for name in {kb, self.last.answer.kb})

    @property
    def _is_solving(self) -> bool:
        query = self.last.answer.query if self.last else None
        return query is not None and query.aggregate == Aggregate.SOLVE

    def _follow_up(self, text: str) -> Turn | None:
        """Answer a question that refers to the last one; None if it does not."""
        if self.last is None or not text.strip():
            return None
        base = self.reasoner.base(self.last.answer.kb)
        rest = _OPENER.sub("", text).strip()
        has_opener = rest != text.strip()
        if not rest or not (has_opener or _refers(base.linker, rest)):
            return None
        return self._first_answered(list(self._readings(rest, base, has_opener)))

    def _first_answered(self, readings: Sequence[Reading]) -> Turn | None:
        """Return the first reading that has an answer; None if none has."""
        for reading in readings:
            assert self.last is not None  # a follow-up has a turn before it
            answer = self.reasoner.ask(reading.question, kb=self.last.answer.kb, memory=reading.memory)
            if not answer.abstained:
                return Turn(reading.question, replace(answer, notes=(reading.describe(), *answer.notes)))
        return None

    def _readings(self, rest: str, base: Base, has_opener: bool) -> Iterator[Reading]:
        """Yield the questions that a follow-up can stand for, the likeliest first."""
        assert self.last is not None  # a follow-up has a turn before it
        if has_opener:
            yield from self._asked_again(rest, base)
        if self._is_solving:
            if statement := _statement(self.last.question):
                yield Reading(f"{statement} {_question_form(rest)}")
            yield Reading(rest, self._memory)
            return
        focus = self._focus(rest)
        referring = [question for name in focus if (question := _substituted(rest, name))]
        yield from map(Reading, referring)
        if has_opener and not referring:
            yield from map(Reading, _about_focus(rest, focus, base.linker))
        if has_opener:
            yield Reading(rest)

    def _asked_again(self, rest: str, base: Base) -> Iterator[Reading]:
        """Yield the last question with the mention or value of the follow-up in place of its own."""
        assert self.last is not None  # a follow-up has a turn before it
        bare, last = _bare(rest), self.last.question
        values = find_values(bare)
        if len(values) == 1 and _covers(values[0].value, bare):
            if replaced := _with_value(last, bare, values[0].unit):
                yield Reading(replaced)
            elif key := next((key for key, known in self.given.items() if _same_dimension(known.unit, values[0].unit)), ""):
                yield Reading(last, self.given | {key: values[0].value})
        elif replaced := _with_mention(last, bare, base.linker):
            yield Reading(replaced)

    def _focus(self, rest: str) -> list[str]:
        """Return what the last turn was about, as a question would say it, the likeliest first."""
        assert self.last is not None  # a follow-up has a turn before it
        answer = self.last.answer
        base = self.reasoner.base(answer.kb)
        constants = _constants(base.graph, answer)
        results = [entity for item in answer.entities if item.probability >= 0.5
                   for entity in _resolve(base.graph, item.name, answer)][:MAX_JOINED]
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
        if any(self.given.get(key, value).magnitude != value.magnitude for key, value in given.items()):
            self.found.clear()
        self.last = turn
        self.given |= given
        self.found |= found


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


# Reading a follow-up.


def _refers(linker: Linker, rest: str) -> bool:
    """Tell whether a pronoun of the question refers to something before it."""
    found = [match for pattern in (_OWNER, _PRONOUN) if (match := pattern.search(rest))]
    if not found:
        return False
    first = min(match.start() for match in found)
    tokens = tokenise(rest)
    return not any(tokens[mention.start].start < first for mention in _firm(linker, rest, tokens))


def _firm(linker: Linker, text: str, tokens: list[Token]) -> list[Mention]:
    """Return the names in a text that are surely meant: code, several words, or an entity's whole name."""
    return [mention for mention in linker.mentions(text, tokens)
            if mention.role == Role.ENTITY and mention.how in ("name", "alias")
            and (mention.score >= 1.0 or any(token.is_code for token in tokens[mention.start:mention.end]))]


def _named(linker: Linker, text: str) -> list[Mention]:
    return _firm(linker, text, tokenise(text))


def _bare(rest: str) -> str:
    """Return a follow-up without its small leading words and end mark ("for json.dump?" -> "json.dump")."""
    bare = rest.rstrip(" ?.!")
    while (shorter := _LEADING.sub("", bare)) != bare:
        bare = shorter
    return bare


def _with_mention(last: str, bare: str, linker: Linker) -> str:
    """Return the last question with `bare` in place of its mention of the same kind; "" if `bare` is no mention."""
    try:
        tokens = tokenise(bare)
    except InputError:
        return ""
    whole = [mention for mention in linker.mentions(bare, tokens) if mention.role == Role.ENTITY
             and mention.start == 0 and mention.end == len(tokens) and mention.how != "spelling"]
    return _with_entity(last, bare, {kind for mention in whole for kind in mention.kinds}, linker) if whole else ""


def _statement(last: str) -> str:
    """Return the sentences of a question that state something ("A car accelerates ...")."""
    sentences = re.split(r"(?<=[.!?;])\s+", last.strip())
    return " ".join(sentence for sentence in sentences if not sentence.endswith("?") and not _ASKING.match(sentence))


def _question_form(rest: str) -> str:
    """Return "its final speed?" as "What is the final speed?"."""
    plain = _OWNER.sub("the", rest, count=1)
    return plain if _ASKING.match(plain) else f"What is {plain.rstrip(' ?.!')}?"


def _covers(value: Value, text: str) -> bool:
    return value.end - value.start >= len(text.strip()) - 1


def _with_value(last: str, bare: str, unit: str) -> str:
    """Replace the value of the same unit, else the only one of the same dimension."""
    known = find_values(last)
    same = [item.value for item in known if item.unit == unit] or [
        item.value for item in known if _same_dimension(item.unit, unit)]
    if not same:
        return ""
    return f"{last[:same[-1].start]}{bare}{last[same[-1].end:]}"


def _same_dimension(left: str, right: str) -> bool:
    from tuili.errors import TuiliError
    from tuili.reason.verify import dimension

    try:
        return dimension(left) == dimension(right)
    except TuiliError:
        return False


def _with_entity(last: str, bare: str, kinds: set[str], linker: Linker) -> str:
    """Replace the mention of the same kind; of several the one spelled most like the new one."""
    tokens = tokenise(last)
    known = [mention for mention in linker.mentions(last, tokens)
             if mention.role == Role.ENTITY and mention.how in ("name", "alias")]
    same = [mention for mention in known if kinds & set(mention.kinds)] or _firm(linker, last, tokens)
    if not same:
        return ""

    def likeness(mention: Mention) -> tuple[int, float]:
        text = last[tokens[mention.start].start:tokens[mention.end - 1].end]
        return mention.end - mention.start, difflib.SequenceMatcher(None, text, bare).ratio()

    best = max(same, key=likeness)
    return f"{last[:tokens[best.start].start]}{bare}{last[tokens[best.end - 1].end:]}"


def _substituted(rest: str, name: str) -> str:
    """Put a name in the place of the first pronoun; "" if there is none."""
    if match := _OWNER.search(rest):
        following = rest[match.end():].rstrip(" ?.!")
        return f"{rest[:match.start()]}the{following} of {name}?"
    if match := _PRONOUN.search(rest):
        return f"{rest[:match.start()]}{name}{rest[match.end():]}"
    return ""


def _about_focus(rest: str, focus: Sequence[str], linker: Linker) -> list[str]:
    """Return a question that lacks its subject with the focus added ("the default?")."""
    asks = any(mention.role in (Role.KIND, Role.RELATION) for mention in linker.mentions(rest))
    return [] if _named(linker, rest) or not asks else [f"{rest.rstrip(' ?.!')} of {name}?" for name in focus]


# What the last turn was about.


def _constants(graph: Graph, answer: Answer) -> list[Entity]:
    """Return the entities that the last question named, as its query holds them."""
    if answer.query is None:
        return []
    return [graph.entity(var.ids[0]) for var in answer.query.variables if var.ids and var.value is None]


def _resolve(graph: Graph, name: str, answer: Answer) -> list[Entity]:
    """Return the entity behind an answer's name: the one at the end of a path's fact."""
    from tuili.knowledge.records import normalise

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
    """Return the entities that can have what the question asks for, all of them if none surely can."""
    mentions = base.linker.mentions(rest)
    relations = {mention.value for mention in mentions if mention.role == Role.RELATION}
    kinds = {mention.value for mention in mentions if mention.role == Role.KIND}
    starts = {start for (start, end), names in base.graph.signatures.items() if relations & set(names) or end in kinds}
    return [entity for entity in entities if entity.kind in starts] or list(entities)


def _quantities(graph: Graph, answer: Answer) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return the quantities that a derivation was given and those it found, by quantity id."""
    query = answer.query
    if query is None or query.aggregate != Aggregate.SOLVE:
        return {}, {}
    given = {_quantity(graph, var): var.value for var in query.variables if var.ids and var.value}
    targets = [query.var(name) for name in query.targets]
    found = {_quantity(graph, var): Value(number.magnitude, number.unit, f"{number.magnitude:g} {number.unit}".strip())
             for var, number in zip(targets, answer.values, strict=False) if var.ids}
    return given, found


def _quantity(graph: Graph, var: Var) -> str:
    return graph.entity(var.ids[0]).key.removeprefix("quantity:")
