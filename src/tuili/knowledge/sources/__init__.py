"""Where facts come from: one importer per file, chosen by a source string.

`python` (the standard library), `python:PACKAGE`, `formulas`, `formulas:FOLDER`, `hpo`, `hpo:FOLDER`,
or a file of triples (.tsv or .jsonl, plain or gzipped). Importers are imported on use.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from tuili.errors import SourceError, UsageError
from tuili.knowledge.records import Record

# Stage, things done, things in all (0 if nobody knows).
OnProgress = Callable[[str, int, int], None]

BUILT_IN = {
    "python": "the standard library: functions, parameters, defaults, types, base classes",
    "formulas": "formulas of physics, chemistry, geometry and finance, with units and constants",
    "hpo": "diseases and their findings (Human Phenotype Ontology)",
}
TRIPLES = (".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz")

# Raised when an importer yields other records than before, so that old bases can be told from new ones.
_IMPORTER_VERSIONS = {"python": 1, "formulas": 1, "hpo": 1, "triples": 1}


def records_of(source: str, on_progress: OnProgress | None = None) -> Iterator[Record]:
    """Return the records of a source.

    Raises:
        UsageError: no importer reads such a source.
        SourceError: the importer can't read it.
        DependencyError: the importer's package is not installed.
    """
    importer, place = split_source(source)
    report = on_progress or (lambda stage, done, total: None)
    if importer == "python":
        return _python(place, report)
    if importer == "formulas":
        return _formulas(place)
    if importer == "hpo":
        return _hpo(place, report)
    return _triples(Path(place), report)


def split_source(source: str) -> tuple[str, str]:
    """Return the importer of a source string and what it is to read ("" for the built-in data).

    Raises:
        UsageError: no importer reads such a source.
    """
    importer, colon, place = source.partition(":")
    if source in BUILT_IN:
        return source, ""
    if importer in BUILT_IN and colon and place:
        return importer, place
    if source.endswith(TRIPLES):
        return "triples", source
    raise UsageError(
        f"no importer reads {source!r}; give python:PACKAGE, formulas:FOLDER, hpo:FOLDER "
        f"or a file that ends in {', '.join(TRIPLES)}"
    )


def origin_of(source: str) -> str:
    """Return what a base records about its source; it changes when a new build would differ."""
    importer, place = split_source(source)
    running = f", Python {platform.python_version()}" if importer == "python" else ""
    shown = shown_name(Path(place)) if importer != "python" else place
    return f"{importer}{f':{shown}' if shown else ''} (importer {_IMPORTER_VERSIONS[importer]}{running})"


def shown_name(path: Path) -> str:
    """Return a file's name as text, whatever the locale made of it."""
    return os.fsencode(path.name).decode("utf-8", errors="replace")


def _python(package: str, report: OnProgress) -> Iterator[Record]:
    from tuili.knowledge.sources.python import read_package, read_stdlib

    done = 0

    def on_module(module: str) -> None:
        nonlocal done
        done += 1
        report(f"reading {module}", done, 0)

    return read_package(package, on_progress=on_module) if package else read_stdlib(on_progress=on_module)


def _formulas(folder: str) -> Iterator[Record]:
    from tuili.knowledge.sources.formulas import read_formulas

    return read_formulas(_folder(folder) if folder else None)


def _hpo(folder: str, report: OnProgress) -> Iterator[Record]:
    from tuili.knowledge.sources.hpo import read_hpo

    return read_hpo(_folder(folder) if folder else None, on_progress=lambda phase, done: report(phase, done, 0))


def _triples(path: Path, report: OnProgress) -> Iterator[Record]:
    from tuili.knowledge.sources.triples import read_jsonl, read_tsv

    if not path.is_file():
        raise SourceError(f"there is no file {path}; give a file of triples")
    read = read_tsv if path.name.removesuffix(".gz").endswith(".tsv") else read_jsonl
    return read(path, on_progress=lambda phase, done: report(phase, done, 0))


def _folder(place: str) -> Path:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise SourceError(f"there is no folder {folder}; give one that holds the importer's files")
    return folder
