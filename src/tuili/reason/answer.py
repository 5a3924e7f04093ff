"""What an answer is made of: entities, paths, what was pruned, timings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tuili.knowledge.query import Query


@dataclass(frozen=True, slots=True)
class Link:
    """A mention of the question tied to entities: how, how surely, and to which."""

    text: str
    entities: tuple[str, ...]
    how: str
    score: float


@dataclass(frozen=True, slots=True)
class PathEdge:
    """One edge of a path as shown: names, relation, weight with its parts, source.

    An edge that is a fact of the base has the `keys` of its ends and the weight that the base states.
    """

    subject: str
    relation: str
    object: str
    weight: float = 1.0
    parts: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    keys: tuple[str, str] | None = None
    stated: float | None = None


@dataclass(frozen=True, slots=True)
class Path:
    """A chain of edges that supports an answer; `weight` is that of the whole chain (0 to 1)."""

    edges: tuple[PathEdge, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """A candidate that was left out, its weight and why."""

    entity: str
    weight: float
    reason: str
    edge: PathEdge | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer entity; `probability` is that of being part of the answer (0 to 1)."""

    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class Number:
    """A numeric answer; `unit` is a pint string, empty if the number has none."""

    magnitude: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Input:
    """What a formula's symbol stands for in a step of a derivation, and where its magnitude comes from.

    `how`: "given" (then `texts` are the question's own words, two where a difference is meant), "zero", "constant",
    "default", "property" (`stated_by` is the key of the constant or material), "formula" or "earlier" (an earlier step
    gives it), "remembered" (known from the conversation).
    """

    quantity: str
    magnitude: float
    how: str
    texts: tuple[str, ...] = ()
    stated_by: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One formula solved for one symbol. Inputs are in the plain units of their quantities (SI base units, or what
    the quantity counts), `magnitude` is in `unit`.

    `formula` is its key in the base; without one the step is a look-up or a change of units.
    """

    formula: str
    expr: str
    inputs: Mapping[str, Input]
    symbol: str
    quantity: str
    magnitude: float
    unit: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Inference:
    """An entity that a rule infers, which the base doesn't state.

    `keys`: where the rule's body begins and ends. `rule`: it in words. `counted`: its head, body, support and number of
    cases, as `tuili.reason.rulebook.rule_json` gives them. `confidence`: support over cases.
    """

    entity: str
    keys: tuple[str, str]
    rule: str
    counted: Mapping[str, Any]
    confidence: float


@dataclass(frozen=True)
class Answer:
    """The answer to a question, with its proof.

    With `inferences` the entities are inferred by rules; the paths are then the facts that rules follow.
    """

    question: str
    text: str
    kb: str
    entities: tuple[Scored, ...] = ()
    value: Number | None = None
    abstained: bool = False
    confidence: float = 0.0
    reason: str = ""
    nearest: tuple[str, ...] = ()
    query: Query | None = None
    links: tuple[Link, ...] = ()
    paths: tuple[Path, ...] = ()
    pruned: tuple[Pruned, ...] = ()
    notes: tuple[str, ...] = ()
    values: tuple[Number, ...] = ()
    steps: tuple[Step, ...] = ()
    inferences: tuple[Inference, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        """The places that state the facts used, in order of use."""
        return list(dict.fromkeys(edge.source for path in self.paths for edge in path.edges if edge.source))

    def _repr_html_(self) -> str:
        """Return the reasoning graph for a notebook."""
        from tuili.reason.picture import fragment

        return fragment(self)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as one JSON-ready object (the contract of `tuili ask --json`)."""
        return {
            "question": self.question,
            "answer": self.text,
            "entities": [{"name": item.name, "probability": round(item.probability, 4)} for item in self.entities],
            "value": _number(self.value) if self.value else None,
            "values": [_number(value) for value in self.values],
            "abstained": self.abstained,
            "confidence": round(self.confidence, 4),
            "reason": self.reason,
            "nearest": list(self.nearest),
            "kb": self.kb,
            "query": self.query.describe() if self.query else "",
            "links": [
                {
                    "text": link.text,
                    "entities": list(link.entities),
                    "how": link.how,
                    "score": round(link.score, 4),
                }
                for link in self.links
            ],
            "paths": [
                {"weight": round(path.weight, 4), "edges": [edge_json(edge) for edge in path.edges]}
                for path in self.paths
            ],
            "steps": [asdict(step) for step in self.steps],
            "inferences": [inference_json(one) for one in self.inferences],
            "pruned": [
                {"entity": item.entity, "weight": round(item.weight, 4), "reason": item.reason}
                | ({"edge": edge_json(item.edge)} if item.edge else {})
                for item in self.pruned
            ],
            "notes": list(self.notes),
            "sources": self.sources,
            "timings_ms": {name: round(value, 2) for name, value in self.timings_ms.items()},
        }


def edge_json(edge: PathEdge) -> dict[str, Any]:
    """Return an edge as a JSON-ready object."""
    return {
        "subject": edge.subject,
        "relation": edge.relation,
        "object": edge.object,
        "weight": round(edge.weight, 4),
        "parts": {name: round(part, 4) for name, part in edge.parts.items()},
        "source": edge.source,
    } | ({"keys": list(edge.keys), "stated": edge.stated} if edge.keys else {})


def inference_json(inference: Inference) -> dict[str, Any]:
    """Return an inference as a JSON-ready object."""
    return {
        "entity": inference.entity,
        "keys": list(inference.keys),
        "rule": inference.rule,
        **inference.counted,
        "confidence": round(inference.confidence, 4),
    }


def _number(value: Number) -> dict[str, Any]:
    return {"magnitude": value.magnitude, "unit": value.unit}
