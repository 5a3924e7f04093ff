"""Turns the public entities of Python packages into the records of a knowledge base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tuili.knowledge.records import Edge, Node, Record
from tuili.knowledge.sources.python_docs import describe, describe_parameter, without_signature
from tuili.knowledge.sources.python_library import Library
from tuili.knowledge.sources.python_members import Index
from tuili.knowledge.sources.python_model import VARIADIC, VARIADIC_KEYWORD
from tuili.knowledge.sources.python_names import PUBLIC_MODULES, Entity, Facet, public_module
from tuili.knowledge.sources.python_schema import parameter_kind_key
from tuili.knowledge.sources.python_signatures import Merged, Written, merge
from tuili.knowledge.sources.python_types import TypeName, annotation_text, type_names, without_subsumed
from tuili.knowledge.sources.python_values import LiteralValue, literal

_PREFIXES = {VARIADIC: "*", VARIADIC_KEYWORD: "**"}
_MAX_PATHS = 12
_MODULE_ALIASES = {"builtins": ("builtin", "built-in", "built-ins")}


class RecordMaker:
    """Makes records, each shared node (literal, type, outside class) once."""

    def __init__(self, library: Library, entities: dict[str, Entity], modules: Iterable[str]) -> None:
        self.library = library
        self.modules = list(modules)
        self.index = Index(entities, library.sources)
        self.entities = sorted(entities.values(), key=lambda entity: entity.key)
        self.taken: set[str] = {entity.key for entity in self.entities}
        self.module_keys = {self.module_key(public_module(name)) for name in self.modules}
        self.made: set[str] = set()

    def records(self) -> Iterator[Record]:
        """Yield everything: modules first, then what they hold."""
        for module in self.modules:
            yield from self.module(module)
        for entity in self.entities:
            owner = entity.key.rpartition(".")[0] or "builtins"
            is_module = self.module_key(owner) in self.module_keys
            yield from self.entity(entity, self.module_key(owner) if is_module else owner)

    def module_key(self, name: str) -> str:
        """Return a module's key; where a function or class has its name, that one keeps it."""
        return f"module:{name}" if name in self.taken else name

    def module(self, name: str) -> Iterator[Record]:
        scanned = self.library.source(name) or self.library.stub(name)
        if scanned is None:
            return
        shown = public_module(name)
        key, last = self.module_key(shown), shown.rpartition(".")[2]
        aliases = [one for one in (name, last, shown, *_MODULE_ALIASES.get(name, ())) if one != key]
        yield Node(key, "module", shown, describe(scanned.doc), tuple(dict.fromkeys(aliases)))
        parent = shown.rpartition(".")[0]
        if parent in self.modules or name in PUBLIC_MODULES:
            yield Edge(self.module_key(parent), "contains", key, source=scanned.file)

    def entity(self, entity: Entity, owner: str) -> Iterator[Record]:
        """Yield one definition and what hangs on it; `owner` is the key of its module or class."""
        yield Edge(owner, "contains", entity.key, source=entity.facets[0].item.place)
        if entity.kind == "class":
            yield from self.cls(entity)
        elif entity.kind == "function":
            is_property = any("property" in facet.item.flags for facet in entity.typed())
            kind = "function" if owner in self.module_keys else "method"
            yield from self.function(entity, "property" if is_property else kind)
        else:
            yield from self.value(entity)

    def node(
        self, entity: Entity, kind: str, data: dict[str, object] | None = None, more: Iterable[Facet] = ()
    ) -> Node:
        """Make a definition's node; `more` are facets whose docstring serves where it has none."""
        docs = (describe(facet.item.doc, facet.item.name) for facet in [*entity.typed(), *more])
        text = next(filter(None, docs), "")
        return Node(entity.key, kind, entity.key, text, tuple(self.aliases(entity)), data or {})

    def aliases(self, entity: Entity) -> Iterator[str]:
        """Yield the other dotted paths, the last two names (`Path.read_text`) and the last one.

        A path that leads to something else as well (datetime.time) is no alias.
        """
        found, parts = entity.facets[0].found, entity.key.split(".")
        defined = [] if found.bound else [found.path]  # random.choice is not the method it calls
        names = [*entity.paths[:_MAX_PATHS], *defined, ".".join(parts[-2:])]
        yield from (name for name in dict.fromkeys(names) if name not in self.taken and name != entity.key)
        if parts[1:]:
            yield parts[-1]

    def cls(self, entity: Entity) -> Iterator[Record]:
        facets = entity.typed()
        is_exception = self.index.is_exception(facets[0])
        makers = self.index.constructors(entity)
        yield self.node(entity, "exception" if is_exception else "class", more=makers)
        yield from self.bases(entity.key, facets)
        members = self.index.members(entity)
        docs = [without_signature(facet.item.doc, facet.item.name) for facet in [*makers, *facets]]
        for position, one in enumerate(merge(makers), 1):
            middle = ".__init__" if one.name in members else ""
            yield from self.parameter(entity.key, f"{entity.key}{middle}.{one.name}", position, one, docs)
        for member in members.values():
            yield from self.entity(member, entity.key)

    def bases(self, key: str, facets: list[Facet]) -> Iterator[Record]:
        for base, place in self.index.public_bases(facets):
            target = self.index.key(base)
            if target == key:
                continue
            yield Edge(key, "base class", target, source=place)
            if self.index.entity(base) is None:
                yield from self.outside_class(target, replace(facets[0], found=base))

    def outside_class(self, key: str, facet: Facet) -> Iterator[Record]:
        """Yield a class of another package, with its bases, so that "is a" can be followed."""
        if key in self.made:
            return
        self.made.add(key)
        kind = "exception" if self.index.is_exception(facet) else "class"
        last = key.rpartition(".")[2]
        yield Node(key, kind, key, aliases=(last,) if last != key else (), data={"outside": True})
        yield from self.bases(key, [facet])

    def function(self, entity: Entity, kind: str) -> Iterator[Record]:
        facets = entity.typed()
        flags = sorted(facets[0].item.flags & {"async", "class", "static", "abstract"})
        yield self.node(entity, kind, {"flags": flags} if flags else {})
        docs = [without_signature(facet.item.doc, facet.item.name) for facet in facets]
        if kind != "property":
            for position, one in enumerate(merge(facets), 1):
                yield from self.parameter(entity.key, f"{entity.key}.{one.name}", position, one, docs)
        returned = [
            Written(signature.returns, facet)
            for facet in facets
            for signature in facet.item.signatures
            if signature.returns is not None
        ]
        yield from self.types(entity.key, "returns", returned)

    def value(self, entity: Entity) -> Iterator[Record]:
        """Yield a constant, or an attribute where only the objects of a class have the value."""
        facets = entity.typed()
        annotations = [Written(facet.item.annotation, facet) for facet in facets if facet.item.annotation is not None]
        if any("attribute" in facet.item.flags for facet in facets):
            yield self.node(entity, "attribute")
            yield from self.types(entity.key, "returns", annotations)
            return
        written = (Written(one.item.value, one) for one in facets if one.item.value is not None)
        values = ((self.evaluate(one), one.place) for one in written)
        known, place = next(((one, place) for one, place in values if one.is_plain), (None, ""))
        if known is None:
            yield self.node(entity, "constant")
            return
        yield self.node(entity, "constant", {"value": known.value})
        yield from self.literal(known)
        yield Edge(entity.key, "value", f"literal:{known.text}", source=place)

    def evaluate(self, written: Written) -> LiteralValue:
        facet = written.facet
        return literal(facet.view, self.library.sources, facet.found.module, written.expr)

    def literal(self, known: LiteralValue) -> Iterator[Record]:
        key = f"literal:{known.text}"
        if key not in self.made:
            self.made.add(key)
            data = {"value": known.value} if known.is_plain else {}
            yield Node(key, "literal", known.text, data=data)

    def parameter(self, owner: str, key: str, position: int, one: Merged, docs: list[str]) -> Iterator[Record]:
        """Yield a parameter with its kind, default and types."""
        annotations = _best(one.annotations)
        data: dict[str, object] = {"position": position, "kind": one.kind, "required": one.required}
        if one.kind in _PREFIXES:
            data["prefix"] = _PREFIXES[one.kind]
        if annotations:
            texts = dict.fromkeys(annotation_text(written.expr) for written in annotations)
            data["annotation"] = " | ".join(texts)
        yield Node(key, "parameter", one.name, describe_parameter(docs, one.name), data=data)
        yield Edge(owner, "has parameter", key, source=one.place)
        yield Edge(key, "parameter kind", parameter_kind_key(one.kind), source=one.place)
        if one.kind not in _PREFIXES:
            necessity = "required" if one.required else "optional"
            yield Edge(key, "necessity", f"necessity:{necessity}", source=one.place)
        if one.default is not None:
            yield from self.default(key, one.default)
        yield from self.types(key, "accepts type", annotations)

    def default(self, key: str, written: Written) -> Iterator[Record]:
        known, text = self.evaluate(written), annotation_text(written.expr)
        yield from self.literal(known)
        followed = known.is_plain and repr(known.value) != text and known.value != text
        data = {"written": text} if followed else {}
        yield Edge(key, "default", f"literal:{known.text}", source=written.place, data=data)

    def types(self, key: str, relation: str, written: list[Written]) -> Iterator[Record]:
        found: dict[str, tuple[TypeName, str]] = {}
        for annotation in _best(written):
            facet = annotation.facet
            for one in type_names(facet.view, facet.found.module, annotation.expr, self.index.key):
                found.setdefault(one.key, (one, annotation.place))
        for one in without_subsumed([one for one, _ in found.values()]):
            if one.key not in self.made:
                self.made.add(one.key)
                data = {"origin": one.origin, "class": one.cls}
                name = one.key.removeprefix("type:")
                aliases = (one.name,) if one.name != name else ()
                yield Node(one.key, "type", name, aliases=aliases, data={k: v for k, v in data.items() if v})
            extra = {"written": one.written} if one.written else {}
            yield Edge(key, relation, one.key, source=found[one.key][1], data=extra)


def _best(written: list[Written]) -> list[Written]:
    """Prefer what a stub says, which is checked against the code, to what the source says."""
    return [one for one in written if one.facet.is_stub] or written
