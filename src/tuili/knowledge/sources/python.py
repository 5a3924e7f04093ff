"""Importer of Python packages: what their source and stubs say, read as text and never run."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tuili.errors import SourceError
from tuili.knowledge.records import Record
from tuili.knowledge.sources.python_compiled import c_module_names, read_compiled
from tuili.knowledge.sources.python_library import STDLIB_DIR, Library, is_stdlib
from tuili.knowledge.sources.python_model import is_private
from tuili.knowledge.sources.python_names import collect
from tuili.knowledge.sources.python_records import RecordMaker
from tuili.knowledge.sources.python_schema import schema

Progress = Callable[[str], None]

_LEFT_OUT = (
    {"antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "this", "turtledemo"}
    | {"genericpath", "nt", "ntpath", "nturl2path", "posix", "posixpath"}
    | {"sre_compile", "sre_constants", "sre_parse", "xxsubtype"}
) - {os.path.__name__}
_LEFT_OUT_INSIDE = frozenset({"test", "tests", "conftest", "__main__", "setup"})
_NO_SUBMODULES = frozenset({"encodings"})
_NUM_NEAR_NAMES = 5


def read_package(
    name: str,
    *,
    search_paths: Sequence[Path] | None = None,
    on_progress: Progress | None = None,
) -> Iterator[Record]:
    """Yield what one importable package or module offers, without running any of its code.

    `search_paths` are the folders to look in (default: `sys.path`); a module of the standard
    library is found too, if no `search_paths` are given. `on_progress` gets each module's name.

    Raises:
        SourceError: there is no such package; the message names similar ones.
    """
    if search_paths is None and name in sys.stdlib_module_names:
        return read_stdlib([name], on_progress=on_progress)
    if search_paths is None:
        search_paths = [Path(entry) for entry in sys.path if entry]
    roots = [root.resolve() for root in search_paths if root.is_dir()]
    modules = _modules_below(roots, name) if name.isidentifier() else []
    if not modules:
        raise SourceError(_no_such_package(name, roots))
    return _read(Library(roots), modules, on_progress)


def read_stdlib(modules: Sequence[str] | None = None, *, on_progress: Progress | None = None) -> Iterator[Record]:
    """Yield what the standard library of the running interpreter offers.

    `modules` limits it to some top-level modules. C modules are imported in one subprocess; Python
    modules are only read.

    Raises:
        SourceError: a name in `modules` is no module of the standard library, or the subprocess fails.
    """
    public = sorted(name for name in sys.stdlib_module_names if not is_private(name))
    tops = [name for name in public if name not in _LEFT_OUT] if modules is None else list(modules)
    for top in tops:
        if top not in public:
            raise SourceError(f"{top!r} is no module of the standard library{_near(top, public)}")
    names = {name for top in tops for name in _modules_below([STDLIB_DIR], top) or [top]}
    if "os" in tops:
        names.add(os.path.__name__)
    compiled = read_compiled(c_module_names())
    library = Library([STDLIB_DIR], compiled)
    return _read(library, sorted(name for name in names if _is_available(library, name)), on_progress)


def _is_available(library: Library, name: str) -> bool:
    """Tell whether a module exists here and needs no module of another platform."""
    if not library.has_source(name):
        return name in library.compiled
    module = library.source(name)
    items = module.items.values() if module else ()
    imported = {item.target[0] for item in items if "maybe" not in item.flags}
    return not any(_is_foreign(library, target) for target in imported if is_stdlib(target))


def _is_foreign(library: Library, name: str) -> bool:
    """Tell whether a module has neither source nor C code here, and its stub offers it nothing."""
    if library.source(name):
        return False
    stub = library.stub(name)
    return stub is not None and not stub.stars and not any(map(stub.offers, stub.items.values()))


def _read(library: Library, modules: Sequence[str], on_progress: Progress | None) -> Iterator[Record]:
    yield from schema()
    entities = collect(library, modules, on_progress or (lambda module: None))
    yield from RecordMaker(library, entities, modules).records()
    yield from library.bad


def _modules_below(roots: Sequence[Path], top: str) -> list[str]:
    """Return the public modules of a package in the first root that has it, with its stubs' own."""
    for root in roots:
        names = {top} if any((root / f"{top}{suffix}").is_file() for suffix in (".py", ".pyi")) else set()
        for folder in (root / top, root / f"{top}-stubs"):
            names |= set(_modules_in(folder, top)) if folder.is_dir() else set()
        if names:
            return sorted(names)
    return []


def _modules_in(folder: Path, package: str) -> Iterator[str]:
    """Yield a folder's public modules, its own name first unless it is a namespace package."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".py", ".pyi") and path.is_file())
    if any(path.stem == "__init__" for path in files):
        yield package
    if package in _NO_SUBMODULES:
        return
    for path in files:
        if _is_public(path.stem):
            yield f"{package}.{path.stem}"
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name.isidentifier() and _is_public(inner.name):
            yield from _modules_in(inner, f"{package}.{inner.name}")


def _is_public(name: str) -> bool:
    return not name.startswith("_") and name not in _LEFT_OUT_INSIDE


def _no_such_package(name: str, roots: Sequence[Path]) -> str:
    known = {path.stem.removesuffix("-stubs") for root in roots for path in _code_in(root)}
    return (
        f"no package or module {name!r} is found in {len(roots)} folders"
        f"{_near(name, [*known, *sys.stdlib_module_names])}; install it first, "
        "and give the name used to import it, without dots"
    )


def _code_in(root: Path) -> Iterator[Path]:
    for path in root.iterdir():
        is_package = path.is_dir() and path.name.removesuffix("-stubs").isidentifier()
        if is_package or path.suffix in (".py", ".pyi"):
            yield path


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, sorted(set(known)), _NUM_NEAR_NAMES, cutoff=0.6)
    return f"; similar names: {', '.join(near)}" if near else ""
