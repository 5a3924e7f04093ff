"""The folder that `tuili port` writes: which model, how it is ported, and what was measured.

It holds no weights of the model, so it is opened with the model at hand, and only with that one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tuili.attention.plan import LayerPlan, Sparse
from tuili.errors import InputError, ModelFileError, StoreError, UsageError
from tuili.files import ensure_dir, sync
from tuili.model import packaged
from tuili.model.fetch import Progress
from tuili.model.hf import LanguageModel
from tuili.model.local import read_json
from tuili.porting import adapter as adapters
from tuili.porting.adapter import Adapter, fingerprint
from tuili.porting.hf import port

FORMAT = "tuili-port-1"
RECORD, ADAPTER = "tuili.json", "adapter.safetensors"
FILES = (RECORD, ADAPTER, "report.json", "report.txt", "layers.png")
SHIPPED = "shipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a folder says about a ported model.

    Attributes:
        model: the name, path or hub id that was given.
        fingerprint: of the model's weights.
        plan: how its layers read.
        adapter: the name of the file with gates; None: training-free.
        versions: of the packages that wrote it.
    """

    model: str
    fingerprint: str
    plan: LayerPlan
    adapter: str | None
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the record as the folder holds it."""
        return {
            "format": FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "plan": self.plan.to_dict(),
            "adapter": self.adapter,
            "versions": self.versions,
        }


def versions() -> dict[str, str]:
    """Return the versions that a record names."""
    return {name: version(name) for name in ("tuili", "torch", "transformers")}


def lasting_name(model: str) -> str:
    """Return the name of a model so that it holds in any working directory: a relative folder becomes absolute."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() and packaged.resolve(model) == path else model


def is_ported(folder: Path) -> bool:
    """Tell whether a folder was made by `tuili port`."""
    try:
        return read_json(folder / RECORD).get("format") == FORMAT
    except ModelFileError:
        return False


def find_adapter(model: PreTrainedModel, given: str | None, plan: LayerPlan | None) -> Adapter | None:
    """Return the adapter to port with; None: training-free.

    Args:
        model: the model.
        given: a file, or "shipped" for the adapter that comes with tuili; None: the shipped one if there is no plan.
        plan: takes the place of the adapter's own; gates of layers that it does not make sparse are left out.

    Raises:
        UsageError: no adapter is shipped for this model, or the plan makes no layer sparse that has a gate.
        ModelFileError: the file is missing, damaged, or for another model.
    """
    if given is None and plan is not None:
        return None
    path = adapters.shipped(model) if given in (None, SHIPPED) else Path(str(given))
    if path is None:
        if given == SHIPPED:
            raise UsageError("no adapter is shipped for this model; give a file of your own, or none")
        return None
    found = adapters.load(path, model)
    if plan is None:
        return found
    gates = {index: gate for index, gate in found.gates.items() if isinstance(plan.at(index), Sparse)}
    if not gates and not found.low_rank:
        raise UsageError(f"the plan makes no layer sparse that has a gate in {path}; leave the adapter out")
    return replace(found, gates=gates, plan=plan)


def read_record(folder: Path) -> Record:
    """Return what a folder says.

    Raises:
        ModelFileError: it was not made by `tuili port`, or is damaged.
    """
    found = read_json(folder / RECORD)
    if found.get("format") != FORMAT:
        raise ModelFileError(f"{folder} was not made by `tuili port`: its format is {found.get('format')!r}")
    try:
        adapter = found["adapter"]
        if adapter not in (None, ADAPTER):
            raise InputError(f"its adapter is {adapter!r}, not {ADAPTER!r}")
        return Record(
            model=_string(found, "model"),
            fingerprint=_string(found, "fingerprint"),
            plan=LayerPlan.from_dict(found["plan"]),
            adapter=adapter,
            versions=dict(found["versions"]),
        )
    except (KeyError, TypeError, ValueError, InputError, UsageError) as error:
        raise ModelFileError(f"{folder / RECORD} is damaged: {error}; make it anew with `tuili port`") from error


def port_as_recorded(model: PreTrainedModel, folder: Path, record: Record) -> None:
    """Port a model as a folder says.

    Raises:
        ModelFileError: the model is not the one that was ported, or the adapter is missing or damaged.
    """
    if (found := fingerprint(model)) != record.fingerprint:
        raise ModelFileError(
            f"{folder} is for another state of {record.model!r} (weights' sha256 {record.fingerprint}, yours {found}); "
            "make it anew with `tuili port`"
        )
    if record.adapter is not None:
        port(model, adapter=adapters.load(folder / record.adapter, model))
    else:
        port(model, record.plan)


def load(name: str, on_progress: Progress | None = None) -> tuple[LanguageModel, Path | None]:
    """Load the model of a folder that `tuili port` made, or any model by name, path or hub id; it is not ported yet.

    Returns it with the folder, which is None for any other model.

    Raises:
        ModelFileError: there is no such model or folder, or it is damaged.
    """
    folder = Path(name).expanduser()
    if not (folder / RECORD).is_file() or not is_ported(folder):
        return LanguageModel.load(name, on_progress=on_progress), None
    return LanguageModel.load(read_record(folder).model, on_progress=on_progress), folder


# -- writing -------------------------------------------------------------------------------------


def check_target(folder: Path, *, force: bool) -> None:
    """Check that a folder may be written, before time is spent on what goes into it.

    Raises:
        UsageError: it is a file, holds something that `tuili port` did not write, or is in use and `force` is not set.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; name another one")
    names = {path.name for path in folder.iterdir()}
    if names and (not is_ported(folder) or names - set(FILES)):
        other = sorted(names - set(FILES)) or [RECORD]
        raise UsageError(f"{folder} holds what `tuili port` did not write ({other[0]}); name another folder")
    if names and not force:
        raise UsageError(f"{folder} holds the port of a model; --force replaces it")


@contextlib.contextmanager
def staged(folder: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends well: a reader sees the old one or the new one.

    Raises:
        UsageError: as `check_target`.
        StoreError: the folder can't be written.
    """
    check_target(folder, force=force)
    parent = ensure_dir(folder.absolute().parent)
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}.new-") as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            yield new
            for path in (*new.iterdir(), new):
                sync(path)
            check_target(folder, force=force)
            if folder.exists():
                folder.rename(old)
            os.replace(new, folder)
            sync(parent)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"can't write {folder}: {error.strerror}; check its rights and the free space") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with line ends."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _string(found: Mapping[str, Any], key: str) -> str:
    if not isinstance(found[key], str):
        raise TypeError(f"{key!r} must be a text, not {found[key]!r}")
    return str(found[key])
