"""Decides which names of a package are public, and under which dotted path each is known best."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tuili.knowledge.sources.python_library import Library, is_stdlib
from tuili.knowledge.sources.python_model import Item, Module, is_private
from tuili.knowledge.sources.python_view import Found, View

PUBLIC_MODULES = {os.path.__name__: "os.path"}


@dataclass(frozen=True, slots=True)
class Facet:
    """One definition of a thing: its Python source, its C code or its stub."""

    found: Found
    view: View
    item: Item
    is_stub: bool
    is_compiled: bool


@dataclass(slots=True)
class Entity:
    """A public thing, all the dotted paths that lead to it, and its definitions."""

    key: str
    paths: list[str]
    facets: list[Facet] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Return "class", "function" or "value".

        The definition at run time decides, unless it is a bare assignment (`x = make()`) or a
        function made into something else (typing.Union), of which the stub tells more.
        """
        first = self.facets[0].item
        stub = next((facet.item.kind for facet in self.facets if facet.is_stub), first.kind)
        return stub if first.kind == "value" or "made" in first.flags else first.kind

    def typed(self) -> list[Facet]:
        """Return the facets of the entity's own kind, the run-time definition first."""
        return [facet for facet in self.facets if facet.item.kind == self.kind]


def public_module(name: str) -> str:
    """Return the name under which a module is documented ("os.path" for posixpath)."""
    return PUBLIC_MODULES.get(name, name)


def collect(library: Library, modules: Sequence[str], progress: Callable[[str], None]) -> dict[str, Entity]:
    """Return the public entities of the modules by defining path."""
    entities: dict[str, Entity] = {}
    for module in modules:
        progress(module)
        for name in published(library, module):
            _add(library, entities, module, name)
    tops = {module.partition(".")[0] for module in modules}
    _add_bases(entities, tops)
    for path, entity in entities.items():
        entity.key = min(entity.paths, key=lambda one: _rank(one, path)).removeprefix("builtins.")
    _merge_aliases(entities)
    for path, entity in list(entities.items()):
        _add_nested(entities, path, entity)
    return entities


def _add_bases(entities: dict[str, Entity], tops: set[str]) -> None:
    """Add classes that are not published themselves but are a published class's base."""
    waiting = list(entities.values())
    while waiting:
        facet = waiting.pop().facets[0]
        for base in facet.view.bases(facet.found):
            known = base.path in entities or "." in base.qualname or is_private(base.path)
            if known or base.module.partition(".")[0] not in tops:
                continue
            entity = entities[base.path] = Entity("", [f"{public_module(base.module)}.{base.qualname}"])
            _add_facet(entity, base, facet.view)
            waiting.append(entity)


def _add_nested(entities: dict[str, Entity], path: str, entity: Entity) -> None:
    """Add the public classes inside a class."""
    if entity.kind != "class":
        return
    for facet in entity.typed():
        for name, item in facet.item.members.items():
            if item.kind != "class" or name.startswith("_"):
                continue
            key, paths = f"{entity.key}.{name}", [f"{one}.{name}" for one in entity.paths]
            inner = entities.setdefault(f"{path}.{name}", Entity(key, paths))
            found = Found(facet.found.module, f"{facet.found.qualname}.{name}", item)
            _add_facet(inner, found, facet.view)
            _add_nested(entities, f"{path}.{name}", inner)


def _merge_aliases(entities: dict[str, Entity]) -> None:
    """Make what a stub declares as another entity (`typing.List = list`) a path of that one."""
    real = {
        facet.found.path: entity
        for entity in entities.values()
        for facet in entity.facets
        if entity.facets[0].item.kind == entity.kind == facet.item.kind
    }
    real |= {path: entity for path, entity in entities.items() if path not in real}
    for path, entity in list(entities.items()):
        stub = next((facet for facet in entity.facets if facet.is_stub), None)
        only_told_by_stub = stub and entity.kind != "value" and entity.facets[0].item.kind == "value"
        other = real.get(stub.found.path) if stub and only_told_by_stub else None
        if other and other is not entity:
            other.paths += [one for one in entity.paths if one not in other.paths]
            del entities[path]


def _rank(path: str, defined: str) -> tuple[bool, int, bool, bool, str]:
    renamed = path.rpartition(".")[2] != defined.rpartition(".")[2]
    return not path.startswith("builtins."), path.count("."), path != defined, renamed, path


def _add(library: Library, entities: dict[str, Entity], module: str, name: str) -> None:
    found, stub = library.sources.resolve(module, name), library.stubs.resolve(module, name)
    if found is None and stub is not None and stub.item and "." not in stub.qualname:
        found = library.sources.resolve(stub.module, stub.qualname)
    first = found or stub
    if first is None or first.item is None or first.item.kind == "import":
        return
    if not _belongs(library, module, name, first):
        return
    public = f"{public_module(module)}.{name}"
    identity = f"{module}.{name}" if first.bound else first.path
    entity = entities.setdefault(identity, Entity("", []))
    if public not in entity.paths:
        entity.paths.append(public)
    candidates = [found, *_rivals(library.sources, module, name, found)] if found else []
    for one in candidates:
        _add_facet(entity, one, library.sources)
    if stub and not any(facet.is_stub for facet in entity.facets):
        _add_facet(entity, stub, library.stubs)


def _belongs(library: Library, module: str, name: str, found: Found) -> bool:
    """Tell whether a published name is the package's own, not a guest from another one."""
    top, other = module.partition(".")[0], found.module.partition(".")[0]
    if top == other or (is_stdlib(top) and is_stdlib(other)):
        return True
    return not is_stdlib(other) and name in library.sources.dunder_all(module)[0]


def _rivals(view: View, module: str, name: str, found: Found) -> Iterator[Found]:
    yield from view.rivals(module, name)
    if "." not in found.qualname:
        yield from view.rivals(found.module, found.qualname)


def _add_facet(entity: Entity, found: Found, view: View) -> None:
    if found.item and all(found.item is not facet.item for facet in entity.facets):
        scanned = view.get(found.module)
        is_stub, is_compiled = bool(scanned and scanned.is_stub), bool(scanned and scanned.is_compiled)
        entity.facets.append(Facet(found, view, found.item, is_stub, is_compiled))


def published(library: Library, name: str) -> list[str]:
    """Return the names a module offers: those of `__all__`, else by its stub, else by convention."""
    source, stub = library.source(name), library.stub(name)
    listed, complete = library.sources.dunder_all(name)
    if source and source.is_compiled:
        return [one for one in source.items if not one.startswith("_")]
    if not complete and stub:
        listed, complete = library.stubs.dunder_all(name)
    if complete:
        return [one for one in dict.fromkeys(listed) if not one.startswith("_")]
    offered = _offered_by_stub(stub, library.stubs) if stub else _offered_by_source(source, library.sources)
    return [one for one in dict.fromkeys([*listed, *offered]) if not one.startswith("_")]


def _offered_by_stub(stub: Module, view: View) -> Iterator[str]:
    yield from (name for name, item in stub.items.items() if stub.offers(item))
    for star, _ in stub.stars:
        yield from sorted(view.star_names(star))


def _offered_by_source(source: Module | None, view: View) -> Iterator[str]:
    """Yield what is defined, and what is imported from the package's own private or (in a package's
    `__init__`) any modules."""
    if source is None:
        return
    top = source.name.partition(".")[0]
    for name, item in source.items.items():
        if any(_is_own(source, one) for one in (item, *item.others)):
            yield name
    for star, _ in source.stars:
        if star.partition(".")[0] == top:
            yield from sorted(view.star_names(star))


def _is_own(source: Module, item: Item) -> bool:
    """Tell whether a module defines a name, or takes it from its own package to publish it."""
    if item.kind != "import":
        return True
    origin, name = item.target
    same_package = origin.partition(".")[0] == source.name.partition(".")[0]
    return same_package and bool(name) and (source.is_package or is_private(origin))
