"""Merges what source, C code and stubs say about the parameters of one callable."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tuili.knowledge.sources.python_model import (
    KEYWORD_ONLY,
    POSITIONAL,
    POSITIONAL_ONLY,
    VARIADIC,
    VARIADIC_KEYWORD,
    Item,
    Parameter,
    Signature,
    last_name,
    text_of,
)
from tuili.knowledge.sources.python_names import Facet
from tuili.knowledge.sources.python_view import Found, View

_VARIADICS = (VARIADIC, VARIADIC_KEYWORD)
_POSITIONALS = (POSITIONAL_ONLY, POSITIONAL)


@dataclass(frozen=True, slots=True)
class Written:
    """An expression, and the definition that writes it."""

    expr: ast.expr
    facet: Facet

    @property
    def place(self) -> str:
        """Return file and line."""
        return self.facet.item.at(getattr(self.expr, "lineno", 0) if self.facet.item.line else 0)


@dataclass(slots=True)
class Merged:
    """A parameter as all definitions together tell it."""

    name: str
    kind: str
    required: bool
    place: str
    default: Written | None = None
    annotations: list[Written] = field(default_factory=list)


def by_authority(facets: Iterable[Facet]) -> list[Facet]:
    """Return the facets that have a signature, the one that is right at run time first.

    C code that replaces Python code goes before it; C code without a text signature is described
    best by its stub.
    """
    callable_ = [facet for facet in facets if facet.item.signatures]
    replaced = any(facet.is_compiled for facet in facets)

    def rank(facet: Facet) -> int:
        if facet.is_compiled:
            return 0
        return (1 if facet.is_stub else 2) if replaced else (2 if facet.is_stub else 1)

    return sorted(callable_, key=rank)


def merge(facets: Iterable[Facet]) -> list[Merged]:
    """Return the parameters in order: the first facet's, then those its variadics stand for."""
    ordered = by_authority(facets)
    if not ordered:
        return []
    merged = _structure(ordered[0])
    structural = list(merged.values())
    for facet in ordered:
        for signature in facet.item.signatures:
            for index, parameter in enumerate(signature.parameters):
                known = _match(structural, index, parameter, signature) or merged.get(parameter.name)
                if known is None and facet.is_stub and _stands_for(structural, parameter):
                    needed = all(_requires(one, parameter.name) for one in facet.item.signatures)
                    known = merged[parameter.name] = _merged(parameter, facet, needed)
                if known is not None:
                    _fill(known, parameter, facet)
    return sorted(merged.values(), key=lambda one: one.kind == VARIADIC_KEYWORD)


def _structure(facet: Facet) -> dict[str, Merged]:
    """Return the union over overloads; an implementation that follows them stands alone."""
    signatures = facet.item.signatures
    signatures = signatures[:1] if "implemented" in facet.item.flags else signatures
    merged: dict[str, Merged] = {}
    for signature in sorted(signatures, key=lambda one: -len(one.parameters)):
        for parameter in signature.parameters:
            if parameter.name not in merged:
                needed = all(_requires(one, parameter.name) for one in signatures)
                merged[parameter.name] = _merged(parameter, facet, needed)
    return dict(sorted(merged.items(), key=lambda entry: _order(entry[1].kind)))


def _order(kind: str) -> int:
    return (POSITIONAL_ONLY, POSITIONAL, VARIADIC, KEYWORD_ONLY, VARIADIC_KEYWORD).index(kind)


def _requires(signature: Signature, name: str) -> bool:
    return any(one.name == name and one.default is None for one in signature.parameters)


def _merged(parameter: Parameter, facet: Facet, required: bool) -> Merged:
    place = facet.item.at(parameter.line if facet.item.line else 0)
    required = required and parameter.kind not in _VARIADICS
    return Merged(parameter.name, parameter.kind, required, place)


def _match(structural: list[Merged], index: int, parameter: Parameter, signature: Signature) -> Merged | None:
    """Find the same parameter: by name, by being the variadic one, or by its place before them."""
    for one in structural:
        if one.name == parameter.name or (one.kind == parameter.kind and one.kind in _VARIADICS):
            return one
    if index >= len(structural) or parameter.kind not in _POSITIONALS:
        return None
    taken = {one.name for one in signature.parameters}
    one = structural[index]
    return one if one.kind in _POSITIONALS and one.name not in taken else None


def _stands_for(structural: list[Merged], parameter: Parameter) -> bool:
    """Tell whether a variadic parameter of the structure takes this one in."""
    kinds = {one.kind for one in structural}
    by_name = VARIADIC_KEYWORD in kinds and parameter.kind in (POSITIONAL, KEYWORD_ONLY)
    return by_name or (VARIADIC in kinds and parameter.kind in _POSITIONALS)


def _fill(known: Merged, parameter: Parameter, facet: Facet) -> None:
    default = parameter.default
    unknown = isinstance(default, ast.Constant) and default.value is ...
    if known.default is None and default is not None and not unknown and not known.required:
        known.default = Written(default, facet)
    if parameter.annotation is not None:
        known.annotations.append(Written(parameter.annotation, facet))


def constructor(view: View, cls: Found) -> Item | None:
    """Return a class's own `__init__` or `__new__`, or the one that its fields imply."""
    item = cls.item
    if item is None:
        return None
    own = [item.members[name] for name in ("__init__", "__new__") if name in item.members]
    if own:
        return next((one for one in own if any(s.parameters for s in one.signatures)), own[0])
    if "dataclass" in item.flags or any(last_name(base) == "NamedTuple" for base in item.bases):
        signature = Signature(list(_fields(view, cls)))
        return Item("function", "__init__", item.file, item.line, signatures=[signature])
    return None


def _fields(view: View, cls: Found) -> Iterator[Parameter]:
    """Yield the fields of a dataclass or named tuple as parameters, inherited ones first."""
    fields: dict[str, Parameter] = {}
    for base in view.bases(cls):
        if base.item and "dataclass" in base.item.flags:
            fields |= {one.name: one for one in _fields(view, base)}
    for name, member in cls.item.members.items() if cls.item else ():
        class_wide = member.annotation is not None and "ClassVar" in text_of(member.annotation)
        if member.annotation is None or class_wide or not _is_init(member.value):
            continue
        default = _field_default(member.value)
        fields[name] = Parameter(name, POSITIONAL, member.line, default, member.annotation)
    yield from fields.values()


def _is_field(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and last_name(value) == "field"


def _is_init(value: ast.expr | None) -> bool:
    if not isinstance(value, ast.Call) or not _is_field(value):
        return True
    words = {word.arg: word.value for word in value.keywords}
    init = words.get("init")
    return not (isinstance(init, ast.Constant) and init.value is False)


def _field_default(value: ast.expr | None) -> ast.expr | None:
    """Return a field's default; that of a factory is the factory's call."""
    if not isinstance(value, ast.Call) or not _is_field(value):
        return value
    words = {word.arg: word.value for word in value.keywords}
    if "default" in words:
        return words["default"]
    factory = words.get("default_factory")
    return ast.Call(factory, [], [], lineno=value.lineno) if factory else None
