"""Resolves names in Python modules through imports, star imports and plain assignments."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tuili.knowledge.sources.python_model import Item, Module, last_name, text_of

_MAX_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for: a definition in a module, or (`item` None) the module itself.

    `qualname` is the dotted path inside the module; `bound` marks a method reached through an
    instance, as random.choice is.
    """

    module: str
    qualname: str
    item: Item | None
    bound: bool = False

    @property
    def path(self) -> str:
        """Return the defining dotted path."""
        return f"{self.module}.{self.qualname}" if self.qualname else self.module


class View:
    """Resolves names over modules that `get` returns; None if a name leads nowhere."""

    def __init__(self, get: Callable[[str], Module | None]) -> None:
        self.get = get
        self._known: dict[tuple[str, str], Found | None] = {}
        self._active: set[tuple[str, str]] = set()

    def resolve(self, module: str, name: str, depth: int = 0) -> Found | None:
        """Follow a module's name through imports to its definition."""
        key = module, name
        if key in self._known:
            return self._known[key]
        if key in self._active or depth >= _MAX_DEPTH:
            return None
        self._active.add(key)
        found = self._resolve(module, name, depth + 1)
        self._active.remove(key)
        if found or not self._active:  # a failure inside a circular import may be no failure outside
            self._known[key] = found
        return found

    def _resolve(self, module: str, name: str, depth: int) -> Found | None:
        scanned = self.get(module)
        if scanned is None:
            return None
        for found in self._candidates(scanned, name, depth):
            return found
        submodule = f"{module}.{name}"
        return Found(submodule, "", None) if scanned.is_package and self.get(submodule) else None

    def _candidates(self, module: Module, name: str, depth: int) -> Iterator[Found]:
        item = module.items.get(name)
        for candidate in [item, *item.others] if item else []:
            if found := self._follow(module, candidate, depth):
                yield found
        for star, line in module.stars:
            overridden = item is not None and line < item.line and "maybe" not in item.flags
            if star == module.name or overridden or name not in self.star_names(star, depth):
                continue
            if found := self.resolve(star, name, depth):
                yield found

    def rivals(self, module: str, name: str) -> list[Found]:
        """Return every definition that a name may have, as where C code replaces Python code."""
        scanned = self.get(module)
        found = list(self._candidates(scanned, name, 0)) if scanned else []
        return list({one.path: one for one in found}.values())

    def _follow(self, module: Module, item: Item, depth: int) -> Found | None:
        if item.kind == "import":
            target, name = item.target
            if not name:
                return Found(target, "", None) if self.get(target) else None
            if (target, name) == (module.name, item.name):
                return Found(f"{target}.{name}", "", None) if self.get(f"{target}.{name}") else None
            return self.resolve(target, name, depth)
        here = Found(module.name, item.name, item)
        if item.kind == "value" and isinstance(item.value, ast.Name | ast.Attribute):
            found = self.lookup(module.name, item.value, depth)
            if found and found.item and found.item.kind != "value":
                return found
        return here

    def lookup(self, module: str, expr: ast.expr | None, depth: int = 0) -> Found | None:
        """Return what a dotted expression stands for in a module; subscripts are looked through."""
        if isinstance(expr, ast.Subscript):
            return self.lookup(module, expr.value, depth)
        if isinstance(expr, ast.Name):
            found = self.resolve(module, expr.id, depth) or self.resolve("builtins", expr.id, depth)
            return found or (Found(expr.id, "", None) if self.get(expr.id) else None)
        if isinstance(expr, ast.Attribute) and depth < _MAX_DEPTH:
            owner = self.lookup(module, expr.value, depth + 1)
            return self.attribute(owner, expr.attr, depth + 1) if owner else None
        return None

    def attribute(self, owner: Found, name: str, depth: int = 0) -> Found | None:
        """Return an attribute of a module, a class or (by its class) an instance."""
        if owner.item is None:
            return self.resolve(owner.module, name, depth)
        if owner.item.kind == "class":
            return self.member(owner, name, depth)
        if owner.item.kind == "value" and depth < _MAX_DEPTH:
            made_by = owner.item.value.func if isinstance(owner.item.value, ast.Call) else None
            cls = self.lookup(owner.module, owner.item.annotation or made_by, depth + 1)
            if cls and cls.item and cls.item.kind == "class":
                member = self.member(cls, name, depth)
                return Found(member.module, member.qualname, member.item, bound=True) if member else None
        return None

    def member(self, cls: Found, name: str, depth: int = 0) -> Found | None:
        """Return a class's own or inherited member."""
        if cls.item is None or depth > _MAX_DEPTH:
            return None
        if name in cls.item.members:
            return Found(cls.module, f"{cls.qualname}.{name}", cls.item.members[name])
        for base in self.bases(cls):
            if found := self.member(base, name, depth + 1):
                return found
        return None

    def bases(self, cls: Found) -> Iterator[Found]:
        """Yield the base classes that can be found."""
        for expr in cls.item.bases if cls.item else []:
            if found := self.base(cls, expr):
                yield found

    def base(self, cls: Found, expr: ast.expr) -> Found | None:
        """Return the class that one base of a class stands for; that of a named tuple is tuple."""
        found = self._outer_member(cls, expr) or self.lookup(cls.module, expr)
        made_by = found.item.value if found and found.item and found.item.kind == "value" else expr
        is_named_tuple = isinstance(made_by, ast.Call) and last_name(made_by) == "namedtuple"
        if is_named_tuple or (found and found.path == "typing.NamedTuple"):
            return self.resolve("builtins", "tuple")
        is_class = found and found.item and found.item.kind == "class" and found.path != cls.path
        return found if is_class else None

    def _outer_member(self, cls: Found, expr: ast.expr) -> Found | None:
        """Return a sibling of a class that is nested in another, as in `class abort(error)`."""
        outer, _, own = cls.qualname.rpartition(".")
        if not outer or not isinstance(expr, ast.Name) or expr.id == own or "." in outer:
            return None
        around = self.resolve(cls.module, outer)
        if around and around.item and expr.id in around.item.members:
            return Found(cls.module, f"{outer}.{expr.id}", around.item.members[expr.id])
        return None

    def star_names(self, module: str, depth: int = 0) -> set[str]:
        """Return the names that `from module import *` binds."""
        scanned = self.get(module)
        if scanned is None or depth > _MAX_DEPTH:
            return set()
        listed, complete = self.dunder_all(module, depth + 1)
        if listed and complete:
            return set(listed)
        names = {name for name, item in scanned.items.items() if scanned.offers(item)}
        for star, _ in scanned.stars:
            names |= self.star_names(star, depth + 1) if star != module else set()
        return names | set(listed)

    def dunder_all(self, module: str, depth: int = 0) -> tuple[list[str], bool]:
        """Return the names of `__all__` in order, and whether they are all of them."""
        scanned = self.get(module)
        if scanned is None or not scanned.exports or depth > _MAX_DEPTH:
            return [], False
        names: dict[str, None] = {}
        complete = scanned.exports_are_complete
        for part in scanned.exports:
            more, whole = self._all_names(module, part, depth + 1)
            names.update(dict.fromkeys(more))
            complete = complete and whole
        return list(names), complete

    def _all_names(self, module: str, expr: ast.expr, depth: int) -> tuple[list[str], bool]:
        """Evaluate lists, sums, stars and references to other `__all__`."""
        if isinstance(expr, ast.Constant):
            return ([expr.value], True) if isinstance(expr.value, str) else ([], False)
        if isinstance(expr, ast.List | ast.Tuple):
            return _joined(self._all_names(module, part, depth) for part in expr.elts)
        if isinstance(expr, ast.BinOp) and isinstance(expr.op, ast.Add):
            return _joined(self._all_names(module, part, depth) for part in (expr.left, expr.right))
        if isinstance(expr, ast.Starred):
            return self._all_names(module, expr.value, depth)
        if isinstance(expr, ast.Attribute) and expr.attr == "__all__" and depth < _MAX_DEPTH:
            target = self.lookup(module, expr.value)
            name = target.module if target and target.item is None else text_of(expr.value)
            return self.dunder_all(name, depth + 1)
        if isinstance(expr, ast.Name):
            found = self.resolve(module, expr.id)
            if found and found.item and found.item.value is not None and depth < _MAX_DEPTH:
                return self._all_names(found.module, found.item.value, depth + 1)
        return [], False


def _joined(parts: Iterator[tuple[list[str], bool]]) -> tuple[list[str], bool]:
    names: list[str] = []
    complete = True
    for more, whole in parts:
        names += more
        complete = complete and whole
    return names, complete
