"""The one typed query form that every question compiles to, whatever its knowledge base.

A query is a small graph: variables (sets of entities), constraints (relations between two
variables, or a value that a variable has), targets, and an aggregation over the targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Aggregate(StrEnum):
    """What is done with the entities that satisfy a query."""

    LIST = "list"  # name them
    ASK = "ask"  # yes or no: is there one
    COUNT = "count"  # how many
    MOST = "most"  # which target has the most of `counted`
    LEAST = "least"  # which target has the fewest of `counted`
    QUALIFIER = "qualifier"  # what the fact's data says ("how often")
    ALIASES = "aliases"  # other names of the target
    DESCRIBE = "describe"  # what the base says about the target
    RANK = "rank"  # targets by how well they explain the constraints
    SOLVE = "solve"  # the target's value, from the values given


@dataclass(frozen=True, slots=True)
class Value:
    """A number with its unit as found in the question; `start` and `end` are character offsets."""

    magnitude: float
    unit: str
    text: str
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Var:
    """A set of entities: constants (`ids`), or those of a kind, narrowed by a description.

    `label` is what the question calls it; `text` describes it in words to be matched.
    """

    name: str
    kinds: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    label: str = ""
    text: str = ""
    ordinal: int = 0
    plural: bool = True
    value: Value | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the question names the entities."""
        return bool(self.ids)


@dataclass(frozen=True, slots=True)
class Constraint:
    """`subject` -relation-> `object` between two variables.

    `closure` follows the relation to any depth; `stated` tells that the question has words for it.
    `where` compares what a fact tells about itself: ("frequency", "Very frequent").
    """

    subject: str
    relation: str
    object: str
    negated: bool = False
    closure: bool = False
    stated: bool = True
    where: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Query:
    """What a question asks.

    `limit` compares the number of `counted` with a bound: (">", 3).
    """

    variables: tuple[Var, ...]
    constraints: tuple[Constraint, ...]
    targets: tuple[str, ...]
    aggregate: Aggregate = Aggregate.LIST
    counted: str = ""
    qualifier: str = ""
    limit: tuple[str, int] | None = None
    unexplained: tuple[str, ...] = field(default=())

    def var(self, name: str) -> Var:
        """Return a variable by name."""
        return next(var for var in self.variables if var.name == name)

    def describe(self) -> str:
        """Return the query as one line of text, as the explanation shows it."""
        return (
            f"{self.aggregate.value} {', '.join(map(self._show, self.targets))}"
            + "".join(
                f" ∧ {'¬' if constraint.negated else ''}{constraint.relation}{'*' if constraint.closure else ''}"
                f"({self._show(constraint.subject)}, {self._show(constraint.object)})"
                + (f" with {constraint.where[0]} = {constraint.where[1]}" if constraint.where[0] else "")
                for constraint in self.constraints
            )
            + "".join(f" ∧ {var.label} = {var.value.text}" for var in self.variables if var.value)
        )

    def _show(self, name: str) -> str:
        var = self.var(name)
        shown = f"“{var.label}”" if var.is_constant or not var.kinds else "?" + "|".join(var.kinds)
        extra = f" ~ “{var.text}”" if var.text else ""
        return shown + (f" #{var.ordinal}" if var.ordinal else "") + extra
