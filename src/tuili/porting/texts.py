"""Texts that a decoder is measured, calibrated or distilled on: files, folders, and one that comes with Python."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tuili.errors import InputError

SUFFIXES = (".txt", ".py", ".md", ".json")
BUNDLED = "tarfile.py"
"""Not among the texts that the shipped gates learnt from, see recipes/distill_smollm2.py."""
MAX_FILE_BYTES = 64_000_000


def read_text(path: Path) -> str:
    """Return a file's text; of a .json file the field "text".

    Raises:
        InputError: the file is missing, too large, no UTF-8, empty, or JSON without a text.
    """
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_FILE_BYTES:
            raise InputError(f"{path} has {num_bytes} bytes, the limit is {MAX_FILE_BYTES}; give a part of it")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"can't read the text {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}; convert it first") from error
    text = _text_of_json(text, path) if path.suffix == ".json" else text
    if not text.strip():
        raise InputError(f"{path} holds no text; give a file that does")
    return text


def read_corpora(paths: Sequence[Path]) -> dict[str, str]:
    """Return one text for each path, by its name; a folder's files are joined in the order of their names.

    Raises:
        InputError: there is no path, two have one name, a folder holds no file of `SUFFIXES`, or as for `read_text`.
    """
    corpora: dict[str, str] = {}
    for path in paths:
        if str(path) in corpora:
            raise InputError(f"the text {path} is given twice; leave one out")
        corpora[str(path)] = _read_folder(path) if path.is_dir() else read_text(path)
    if not corpora:
        raise InputError("there is no text to read; give at least one file or folder")
    return corpora


def bundled_text() -> tuple[str, str]:
    """Return the name and the text of a source file of Python's standard library.

    Raises:
        InputError: this Python comes without its source.
    """
    path = Path(sysconfig.get_paths()["stdlib"]) / BUNDLED
    if not path.is_file():
        raise InputError(f"this Python has no source of {BUNDLED} to measure on; give a text of your own")
    return f"Python's {BUNDLED}", read_text(path)


def encode(tokenizer: Any, text: str) -> Tensor:
    """Return the token ids [n] of a text, without a warning about the model's window.

    Raises:
        InputError: the text has no token.
    """
    ids: Tensor = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    if not len(ids):
        raise InputError("the text has no token; give a longer one")
    return ids


def _read_folder(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"the folder {folder} holds no file that ends in {', '.join(SUFFIXES)}")
    return "\n\n".join(read_text(path) for path in files)


def _text_of_json(text: str, path: Path) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no sound JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise InputError(f'{path} must hold a JSON object with the field "text", a string')
    return str(value["text"])
