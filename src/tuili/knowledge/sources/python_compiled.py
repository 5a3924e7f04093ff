"""What the C modules of the standard library say of themselves, read in one subprocess."""

from __future__ import annotations

import ast
import importlib.machinery
import inspect
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tuili.errors import SourceError
from tuili.knowledge.sources.python_model import Item, Module
from tuili.knowledge.sources.python_scan import parse_signature

_PROBE = Path(__file__).with_name("python_probe.py")
_TIMEOUT_S = 60
_LEFT_OUT = ("_test", "xx", "_xx", "_ctypes_test")


def c_module_names() -> list[str]:
    """Return the C modules of the running interpreter, builtins first, public names before private."""
    names = set(sys.builtin_module_names)
    for folder in (sysconfig.get_config_var("DESTSHARED"), str(Path(sys.base_prefix, "DLLs"))):
        if folder and Path(folder).is_dir():
            names |= {path.name.partition(".")[0] for path in Path(folder).iterdir() if _is_c(path)}
    names &= sys.stdlib_module_names
    kept = (name for name in names if not name.startswith(_LEFT_OUT))
    return sorted(kept, key=lambda name: (name != "builtins", name.startswith("_"), name))


def _is_c(path: Path) -> bool:
    return path.name.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


def read_compiled(names: Iterable[str]) -> dict[str, Module]:
    """Import C modules in a subprocess and return their definitions.

    Raises:
        SourceError: the subprocess fails or takes more than a minute.
    """
    command = [sys.executable, "-I", str(_PROBE)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(list(names)),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
            encoding="utf-8",
        )
        described = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SourceError(
            f"the C modules of {sys.executable} can't be described: {error}; "
            f"check that the command {' '.join(command)} runs"
        ) from error
    return {name: _module(name, facts) for name, facts in described.items()}


def _module(name: str, facts: dict[str, Any]) -> Module:
    file = f"{name} (compiled)"
    module = Module(name, file, is_package=False, doc=inspect.cleandoc(facts["doc"]), is_compiled=True)
    module.items = {key: _item(key, value, file) for key, value in facts["names"].items()}
    return module


def _item(name: str, facts: dict[str, Any], file: str) -> Item:
    item = Item(facts["kind"], name, file, 0, doc=inspect.cleandoc(facts.get("doc", "")))
    item.flags = set(facts.get("flags", ()))
    if item.kind == "import":
        module, attribute = facts["target"]
        item.target = (module, attribute)
    item.value = _expression(facts.get("value", ""))
    item.bases = [base for text in facts.get("bases", ()) if (base := _expression(text))]
    item.members = {key: _item(key, value, file) for key, value in facts.get("members", {}).items()}
    _add_signature(item, facts.get("signature", ""))
    return item


def _add_signature(item: Item, text: str) -> None:
    """Add what `__text_signature__` says; for a class it is that of its constructor."""
    try:
        signature = parse_signature(text) if text else None
    except (SyntaxError, ValueError):
        return
    if signature is None:
        return
    if item.kind == "class":
        item.members["__init__"] = Item("function", "__init__", item.file, 0, signatures=[signature])
    else:
        item.signatures = [signature]


def _expression(text: str) -> ast.expr | None:
    if not text:
        return None
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        return None
