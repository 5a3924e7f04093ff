"""Seeds torch, so that a failing case can be run again; the ways in which a call may run on this machine."""

import pytest
import torch

from tuili.attention import native, twin

try:
    BEST = native.load().best_level
except native.KernelMissingError:
    BEST = -1
PATHS = ["torch", *(name for name, level in native.LEVELS.items() if level <= BEST)]


@pytest.fixture(autouse=True)
def _seeded_torch() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["gathered", *PATHS])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way in which a call may run on this machine; the twin both dense and gathered."""
    if request.param == "gathered":
        monkeypatch.setattr(twin, "DENSE_FACTOR", 0)
    monkeypatch.setenv(native.VARIABLE, "torch" if request.param == "gathered" else request.param)
    return request.param


@pytest.fixture(params=range(BEST + 1), ids=lambda level: native.SHOWN[level])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Each level of the compiled kernel that this processor has, those that no variable names among them."""
    library = native.Library(native.load().handle, request.param)
    monkeypatch.setattr(native, "load", lambda: library)
    monkeypatch.delenv(native.VARIABLE, raising=False)
    return request.param
