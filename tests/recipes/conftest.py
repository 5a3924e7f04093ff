"""Recipes are programs and not part of the package: a test loads the one it wants by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="session")
def load_recipe() -> Callable[[str], ModuleType]:
    """Return a function that runs a recipe's file and returns it as a module, a new one in each call."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
