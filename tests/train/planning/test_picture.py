import builtins

import pytest

from tuili.errors import DependencyError, UsageError
from tuili.train.planning.cost import Job
from tuili.train.planning.devices import device, one_kind
from tuili.train.planning.models import preset
from tuili.train.planning.picture import draw
from tuili.train.planning.search import search


@pytest.fixture(scope="module")
def plan():
    job = Job(model=preset("smollm2-135m"), cluster=one_kind(device("a100-80"), 4), batch=32, seq=1024)
    return search(job)


def test_an_svg_shows_layouts_parts_and_memory(plan, tmp_path):
    pytest.importorskip("matplotlib")
    draw(plan, tmp_path / "layouts.svg")
    text = (tmp_path / "layouts.svg").read_text(encoding="utf-8")
    for wanted in ("smollm2-135m on 4 x a100-80", "products", "activations", "micro-batch", "seconds of a step", "MFU"):
        assert wanted in text


def test_a_png_is_written(plan, tmp_path):
    pytest.importorskip("matplotlib")
    draw(plan, tmp_path / "layouts.PNG")
    assert (tmp_path / "layouts.PNG").read_bytes().startswith(b"\x89PNG")


def test_other_endings_are_refused(plan, tmp_path):
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        draw(plan, tmp_path / "layouts.pdf")


def test_without_matplotlib_the_extra_is_named(plan, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DependencyError, match="draw"):
        draw(plan, tmp_path / "layouts.svg")
