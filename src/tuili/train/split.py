"""The stages of a pipeline, cut out of a whole model; names stay those of the whole one.

Which modules come before the layers and which after is what the model says (`pp_plan`, from its configuration's
`base_model_pp_plan`). A layer of another stage becomes a `Passing` one and a head or a norm that is not here an
identity, so a stage is still the model's own class and runs the model's own forward: masks, positions and what depends
on a layer's index stay right. Embeddings tied to the head are held by the first and the last stage under the one name
`model.embed_tokens.weight`; `tuili.train.tied` keeps the two equal.
"""

from __future__ import annotations

import copy
from typing import Any, cast

from torch import Tensor, nn

from tuili.errors import UsageError
from tuili.train.planning.speeds import even_split
from tuili.train.spec import ParallelSpec


class Passing(nn.Module):
    """The place of a layer that another stage holds."""

    def forward(self, hidden_BTD: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the hidden states as they came."""
        return hidden_BTD


def stage_layers(spec: ParallelSpec, num_layers: int) -> list[range]:
    """Return the layers of each stage; if they are not given, as even as it goes, the first stages one more."""
    counts = spec.layers_per_stage or even_split(num_layers, spec.num_stages)
    ends = [sum(counts[: stage + 1]) for stage in range(spec.num_stages)]
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]


def stages_of(spec: ParallelSpec, pp_rank: int) -> list[int]:
    """Return the stages that a process of the pipeline holds."""
    if spec.schedule == "ZBVZeroBubble":
        return [pp_rank, 2 * spec.pp - 1 - pp_rank]
    return [pp_rank + loop * spec.pp for loop in range(spec.virtual)]


def holder_of(spec: ParallelSpec, stage: int) -> int:
    """Return the process of the pipeline that holds a stage."""
    return next(rank for rank in range(spec.pp) if stage in stages_of(spec, rank))


def is_tied(model: nn.Module) -> bool:
    """Tell whether the head's matrix is the embeddings'."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[operator]
    return head.weight is embedding.weight


def cut(model: nn.Module, layers: range) -> nn.Module:
    """Return the stage of a model that holds some of its layers; modules are shared with the model, not copied.

    The first stage takes token ids [B, T], others hidden states [B, T, D]; the last one returns logits [B, T, V],
    others hidden states. A last stage has a copy of its own of embeddings that are tied.

    Raises:
        UsageError: the model does not say how it is split.
    """
    before, inside, after = _plan(model)
    num_layers = len(inside)
    is_first, is_last = layers.start == 0, layers.stop == num_layers
    own_copy = is_last and not is_first and is_tied(model)
    place: dict[int, object] = {
        id(layer): layer if index in layers else Passing() for index, layer in enumerate(inside)
    }
    if not own_copy:
        place |= {id(module): module if is_first else None for module in before}
        place |= {id(module): module if is_last else nn.Identity() for module in after}
    stage = copy.deepcopy(model, cast("dict[int, Any]", place))
    stage.register_forward_pre_hook(_first_arguments if is_first else _later_arguments, with_kwargs=True)
    stage.register_forward_hook(_logits if is_last else _hidden)
    return stage


def _plan(model: nn.Module) -> tuple[list[nn.Module], nn.ModuleList, list[nn.Module]]:
    """Return the modules before the layers, the layers and the modules after them."""
    names = list(getattr(model, "pp_plan", None) or ())
    modules = {name: model.get_submodule(name) for name in names}
    lists = [name for name, module in modules.items() if isinstance(module, nn.ModuleList)]
    if len(lists) != 1:
        raise UsageError(
            f"{type(model).__name__} does not say how it is split into stages (base_model_pp_plan names "
            f"{', '.join(names) or 'nothing'}); train it with pp=1"
        )
    first = [module for name, module in modules.items() if "input_ids" in model.pp_plan[name][0]]  # type: ignore[index]
    inside = cast("nn.ModuleList", modules[lists[0]])
    return first, inside, [module for module in modules.values() if module not in first and module is not inside]


def decoder_layers(part: nn.Module) -> list[nn.Module]:
    """Return the layers that a model or a stage holds."""
    return [layer for layer in _plan_layers(part) if not isinstance(layer, Passing)]


def _plan_layers(part: nn.Module) -> nn.ModuleList:
    return cast("nn.ModuleList", part.get_decoder().layers)  # type: ignore[operator]


def _first_arguments(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return (), {"input_ids": args[0], "use_cache": False, **kwargs}


def _later_arguments(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return (), {"inputs_embeds": args[0], "use_cache": False, **kwargs}


def _logits(_: nn.Module, __: object, output: Any) -> Tensor:
    return output.logits


def _hidden(_: nn.Module, __: object, output: Any) -> Tensor:
    """Return the hidden states where logits would be, as no view: zero-bubble schedules detach a stage's output."""
    return output.logits.clone()
