"""A learned walk as one file: the conditioning, the policy, how sure it is, and what it was trained for.

Safetensors with float32 weights under "conditioning.", "known." (one vector per relation and direction) and "policy.".
`trained_for` is a hash of the base's relations, since those are what a walk knows; a walk of another base may be a
start for learning, and is refused for answering.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tuili.errors import ModelFileError
from tuili.files import atomic_path
from tuili.knowledge.graph import Graph
from tuili.reason.conditioning import Conditioning
from tuili.reason.policy import WEIGHTS, Floats, Policy, read_weights

FORMAT = "tuili-walk-2"
# Until then shares were taken of what a node has alone, so that its weights and its sureness mean something else.
EARLIER = ("tuili-walk-1",)
MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Sureness:
    """How probable a walk's best answer is to be right: 1 / (1 + exp(-(slope * logit(p) + bias))).

    p is the share of probability that ends in it. Source: Platt 1999, fitted on questions kept out of training.
    """

    slope: float = 1.0
    bias: float = 0.0

    def of(self, share: float) -> float:
        """Return the probability for a share."""
        return float(1 / (1 + np.exp(-(self.slope * logit(share) + self.bias))))


def logit(share: float | Floats) -> Any:
    """Return the log-odds of a share, at most those of one in a thousand either way."""
    inside = np.clip(share, 1e-3, 1 - 1e-3)
    return np.log(inside / (1 - inside))


@dataclass(frozen=True, slots=True)
class Learned:
    """What `tuili learn` writes; `policy` is None where PPO was left out."""

    conditioning: Conditioning
    policy: Policy | None
    sureness: Sureness
    trained_for: str
    info: Mapping[str, Any] = field(default_factory=dict)


def fingerprint(graph: Graph) -> str:
    """Return a hash of a base's relations with the words that name them."""
    described = {
        name: [one.inverse, *one.words, "", *one.inverse_words, "", *one.nouns, "", *one.inverse_nouns]
        for name, one in sorted(graph.relations.items())
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def save(learned: Learned, path: Path) -> None:
    """Write a walk; whole or not at all."""
    from safetensors.numpy import save_file

    conditioning, policy = learned.conditioning, learned.policy
    names = sorted(conditioning.known)
    tensors = {f"conditioning.{name}": weight for name, weight in conditioning.weights.items()}
    tensors |= {f"known.{place}": conditioning.known[name] for place, name in enumerate(names)}
    tensors |= {f"policy.{name}": policy.weights[name] for name in WEIGHTS} if policy else {}
    head = {
        "reader": conditioning.reader_name,
        "max_hops": conditioning.max_hops,
        "known": names,
        "features": list(policy.feature_names) if policy else None,
        "sureness": [learned.sureness.slope, learned.sureness.bias],
        "info": dict(learned.info),
    }
    metadata = {"format": FORMAT, "trained_for": learned.trained_for, "head": json.dumps(head)}
    ready = {name: np.ascontiguousarray(weight, dtype=np.float32) for name, weight in tensors.items()}
    with atomic_path(path) as partial:
        save_file(ready, partial, metadata=metadata)


def load(path: Path, *, trained_for: str | None = None) -> Learned:
    """Read a walk.

    `trained_for`: the base's fingerprint; None takes any, as a start on another base.

    Raises:
        ModelFileError: the file is missing, damaged, no walk, or of another base.
    """
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise ModelFileError(f"{path} has {path.stat().st_size:,} bytes, a walk has at most {MAX_BYTES:,}")
    metadata, tensors = read_weights(path, "learned walk")
    if metadata.get("format") in EARLIER:
        raise ModelFileError(f"{path} was learned by an earlier version of tuili; run `tuili learn --restart`")
    if metadata.get("format") != FORMAT:
        raise ModelFileError(f"{path} is no learned walk: format {metadata.get('format')!r}, wanted {FORMAT!r}")
    learned = _parse(path, metadata, tensors)
    if trained_for is not None and learned.trained_for != trained_for:
        raise ModelFileError(
            f"{path} was learned for other relations ({learned.trained_for[:12] or 'none'}, the base has "
            f"{trained_for[:12]}); run `tuili learn` again, --from {path.name} starts from it"
        )
    return learned


def _parse(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Floats]) -> Learned:
    try:
        head = json.loads(metadata["head"])
        known = {str(name): tensors[f"known.{place}"] for place, name in enumerate(head["known"])}
        slope, bias = (float(number) for number in head["sureness"])
        max_hops, reader, info = int(head["max_hops"]), str(head["reader"]), dict(head["info"])
        features = head["features"]
        names = None if features is None else tuple(str(name) for name in features)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} has a damaged header: {error!r}; learn anew") from error
    if not (math.isfinite(slope) and math.isfinite(bias) and 1 <= max_hops <= 16):
        raise ModelFileError(f"{path} has a damaged header: a number is out of bounds; learn anew")
    conditioning = Conditioning(_part(tensors, "conditioning."), known, reader, max_hops)
    trained_for = metadata.get("trained_for", "")
    policy = None if names is None else Policy(_part(tensors, "policy."), names, trained_for)
    return Learned(conditioning, policy, Sureness(slope, bias), trained_for, info)


def _part(tensors: Mapping[str, Floats], prefix: str) -> dict[str, Floats]:
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
