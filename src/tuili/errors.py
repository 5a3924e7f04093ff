"""The one exception tree of tuili. Standard library only.

TuiliError                  exit code 1
├── UsageError              2   an option or argument is wrong
├── InputError              3   a question, row or value is refused
│   └── LimitError          3   a written-down bound is exceeded
├── StoreError              4   a knowledge base is missing, damaged or locked
├── ModelFileError          4   a model file is missing, damaged or unsafe
├── DependencyError         1   an optional package is not installed
└── SourceError             4   an importer can't read what it was given
"""

from __future__ import annotations


class TuiliError(Exception):
    """Something went wrong that the user can act on.

    Every message says what happened, the value seen, the bound, and what to do next.
    """

    exit_code = 1


class UsageError(TuiliError):
    """An option or an argument is wrong or has no effect."""

    exit_code = 2


class InputError(TuiliError):
    """A question, a row or a value is refused."""

    exit_code = 3


class LimitError(InputError):
    """A written-down bound is exceeded."""


class StoreError(TuiliError):
    """A knowledge base is missing, damaged, locked or of another version."""

    exit_code = 4


class ModelFileError(TuiliError):
    """A model file is missing, damaged or unsafe."""

    exit_code = 4


class SourceError(TuiliError):
    """An importer can't read what it was given."""

    exit_code = 4


class DependencyError(TuiliError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. Run: pip install 'tuili[{extra}]'"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out: Python's own, or torch's on a GPU or the CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )
