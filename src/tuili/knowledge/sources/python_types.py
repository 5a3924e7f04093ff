"""Splits annotations into the types they allow, with aliases and type variables spelled out."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tuili.knowledge.sources.python_model import last_name, text_of
from tuili.knowledge.sources.python_view import Found, View

_MAX_DEPTH = 12
_MAX_LITERALS = 4
_UNIONS = {"Union", "Optional"}
_WRAPPERS = {"Annotated", "Required", "NotRequired", "ReadOnly", "Final", "ClassVar"}
_TYPE_VARIABLES = {"TypeVar", "ParamSpec", "TypeVarTuple", "NewType"}
_BARE_MODULES = {"builtins", "typing", "typing_extensions", "collections.abc", "_collections_abc", "types"}

KeyOf = Callable[[Found], str]


@dataclass(frozen=True, slots=True)
class TypeName:
    """One type that an annotation allows.

    `key` tells types of the same name apart; `origin` is the name without arguments; `cls` is the
    public path of the class, if it is one; `written` is the annotation it was spelled out from.
    """

    key: str
    name: str
    origin: str = ""
    cls: str = ""
    written: str = ""


def type_names(view: View, module: str, annotation: ast.expr, key_of: KeyOf) -> list[TypeName]:
    """Return the types an annotation allows, without repetition, in the order written.

    One that is nested too deep to be followed allows none.
    """
    written = annotation_text(annotation)
    names: dict[str, TypeName] = {}
    try:
        members = list(_members(view, module, annotation, 0))
    except RecursionError:
        members = []
    for where, member in members:
        one = _type_name(view, where, member, key_of, written)
        names.setdefault(one.key, one)
    return list(names.values())


def without_subsumed(names: list[TypeName]) -> list[TypeName]:
    """Leave out `Literal['a']` beside `str`."""
    plain = {one.name for one in names}
    return [one for one in names if not (values := _literal_types(one.name)) or not values <= plain]


def _literal_types(name: str) -> set[str]:
    if not name.startswith("Literal["):
        return set()
    node = ast.parse(name, mode="eval").body
    values = (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant))
    return {type(value).__name__ for value in values}


def annotation_text(annotation: ast.expr) -> str:
    """Return an annotation as it is written, without quotes around it."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    return text_of(annotation)


def _members(view: View, module: str, expr: ast.expr, depth: int) -> Iterator[tuple[str, ast.expr]]:
    """Yield each member with the module whose names it uses."""
    expr = _unquoted(expr)
    if depth > _MAX_DEPTH:
        yield module, expr
    elif isinstance(expr, ast.BinOp) and isinstance(expr.op, ast.BitOr):
        for side in (expr.left, expr.right):
            yield from _members(view, module, side, depth)
    elif isinstance(expr, ast.Subscript):
        yield from _subscript_members(view, module, expr, depth)
    elif isinstance(expr, ast.Name | ast.Attribute):
        yield from _name_members(view, module, expr, depth)
    else:
        yield module, expr


def _subscript_members(view: View, module: str, expr: ast.Subscript, depth: int) -> Iterator[tuple[str, ast.expr]]:
    name = last_name(expr.value)
    arguments = expr.slice.elts if isinstance(expr.slice, ast.Tuple) else [expr.slice]
    if name in _UNIONS:
        nothing = [ast.Constant(None)] if name == "Optional" else []
        for argument in [*arguments, *nothing]:
            yield from _members(view, module, argument, depth + 1)
    elif name in _WRAPPERS:
        yield from _members(view, module, arguments[0], depth + 1)
    elif name == "Literal" and len(arguments) > _MAX_LITERALS:
        values = (argument.value for argument in arguments if isinstance(argument, ast.Constant))
        for kind in dict.fromkeys(type(value).__name__ for value in values):
            yield "builtins", ast.Name(kind, ast.Load())
    elif name == "Literal" and all(_is_bool(argument) for argument in arguments):
        yield "builtins", ast.Name("bool", ast.Load())
    else:
        yield module, expr


def _is_bool(expr: ast.expr) -> bool:
    return isinstance(expr, ast.Constant) and isinstance(expr.value, bool)


def _name_members(
    view: View, module: str, expr: ast.Name | ast.Attribute, depth: int
) -> Iterator[tuple[str, ast.expr]]:
    if last_name(expr) in _WRAPPERS:
        return
    if last_name(expr) == "LiteralString":
        yield "builtins", ast.Name("str", ast.Load())
        return
    found = view.lookup(module, expr)
    if found is None or found.item is None or found.item.kind != "value":
        yield module, expr
        return
    value = found.item.value
    if isinstance(value, ast.Call) and last_name(value) in _TYPE_VARIABLES:
        bounds = [word.value for word in value.keywords if word.arg == "bound"]
        for bound in bounds or value.args[1:]:
            yield from _members(view, found.module, bound, depth + 1)
        if not bounds and not value.args[1:]:
            yield module, expr
    elif isinstance(value, ast.BinOp | ast.Subscript | ast.Name | ast.Attribute) or _is_none(value):
        yield from _members(view, found.module, value or expr, depth + 1)
    else:
        yield module, expr


def _is_none(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _unquoted(expr: ast.expr) -> ast.expr:
    """Return the expression inside a string annotation."""
    if isinstance(expr, ast.Constant) and isinstance(expr.value, str):
        try:
            return ast.parse(expr.value.strip(), mode="eval").body
        except (SyntaxError, ValueError):
            return expr
    return expr


def _type_name(view: View, module: str, expr: ast.expr, key_of: KeyOf, written: str) -> TypeName:
    name = text_of(_Renamer(view, module, None).visit(_copy(expr)))
    key = text_of(_Renamer(view, module, key_of).visit(_copy(expr)))
    base = expr.value if isinstance(expr, ast.Subscript) else expr
    found = view.lookup(module, base)
    cls = key_of(found) if found and found.item and found.item.kind == "class" else ""
    origin = name.partition("[")[0] if isinstance(expr, ast.Subscript) else ""
    return TypeName(f"type:{key}", name, origin, cls, "" if written == name else written)


def _copy(expr: ast.expr) -> ast.expr:
    """Return a fresh tree: transformers change the one they visit."""
    return ast.parse(text_of(expr), mode="eval").body


class _Renamer(ast.NodeTransformer):
    """Writes every class by its own name, or (with `key_of`) by its public path where that is longer."""

    def __init__(self, view: View, module: str, key_of: KeyOf | None) -> None:
        self.view = view
        self.module = module
        self.key_of = key_of

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        inner = _unquoted(node)
        renamed: ast.expr = node if inner is node else self.visit(inner)
        return renamed

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if last_name(node.value) == "Literal":
            return node
        self.generic_visit(node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._renamed(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self._renamed(node)

    def _renamed(self, node: ast.Name | ast.Attribute) -> ast.expr:
        found = self.view.lookup(self.module, node)
        if found is None or found.item is None:
            return node
        if found.item.kind != "class":
            bare = found.module in _BARE_MODULES
            return ast.Name(found.qualname, ast.Load()) if bare else node
        if self.key_of is None or found.module in _BARE_MODULES:
            return ast.Name(found.qualname, ast.Load())
        return ast.Name(self.key_of(found), ast.Load())
