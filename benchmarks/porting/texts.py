"""The texts: source, documentation in prose and, where it is at hand, an encyclopedia; or those of `--test`."""

from __future__ import annotations

import ast
import json
import sysconfig
from pathlib import Path

from runner import Options

PYTHON_FILE = "tarfile.py"
PROSE_FILES = ("pickletools.py", "doctest.py")
SOURCE_FILES = (PYTHON_FILE, *PROSE_FILES)
"""Of the standard library; not among the recipe's training texts, see recipes/distill_smollm2.py."""
WIKI_SHARE = 0.7
"""Of WikiText-2's validation part the recipe reads so much from the beginning; the rest is read here."""
MIN_PROSE = 200


def texts(options: Options) -> dict[str, str]:
    """Return the texts by name: those of `--test`, else ours; WikiText-2 needs `--data`."""
    if options.test is not None:
        files = [options.test] if options.test.is_file() else sorted(options.test.iterdir())
        return {path.stem: _read(path) for path in files if path.suffix in (".txt", ".json")}
    found = {"python": _library(PYTHON_FILE), "docs": prose()}
    if options.data is not None:
        text = (options.data / "text" / "wikitext2_valid.txt").read_text(encoding="utf-8")
        found["wiki"] = text[int(len(text) * WIKI_SHARE) :]
    return found


def prose() -> str:
    """Return the long strings of some modules of the standard library: their documentation."""
    return "\n\n".join(part for name in PROSE_FILES for part in long_strings(_library(name)))


def long_strings(source: str) -> list[str]:
    """Return the string literals of at least `MIN_PROSE` characters in Python source, in order."""
    constants = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    strings = [node for node in constants if isinstance(node.value, str) and len(node.value) >= MIN_PROSE]
    return [str(node.value) for node in sorted(strings, key=lambda node: (node.lineno, node.col_offset))]


def is_python(text: str) -> bool:
    """Tell whether a text is Python source."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def _library(name: str) -> str:
    return (Path(sysconfig.get_paths()["stdlib"]) / name).read_text(encoding="utf-8")


def _read(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return str(json.loads(text)["text"]) if path.suffix == ".json" else text
