from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tuili.errors import SourceError
from tuili.knowledge.records import Edge, Kind, Node, Record, Relation
from tuili.knowledge.sources.formulas import BUILT_IN, read_formulas

COLLECTION = """
[[quantity]]
id = "speed"
name = "speed"
aliases = ["velocity"]
symbols = ["v"]
unit = "meter / second"
asks = ["how fast"]
cues = ["moving at"]
zero_cues = ["at rest"]

[[quantity]]
id = "final_velocity"
name = "final velocity"
unit = "kilometer / hour"
is_a = "speed"
role = "final"
positive = false

[[quantity]]
id = "wavelength"
name = "wavelength"
unit = "meter"

[[quantity]]
id = "frequency"
name = "frequency"
unit = "hertz"

[[quantity]]
id = "price"
name = "price"
unit = ""
money = true

[[formula]]
id = "wave"
name = "wave equation"
expr = "v = f*L"
where = {v = "speed", f = "frequency", L = "wavelength"}
topic = "waves"
scenario = ["wave"]
description = "Speed is frequency times wavelength."
source = "https://example.org/wave"
defaults = {v = "c"}
no_solve = ["L"]

[[constant]]
id = "c"
name = "speed of light"
aliases = ["light speed"]
symbols = ["c"]
quantity = "speed"
value = 299792458
unit = "m/s"
source = "https://example.org/c"

[[property]]
material = "water"
aliases = ["sea"]
quantity = "speed"
value = 1480.5
unit = "meter / second"

[[property]]
material = "water"
aliases = ["sea", "lake"]
quantity = "wavelength"
value = 1
unit = "cm"
"""


def read(folder: Path, text: str = COLLECTION) -> list[Record]:
    (folder / "some.toml").write_text(text, encoding="utf-8")
    return list(read_formulas(folder))


def nodes(records: list[Record]) -> dict[str, Node]:
    return {record.key: record for record in records if isinstance(record, Node)}


def edges(records: list[Record], relation: str) -> list[Edge]:
    return [record for record in records if isinstance(record, Edge) and record.relation == relation]


def test_quantities(tmp_path: Path) -> None:
    found = nodes(read(tmp_path))
    assert found["quantity:speed"] == Node(
        "quantity:speed", "quantity", "speed", "", ("velocity",), {
            "unit": "meter / second", "symbols": ["v"], "is_a": "", "role": "", "asks": ["how fast"],
            "cues": ["moving at"], "zero_cues": ["at rest"], "money": False, "positive": True, "counts": "",
            "dimension": "[length] / [time]",
        },
    )  # fmt: skip
    final = found["quantity:final_velocity"].data
    assert (final["dimension"], final["role"], final["positive"]) == ("[length] / [time]", "final", False)
    assert found["quantity:frequency"].data["dimension"] == "1 / [time]"
    assert found["quantity:price"].data["dimension"] == "[money]"


def test_what_counts_a_unit_has_its_dimension(tmp_path: Path) -> None:
    text = COLLECTION + '\n[[quantity]]\nid = "num_years"\nname = "years"\nunit = ""\ncounts = "year"\n'
    assert nodes(read(tmp_path, text))["quantity:num_years"].data["dimension"] == "[time]"


def test_formulas_constants_and_materials(tmp_path: Path) -> None:
    found = nodes(read(tmp_path))
    assert found["formula:wave"] == Node(
        "formula:wave", "formula", "wave equation", "Speed is frequency times wavelength.", (), {
            "expr": "v = f*L", "where": {"v": "speed", "f": "frequency", "L": "wavelength"}, "topic": "waves",
            "scenario": ["wave"], "source": "https://example.org/wave", "defaults": {"v": "c"},
            "no_solve": ["L"],
        },
    )  # fmt: skip
    constant = found["constant:c"]
    assert (constant.name, constant.aliases, constant.data["value"]) == (
        "speed of light",
        ("light speed",),
        299792458,
    )
    assert found["material:water"] == Node("material:water", "material", "water", "", ("sea", "lake"))


def test_edges(tmp_path: Path) -> None:
    records = read(tmp_path)
    assert edges(records, "is a") == [
        Edge("quantity:final_velocity", "is a", "quantity:speed", source="some.toml: quantity final_velocity")
    ]
    assert edges(records, "involves") == [
        Edge(
            "formula:wave",
            "involves",
            f"quantity:{quantity}",
            source="https://example.org/wave",
            data={"symbol": s},
        )
        for s, quantity in (("v", "speed"), ("f", "frequency"), ("L", "wavelength"))
    ]
    (value,) = edges(records, "value of")
    assert (value.subject, value.object, value.data) == (
        "constant:c", "quantity:speed", {"value": 299792458, "unit": "m/s"},
    )  # fmt: skip
    first, _ = edges(records, "has property")
    assert first == Edge(
        "material:water", "has property", "quantity:speed", source="some.toml: property water speed",
        data={"value": 1480.5, "unit": "meter / second"},
    )  # fmt: skip


def test_entries_may_be_spread_over_files(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[[property]]\nmaterial="x"\nquantity="speed"\nvalue=1\nunit="m/s"\n')
    assert "material:x" in nodes(read(tmp_path))


def swap(old: str, new: str) -> str:
    assert old in COLLECTION
    return COLLECTION.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "at", "reason"),
    [
        ("[[quantity", "some.toml", "can't read"),
        ("x = 1", "some.toml", "'x' is no table of entries"),
        ("[quantity]\nid = 1", "some.toml", "'quantity' is no table of entries"),
        ("quantity = [1]", "quantity 1", "is no table"),
        (swap("symbols", "symbol"), "quantity speed", "'symbol' is unknown"),
        (swap('unit = "meter / second"\n', ""), "quantity speed", "'unit' is missing"),
        (swap('name = "speed"', 'name = ""'), "quantity speed", "name is ''"),
        (swap('["velocity"]', '"velocity"'), "quantity speed", "aliases is 'velocity'"),
        (swap('["velocity"]', "[1]"), "quantity speed", "aliases is [1]"),
        (swap("money = true", "money = 1"), "quantity price", "money is 1"),
        (swap("value = 299792458", "value = nan"), "constant c", "value is nan"),
        (swap("value = 299792458", "value = true"), "constant c", "value is True"),
        (swap('"meter / second"', '"smoot / fortnight_"'), "quantity speed", "unknown to pint"),
        (swap('role = "final"', 'counts = "year"'), "quantity final_velocity", "counts needs a plain number"),
        (swap('"meter / second"', '"meter /"'), "quantity speed", "unknown to pint"),
        (swap('role = "final"', 'role = "last"'), "quantity final_velocity", "role is 'last'"),
        (swap('is_a = "speed"', 'is_a = "haste"'), "quantity final_velocity", "'haste' is defined nowhere"),
        (swap('is_a = "speed"', 'is_a = "frequency"'), "quantity final_velocity", "expected 1 / [time]"),
        (swap('is_a = "speed"', 'is_a = "final_velocity"'), "quantity final_velocity", "leads back"),
        (
            swap('id = "frequency"', 'id = "speed"'),
            "quantity speed",
            "given twice, before in some.toml: quantity",
        ),
        (swap('v = "speed",', 'v = "haste",'), "formula wave", "'haste' is defined nowhere"),
        (swap('v = "speed",', 'v = "frequency",'), "formula wave", "two symbols mean the same"),
        (swap('expr = "v = f*L"', 'expr = "v = f*x"'), "formula wave", "has x, which where has not"),
        (swap('expr = "v = f*L"', 'expr = "v = f"'), "formula wave", "where has L, which"),
        (swap("where = {", "where = {} #"), "formula wave", "where is {}"),
        (swap('no_solve = ["L"]', 'no_solve = ["x"]'), "formula wave", "'x', which where has not"),
        (swap('defaults = {v = "c"}', 'defaults = {v = "g"}'), "formula wave", "'g' is no [[constant]]"),
        (swap('defaults = {v = "c"}', 'defaults = {f = "c"}'), "formula wave", "expected 1 / [time]"),
        (swap('unit = "m/s"', 'unit = "m"'), "constant c", "expected [length] / [time]"),
        (swap('unit = "cm"', 'unit = "s"'), "property water wavelength", "expected [length]"),
        (swap('quantity = "wavelength"', 'quantity = "speed"'), "property water speed", "given twice"),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(tmp_path: Path, text: str, at: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(tmp_path, text)
    assert "some.toml" in str(caught.value)
    assert at in str(caught.value)
    assert reason in str(caught.value)


def test_a_folder_without_formula_files_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SourceError, match=r"no \.toml file"):
            list(read_formulas(folder))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match=r"x\.toml"):
        list(read_formulas(tmp_path))


# The built-in collection, against counts made without the reader.


@pytest.fixture(scope="module")
def built_in() -> list[Record]:
    return list(read_formulas())


def test_every_built_in_entry_is_read(built_in: list[Record]) -> None:
    counts: Counter[str] = Counter()
    for path in BUILT_IN.glob("*.toml"):
        counts.update({table: len(entries) for table, entries in tomllib.loads(path.read_text("utf-8")).items()})
    kinds = Counter(node.kind for node in nodes(built_in).values())
    assert {kind: kinds[kind] for kind in ("quantity", "formula", "constant")} == {
        kind: counts[kind] for kind in ("quantity", "formula", "constant")
    }
    assert len(edges(built_in, "has property")) == counts["property"]


def test_built_in_facts_fit_the_domain_and_range_of_their_relation(built_in: list[Record]) -> None:
    kinds = {key: node.kind for key, node in nodes(built_in).items()}
    relations = {record.name: record for record in built_in if isinstance(record, Relation)}
    assert set(kinds.values()) <= {record.name for record in built_in if isinstance(record, Kind)}
    facts = [record for record in built_in if isinstance(record, Edge)]
    for edge in facts:
        assert kinds[edge.subject] in relations[edge.relation].domain
        assert kinds[edge.object] in relations[edge.relation].range
    assert len({(edge.subject, edge.relation, edge.object) for edge in facts}) == len(facts)


def test_water_and_light_are_built_in(built_in: list[Record]) -> None:
    values = {edge.subject: edge.data["value"] for edge in edges(built_in, "value of")}
    assert values["constant:speed_of_light"] == 299_792_458
    density = [
        edge.data["value"]
        for edge in edges(built_in, "has property")
        if (edge.subject, edge.object) == ("material:water", "quantity:density")
    ]
    assert density == [pytest.approx(1000, rel=0.01)]
