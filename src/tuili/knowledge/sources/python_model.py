"""What one Python file defines: modules, items, signatures and parameters."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

POSITIONAL_ONLY = "positional-only"
POSITIONAL = "positional or keyword"
KEYWORD_ONLY = "keyword-only"
VARIADIC = "variadic positional"
VARIADIC_KEYWORD = "variadic keyword"


@dataclass(slots=True)
class Parameter:
    """One parameter as one signature writes it."""

    name: str
    kind: str
    line: int
    default: ast.expr | None = None
    annotation: ast.expr | None = None


@dataclass(slots=True)
class Signature:
    """One way to call a function; self and cls are left out."""

    parameters: list[Parameter]
    returns: ast.expr | None = None


@dataclass(slots=True)
class Item:
    """One name bound in a module or class body.

    `kind` is "class", "function", "value" or "import"; `others` are rival definitions of the
    same name that a condition or an `except` chooses between. `flags` may hold:
    "static", "class", "property", "abstract", "async", "dataclass";
    "overload" (only overloads so far), "implemented" (the first signature is the real one);
    "decorated" (in some other way), "made" (by a class, so that it is no function any more);
    "attribute" (annotated, without value);
    "exported" (`import x as x`), "maybe" (another branch may bind the name).
    """

    kind: str
    name: str
    file: str
    line: int
    doc: str = ""
    signatures: list[Signature] = field(default_factory=list)
    bases: list[ast.expr] = field(default_factory=list)
    members: dict[str, Item] = field(default_factory=dict)
    value: ast.expr | None = None
    annotation: ast.expr | None = None
    target: tuple[str, str] = ("", "")
    flags: set[str] = field(default_factory=set)
    others: list[Item] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Return file and line as an edge's source shows them."""
        return self.at(self.line)

    def at(self, line: int) -> str:
        """Return the place of a line of this item's file."""
        return f"{self.file}:{line}" if line else self.file


@dataclass(slots=True)
class Module:
    """The definitions of one file; `exports` holds parts of `__all__` still to be evaluated."""

    name: str
    file: str
    is_package: bool
    doc: str = ""
    items: dict[str, Item] = field(default_factory=dict)
    stars: list[tuple[str, int]] = field(default_factory=list)
    exports: list[ast.expr] = field(default_factory=list)
    exports_are_complete: bool = True
    is_stub: bool = False
    is_compiled: bool = False

    def offers(self, item: Item) -> bool:
        """Tell whether a star import brings an item; a stub keeps its plain imports for itself."""
        kept = self.is_stub and item.kind == "import" and "exported" not in item.flags
        return not kept and not item.name.startswith("_")

    def absolute(self, name: str, level: int) -> str:
        """Return the absolute name of a module imported with `level` leading dots."""
        if not level:
            return name
        parts = self.name.split(".")
        kept = parts[: len(parts) - level + (1 if self.is_package else 0)]
        return ".".join([*kept, name] if name else kept)


def text_of(expr: ast.expr) -> str:
    """Return an expression as Python text; one nested too deep to be written is "…"."""
    try:
        return ast.unparse(expr)
    except RecursionError:
        return "…"


def last_name(expr: ast.expr) -> str:
    """Return "property" for `property`, `abc.property` and `property(...)`, "" for anything else."""
    if isinstance(expr, ast.Call):
        expr = expr.func
    if isinstance(expr, ast.Attribute):
        return expr.attr
    return expr.id if isinstance(expr, ast.Name) else ""


def is_private(name: str) -> bool:
    """Tell whether any part of a dotted name has a leading underscore."""
    return any(part.startswith("_") for part in name.split("."))
