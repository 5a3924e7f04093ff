"""Importer of formula collections: quantities, formulas, constants and material properties.

The built-in collection is in `knowledge/data/formulas`; the files' format is that of
`formula_files`. Keys are "quantity:ID", "formula:ID", "constant:ID" and "material:NAME".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tuili.knowledge.records import Edge, Kind, Node, Record, Relation
from tuili.knowledge.sources.formula_files import Collection, Entry, read_collection

BUILT_IN = Path(__file__).parent.parent / "data" / "formulas"

_NODE_FIELDS = {"at", "id", "name", "aliases", "description"}
_VALUE = ("value", "how large", "how big", "how much", "what is", "numerical value", "in units of")
_KINDS = (
    Kind(
        "quantity",
        "What can be measured or counted",
        ("quantity", "physical quantity", "variable", "magnitude", "parameter", "measure"),
    ),
    Kind(
        "formula",
        "An equation between quantities",
        ("formula", "equation", "law", "relation", "rule", "principle", "expression", "theorem"),
    ),
    Kind("constant", "A quantity with one fixed value", ("constant", "physical constant", "natural constant")),
    Kind(
        "material",
        "A substance with known properties",
        ("material", "substance", "medium", "metal", "liquid", "gas", "fluid", "solid"),
    ),
)
_RELATIONS = (
    Relation(
        "is a",
        "subtype",
        "A value of this quantity is a value of that",
        ("quantity",),
        ("quantity",),
        ("is a", "is an", "kind of", "type of", "form of", "sort of", "case of", "count as"),
        ("subtype", "kinds", "types", "forms", "special case"),
        transitive=True,
    ),
    Relation(
        "involves",
        "involved in",
        "A formula relates this quantity to others",
        ("formula",),
        ("quantity",),
        ("involve", "contain", "use", "relate", "connect", "link", "need", "depend on", "give", "compute", "calculate"),
        (
            "involved in",
            "used in",
            "occur in",
            "appear in",
            "contained in",
            "part of",
            "given by",
            "computed with",
            "calculated with",
        ),
        qualifiers={"symbol": ("symbol", "letter", "which letter", "what symbol", "written as", "denoted")},
    ),
    Relation(
        "value of",
        "has value",
        "A constant is a value of this quantity",
        ("constant",),
        ("quantity",),
        ("value of", "is a value of", "constant for"),
        ("has value", "has constant"),
        qualifiers={"value": _VALUE, "unit": ("unit", "what unit", "measured in", "dimension")},
    ),
    Relation(
        "has property",
        "property of",
        "A material has this quantity",
        ("material",),
        ("quantity",),
        ("has property", "have", "has"),
        ("property of",),
        qualifiers={"value": _VALUE, "unit": ("unit", "what unit", "measured in", "dimension")},
    ),
)


def read_formulas(folder: Path | None = None) -> Iterator[Record]:
    """Yield the records of a folder of formula files, the built-in collection by default.

    Raises:
        DependencyError: pint is not installed.
        SourceError: a file or an entry is wrong; nothing was yielded then.
    """
    collection = read_collection(folder or BUILT_IN)
    yield from _KINDS
    yield from _RELATIONS
    for table in ("quantity", "formula", "constant"):
        for entry in getattr(collection, table).values():
            yield _node(table, entry)
    yield from _edges(collection)
    yield from _materials(collection)


def _node(kind: str, entry: Entry) -> Node:
    data = {key: value for key, value in entry.items() if key not in _NODE_FIELDS}
    aliases = tuple(entry.get("aliases", ()))
    return Node(f"{kind}:{entry['id']}", kind, entry["name"], entry.get("description", ""), aliases, data)


def _edges(collection: Collection) -> Iterator[Edge]:
    for entry in collection.quantity.values():
        if entry["is_a"]:
            yield Edge(f"quantity:{entry['id']}", "is a", f"quantity:{entry['is_a']}", source=entry["at"])
    for entry in collection.formula.values():
        for symbol, quantity in entry["where"].items():
            yield _edge(f"formula:{entry['id']}", "involves", quantity, entry, symbol=symbol)
    for entry in collection.constant.values():
        values = {"value": entry["value"], "unit": entry["unit"]}
        yield _edge(f"constant:{entry['id']}", "value of", entry["quantity"], entry, **values)


def _materials(collection: Collection) -> Iterator[Node | Edge]:
    aliases: dict[str, dict[str, None]] = defaultdict(dict)
    for entry in collection.property.values():
        aliases[entry["material"]].update(dict.fromkeys(entry["aliases"]))
        values = {"value": entry["value"], "unit": entry["unit"]}
        yield _edge(f"material:{entry['material']}", "has property", entry["quantity"], entry, **values)
    for material, names in aliases.items():
        yield Node(f"material:{material}", "material", material, aliases=tuple(names))


def _edge(subject: str, relation: str, quantity: str, entry: Entry, **data: object) -> Edge:
    return Edge(subject, relation, f"quantity:{quantity}", source=entry["source"] or entry["at"], data=data)
