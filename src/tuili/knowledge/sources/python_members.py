"""What belongs to a class: its members, its bases and the way it is constructed."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tuili.knowledge.sources.python_library import is_stdlib
from tuili.knowledge.sources.python_model import Item, is_private
from tuili.knowledge.sources.python_names import Entity, Facet
from tuili.knowledge.sources.python_signatures import constructor
from tuili.knowledge.sources.python_view import Found, View

_MAX_DEPTH = 30
_MAX_PATHS = 4


@dataclass
class Index:
    """Finds the public entity behind a definition, and names what has none.

    `view` is how names are at run time.
    """

    entities: Mapping[str, Entity]
    view: View
    _by_stub: dict[str, Entity] = field(default_factory=dict)
    _exceptions: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entity in self.entities.values():
            for facet in entity.facets:
                if entity.kind == facet.item.kind:
                    self._by_stub.setdefault(facet.found.path, entity)

    def entity(self, found: Found) -> Entity | None:
        """Return the public entity a definition belongs to."""
        return self._by_stub.get(found.path) or self.entities.get(found.path)

    def key(self, found: Found) -> str:
        """Return the public dotted name of a definition, inside or outside the packages read."""
        entity = self.entity(found)
        return entity.key if entity else self._outside_name(found)

    def _outside_name(self, found: Found) -> str:
        """Return the shortest public path: `concurrent.futures.Executor`, `io.TextIOWrapper`."""
        if found.module == "builtins":
            return found.qualname
        parts = found.module.split(".")
        parents = [".".join(parts[:end]) for end in range(1, len(parts))]
        for module in ["collections.abc", *parents, found.module.lstrip("_")]:
            other = self.view.resolve(module, found.qualname) if not is_private(module) else None
            if other and other.path == found.path:
                return f"{module}.{found.qualname}"
        return found.path

    def is_private(self, found: Found) -> bool:
        """Tell whether a class has no public name, so that its members belong to its subclasses."""
        if self.entity(found):
            return False
        return is_private(found.path)

    def is_exception(self, facet: Facet, depth: int = 0) -> bool:
        """Tell whether a class is below BaseException."""
        path = facet.found.path
        if path not in self._exceptions:
            self._exceptions[path] = False  # what a circular base sees
            self._exceptions[path] = path == "builtins.BaseException" or any(
                self.is_exception(replace(facet, found=base), depth + 1)
                for base in facet.view.bases(facet.found)
                if depth < _MAX_DEPTH
            )
        return self._exceptions[path]

    def public_bases(self, facets: Sequence[Facet]) -> list[tuple[Found, str]]:
        """Return the nearest public base classes but object, each with the place that states it.

        What a decorator adds at run time (`_simple_enum(IntEnum)`), only the stub tells.
        """
        bases = list(self._public_bases(facets[0].view, facets[0].found, 0))
        if bases or "decorated" not in facets[0].item.flags:
            return bases
        stubs = (facet for facet in facets if facet.is_stub)
        return [one for facet in stubs for one in self._public_bases(facet.view, facet.found, 0)]

    def _public_bases(self, view: View, cls: Found, depth: int) -> Iterator[tuple[Found, str]]:
        item = cls.item
        for expr in item.bases if item and depth < _MAX_DEPTH else []:
            found = view.base(cls, expr)
            if not found:
                continue
            if self.is_private(found):
                yield from self._public_bases(view, found, depth + 1)
            elif item and found.path != "builtins.object" and not _is_promise(view, cls, found):
                yield found, item.at(expr.lineno if item.line else 0)

    def members(self, entity: Entity) -> dict[str, Entity]:
        """Return a class's public members, with those of its private bases."""
        facets = entity.typed()
        tables = [(facet, self._flat(facet.view, facet.found, 0)) for facet in facets]
        names = self._member_names(tables)
        members = {}
        for name in names:
            defined = [replace(facet, found=table[name]) for facet, table in tables if name in table]
            whole = [replace(one, item=one.found.item) for one in defined if one.found.item]
            paths = [f"{path}.{name}" for path in entity.paths[:_MAX_PATHS]]
            members[name] = Entity(f"{entity.key}.{name}", paths, whole)
        return members

    def _member_names(self, tables: list[tuple[Facet, dict[str, Found]]]) -> Iterable[str]:
        """Return the names that exist at run time, and those that only a stub tells and no base has."""
        compiled = [table for facet, table in tables if facet.is_compiled]
        if compiled:
            return list(compiled[0])
        names: dict[str, None] = {}
        for facet, table in tables:
            names |= {name: None for name in table if not facet.is_stub or self._adds(tables[0][0], facet, table[name])}
        return list(names)

    def _adds(self, runtime: Facet, stub: Facet, member: Found) -> bool:
        """Tell whether a stub's member is news: an attribute that neither source nor bases show."""
        if runtime.is_stub or runtime.item.kind != "class" or member.item is None:
            return True
        if member.item.kind == "function" and "property" not in member.item.flags:
            return False
        name = member.qualname.rpartition(".")[2]
        return runtime.view.member(runtime.found, name) is None

    def _flat(self, view: View, cls: Found, depth: int) -> dict[str, Found]:
        """Return public members by name, own ones before those of private bases."""
        item = cls.item
        if item is None or depth > _MAX_DEPTH:
            return {}
        table: dict[str, Found] = {}
        for name, member in item.members.items():
            if name.startswith("_") or member.kind in ("import", "class"):
                continue
            if member.kind == "value" and isinstance(member.value, ast.Name):
                member = item.members.get(member.value.id, member)  # `warn = warning` in a class body
            table[name] = Found(cls.module, f"{cls.qualname}.{name}", member)
        for base in view.bases(cls):
            if self.is_private(base):
                table = self._flat(view, base, depth + 1) | table
        return table

    def constructors(self, entity: Entity) -> list[Facet]:
        """Return what defines how a class is called; nothing if that is inherited from a public base."""
        made: list[Facet] = []
        for facet in entity.typed():
            one = self._constructor(facet, facet.found, 0)
            if one is None and facet.is_compiled:  # it is C code all the same, without a signature
                one = replace(facet, item=Item("function", "__init__", facet.item.file, 0))
            made += [one] if one else []
        return made

    def _constructor(self, facet: Facet, cls: Found, depth: int) -> Facet | None:
        if item := constructor(facet.view, cls):
            found = Found(cls.module, f"{cls.qualname}.{item.name}", item)
            return replace(facet, found=found, item=item)
        for base in facet.view.bases(cls):
            if not self.is_private(base) or depth > _MAX_DEPTH:
                continue
            if made := self._constructor(facet, base, depth + 1):
                return made
        return None


def _is_promise(view: View, cls: Found, base: Found) -> bool:
    """Tell whether a stub of the standard library names a base that the class has not at run time."""
    module = view.get(cls.module)
    from_stub = module is not None and module.is_stub and is_stdlib(cls.module)
    return from_stub and base.module in ("typing", "_typeshed", "_collections_abc", "collections.abc")
