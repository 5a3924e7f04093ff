import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuili.errors import DependencyError, StoreError, UsageError
from tuili.reason.answer import Answer, Link, Number, Path, PathEdge, Pruned, Scored
from tuili.reason.layout import MAX_NODES, QUESTION, RESULT, picture_of, wrap
from tuili.reason.picture import draw
from tuili.reason.picture_html import page

PNG = b"\x89PNG\r\n\x1a\n"
EVIL = "<script>alert('x')</script>\"&$a_b$ \\frac ü 推理"


def example(**changes):
    answer = Answer(
        "Which parameter of json.dumps controls indentation?",
        "indent",
        "python",
        (Scored("indent", 0.9),),
        confidence=0.9,
        links=(Link("json.dumps", ("json.dumps",), "name", 1.0),),
        paths=(Path((PathEdge("json.dumps", "has parameter", "indent", 0.8, {"prior": 0.7}, "json.py:1"),), 0.8),),
        pruned=(
            Pruned("sort_keys", 0.2, "fits less"),
            Pruned("cls", 0.1, "fits less", PathEdge("json.dumps", "has parameter", "cls")),
        ),
    )
    return replace(answer, **changes)


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", PNG), ("html", b"<!doctype html>")])
def test_each_kind_of_file_is_written(tmp_path, suffix, start):
    draw(example(), tmp_path / f"a b ü.{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"a b ü.{suffix}"]
    assert (tmp_path / f"a b ü.{suffix}").read_bytes().startswith(start)


def test_svg_is_xml_with_the_names(tmp_path):
    draw(example(), tmp_path / "g.svg")
    ElementTree.parse(tmp_path / "g.svg")
    text = (tmp_path / "g.svg").read_text()
    assert "indent" in text and "sort_keys" in text


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def read(html):
    reader = Reader()
    reader.feed(html)
    return reader


def test_the_page_is_whole_and_needs_nothing_from_outside():
    html = page(example())
    reader = read(html)
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html
    assert "script" not in reader.tags and "link" not in reader.tags
    assert not [value for name, value in reader.attributes if name in ("src", "href")]
    assert "url(" not in html and "@import" not in html
    for text in ("indent", "has parameter 0.80", "json.py:1", "prior 0.70", "fits less", "show what was pruned"):
        assert text in reader.text
    ElementTree.fromstring(re.search(r"<svg.*?</svg>", html, re.DOTALL).group())


def test_the_table_has_the_weights_that_the_picture_has():
    html = page(example())
    assert "<td>0.80 (prior 0.70)</td><td>json.py:1</td>" in html
    assert "<td>cls</td><td>0.10</td><td>pruned: fits less</td>" in html


def test_an_abstention_claims_no_confidence(tmp_path):
    draw(example(abstained=True, confidence=0.0), tmp_path / "g.svg")
    text = (tmp_path / "g.svg").read_text()
    assert "abstained" in text and "confidence" not in text


def test_everything_is_escaped(tmp_path):
    edge = PathEdge(EVIL, EVIL, EVIL + "2", 0.5, {EVIL: 0.5}, EVIL)
    answer = Answer(
        EVIL,
        EVIL,
        EVIL,
        (Scored(EVIL, 1.0),),
        links=(Link(EVIL, (EVIL,), EVIL, 1.0),),
        paths=(Path((edge,)),),
        pruned=(Pruned(EVIL + "3", 0.1, EVIL, edge),),
        notes=(EVIL,),
    )
    reader = read(page(answer))
    assert "script" not in reader.tags and EVIL in reader.text
    for suffix in ("svg", "png"):
        draw(answer, tmp_path / f"evil.{suffix}")


def test_a_notebook_gets_a_fragment():
    html = example()._repr_html_()
    assert html.startswith('<div class="tuili">') and "<html" not in html


def test_answers_are_marked_and_pruned_ones_hang_beside_them():
    picture = picture_of(example())
    roles = {key: box.role for key, box in picture.boxes.items()}
    assert roles == {
        QUESTION: "question",
        "json.dumps": "constant",
        "indent": "answer",
        "sort_keys": "pruned",
        "cls": "pruned",
    }
    pruned = {curve.end: (curve.start, curve.label, curve.reason) for curve in picture.curves if curve.is_pruned}
    assert pruned == {"sort_keys": ("json.dumps", "", "fits less"), "cls": ("json.dumps", "has parameter", "fits less")}
    assert picture.boxes["indent"].layer == picture.boxes["cls"].layer == 2


def test_a_number_becomes_a_box_of_its_own():
    edges = (
        PathEdge("3 m", "is the", "length"),
        PathEdge("length", "l in", "area: a = l**2"),
        PathEdge("area: a = l**2", "gives", "area"),
    )
    answer = Answer("How large?", "area = 9 m²", "formulas", value=Number(9, "meter ** 2"), paths=(Path(edges),))
    picture = picture_of(answer)
    assert picture.boxes[RESULT].lines == ("area = 9 m²",)
    assert [curve.start for curve in picture.curves if curve.end == RESULT] == ["area"]
    assert [curve.end for curve in picture.curves if curve.start == QUESTION] == ["3 m"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer("x", "no supported answer: nothing", "films", abstained=True),
        Answer("x", "no supported answer: nothing", "films", abstained=True, links=(Link("a", ("A",), "name", 1.0),)),
        Answer("x", "Yes", "films"),
        Answer("x", "A, B", "films", (Scored("A", 1.0), Scored("B", 1.0))),
        Answer("x", "A", "films", (Scored("A", 1.0),), paths=(Path((PathEdge("A", "is a", "A"),)),)),
        Answer(
            "x", "A", "films", (Scored("A", 1.0),), paths=(Path((PathEdge("A", "r", "B"), PathEdge("B", "r", "A"))),)
        ),
    ],
)
def test_scanty_and_cyclic_answers_can_be_drawn(tmp_path, answer):
    for suffix in ("html", "png"):
        draw(answer, tmp_path / f"g.{suffix}")


def test_no_more_than_the_most_boxes_are_drawn_and_the_rest_is_counted():
    paths = tuple(Path((PathEdge("a", "r", f"b{number}"),)) for number in range(100))
    answer = example(
        paths=paths, entities=tuple(Scored(f"b{number}", 1.0) for number in range(100)), links=(), pruned=()
    )
    picture = picture_of(answer)
    assert len(picture.boxes) == MAX_NODES and picture.num_left_out == 102 - MAX_NODES
    assert f"{picture.num_left_out} more entities are not drawn" in page(answer)


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=60).filter(str.strip)
edges = st.builds(PathEdge, names, names, names, st.floats(0, 1))


@given(st.lists(st.lists(edges, min_size=1, max_size=4), max_size=12), names)
def test_boxes_never_overlap_and_curves_join_them(paths, question):
    ends = [path[-1].object for path in paths]
    answer = Answer(
        question, "x", "kb", tuple(Scored(name, 1.0) for name in ends), paths=tuple(Path(tuple(path)) for path in paths)
    )
    picture = picture_of(answer)
    boxes = list(picture.boxes.values())
    for number, box in enumerate(boxes):
        assert box.x - box.width / 2 >= 0 and box.x + box.width / 2 <= picture.width
        assert box.y - box.height / 2 >= 0 and box.y + box.height / 2 <= picture.height
        for other in boxes[:number]:
            assert (
                abs(box.x - other.x) >= (box.width + other.width) / 2 - 1e-6
                or abs(box.y - other.y) >= (box.height + other.height) / 2 - 1e-6
            )
    for curve in picture.curves:
        assert len(curve.points) == 6
    page(answer)


@given(st.text())
def test_wrapped_names_lose_nothing_but_what_an_ellipsis_stands_for(text):
    lines = wrap(text)
    assert 1 <= len(lines) <= 4 and all(len(line) <= 60 for line in lines if " " in text or "." in text)


def test_other_endings_and_places_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"\.png"):
        draw(example(), tmp_path / "g.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        draw(example(), tmp_path / "file" / "g.html")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"tuili\[draw\]"):
        draw(example(), tmp_path / "g.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
