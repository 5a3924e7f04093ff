"""Low-rank weights: W + scale B A on single projections, put in and taken out without touching W.

A projection keeps its `weight`; only its class changes, so that hooks, names and identity stay, state dicts and
`save_pretrained` hold the base weights, and taking the low-rank weights out restores everything bit for bit. Without
gradients a merged copy W + scale B A is used, made on the first call and again whenever W, A or B changed (a step of
training, `load_state_dict`, `to`, a copy): a call then costs what it cost before, for memory of as many weights as the
adapted projections hold. With gradients the product is added on the fly, so that W, A and B all get theirs.

Source: Hu et al. 2021, LoRA, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from tuili.errors import UsageError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
CHILD = "tuili_low_rank"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LowRank:
    """The low-rank weights of one projection.

    Attributes:
        a: [r, in].
        b: [out, r].
        scale: factor of the product B A, above 0.

    Raises:
        UsageError: these are no two float matrices of one rank, which is at most their smaller width, or the scale is
            out of its bounds.
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        shapes = f"{list(self.a.shape)} and {list(self.b.shape)}"
        if self.a.ndim != 2 or self.b.ndim != 2 or self.a.shape[0] != self.b.shape[1]:
            raise UsageError(f"low-rank weights must have the shapes [rank, in] and [out, rank], not {shapes}")
        if not 1 <= self.rank <= min(self.a.shape[1], self.b.shape[0]):
            raise UsageError(f"the rank must be at least 1 and at most the smaller width, the shapes are {shapes}")
        if not (self.a.is_floating_point() and self.b.is_floating_point()):
            raise UsageError(f"low-rank weights must be floats, not {self.a.dtype} and {self.b.dtype}")
        if not 0 < self.scale < math.inf:
            raise UsageError(f"the scale of low-rank weights must be a finite number above 0, not {self.scale}")

    @property
    def rank(self) -> int:
        """The inner width, r."""
        return self.a.shape[0]


class Factors(nn.Module):
    """A and B inside a projection, and the merged weight made of them; none of it goes into a state dict."""

    a: Tensor
    b: Tensor

    def __init__(self, weights: LowRank, device: torch.device) -> None:
        super().__init__()
        self.scale = weights.scale
        for name, factor in (("a", weights.a), ("b", weights.b)):
            self.register_buffer(name, factor.detach().to(device, torch.float32, copy=True), persistent=False)
        self._merged: tuple[tuple[object, ...], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return scale B A x for x [.., in]."""
        return linear(linear(x, self.a.to(x.dtype)), self.b.to(x.dtype)) * self.scale

    @torch.no_grad()
    def merged(self, weight: Tensor) -> Tensor:
        """Return W + scale B A, summed in float32 and rounded once; the last one while nothing changed."""
        key = tuple(_state(each) for each in (weight, self.a, self.b))
        if self._merged is None or self._merged[0] != key:
            product = self.b.float() @ self.a.float() * self.scale
            self._merged = key, (weight.float() + product).to(weight.dtype)
        return self._merged[1]


class LowRankLinear(nn.Linear):
    """What a projection is while low-rank weights are in it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (W + scale B A) x + bias for x [.., in]."""
        factors: Factors = getattr(self, CHILD)
        if torch.is_grad_enabled() and any(each.requires_grad for each in (x, self.weight, factors.a, factors.b)):
            return super().forward(x) + factors(x)
        return linear(x, factors.merged(self.weight), self.bias)


def put(model: PreTrainedModel, low_rank: Mapping[str, LowRank]) -> None:
    """Put low-rank weights into projections, by module name; all or none.

    Raises:
        UsageError: as `projection`, or there are low-rank weights in it already.
    """
    found = [(projection(model, name, each), each) for name, each in low_rank.items()]
    for module, each in found:
        attach(module, Factors(each, module.weight.device))


def attach(module: nn.Module, factors: Factors) -> None:
    """Put low-rank weights into a projection that `projection` returned."""
    module.add_module(CHILD, factors)
    module.__class__ = LowRankLinear


def take_out(model: PreTrainedModel) -> None:
    """Take all low-rank weights out of a model; none may be there."""
    for module in model.modules():
        if isinstance(module, LowRankLinear):
            delattr(module, CHILD)
            module.__class__ = nn.Linear  # type: ignore[assignment]


def factors(model: PreTrainedModel, name: str) -> Factors:
    """Return the low-rank weights that are in a projection."""
    return getattr(find(model, name), CHILD)


def projection(model: PreTrainedModel, name: str, weights: LowRank) -> nn.Linear:
    """Return the projection that low-rank weights are for.

    Args:
        model: a decoder, or its body: the name may begin with the prefix of the body or not.
        name: of the module, such as "model.layers.5.self_attn.q_proj".
        weights: the low-rank weights.

    Raises:
        UsageError: there is no such projection, it is no plain `nn.Linear`, or its weight has another shape.
    """
    module = find(model, name)
    if name.rpartition(".")[2] not in PROJECTIONS or not isinstance(module, nn.Linear):
        raise UsageError(f"low-rank weights are for {name!r}, the model has no such {', '.join(PROJECTIONS)}")
    if type(module) is not nn.Linear or "forward" in vars(module):
        raise UsageError(
            f"{name} is a {type(module).__name__} or has a forward of its own, low-rank weights can only be put into a "
            "plain nn.Linear; take out what replaced it (quantization, another adapter) first"
        )
    wanted, found = (weights.b.shape[0], weights.a.shape[1]), tuple(module.weight.shape)
    if wanted != found:
        raise UsageError(f"the low-rank weights of {name} are for a weight of shape {list(wanted)}, not {list(found)}")
    return module


def find(model: PreTrainedModel, name: str) -> nn.Module | None:
    """Return a module of a decoder or of its body by its name in either."""
    modules, prefix = dict(model.named_modules()), f"{model.base_model_prefix}."
    return modules.get(name) or modules.get(name.removeprefix(prefix)) or modules.get(prefix + name)


def _state(tensor: Tensor) -> tuple[object, ...]:
    """Return what differs once a tensor holds other numbers."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device
