"""The lock of a base's file: shared by those who open or write it, alone for the one who replaces it.

SQLite's own locks don't cover a file that is replaced: what a writer commits to the old write-ahead log
would be read as part of the new base.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tuili.errors import StoreError

LOCK_TIMEOUT_S = 5.0
RETRY_S = 0.02


@contextlib.contextmanager
def file_lock(path: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold the lock of the base at `path`; the kernel lets go of it when the process ends.

    Does nothing where nobody can replace the file: in a folder that can't be written, and on Windows,
    which refuses to replace a file that is open.

    Raises:
        StoreError: others held the lock for `LOCK_TIMEOUT_S`.
    """
    if sys.platform == "win32" or not os.access(path.parent, os.W_OK):
        yield
        return
    try:
        handle = os.open(path.with_name(f".{path.name}.use"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"can't lock {path}: {error.strerror}; check the folder's rights") from error
    try:
        _wait(handle, path, alone)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, path: Path, alone: bool) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"knowledge base {path.name} is in use by another process that "
                    f"{'writes to' if alone else 'replaces'} it; waited {LOCK_TIMEOUT_S:g} s, try again later"
                ) from error
            time.sleep(RETRY_S)
