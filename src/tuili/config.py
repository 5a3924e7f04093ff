"""Configurations: frozen, keyword-only dataclasses that `a.b=c` texts override. Standard library only.

A value is read by the type of its field: int, float, bool, str, Path, `X | None` (none), `Literal`, and
`tuple[X, ...]` (values between commas). A field that is a mapping keeps the types of the values it holds, and takes new
keys, whose values are read as JSON, or as texts where they are none; who uses the mapping says whether they make sense.
Any other name that isn't there is refused with the one that may be meant.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tuili.errors import UsageError

Config = TypeVar("Config")
TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Return a configuration with some of its settings replaced, all at once; the given one stays as it is.

    Args:
        config: a dataclass, with dataclasses inside.
        assignments: texts such as `training.lr=3e-4`; of two for the same setting the later one counts.

    Raises:
        UsageError: a text is no assignment, a setting is unknown, or a value is not of its type.
    """
    values: dict[str, str] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise UsageError(f"{text!r} sets nothing; write it as name=value, such as training.lr=3e-4")
        values[path.strip()] = value.strip()
    return _replaced(config, values, "") if values else config


def to_dict(config: Any) -> Any:
    """Return a configuration as what JSON can hold: objects, lists, texts for paths."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def closest(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the one that may be meant, or all there are."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"


def _replaced(config: Any, values: Mapping[str, str], prefix: str) -> Any:
    """Return a group of settings with new values; `values` has them by their path below `prefix`."""
    groups: dict[str, dict[str, str]] = {}
    for path, text in values.items():
        name, _, rest = path.partition(".")
        names = _names(config, prefix + path)
        if name not in names and not isinstance(config, Mapping):
            raise UsageError(f"there is no setting {prefix + path!r}; {closest(name, names)}")
        groups.setdefault(name, {})[rest] = text
    new = {name: _changed(config, name, inner, prefix + name) for name, inner in groups.items()}
    return {**config, **new} if isinstance(config, Mapping) else dataclasses.replace(config, **new)


def _changed(config: Any, name: str, values: dict[str, str], whole: str) -> Any:
    if isinstance(config, Mapping) and name not in config:
        return _new(values, whole)
    old = config[name] if isinstance(config, Mapping) else getattr(config, name)
    if "" not in values:
        return _replaced(old, values, f"{whole}.")
    if dataclasses.is_dataclass(old) or isinstance(old, Mapping):
        some = next(iter(_names(old, whole)), "NAME")
        raise UsageError(f"{whole!r} is a group of settings; set one of them: {whole}.{some}")
    return _parsed(values[""], _wanted(config, name, old), whole)


def _new(values: dict[str, str], whole: str) -> Any:
    """Return the value of a key that a mapping did not have: JSON or a text, or a mapping if names follow the key."""
    if "" not in values:
        return _replaced({}, values, f"{whole}.")
    try:
        return json.loads(values[""])
    except ValueError:
        return values[""]


def _names(config: Any, whole: str) -> list[str]:
    if isinstance(config, Mapping):
        return list(config)
    if dataclasses.is_dataclass(config):
        return [field.name for field in dataclasses.fields(config) if field.init]
    raise UsageError(f"{whole!r} names a setting inside of {config!r}, which has none; leave out what follows the dot")


def _wanted(config: Any, name: str, old: Any) -> Any:
    if isinstance(config, Mapping):
        is_list = isinstance(old, list | tuple)
        return types.GenericAlias(tuple, (type(old[0]) if old else str, ...)) if is_list else type(old)
    return typing.get_type_hints(type(config))[name]


def _parsed(text: str, wanted: Any, whole: str) -> Any:
    """Return the value that a text stands for."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        return _one_of(text, inner, whole)
    if origin is typing.Literal:
        if text not in inner:
            raise UsageError(f"{whole} can't be {text!r}; {closest(text, map(str, inner))}")
        return text
    if origin is tuple:
        return tuple(_parsed(part.strip(), inner[0], whole) for part in text.split(",") if part.strip())
    try:
        return _plain(text, wanted)
    except (KeyError, ValueError, OverflowError) as error:
        kind = getattr(wanted, "__name__", str(wanted))
        raise UsageError(f"{whole} must be {_article(kind)}, not {text!r}") from error


def _one_of(text: str, kinds: tuple[Any, ...], whole: str) -> Any:
    if types.NoneType in kinds and text.lower() in ("none", ""):
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others[:-1]:
        try:
            return _parsed(text, kind, whole)
        except UsageError:
            continue
    return _parsed(text, others[-1], whole)


def _plain(text: str, wanted: Any) -> Any:
    if wanted is bool:
        return TRUTHS[text.lower()]
    if wanted is types.NoneType:
        raise ValueError(text)
    if wanted in (int, float, str, Path):
        return wanted(text)
    raise ValueError(f"{wanted} can't be given as a text")


def _article(kind: str) -> str:
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": "left as none"}
    return names.get(kind, f"a {kind}")
