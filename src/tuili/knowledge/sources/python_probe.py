"""Describes C modules of the standard library. Run as a script, in a process of its own.

Reads module names from standard input, imports each and writes one JSON object to standard
output: for each module its text, and for each public name its kind, docstring, text signature,
bases, members and (for plain constants) value. An object met a second time is an "import" that
points at the first place.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from typing import Any

_PLAIN = (bool, int, float, str, bytes, type(None))
_PROPERTIES = (types.GetSetDescriptorType, types.MemberDescriptorType, property)
_MAX_VALUE_CHARS = 500


def describe_modules(names: list[str]) -> dict[str, Any]:
    """Return what is known of each module that can be imported; those that can't are left out."""
    modules = {}
    for name in names:
        try:
            modules[name] = importlib.import_module(name)
        except Exception:  # an optional C module that lacks its library; the stubs still tell of it
            continue
    seen: dict[int, tuple[str, str]] = {}
    return {name: _describe_module(name, module, seen) for name, module in modules.items()}


def _describe_module(name: str, module: types.ModuleType, seen: dict[int, tuple[str, str]]) -> dict[str, Any]:
    members = {}
    own_name_first = sorted(vars(module), key=lambda key: (not _is_own_name(module, key), key))
    for key in own_name_first:
        if key.startswith("__") or isinstance(vars(module)[key], types.ModuleType):
            continue
        members[key] = _describe(name, key, vars(module)[key], seen)
    return {"doc": _text(module.__doc__), "names": members}


def _is_own_name(module: types.ModuleType, key: str) -> bool:
    """Tell OSError from its other name EnvironmentError."""
    return getattr(vars(module)[key], "__name__", key) == key


def _describe(module: str, name: str, value: object, seen: dict[int, tuple[str, str]]) -> dict[str, Any]:
    shared = isinstance(value, type) or callable(value)
    if shared and id(value) in seen:
        return {"kind": "import", "target": seen[id(value)]}
    if shared:
        seen[id(value)] = (module, name)
    if isinstance(value, type):
        return _describe_class(value)
    if callable(value):
        return _describe_function(value)
    return _describe_value(value)


def _describe_function(value: object, flags: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "kind": "function",
        "doc": _text(getattr(value, "__doc__", None)),
        "signature": _text(getattr(value, "__text_signature__", None)),
        "flags": list(flags),
    }


def _describe_value(value: object) -> dict[str, Any]:
    text = repr(value) if type(value) in _PLAIN else ""
    of_this_machine = any(place in text for place in (sys.prefix, sys.base_prefix) if len(place) > 1)
    return {"kind": "value", "value": "" if of_this_machine or len(text) > _MAX_VALUE_CHARS else text}


def _describe_class(value: type) -> dict[str, Any]:
    members = {}
    for key, member in sorted(vars(value).items()):
        if not key.startswith("_"):
            members[key] = _describe_member(value, key, member)
    return {
        "kind": "class",
        "doc": _text(vars(value).get("__doc__")),
        "signature": _text(getattr(value, "__text_signature__", None)),
        "bases": [f"{base.__module__}.{base.__qualname__}" for base in value.__bases__],
        "members": members,
    }


def _describe_member(owner: type, name: str, member: object) -> dict[str, Any]:
    if isinstance(member, type):
        return _describe_class(member)
    if isinstance(member, _PROPERTIES):
        return {"kind": "function", "doc": _text(member.__doc__), "flags": ["property"]}
    if isinstance(member, staticmethod):
        return _describe_function(member.__func__, ("static",))
    if isinstance(member, classmethod | types.ClassMethodDescriptorType):
        return _describe_function(getattr(owner, name), ("class",))
    if callable(member):
        return _describe_function(member)
    return _describe_value(member)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


if __name__ == "__main__":
    json.dump(describe_modules(json.load(sys.stdin)), sys.stdout)
