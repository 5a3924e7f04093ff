import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.config import override, to_dict
from tuili.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-3
    steps: int = 10
    tied: bool = False
    kind: Literal["cosine", "wsd"] = "cosine"
    end: int | None = None
    betas: tuple[float, ...] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "run"
    out: Path = Path("out")
    inner: Inner = field(default_factory=Inner)
    sizes: Mapping[str, Any] = field(default_factory=lambda: {"hidden_size": 64, "rope": 1e4, "kinds": ["a"]})


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("name=other", "name", "other"),
        ("out=a/b=c", "out", Path("a/b=c")),
        ("inner.lr=3e-4", "inner.lr", 3e-4),
        ("inner.lr=2", "inner.lr", 2.0),
        ("inner.steps=1_000", "inner.steps", 1000),
        ("inner.tied=Yes", "inner.tied", True),
        ("inner.tied=0", "inner.tied", False),
        ("inner.kind=wsd", "inner.kind", "wsd"),
        ("inner.end=7", "inner.end", 7),
        ("inner.end=none", "inner.end", None),
        ("inner.betas=0.8, 0.9", "inner.betas", (0.8, 0.9)),
        ("inner.betas=", "inner.betas", ()),
        (" inner.steps = 5 ", "inner.steps", 5),
    ],
)
def test_a_setting_is_replaced_by_a_value_of_its_type(assignment, path, value):
    config = Outer()
    found = override(config, [assignment])
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)
    assert config == Outer()


def test_a_mapping_takes_the_keys_it_has():
    changed = override(Outer(), ["sizes.hidden_size=128", "sizes.rope=5e5", "sizes.kinds=b,c", "inner.steps=3"])
    assert changed.sizes == {"hidden_size": 128, "rope": 5e5, "kinds": ("b", "c")}
    assert changed.inner.steps == 3 and Outer().sizes["hidden_size"] == 64


def test_a_mapping_takes_new_keys():
    changed = override(Outer(), ["sizes.heads=2", "sizes.kind=silu", "sizes.tied=true"])
    assert changed.sizes == {**Outer().sizes, "heads": 2, "kind": "silu", "tied": True}
    changed = override(Outer(), ["sizes.scaling.theta=5e5", 'sizes.scaling.kind="default"', "sizes.plan=[1, 2]"])
    assert changed.sizes == {**Outer().sizes, "scaling": {"theta": 5e5, "kind": "default"}, "plan": [1, 2]}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("inner.stps=3", "there is no setting 'inner.stps'; did you mean 'steps'?"),
        ("zzz=3", "there are: name, out, inner, sizes"),
        ("inner.steps=3.5", "inner.steps must be a whole number, not '3.5'"),
        ("inner.lr=fast", "inner.lr must be a number, not 'fast'"),
        ("inner.tied=maybe", "must be true or false"),
        ("inner.kind=cosin", "did you mean 'cosine'?"),
        ("inner.end=x", "must be a whole number"),
        ("inner.betas=1,x", "must be a number, not 'x'"),
        ("sizes.hidden_size=big", "must be a whole number"),
        ("inner=3", "is a group of settings; set one of them: inner.lr"),
        ("name.x=3", "which has none"),
        ("sizes.rope.theta=3", "which has none"),
        ("inner.steps", "sets nothing"),
        ("=3", "sets nothing"),
    ],
)
def test_what_is_not_a_setting_is_refused(assignment, message):
    with pytest.raises(UsageError) as caught:
        override(Outer(), [assignment])
    assert message in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class Pair:
    low: int = 1
    high: int = 2

    def __post_init__(self):
        if self.low > self.high:
            raise UsageError("low is over high")


def test_settings_that_belong_together_are_checked_together():
    assert override(Pair(), ["low=8", "high=9"]) == Pair(low=8, high=9)
    assert override(Pair(), ["high=9", "high=3"]).high == 3
    with pytest.raises(UsageError, match="over high"):
        override(Pair(), ["low=8"])


@given(st.integers(), st.floats(allow_nan=False), st.booleans())
def test_every_value_comes_back(steps, lr, tied):
    changed = override(Outer(), [f"inner.steps={steps}", f"inner.lr={lr!r}", f"inner.tied={tied}"])
    assert (changed.inner.steps, changed.inner.lr, changed.inner.tied) == (steps, lr, tied)


def test_to_dict_holds_what_json_can_hold():
    assert to_dict(Outer())["inner"]["betas"] == [0.9, 0.95] and to_dict(Outer())["out"] == "out"


def test_it_starts_without_anything_heavy():
    code = "import sys, tuili.config; print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
