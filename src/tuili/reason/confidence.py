"""How sure an answer is: a logistic model over what is known of its reading and its evidence.

The weights are fitted on the development questions by `recipes/fit_confidence.py`; how well they
are calibrated is measured by `benchmarks/ask.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from tuili.knowledge.lexicon import Role
from tuili.knowledge.query import Aggregate
from tuili.reason.candidates import Candidates, Tried
from tuili.reason.weights import Weigher

MAX_MARGIN = 2.0
MAX_LINK = 1.5
_DESCRIPTION = (
    "described",
    "unmatched",
    "fit_words",
    "fit_words_alone",
    "fit_bertscore",
    "fit_attended",
    "num_candidates",
)


def features(found: Candidates, weigher: Weigher) -> dict[str, float]:
    """Return what speaks for and against the best reading."""
    best = found.tried[0]
    query, outcome = best.compiled.query, best.outcome
    texts = [var.text for var in query.variables if var.text]
    heavy = sum(not token.is_function_word for token in found.tokens)
    named = {mention.value: mention for mention in best.compiled.mentions if mention.role == Role.ENTITY}
    stated = sum(constraint.stated for constraint in query.constraints)
    return {
        "unexplained": float(len(query.unexplained)),
        "foreign": float(_is_foreign(best)),
        **_description(texts, weigher),
        "described_words": min(sum(len(text.split()) for text in texts), 8) / 8,
        "weakest_link": min((min(mention.score, MAX_LINK) for mention in named.values()), default=0.0),
        "elsewhere": float(any(mention.how == "elsewhere" for mention in named.values())),
        "misspelt": float(any(mention.how == "spelling" for mention in named.values())),
        "unstated": 1.0 - stated / len(query.constraints) if query.constraints else 0.0,
        "score_per_word": best.score / max(heavy, 1),
        "margin": _margin(found),
        "guessed_kind": float(bool(guessed_kinds(found))),
        "guessed_ask": float(query.aggregate == Aggregate.ASK and not stated),
        "ask": float(query.aggregate == Aggregate.ASK),
        "count": float(query.aggregate == Aggregate.COUNT),
        "empty": float(not outcome.found),
        "num_constraints": min(len(query.constraints), 6) / 6,
    }


def guessed_kinds(found: Candidates) -> list[str]:
    """Return the nouns that the best reading takes for what is asked, though the base does not say what they are."""
    guesses = [one for one in found.tried[0].compiled.mentions if one.role == Role.KIND and one.how == "guess"]
    return [token.text for one in guesses for token in found.tokens[one.start : one.end]]


def _description(texts: Sequence[str], weigher: Weigher) -> dict[str, float]:
    """Return how well the description fits that fits worst, in terms that don't hang on the mix of weights."""
    found = dict.fromkeys(_DESCRIPTION, 0.0)
    if not texts:
        return found
    weakest = min(texts, key=lambda text: max(weigher.ranked.get(text, {}).values(), default=0.0))
    ranked = weigher.ranked.get(weakest)
    if not ranked:
        return found | {"described": 1.0, "unmatched": 1.0}
    parts = weigher.parts[weakest, max(ranked, key=lambda number: ranked[number])]
    by_words = "fit_words" if "bertscore" in parts else "fit_words_alone"
    return found | {
        "described": 1.0,
        by_words: parts["prior"],
        "fit_bertscore": parts.get("bertscore", 0.0),
        "fit_attended": parts.get("attended", 0.0),
        "num_candidates": math.log(len(ranked)) / 4,
    }


def _margin(found: Candidates) -> float:
    """Return how much better the best reading is than the next one with another outcome."""
    best = found.tried[0]
    own = set(best.outcome.found)
    others = [tried.score for tried in found.tried[1:] if set(tried.outcome.found) != own]
    return min(best.score - max(others), MAX_MARGIN) if others else MAX_MARGIN


def _is_foreign(best: Tried) -> bool:
    """Tell whether a word that is surely a name (dotted, with underscores or inner capitals) is not in the base."""
    query = best.compiled.query
    words = [*query.unexplained, *(word for var in query.variables for word in var.text.split())]
    return any(
        "." in word or "_" in word or (any(char.isupper() for char in word[1:]) and word[-1:].islower())
        for word in words
    )


@cache
def model(name: str) -> Mapping[str, float]:
    """Return the fitted weights for one sort of answer ("search" or "derivation")."""
    text = files("tuili.reason").joinpath("data/confidence.json").read_text(encoding="utf-8")
    weights: dict[str, Mapping[str, float]] = json.loads(text)
    return weights[name]


def probability(name: str, values: Mapping[str, float]) -> float:
    """Return the probability that an answer with these features is right."""
    weights = model(name)
    logit = weights["bias"] + sum(weight * values.get(key, 0.0) for key, weight in weights.items() if key != "bias")
    if math.isnan(logit):
        return 0.0
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, logit))))
