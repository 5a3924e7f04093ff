"""A derivation as an answer: values with their chain of formulas, or what is missing."""

from __future__ import annotations

from typing import Any

from tuili.knowledge.graph import Graph
from tuili.reason.answer import Answer, Number
from tuili.reason.confidence import probability
from tuili.reason.worlds.derivations import Derivation


def conclude_derivation(derivation: Derivation, graph: Graph) -> Answer:
    """Return the answer that a derivation gives; it abstains when a quantity is missing or the chain is unsure."""
    confidence = probability("derivation", derivation.features) if derivation.is_solved else 0.0
    shared: dict[str, Any] = {
        "query": derivation.query,
        "paths": derivation.paths,
        "steps": derivation.steps,
        "pruned": derivation.pruned,
        "notes": (*derivation.assumptions, *(f"not used: {text}" for text in derivation.unused), *_late(derivation)),
        "features": derivation.features,
        "confidence": confidence,
    }
    if confidence < 0.5:
        reason = derivation.reason or _missing(derivation)
        near = f"; nearest: {', '.join(derivation.nearest)}" if derivation.nearest else ""
        return Answer(
            derivation.question,
            f"no supported answer: {reason}{near}",
            graph.name,
            abstained=True,
            reason=reason,
            nearest=derivation.nearest,
            **shared,
        )
    named = zip(derivation.targets, derivation.values, strict=True)
    text = "; ".join(f"{name} = {show(value)}" for name, value in named)
    return Answer(
        derivation.question, text, graph.name, value=derivation.values[-1], values=derivation.values, **shared
    )


def _late(derivation: Derivation) -> tuple[str, ...]:
    if not derivation.is_partial:
        return ()
    return ("the time limit ended the search; this is the best so far and may be incomplete",)


def _missing(derivation: Derivation) -> str:
    if derivation.missing:
        return f"missing: {', '.join(derivation.missing)}"
    return "no chain of formulas leads surely enough from what is given to what is asked"


def show(value: Number) -> str:
    """Return a value with four significant digits and its unit."""
    magnitude = f"{value.magnitude:.4g}"
    if "e" in magnitude and 1e-4 <= abs(value.magnitude) < 1e9:
        magnitude = f"{value.magnitude:.0f}"
    return f"{magnitude} {value.unit}".strip()
