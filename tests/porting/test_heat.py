import struct
import sys

import numpy as np
import pytest

from tuili import DependencyError
from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget
from tuili.porting import heat
from tuili.porting.heat import Word, draw, words_along
from tuili.porting.measure import measure

PLAN = LayerPlan(
    default=Sparse(budget=Budget(block=4, keep=6, sink=1, local=2)),
    layers={0: Dense(), 2: Sparse(budget=Budget(block=8, keep=6, sink=1, local=2))},
    crossover=50,
)


class Words:
    """A tokenizer whose tokens are words of a list."""

    def __init__(self, text):
        self.text = text.split()

    def decode(self, ids):
        return " ".join(self.text[at] for at in ids)


@pytest.fixture
def measured(make_decoder, tokens):
    return measure(make_decoder("llama"), tokens(1, 203)[0], layers=PLAN)


def size(path):
    return struct.unpack(">II", path.read_bytes()[16:24])


def test_the_picture_is_a_png_of_the_same_bytes_each_time(measured, tmp_path):
    words = [Word(0, "first"), Word(100, "$middle$")]
    for name in ("a.png", "b.png"):
        draw(measured, words, tmp_path / name, "tiny reads $a$ text")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    width, height = size(tmp_path / "a.png")
    assert width == heat.WIDTH_INCHES * heat.DPI and 400 < height < 1000


def test_each_layer_is_a_row_of_its_own_blocks(measured):
    axes, _ = heat._axes(3)
    meshes = [heat._paint_row(axes, index, measured.kept.get(index), 203) for index in range(3)]
    assert meshes[0] is None
    for index, mesh in enumerate(meshes[1:], 1):
        share = measured.kept[index].share
        shown = mesh.get_array()
        assert shown.shape == (1, len(share)) and (shown.mask[0] == np.isnan(share)).all()
        edges = mesh.get_coordinates()[0, :, 0]
        assert edges[0] == 0 and edges[-1] == 203 and edges[1] == measured.kept[index].block
        assert mesh.get_coordinates()[:, 0, 1].tolist() == [index - 0.5, index + 0.5]


def test_a_text_without_a_choice_is_drawn_as_such(make_decoder, tokens, tmp_path):
    found = measure(make_decoder("llama"), tokens(1, 40)[0], layers=PLAN)
    draw(found, [], tmp_path / "a.png", "short")
    assert size(tmp_path / "a.png")[0] > 0 and "no layer chose anything" in heat._about(found)


def test_words_are_readable_and_spread():
    text = "if x : return value # and so on " * 40
    found = words_along(Words(text), range(len(text.split())), 6)
    assert [word.text for word in found] == ["return"] * 6 or {word.text for word in found} <= {"return", "value"}
    places = [word.at for word in found]
    assert places == sorted(places) and min(np.diff(places)) > 20
    assert all(text.split()[word.at].startswith(word.text) for word in found)


def test_long_words_are_cut_and_signs_are_no_words():
    found = words_along(Words("!!! 123 x_ " + "a" * 40), range(4), 1)
    assert found == [] or found[0].text == "a" * heat.MAX_WORD
    assert words_along(Words("!!! 123 {}"), range(3), 1) == []


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"tuili\[draw\]"):
        heat.check()
