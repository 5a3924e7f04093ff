"""What a run measures, as a file of JSON lines: one for each step and one for each evaluation.

Lines are appended whole. A run that resumes cuts off what came after its checkpoint, so that no step is there twice.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from tuili.errors import ModelFileError
from tuili.files import ensure_dir, write_text


class Metrics:
    """The file of a run's metrics.

    Args:
        path: of the file.
        step: the step that the run resumes after; 0 begins the file anew.
        tell: called once if the file can't be written; the run goes on without it.
    """

    def __init__(self, path: Path, step: int, tell: Callable[[str], None]) -> None:
        self.path = path
        self._tell: Callable[[str], None] | None = tell
        ensure_dir(path.parent)
        kept = [row for row in read(path) if row["step"] <= step] if step and path.exists() else []
        write_text(path, "".join(_line(row) for row in kept))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it needs a `step`. A line that does not fit on the disk is taken back whole."""
        try:
            with self.path.open("ab", buffering=0) as file:
                _append(file, _line(row).encode())
        except OSError as error:
            if self._tell is not None:
                self._tell(f"can't write {self.path}: {error.strerror}; the training goes on, its metrics are lost")
            self._tell = None


def _append(file: FileIO, line: bytes) -> None:
    """Write a line to the end of a file, or nothing of it."""
    end = file.seek(0, os.SEEK_END)
    try:
        written = file.write(line)
        if written != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        file.truncate(end)
        raise


def _line(row: Mapping[str, Any]) -> str:
    """Return a row as a line; what is not finite becomes null, which JSON can hold."""
    sound = {key: None if isinstance(value, float) and value - value != 0 else value for key, value in row.items()}
    return json.dumps(sound, allow_nan=False) + "\n"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; a last line that was cut by a kill is left out.

    Raises:
        ModelFileError: the file can't be read, or a line before the last is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise ModelFileError(f"can't read {path}: {error.strerror}") from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise ValueError("no step")
        except (ValueError, TypeError, KeyError) as error:
            raise ModelFileError(
                f"{path}:{number} is no line of metrics; take the line out, or move the file away to begin it anew"
            ) from error
        rows.append(row)
    return rows
