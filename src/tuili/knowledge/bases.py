"""The bases of this machine: built when first asked for, by one process at a time."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from tuili.errors import InputError, StoreError
from tuili.files import data_dir, ensure_dir
from tuili.knowledge.build import BuildReport, build
from tuili.knowledge.sources import BUILT_IN, OnProgress, origin_of, records_of
from tuili.knowledge.store import Store, base_names, base_path


def ensure_base(name: str, on_progress: OnProgress | None = None) -> Path:
    """Return the file of a base; a built-in one is built if it is missing.

    Raises:
        StoreError: there is no such base and none of this name is built in.
        DependencyError: building it needs a package that is not installed.
    """
    path = base_path(name)
    if path.is_file():
        return path
    if name not in BUILT_IN:
        raise no_such_base(name)
    with _locked(path):
        if not path.is_file():
            _build(path, name, False, on_progress)
    return path


def add_base(
    name: str, source: str, *, skip_bad: bool = False, replace: bool = False, on_progress: OnProgress | None = None
) -> BuildReport:
    """Build a base from a source.

    Raises:
        InputError: a base of this name is there and is not to be replaced, or a row is wrong.
        SourceError: the source can't be read.
    """
    path = base_path(name)
    origin_of(source)
    with _locked(path):
        if path.exists() and not replace:
            raise InputError(
                f"there is a knowledge base {name!r} already; replace it with --force, or delete it: tuili kb rm {name}"
            )
        return _build(path, source, skip_bad, on_progress)


def remove_base(name: str) -> None:
    """Delete a base.

    Raises:
        StoreError: there is no such base, or it can't be deleted.
    """
    path = base_path(name)
    if not path.is_file():
        raise no_such_base(name)
    try:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"can't delete {path}: {error.strerror}") from error


def is_current(name: str) -> bool:
    """Tell whether a base is there and would be built the same today."""
    return base_path(name).is_file() and not outdated(name)


def outdated(name: str) -> str:
    """Return why a built-in base should be built anew; "" if it should not."""
    if name not in BUILT_IN:
        return ""
    with Store.open(base_path(name)) as store:
        was, now = store.meta().get("origin", "unknown"), origin_of(name)
    return "" if was == now else f"built as {was}, a new build would be {now}"


def available() -> list[str]:
    """Return every base that a question can go to: the built-in ones, built or not, and the user's."""
    return [*BUILT_IN, *(name for name in base_names() if name not in BUILT_IN)]


def no_such_base(name: str) -> StoreError:
    """Return the error that says which bases there are and how one is added."""
    known = available()
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? There are: " if near else "there are: "
    return StoreError(
        f"there is no knowledge base {name!r}; {meant}{', '.join(known)}. One is added by: tuili kb add {name} SOURCE"
    )


def _build(path: Path, source: str, skip_bad: bool, on_progress: OnProgress | None) -> BuildReport:
    report = on_progress or (lambda stage, done, total: None)
    name = path.stem
    return build(
        path,
        records_of(source, report),
        origin=origin_of(source),
        skip_bad=skip_bad,
        on_progress=lambda stage, done: report(f"{name}: {stage} facts", done, 0),
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a base's file, so that two processes don't build it at once."""
    ensure_dir(data_dir())
    folder = ensure_dir(path.parent)
    try:
        with FileLock(folder / f".{path.name}.lock"):
            yield
    except OSError as error:
        raise StoreError(
            f"can't write to {folder}: {error.strerror or error}; free the disk, or set TUILI_HOME "
            "to a folder that can be written"
        ) from error
