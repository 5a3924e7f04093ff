"""Finds Python modules as files: sources, stubs beside them, and the standard library's stubs."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tuili.errors import DependencyError
from tuili.knowledge.records import BadRow
from tuili.knowledge.sources.python_model import Module
from tuili.knowledge.sources.python_scan import scan
from tuili.knowledge.sources.python_view import View

try:
    import typeshed_client
except ImportError as error:
    raise DependencyError("typeshed-client", "python", "reading Python packages") from error

_MAX_FILE_BYTES = 8 << 20

STDLIB_DIR = Path(sysconfig.get_path("stdlib"))


@dataclass
class Library:
    """The modules that can be read: below `roots` (folders), and the standard library's.

    `compiled` holds the C modules already described; files that can't be read are put into `bad`.
    """

    roots: Sequence[Path]
    compiled: Mapping[str, Module] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._context = typeshed_client.get_search_context(search_path=[])
        self._sources: dict[str, Module | None] = {}
        self._stubs: dict[str, Module | None] = {}

    def source(self, name: str) -> Module | None:
        """Return the module as its source or its C code defines it."""
        if name not in self._sources:
            path, root = self._source_path(name)
            read = self._read(name, path, root) if path and root else None
            self._sources[name] = read or self.compiled.get(name)
        return self._sources[name]

    def stub(self, name: str) -> Module | None:
        """Return the module as its stub declares it."""
        if name not in self._stubs:
            path, root, prefix = self._stub_path(name)
            self._stubs[name] = self._read(name, path, root, prefix) if path and root else None
        return self._stubs[name]

    def has_source(self, name: str) -> bool:
        """Tell whether the module has a source file below the roots."""
        return self._source_path(name)[0] is not None

    def _source_path(self, name: str) -> tuple[Path | None, Path | None]:
        for root in self.roots:
            if path := _file(root, name, ".py"):
                return path, root
        return None, None

    def _stub_path(self, name: str) -> tuple[Path | None, Path | None, str]:
        top, _, rest = name.partition(".")
        for root in self.roots:
            if path := _file(root, f"{top}-stubs" + (f".{rest}" if rest else ""), ".pyi"):
                return path, root, ""
            if path := _file(root, name, ".pyi"):
                return path, root, ""
        path = typeshed_client.get_stub_file(name, search_context=self._context)
        return path, self._context.typeshed, "typeshed/stdlib/"

    def _read(self, name: str, path: Path, root: Path, prefix: str = "") -> Module | None:
        shown = prefix + path.relative_to(root).as_posix()
        module = Module(name, shown, path.stem == "__init__", is_stub=path.suffix == ".pyi")
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise ValueError(f"larger than {_MAX_FILE_BYTES >> 20} MiB")
            return scan(path.read_bytes(), module, self._condition)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = getattr(error, "msg", None) or getattr(error, "strerror", None) or str(error)
            self.bad.append(BadRow(getattr(error, "lineno", None) or 0, f"can't be read: {reason}", shown))
            return None

    def _condition(self, test: ast.expr) -> bool | None:
        """Tell whether a version or platform test holds here; None if it is about something else."""
        try:
            return typeshed_client.evaluate_expression_truthiness(test, ctx=self._context, file_path=Path("source.py"))
        except (LookupError, TypeError, ValueError):
            return None

    @cached_property
    def sources(self) -> View:
        """Return names as they are at run time; modules without source are seen through their stubs."""
        return View(lambda name: self.source(name) or self.stub(name))

    @cached_property
    def stubs(self) -> View:
        """Return names as stubs declare them; modules without stub are seen through their source."""
        return View(lambda name: self.stub(name) or self.source(name))


def _file(root: Path, name: str, suffix: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base / f"__init__{suffix}", base.with_name(base.name + suffix)):
        if path.is_file():
            return path
    return None


def stdlib_roots() -> list[Path]:
    """Return the folder of the standard library's source."""
    return [STDLIB_DIR]


def is_stdlib(name: str) -> bool:
    """Tell whether a module belongs to the standard library of the running interpreter."""
    return name.partition(".")[0] in sys.stdlib_module_names
