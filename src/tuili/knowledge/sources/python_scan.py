"""Reads one Python file, source or stub, into the definitions it holds. Nothing is imported or run."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable, Iterator

from tuili.knowledge.sources.python_model import (
    KEYWORD_ONLY,
    POSITIONAL,
    POSITIONAL_ONLY,
    VARIADIC,
    VARIADIC_KEYWORD,
    Item,
    Module,
    Parameter,
    Signature,
    last_name,
    text_of,
)

_CONSTRUCTORS = ("__init__", "__new__")
_IGNORED_DECORATORS = {"setter", "deleter", "getter", "type_check_only"}
_FLAGS = {
    "staticmethod": "static",
    "classmethod": "class",
    "abstractclassmethod": "class",
    "property": "property",
    "cached_property": "property",
    "abstractproperty": "property",
    "DynamicClassAttribute": "property",
    "overload": "overload",
    "abstractmethod": "abstract",
    "dataclass": "dataclass",
}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Condition = Callable[[ast.expr], bool | None]


def scan(text: str | bytes, module: Module, condition: Condition) -> Module:
    """Fill `module` from its text; `condition` decides an `if` (None: both branches count).

    Raises:
        SyntaxError, ValueError, RecursionError: the text is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in strings of other people's files
        tree = ast.parse(text)
    module.doc = ast.get_docstring(tree) or ""
    _Scanner(module, condition).block(tree.body, module.items, sure=True)
    return module


def parse_signature(text: str) -> Signature:
    """Read "(a, /, b=1)"; `$self`, `$type` and `$module` are left out.

    Raises:
        SyntaxError: it is no signature.
    """
    inner = text.strip()
    if inner.startswith("($"):
        rest = inner[:-1].partition(",")[2].strip()
        inner = f"({rest.removeprefix('/').lstrip(', ')})"
    inner = inner.replace("<unrepresentable>", "...")
    node = ast.parse(f"def f{inner}: ...").body[0]
    if not isinstance(node, ast.FunctionDef):
        raise SyntaxError(f"not a signature: {text}")
    return signature_of(node, bound=False)


def signature_of(node: FunctionNode, *, bound: bool) -> Signature:
    """Return a function's signature; `bound` drops the first positional parameter (self, cls)."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults += arguments.defaults
    parameters = []
    for index, (arg, default) in enumerate(zip(positional, defaults, strict=True)):
        old_style = arg.arg.startswith("__") and not arg.arg.endswith("__")
        only = index < len(arguments.posonlyargs) or old_style
        parameters.append(_parameter(arg, POSITIONAL_ONLY if only else POSITIONAL, default))
    parameters = parameters[1:] if bound and positional else parameters
    if arguments.vararg:
        parameters.append(_parameter(arguments.vararg, VARIADIC, None))
    for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(_parameter(arg, KEYWORD_ONLY, default))
    if arguments.kwarg:
        parameters.append(_parameter(arguments.kwarg, VARIADIC_KEYWORD, None))
    return Signature(parameters, node.returns)


def _parameter(arg: ast.arg, kind: str, default: ast.expr | None) -> Parameter:
    name = arg.arg.removeprefix("__") if not arg.arg.endswith("__") else arg.arg
    return Parameter(name, kind, arg.lineno, default, arg.annotation)


class _Scanner:
    """Walks statements; `sure` is False where another branch may bind the same names."""

    def __init__(self, module: Module, condition: Condition) -> None:
        self.module = module
        self.condition = condition

    def block(self, body: Iterable[ast.stmt], into: dict[str, Item], *, sure: bool) -> None:
        for node in body:
            self.statement(node, into, sure)

    def statement(self, node: ast.stmt, into: dict[str, Item], sure: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self.function(node, into, sure)
        elif isinstance(node, ast.ClassDef):
            self.class_(node, into, sure)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr):
            self.assignment(node, into, sure)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.imports(node, into, sure)
        elif isinstance(node, ast.If):
            self.branch(node, into, sure)
        elif isinstance(node, ast.Try):
            self.block(node.body, into, sure=False)
            for handler in node.handlers:
                self.block(handler.body, into, sure=False)
            self.block([*node.orelse, *node.finalbody], into, sure=False)
        elif isinstance(node, ast.With):
            self.block(node.body, into, sure=sure)
        elif type(node).__name__ == "TypeAlias":  # the type statement of Python 3.12
            self.type_alias(node, into, sure)

    def branch(self, node: ast.If, into: dict[str, Item], sure: bool) -> None:
        if _is_main_guard(node.test):
            return
        truth = self.condition(node.test)
        if truth is not False:
            self.block(node.body, into, sure=sure and truth is True)
        if truth is not True:
            self.block(node.orelse, into, sure=sure and truth is False)

    def bind(self, item: Item, into: dict[str, Item], sure: bool) -> None:
        if not sure:
            item.flags.add("maybe")
        known = into.get(item.name)
        if known is None:
            into[item.name] = item
        elif sure:
            into[item.name] = item
            item.others = [*known.others, known] if item.kind == "import" else []
        else:
            known.others.append(item)

    def item(self, kind: str, name: str, node: ast.stmt) -> Item:
        return Item(kind, name, self.module.file, node.lineno)

    def function(self, node: FunctionNode, into: dict[str, Item], sure: bool) -> None:
        flags, skipped = _flags(node.decorator_list)
        in_class = into is not self.module.items
        if skipped or (in_class and _is_dunder(node.name) and node.name not in _CONSTRUCTORS):
            return
        signature = signature_of(node, bound=in_class and "static" not in flags)
        if isinstance(node, ast.AsyncFunctionDef):
            flags.add("async")
        known = into.get(node.name)
        if known is not None and "overload" in known.flags:
            self.overload(known, signature, node, flags)
            return
        item = self.item("function", node.name, node)
        item.doc, item.signatures, item.flags = ast.get_docstring(node) or "", [signature], flags
        self.bind(item, into, sure)

    def overload(self, known: Item, signature: Signature, node: FunctionNode, flags: set[str]) -> None:
        """Add one more overload, or the implementation, which comes first and ends the list."""
        if "overload" in flags:
            known.signatures.append(signature)
            return
        known.signatures.insert(0, signature)
        known.flags.discard("overload")
        known.flags |= {*flags, "implemented"}
        known.doc = ast.get_docstring(node) or known.doc
        known.line = node.lineno

    def class_(self, node: ast.ClassDef, into: dict[str, Item], sure: bool) -> None:
        flags, skipped = _flags(node.decorator_list)
        if skipped and not node.name.startswith("_"):
            return
        item = self.item("class", node.name, node)
        item.doc, item.bases, item.flags = ast.get_docstring(node) or "", list(node.bases), flags
        self.block(node.body, item.members, sure=True)
        self.bind(item, into, sure)

    def assignment(
        self,
        node: ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr,
        into: dict[str, Item],
        sure: bool,
    ) -> None:
        in_class = into is not self.module.items
        if not in_class and self.dunder_all(node, sure):
            return
        if isinstance(node, ast.AugAssign | ast.Expr):
            return
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if isinstance(node.value, ast.Name) and text_of(targets[0]) == "sys.modules[__name__]":
            self.stand_in(node.value.id, node.lineno)
        for name, exact in _target_names(targets):
            if _is_dunder(name) and in_class:
                continue
            item = self.item("value", name, node)
            item.value = node.value if exact else None
            item.annotation = node.annotation if isinstance(node, ast.AnnAssign) else None
            if in_class and node.value is None:
                item.flags.add("attribute")
            self.bind(item, into, sure)

    def stand_in(self, name: str, line: int) -> None:
        """Offer what another module offers: `sys.modules[__name__] = other` puts it in this one's place."""
        item = self.module.items.get(name)
        if item is not None and item.kind == "import":
            self.module.stars.append((".".join(filter(None, item.target)), line))
            self.module.exports = [ast.Attribute(ast.Name(name), "__all__")]

    def type_alias(self, node: ast.stmt, into: dict[str, Item], sure: bool) -> None:
        name, value = getattr(node, "name", None), getattr(node, "value", None)
        if isinstance(name, ast.Name) and isinstance(value, ast.expr):
            item = self.item("value", name.id, node)
            item.value = value
            self.bind(item, into, sure)

    def dunder_all(self, node: ast.stmt, sure: bool) -> bool:
        """Collect what a statement says of `__all__`; tell whether it speaks of it."""
        parts = _all_parts(node)
        if parts is None:
            return False
        if not sure:
            self.module.exports_are_complete = False
        if isinstance(node, ast.Assign | ast.AnnAssign):
            self.module.exports = []
        self.module.exports += parts
        return True

    def imports(self, node: ast.Import | ast.ImportFrom, into: dict[str, Item], sure: bool) -> None:
        for alias in node.names:
            if alias.name == "*" and isinstance(node, ast.ImportFrom):
                self.module.stars.append((self.module.absolute(node.module or "", node.level), node.lineno))
                continue
            item = self.item("import", alias.asname or alias.name.partition(".")[0], node)
            item.target = self.target(node, alias)
            if alias.asname == alias.name.rpartition(".")[2]:
                item.flags.add("exported")
            if item.name == "__all__":
                self.module.exports = [ast.Attribute(_dotted(item.target[0]), "__all__", ast.Load())]
            self.bind(item, into, sure)

    def target(self, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> tuple[str, str]:
        """Return the module and the name in it ("" for the module itself) that are imported."""
        if isinstance(node, ast.ImportFrom):
            return self.module.absolute(node.module or "", node.level), alias.name
        return (alias.name if alias.asname else alias.name.partition(".")[0]), ""


def _dotted(name: str) -> ast.expr:
    return ast.parse(name, mode="eval").body


def _flags(decorators: list[ast.expr]) -> tuple[set[str], bool]:
    names = {last_name(decorator) for decorator in decorators}
    flags = {_FLAGS[name] for name in names & set(_FLAGS)}
    others = names - set(_FLAGS)
    if others:
        flags.add("decorated")
    if any(name.lstrip("_")[:1].isupper() for name in others):
        flags.add("made")
    return flags, bool(names & _IGNORED_DECORATORS)


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_main_guard(test: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))


def _target_names(targets: Iterable[ast.expr]) -> Iterator[tuple[str, bool]]:
    """Yield each bound name, and whether the assigned value is exactly its own."""
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id, True
        elif isinstance(target, ast.Tuple | ast.List):
            yield from ((name, False) for name, _ in _target_names(target.elts))


def _all_parts(node: ast.stmt) -> list[ast.expr] | None:
    """Return the expressions a statement adds to `__all__`, None if it does not speak of it."""
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if "__all__" in (name for name, _ in _target_names(targets)):
            return [node.value] if node.value is not None else []
    if isinstance(node, ast.Expr) and isinstance(call := node.value, ast.Call):
        owner = text_of(call.func) if isinstance(call.func, ast.Attribute) else ""
        if owner == "__all__.extend":
            return list(call.args)
        if owner == "__all__.append":
            return [ast.List(list(call.args), ast.Load())]
    return None
