"""tuili (推理): answers with a path that can be checked.

>>> import tuili
>>> tuili.Reasoner(kb="python").ask("default of maxsize in functools.lru_cache").text
'128'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuili.errors import (
        DependencyError,
        InputError,
        LimitError,
        ModelFileError,
        SourceError,
        StoreError,
        TuiliError,
        UsageError,
    )
    from tuili.model.sandwich import SandwichConfig, SandwichForCausalLM
    from tuili.porting.hf import port, unport
    from tuili.reason.answer import Answer
    from tuili.reason.dialogue import Dialogue
    from tuili.reasoner import Reasoner, ReasonerConfig

__version__ = "0.1.0"

_HOMES = {
    "Answer": "tuili.reason.answer",
    "Dialogue": "tuili.reason.dialogue",
    "Reasoner": "tuili.reasoner",
    "ReasonerConfig": "tuili.reasoner",
    "SandwichConfig": "tuili.model.sandwich",
    "SandwichForCausalLM": "tuili.model.sandwich",
    "port": "tuili.porting.hf",
    "unport": "tuili.porting.hf",
}
_ERRORS = (
    "DependencyError",
    "InputError",
    "LimitError",
    "ModelFileError",
    "SourceError",
    "StoreError",
    "TuiliError",
    "UsageError",
)

__all__ = [
    "Answer",
    "DependencyError",
    "Dialogue",
    "InputError",
    "LimitError",
    "ModelFileError",
    "Reasoner",
    "ReasonerConfig",
    "SandwichConfig",
    "SandwichForCausalLM",
    "SourceError",
    "StoreError",
    "TuiliError",
    "UsageError",
    "__version__",
    "port",
    "unport",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import tuili` costs nothing."""
    home = "tuili.errors" if name in _ERRORS else _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'tuili' has no attribute {name!r}; it has: {', '.join(__all__)}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
