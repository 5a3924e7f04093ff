"""The graph as the reasoner reads it: lazily from the store, cached, with a temporary overlay."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from tuili.errors import StoreError
from tuili.knowledge.records import Edge, Kind, Relation, normalise
from tuili.knowledge.store import MAX_NAME, Store, check_text, edge_row, parse_data, sqlite_errors

_WORD = re.compile(r"\w+", re.UNICODE)
_CHUNK = 500
# An entity with more facts than this is read relation by relation, and no further than it is asked for.
HUB = 2_000
MAX_HUB_STEPS = 8
# Words of a full-text search that more entities have are ranked over this many of them.
MAX_RANKED = 5_000
R = TypeVar("R", Kind, Relation)
T = TypeVar("T")
_FACTS = "SELECT id, subject, relation, object, weight, source, data FROM edge"
# Where one entity has most of the facts, SQLite would else read the whole table for every entity.
_INDEX_OF = {"subject": "sqlite_autoindex_edge_1", "object": "edge_object"}


@dataclass(frozen=True, slots=True)
class Entity:
    """A node as read from a base."""

    id: int
    key: str
    kind: str
    name: str
    description: str = ""
    aliases: tuple[str, ...] = ()
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fact:
    """An edge as read from a base: `subject` and `object` are entity ids."""

    id: int
    subject: int
    relation: str
    object: int
    weight: float = 1.0
    source: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def other(self, node: int) -> int:
        """Return the end that is not `node`."""
        return self.object if node == self.subject else self.subject


class Graph:
    """Reads a store by entity; one look-up per entity and direction, kept in memory.

    Opening costs the schema only, so a base of any size is ready in milliseconds.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._entities: dict[int, Entity] = {}
        self._facts: dict[tuple[int, bool], tuple[Fact, ...]] = {}
        self._hubs: set[tuple[int, bool]] = set()
        self._hub_steps: dict[tuple[int, bool, int, str], list[Fact]] = {}
        self._overlay: list[Fact] = []
        self._overlay_ids: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The base's name."""
        return self.store.path.stem

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock, sqlite_errors(self.store.path):
            return self.store.connection.execute(sql, tuple(values)).fetchall()

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """The entity types, by name; kinds that entities have but nobody declared included."""
        declared = [_record(Kind, data) for (data,) in self._rows("SELECT data FROM kind")]
        used = self._rows("SELECT DISTINCT kind FROM node")
        found = {kind.name: kind for kind in declared}
        return found | {kind: Kind(kind, words=(kind,)) for (kind,) in used if kind not in found}

    @cached_property
    def relations(self) -> dict[str, Relation]:
        """The edge types, by name."""
        declared = [_record(Relation, data) for (data,) in self._rows("SELECT data FROM relation ORDER BY id")]
        return {relation.name: relation for relation in declared}

    @cached_property
    def signatures(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """Which relations really lead from a subject kind to an object kind, the most frequent first."""
        rows = self._rows("SELECT subject_kind, object_kind, relation FROM signature ORDER BY num DESC")
        found: dict[tuple[str, str], tuple[str, ...]] = {}
        for subject, object_, relation in rows:
            name = self._relation_names[relation]
            found[subject, object_] = (*found.get((subject, object_), ()), name)
        return found

    @cached_property
    def _relation_names(self) -> dict[int, str]:
        return dict(self._rows("SELECT id, name FROM relation"))

    @cached_property
    def _relation_ids(self) -> dict[str, int]:
        return {name: number for number, name in self._relation_names.items()}

    def is_kind(self, kind: str, wanted: str) -> bool:
        """Tell whether `kind` is `wanted` or below it."""
        for _ in range(len(self.kinds) + 1):
            if kind == wanted:
                return True
            known = self.kinds.get(kind)
            if known is None or not known.parent:
                return False
            kind = known.parent
        return False

    def subkinds(self, wanted: str) -> list[str]:
        """Return `wanted` and every kind below it."""
        return [kind for kind in self.kinds if self.is_kind(kind, wanted)]

    def entities(self, ids: Iterable[int]) -> list[Entity]:
        """Return entities by id, in the given order."""
        ids = list(ids)
        missing = [number for number in dict.fromkeys(ids) if number not in self._entities]
        for chunk in _batched(missing):
            marks = ",".join("?" * len(chunk))
            with _damage(self.name):
                for row in self._rows(f"SELECT * FROM node WHERE id IN ({marks})", chunk):
                    self._entities[row[0]] = _entity(row)
        if lost := [number for number in missing if number not in self._entities]:
            raise StoreError(f"{self.name} is damaged: it has no entity {lost[0]}; build it anew")
        return [self._entities[number] for number in ids]

    def entity(self, number: int) -> Entity:
        """Return one entity."""
        return self._entities.get(number) or self.entities([number])[0]

    def by_key(self, key: str) -> int | None:
        """Return the id of the entity with this key, or None."""
        rows = self._rows("SELECT id FROM node WHERE key = ?", (key,))
        return rows[0][0] if rows else self._overlay_ids.get(normalise(key))

    def by_label(self, norms: Iterable[str]) -> dict[str, list[int]]:
        """Return the ids of the entities that have one of these normalised names, by name."""
        norms = list(dict.fromkeys(norms))
        found: dict[str, list[int]] = {}
        for chunk in _batched(norms):
            marks = ",".join("?" * len(chunk))
            for norm, node in self._rows(f"SELECT norm, node FROM label WHERE norm IN ({marks})", chunk):
                found.setdefault(norm, []).append(node)
        for norm in norms:
            if norm in self._overlay_ids and self._overlay_ids[norm] not in found.get(norm, ()):
                found.setdefault(norm, []).append(self._overlay_ids[norm])
        return found

    def labels_like(self, norm: str, limit: int = 5_000) -> list[tuple[str, int]]:
        """Return (normalised name, id) of names that begin as `norm` does, for fuzzy matching.

        Two letters are enough where no more than `limit` names share them, else more must be the same.
        """
        for length in range(2, max(3, len(norm))):
            prefix = norm[:length]
            rows = self._rows(
                "SELECT norm, node FROM label WHERE norm >= ? AND norm < ? LIMIT ?",
                (prefix, prefix + "\U0010ffff", limit + 1),
            )
            if len(rows) <= limit:
                break
        return rows[:limit]

    def facts(self, node: int, *, inverse: bool = False) -> tuple[Fact, ...]:
        """Return the facts with `node` as subject, or as object if `inverse`, in order of entry; O(its facts)."""
        if not self._is_hub(node, inverse):
            return self._facts[node, inverse]
        return tuple(self._read(node, inverse, -1))

    def _is_hub(self, node: int, inverse: bool) -> bool:
        """Tell whether a node has so many facts that they are not kept in memory; read those of others."""
        key = (node, inverse)
        if key not in self._facts and key not in self._hubs:
            found = self._read(node, inverse, HUB + 1)
            if len(found) > HUB:
                self._hubs.add(key)
            else:
                self._facts[key] = tuple(found)
        return key in self._hubs

    def _read(self, node: int, inverse: bool, limit: int, relation: str = "") -> list[Fact]:
        """Read facts at `node`, of one relation or of all, at most `limit` of the store's own (-1: all)."""
        end = "object" if inverse else "subject"
        number = self._relation_ids.get(relation)
        where = "" if number is None else f" AND relation = {number}"
        select = f"{_FACTS} INDEXED BY {_INDEX_OF[end]} WHERE {end} = ?{where} LIMIT ?"
        is_stored = node > 0 and (not relation or number is not None)
        with _damage(self.name):
            stored = [self._fact(row) for row in self._rows(select, (node, limit))] if is_stored else []
        extra = [fact for fact in self._overlay if (fact.object if inverse else fact.subject) == node]
        found = sorted(stored, key=lambda fact: fact.id) + extra
        return [fact for fact in found if relation in ("", fact.relation)]

    def _fact(self, row: Sequence[Any]) -> Fact:
        number, subject, relation, object_, weight, source, data = row
        name = self._relation_names.get(relation)
        if name is None:
            raise StoreError(f"{self.store.path.name} is damaged: fact {number} has no relation; build it anew")
        return Fact(number, subject, name, object_, weight, source, parse_data(data))

    def step(self, node: int, relation: str, *, inverse: bool = False, limit: int = -1) -> list[Fact]:
        """Return the facts of one relation at `node`; of a hub at least `limit`, if it has as many (-1: all)."""
        if self._is_hub(node, inverse):
            return self._hub_facts(node, inverse, limit, relation)
        return [fact for fact in self._facts[node, inverse] if fact.relation == relation]

    def _hub_facts(self, node: int, inverse: bool, limit: int, relation: str) -> list[Fact]:
        """Read a hub's facts of one relation; the last few lists are kept, since readings ask for the same."""
        key = (node, inverse, limit, relation)
        if key not in self._hub_steps:
            if len(self._hub_steps) >= MAX_HUB_STEPS:
                self._hub_steps.pop(next(iter(self._hub_steps)))
            self._hub_steps[key] = self._read(node, inverse, limit, relation)
        return self._hub_steps[key]

    def meets(self, node: int, relation: str, others: Collection[int], *, inverse: bool = False) -> bool:
        """Tell whether a fact of this relation joins `node` to one of `others`."""
        if not self._is_hub(node, inverse):
            return any(fact.other(node) in others for fact in self.step(node, relation, inverse=inverse))
        ends = ((other, node) if inverse else (node, other) for other in others)
        return any(self.fact(subject, relation, object_) is not None for subject, object_ in ends)

    def fact(self, subject: int, relation: str, object_: int) -> Fact | None:
        """Return the fact with these ends, if there is one; it costs the same whatever the ends have."""
        for node, inverse in ((subject, False), (object_, True)):
            if (node, inverse) in self._facts:
                facts = self.step(node, relation, inverse=inverse)
                return next((fact for fact in facts if (fact.subject, fact.object) == (subject, object_)), None)
        ends = (subject, self._relation_ids.get(relation), object_)
        rows = self._rows(f"{_FACTS} WHERE subject = ? AND relation = ? AND object = ?", ends)
        stored = [self._fact(row) for row in rows]
        extra = [
            one for one in self._overlay if (one.subject, one.relation, one.object) == (subject, relation, object_)
        ]
        return next(iter(stored + extra), None)

    def triples(self) -> list[tuple[int, str, int]]:
        """Return subject, relation and object of every fact; O(facts), for counting on a whole base."""
        joined = "edge LEFT JOIN relation ON relation.id = edge.relation"
        rows = self._rows(f"SELECT edge.id, subject, relation.name, object FROM {joined} ORDER BY edge.id")
        if lost := next((number for number, _, name, _ in rows if name is None), None):
            raise StoreError(f"{self.store.path.name} is damaged: fact {lost} has no relation; build it anew")
        stored = [(subject, name, object_) for _, subject, name, object_ in rows]
        return stored + [(one.subject, one.relation, one.object) for one in self._overlay]

    def closure(self, node: int, relation: str, *, inverse: bool = False) -> dict[int, tuple[Fact, ...]]:
        """Return everything that a transitive relation reaches from `node`, with the facts that lead there.

        Breadth first, so each path is a shortest one; cycles end where they began.
        """
        reached: dict[int, tuple[Fact, ...]] = {node: ()}
        frontier = [node]
        while frontier:
            following = []
            for current in frontier:
                for fact in self.step(current, relation, inverse=inverse):
                    other = fact.subject if inverse else fact.object
                    if other not in reached:
                        reached[other] = (*reached[current], fact)
                        following.append(other)
            frontier = following
        del reached[node]
        return reached

    def near(self, nodes: Iterable[int], steps: int, limit: int) -> set[int]:
        """Return the entities within `steps` facts of `nodes`, at most about `limit` of them."""
        reached = frontier = set(nodes)
        for _ in range(steps):
            following: set[int] = set()
            for node in frontier:
                for inverse in (False, True):
                    facts = self.facts(node, inverse=inverse)
                    if not inverse or len(facts) < 50:
                        following.update(fact.other(node) for fact in facts)
                if len(following) > limit:
                    break
            frontier = following - reached
            reached = reached | frontier
        return reached

    def members(self, kind: str, limit: int) -> list[int]:
        """Return up to `limit` entities of a kind or below it."""
        kinds = self.subkinds(kind)
        marks = ",".join("?" * len(kinds))
        return [row[0] for row in self._rows(f"SELECT id FROM node WHERE kind IN ({marks}) LIMIT ?", (*kinds, limit))]

    def search(self, text: str, *, kinds: Sequence[str] = (), limit: int = 20) -> list[tuple[int, float]]:
        """Full-text search (BM25 over name, aliases, description); best first, scores above 0.

        A word that more than `MAX_RANKED` entities have counts for that many of them only, so that the time does not
        grow with the base.
        """
        words = list(dict.fromkeys(_WORD.findall(text.casefold())))[:64]
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        if (
            len(self._rows("SELECT 1 FROM node_fts WHERE node_fts MATCH ? LIMIT ?", (match, MAX_RANKED + 1)))
            > MAX_RANKED
        ):
            return self._search_common(words, kinds, limit)
        wanted = [sub for kind in kinds for sub in self.subkinds(kind)]
        where = f" AND node.kind IN ({','.join('?' * len(wanted))})" if wanted else ""
        rows = self._rows(
            "SELECT node.id, bm25(node_fts, 8.0, 4.0, 1.0) AS score FROM node_fts JOIN node"
            f" ON node.id = node_fts.rowid WHERE node_fts MATCH ?{where} ORDER BY score LIMIT ?",
            (match, *wanted, limit),
        )
        return [(number, -score) for number, score in rows]

    def _search_common(self, words: Sequence[str], kinds: Sequence[str], limit: int) -> list[tuple[int, float]]:
        """Add up scores word by word, each over a bounded number of entities, those with all words included."""
        scores: dict[int, float] = {}
        together = " AND ".join(f'"{word}"' for word in words)
        for match in (*(f'"{word}"' for word in words), together):
            rows = self._rows(
                "SELECT rowid, bm25(node_fts, 8.0, 4.0, 1.0) FROM node_fts WHERE node_fts MATCH ? LIMIT ?",
                (match, MAX_RANKED),
            )
            for number, score in rows:
                is_new = match != together
                scores[number] = scores.get(number, 0.0) - score if is_new else max(scores.get(number, 0.0), -score)
        ranked = sorted(scores, key=lambda number: -scores[number])
        wanted = {sub for kind in kinds for sub in self.subkinds(kind)}
        found: list[tuple[int, float]] = []
        for chunk in _batched(ranked):
            found += [(one.id, scores[one.id]) for one in self.entities(chunk) if not wanted or one.kind in wanted]
            if len(found) >= limit:
                break
        return found[:limit]

    def overlay(self, edges: Iterable[Edge]) -> None:
        """Add facts that live only as long as this object; the file is not touched.

        Raises:
            InputError: a text or a weight is refused.
        """
        for edge in edges:
            edge_row(edge)
            check_text("relation", edge.relation, MAX_NAME)
            subject, object_ = self._overlay_id(edge.subject), self._overlay_id(edge.object)
            if edge.relation not in self.relations:
                self.relations[edge.relation] = Relation(edge.relation)
            fact = Fact(-1 - len(self._overlay), subject, edge.relation, object_, edge.weight, edge.source, edge.data)
            self._overlay.append(fact)
            self._add_signature(fact)
        self._facts.clear()
        self._hubs.clear()
        self._hub_steps.clear()

    def _add_signature(self, fact: Fact) -> None:
        """Let questions relate the kinds that an overlay's fact joins."""
        ends = self.entity(fact.subject).kind, self.entity(fact.object).kind
        for kind in ends:
            self.kinds.setdefault(kind, Kind(kind, words=(kind,)))
        known = self.signatures.get(ends, ())
        if fact.relation not in known:
            self.signatures[ends] = (*known, fact.relation)

    def _overlay_id(self, name: str) -> int:
        norm = normalise(check_text("name", name, MAX_NAME)) or name
        known = self.by_label([norm]).get(norm)
        if known:
            return known[0]
        number = -1 - len(self._overlay_ids)
        self._overlay_ids[norm] = number
        self._entities[number] = Entity(number, name, "entity", name)
        return number


def _batched(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _record(make: Callable[..., R], data: str) -> R:
    """Make a kind or a relation of its JSON, lists turned back into tuples."""
    with _damage("the knowledge base"):
        fields = parse_data(data)
        if "qualifiers" in fields:
            fields["qualifiers"] = {key: tuple(words) for key, words in fields["qualifiers"].items()}
        return make(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


@contextlib.contextmanager
def _damage(name: str) -> Iterator[None]:
    """Say of a row that holds other types than were written that the file is damaged."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise StoreError(f"{name} is damaged: a row can't be read ({error}); build it anew") from error


def _entity(row: Sequence[Any]) -> Entity:
    number, key, kind, name, description, aliases, data = row
    return Entity(number, key, kind, name, description, tuple(aliases.split("\n")) if aliases else (), parse_data(data))
