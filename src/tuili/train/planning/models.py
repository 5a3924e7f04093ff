"""Decoders as the planner sees them: sizes, parameters, and what each layer reads of its context."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources

from tuili.errors import InputError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the tokens of a layer read.

    Attributes:
        kind: "dense" reads every key, "window" the last `keys` of them, "sparse" the `keys` that a gate picks, "pooled"
            the last `keys` exactly and the means of blocks of `block` before them.
        keys: how many keys a token reads exactly; 0 for "dense".
        block: keys per mean of "pooled", keys per gate key of "sparse".
        gate_width: width of the gate's queries and keys; only of "sparse".
        beam: groups of 256 keys whose gate keys a token scores, chosen by their means; 0: all. Only of "sparse".
        past: the first token that reads a window; those before it read every key. Only of "window".

    Raises:
        UsageError: a value is out of its bounds.
    """

    kind: str = "dense"
    keys: int = 0
    block: int = 0
    gate_width: int = 0
    beam: int = 0
    past: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"a layer reads {self.kind!r}; give one of {', '.join(KINDS)}")
        least = {"dense": (0, 0, 0), "window": (1, 0, 0), "sparse": (1, 1, 1), "pooled": (1, 1, 0)}[self.kind]
        for name, bound in zip(("keys", "block", "gate_width"), least, strict=True):
            if getattr(self, name) < bound:
                raise UsageError(f"{name} of a {self.kind} layer is {getattr(self, name)}; give at least {bound}")

    def keys_per_token(self, seq: int) -> float:
        """Return the mean number of keys (or means) that the tokens of a causal row of `seq` tokens read."""
        if self.kind == "dense" or max(self.keys, self.past) >= seq:
            return (seq + 1) / 2
        if self.past > self.keys:
            return (self.past * (self.past + 1) / 2 + (seq - self.past) * self.keys) / seq
        exact = self.keys - self.keys * (self.keys - 1) / (2 * seq)
        if self.kind == "pooled":
            return exact + (seq - self.keys) ** 2 / (2 * seq * self.block)
        return exact

    def gate_operations(self, seq: int) -> float:
        """Return the multiply-adds a token of the gate: `gate_width` for each gate key that is scored."""
        if self.kind != "sparse":
            return 0.0
        earlier = (seq + 1) / 2
        if self.beam == 0:
            return self.gate_width * earlier / self.block
        chosen = min(float(self.beam * GROUP), earlier)
        return self.gate_width * (earlier / GROUP + chosen / self.block)


GROUP = 256
"""Keys of a group whose mean gate key a beam compares."""
KINDS = ("dense", "window", "sparse", "pooled")
DENSE = Reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A decoder.

    Attributes:
        hidden: width D. `mlp`: width of the feed-forward part; gated ones have three matrices, others two.
        positions: learned positions, 0 with rotary ones.
        biases: linear layers have biases, and norms too (as GPT's); else neither.
        tied: the output layer is the embedding.
        layer_plan: one reading for each layer; empty: all dense.

    Raises:
        InputError: a size is not positive, or heads can't be shared out.
    """

    name: str
    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    gated: bool = True
    biases: bool = False
    tied: bool = False
    positions: int = 0
    layer_plan: tuple[Reading, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden", "num_heads", "num_kv_heads", "head_dim", "mlp", "vocab"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} of {self.name} is {value!r}; give a whole number of at least 1")
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"{self.name} has {self.num_heads} heads and {self.num_kv_heads} key-value heads; "
                "the first must be a multiple of the second"
            )
        if self.layer_plan and len(self.layer_plan) != self.num_layers:
            raise InputError(
                f"the layer plan speaks of {len(self.layer_plan)} layers, {self.name} has {self.num_layers}; "
                "the counts must add up to that"
            )

    @property
    def attention_width(self) -> int:
        """Width of all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key-value heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What each layer reads."""
        return self.layer_plan or (DENSE,) * self.num_layers

    @property
    def matrices(self) -> tuple[tuple[int, int, str], ...]:
        """Inputs, outputs and the side that tensor parallelism cuts ("out" or "in") of a layer's matrices."""
        up = (2 if self.gated else 1) * self.mlp
        return (
            (self.hidden, self.attention_width + 2 * self.kv_width, "out"),
            (self.attention_width, self.hidden, "in"),
            (self.hidden, up, "out"),
            (self.mlp, self.hidden, "in"),
        )

    @property
    def matrix_params(self) -> int:
        """Parameters of a layer's matrices."""
        return sum(inputs * outputs for inputs, outputs, _ in self.matrices)

    @property
    def layer_params(self) -> int:
        """Parameters of a layer, gates left out.

        Source: for GPT 12 h^2 + 13 h, Narayanan et al. 2021 (arXiv:2104.04473), equation 2.
        """
        norms = 2 * self.hidden * (2 if self.biases else 1)
        biases = sum(outputs for _, outputs, _ in self.matrices) if self.biases else 0
        return self.matrix_params + norms + biases

    @property
    def embedding_params(self) -> int:
        """Parameters of the input embedding, learned positions included."""
        return (self.vocab + self.positions) * self.hidden

    @property
    def head_params(self) -> int:
        """Parameters of an output layer of its own, and of the last norm."""
        return self.hidden * (2 if self.biases else 1) + (0 if self.tied else self.vocab * self.hidden)

    @property
    def num_params(self) -> int:
        """All parameters."""
        return self.num_layers * self.layer_params + self.embedding_params + self.head_params

    def with_plan(self, layer_plan: tuple[Reading, ...]) -> Model:
        """Return the model with another layer plan."""
        return replace(self, layer_plan=layer_plan)

    def attention_operations(self, seq: int) -> float:
        """Return the operations a token of the forward pass outside the matrices: scores, sums, gates."""
        return sum(
            number
            * (
                4 * self.attention_width * reading.keys_per_token(seq)
                + 2 * self.num_kv_heads * reading.gate_operations(seq)
            )
            for reading, number in Counter(self.readings).items()
        )

    def operations_per_token(self, seq: int) -> float:
        """Return the floating-point operations a token of a training step without recomputation (forward and backward).

        Twice the parameters of all matrices, the output layer's included, and attention over the keys that a causal
        token reads; the backward pass costs twice the forward pass.
        """
        matrices = 2 * (self.num_layers * self.matrix_params + self.vocab * self.hidden)
        return 3 * (matrices + self.attention_operations(seq))


@cache
def presets() -> Mapping[str, Model]:
    """Return the named models."""
    text = (resources.files(__package__) / "data" / "models.toml").read_text(encoding="utf-8")
    return {name: Model(name=name, **sizes) for name, sizes in tomllib.loads(text).items()}


def preset(name: str) -> Model:
    """Return a named model.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in presets():
        raise UsageError(f"there is no model {name!r}; give a config.json, sizes, or one of {', '.join(presets())}")
    return presets()[name]


def gpt(name: str, *, num_layers: int, hidden: int, num_heads: int, vocab: int, positions: int) -> Model:
    """Return a model of GPT's form: no gated units, biases, learned positions, tied embeddings, widths of 4 D."""
    return Model(
        name=name,
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden // num_heads,
        mlp=4 * hidden,
        vocab=vocab,
        gated=False,
        biases=True,
        tied=True,
        positions=positions,
    )
