"""Distillation, stage 2: the model learns to do with the keys it still sees.

Low-rank weights on the query, key, value and output projections of the layers that do not read every key are trained
under the plan's attention, so that the logits come near those of the unchanged dense model (KL on sampled positions of
each text's second half). The selection has no gradient; gates are frozen, or learn through the scores of what they
select. Nothing else changes. One step costs a dense forward, a sparse one, that once more (activations are kept for
one layer at a time) and a backward.

Sources: Hu et al. 2021, LoRA, section 4.1; Hinton et al. 2015, Distilling the knowledge in a neural network, section 2.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tuili.attention.gate import Gate
from tuili.attention.plan import LayerPlan, Pooled, Sparse
from tuili.errors import InputError, ModelFileError, UsageError
from tuili.files import atomic_path, read_safetensors_header
from tuili.porting import lowrank
from tuili.porting.adapter import Adapter, fingerprint
from tuili.porting.hf import port, report, unport
from tuili.porting.lowrank import PROJECTIONS, Factors, LowRank
from tuili.porting.ported import PortedLayer

FORMAT = "tuili-adapt-1"
BETAS = (0.9, 0.98)
MAX_NORM = 1.0
PIECE_ELEMENTS = 1 << 23  # logits at a time
MOMENTS = {"mean": "exp_avg", "square": "exp_avg_sq", "step": "step"}
OnStep = Callable[["Step"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptConfig:
    """How a model is adapted.

    Attributes:
        rank: of the low-rank weights.
        scale: factor of their product.
        samples: positions per text whose logits are compared.
        lr: at the beginning; falls to 0 along a cosine.
        train_gates: whether the gates learn as well.
        gate_lr: theirs.
        seed: of the first weights and of sampling.

    Raises:
        UsageError: a value is out of its bounds.
    """

    rank: int = 8
    scale: float = 2.0
    samples: int = 512
    lr: float = 5e-4
    train_gates: bool = False
    gate_lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "samples"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("lr", "gate_lr"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if not 0 < self.scale < math.inf:
            raise UsageError(f"scale must be a finite number above 0, not {self.scale}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far a model is from the dense one on one text.

    Attributes:
        loss: KL of the dense model's next-token distribution from this one's, in nats, mean over positions.
        agreement: share of positions at which both have the same best token.
    """

    loss: float
    agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One text done: the step (from 1), of how many, and the drift on that text before it was learned from."""

    index: int
    total: int
    drift: Drift


class Adapting:
    """Adapts one model to a plan.

    Args:
        model: a float32 decoder with a language model head that is not ported; outside of calls it is as it was.
        plan: how its layers read their context; low-rank weights go into the layers that are not dense.
        gates: distilled gates by layer; a sparse layer without one scores training-free.
        config: how.

    Raises:
        UsageError: the model can't be ported or adapted, plan or gates do not fit it, or there are no gates to train.
    """

    def __init__(
        self, model: PreTrainedModel, plan: LayerPlan, config: AdaptConfig, *, gates: Mapping[int, Gate] | None = None
    ) -> None:
        self.model, self.plan, self.config = model, plan, config
        self.gates = dict(gates or {})
        self.index = 0
        kinds = [each.kind for each in report(port(model, plan, gates=self.gates)).layers]
        unport(model)
        self.layers = [layer for layer, kind in enumerate(kinds) if kind not in ("dense", "sliding")]
        if not self.layers:
            raise UsageError(
                "every layer of the plan is dense or has a window of its own: there is nothing to adapt to"
            )
        if config.train_gates and not self.gates:
            raise UsageError("there are no gates to train; give some, or set train_gates to False")
        self._given = _digest(self.gates)
        self._factors = self._first_factors()
        self._optimizer = self._new_optimizer()
        self._check_head()

    def run(self, texts: Callable[[int], Tensor], total: int, on_step: OnStep | None = None) -> Adapter:
        """Adapt until step `total` and return the adapter; goes on where the last call or `load` ended.

        Args:
            texts: the token ids [1, N] of a step, by its index from 0; N above the plan's crossover.
            total: steps in all.
            on_step: called after each text.

        Raises:
            InputError: a text is too short to learn from.
        """
        while self.index < total:
            for group in self._optimizer.param_groups:
                group["lr"] = group["initial_lr"] * 0.5 * (1 + math.cos(math.pi * self.index / total))
            self._optimizer.zero_grad()
            drift = self._compare(texts(self.index), learns=True)
            torch.nn.utils.clip_grad_norm_([each for each, _ in self._trained().values()], MAX_NORM, foreach=False)
            self._optimizer.step()
            self.index += 1
            if on_step is not None:
                on_step(Step(index=self.index, total=total, drift=drift))
        return self.adapter()

    def measure(self, ids: Tensor) -> Drift:
        """Return the drift on a text, token ids [1, N], as things stand; nothing is learned.

        Raises:
            InputError: the text is too short.
        """
        return self._compare(ids, learns=False)

    def adapter(self, info: Mapping[str, Any] | None = None) -> Adapter:
        """Return what was learned, as a copy, with the facts of the run and others."""
        low_rank = {
            name: LowRank(a=each.a.detach().clone(), b=each.b.detach().clone(), scale=each.scale)
            for name, each in self._factors.items()
        }
        facts = {"adapt": {**asdict(self.config), "steps": self.index}, **(info or {})}
        base = fingerprint(self.model, low_rank)
        return Adapter(gates=self.gates, low_rank=low_rank, plan=self.plan, base_sha256=base, info=facts)

    # -- one text ------------------------------------------------------------------------------

    def _compare(self, ids: Tensor, *, learns: bool) -> Drift:
        positions_P = self._positions(ids)
        ids = ids.to(self.model.device)
        with _frozen(self.model):
            with torch.no_grad():
                dense_PD = self._hidden(ids, positions_P)
            with self._adapted(), torch.set_grad_enabled(learns):
                sparse_PD = self._hidden(ids, positions_P)
                return self._drift(sparse_PD, dense_PD, learns=learns)

    def _positions(self, ids: Tensor) -> Tensor:
        """Return the sampled positions [P], ascending, of the tokens that may read less than the dense model."""
        length = ids.shape[1] if ids.ndim == 2 and ids.shape[0] == 1 else 0
        first = max(length // 2, self._num_near())
        if first >= length:
            raise InputError(
                f"token ids {list(ids.shape)} are too few to learn from: there must be one row of more than "
                f"{self._num_near()} tokens, before which the plan reads every key"
            )
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.index)
        drawn_P = torch.randperm(length - first, generator=generator)[: self.config.samples]
        return (drawn_P + first).sort().values

    def _num_near(self) -> int:
        """Return how many tokens read every key in all layers."""
        crossover, ends = self.plan.crossover, []
        for entry in (self.plan.at(layer) for layer in self.layers):
            if isinstance(entry, Sparse):
                ends.append(max(crossover, entry.budget.keep * entry.budget.block))
            elif isinstance(entry, Pooled):
                ends.append(entry.num_exact)
        return min(ends)

    def _hidden(self, ids: Tensor, positions_P: Tensor) -> Tensor:
        return self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, positions_P]

    def _drift(self, sparse_PD: Tensor, dense_PD: Tensor, *, learns: bool) -> Drift:
        """Return the drift and, if asked for, send its gradient back; logits are made for some positions at a time."""
        leaf_PD = sparse_PD.detach().requires_grad_(learns)
        size = max(1, PIECE_ELEMENTS // self.model.config.vocab_size)
        num_positions, loss, num_same = len(leaf_PD), 0.0, 0
        for begin in range(0, num_positions, size):
            piece = slice(begin, begin + size)
            with torch.no_grad():
                dense_pV = self._head(dense_PD[piece]).log_softmax(-1)
            sparse_pV = self._head(leaf_PD[piece]).log_softmax(-1)
            part = nn.functional.kl_div(sparse_pV, dense_pV, log_target=True, reduction="sum") / num_positions
            if learns:
                part.backward()
            loss += float(part.detach())
            num_same += int((sparse_pV.argmax(-1) == dense_pV.argmax(-1)).sum())
        if learns:
            sparse_PD.backward(leaf_PD.grad)
        return Drift(loss=loss, agreement=num_same / num_positions)

    def _head(self, hidden_PD: Tensor) -> Tensor:
        """Return the logits [P, V] of hidden states, float32."""
        logits_PV = self.model.get_output_embeddings()(hidden_PD).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits_PV if cap is None else (logits_PV / cap).tanh() * cap

    @torch.no_grad()
    def _check_head(self) -> None:
        if not isinstance(self.model.get_output_embeddings(), nn.Linear) or self.model.dtype != torch.float32:
            raise UsageError(
                f"a {type(self.model).__name__} in {self.model.dtype} can't be adapted: a float32 decoder with a "
                "language model head is needed"
            )
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.model.device)
        with _frozen(self.model):
            made, own = self._head(self._hidden(ids, torch.arange(2))), self.model(ids, use_cache=False).logits[0]
        if not torch.allclose(made, own.float(), atol=1e-3, rtol=1e-3):
            raise UsageError(
                f"a {self.model.config.model_type} model can't be adapted: its logits are not its head applied to the "
                "last hidden state"
            )

    @contextmanager
    def _adapted(self) -> Iterator[None]:
        """Have the model read by the plan, with the low-rank weights; activations are kept for one layer at a time."""
        port(self.model, self.plan, gates=self.gates)
        layers = [each for each in self.model.modules() if hasattr(each, "self_attn")]
        try:
            for name, each in self._factors.items():
                lowrank.attach(self.model.get_submodule(name), each)
            for ported in (each for each in self.model.modules() if isinstance(each, PortedLayer)):
                ported.teaches = self.config.train_gates
            for layer in layers:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
            yield
        finally:
            for layer in layers:
                vars(layer).pop("forward", None)
            unport(self.model)

    # -- what is trained -----------------------------------------------------------------------

    def _first_factors(self) -> dict[str, Factors]:
        """Return the low-rank weights to begin with: A random, B zero, so that nothing changes at first."""
        generator = torch.Generator().manual_seed(self.config.seed)
        found = {}
        for name in self._names():
            module: Any = self.model.get_submodule(name)
            width_out, width_in = module.weight.shape
            a = torch.randn(self.config.rank, width_in, generator=generator) * width_in**-0.5
            weights = LowRank(a=a, b=torch.zeros(width_out, self.config.rank), scale=self.config.scale)
            found[name] = Factors(weights, lowrank.projection(self.model, name, weights).weight.device)
            found[name].a.requires_grad_()
            found[name].b.requires_grad_()
        return found

    def _names(self) -> list[str]:
        """Return the names of the projections to adapt."""
        modules: dict[str, Any] = dict(self.model.named_modules())
        return [
            f"{name}.{projection}"
            for name, module in modules.items()
            if hasattr(module, "q_proj") and module.layer_idx in self.layers
            for projection in PROJECTIONS
        ]

    def _new_optimizer(self) -> torch.optim.AdamW:
        rates = {False: self.config.lr, True: self.config.gate_lr}
        groups = [
            {"params": [each for each, is_gate in self._trained().values() if is_gate == kind], "lr": lr}
            for kind, lr in rates.items()
        ]
        groups = [{**group, "initial_lr": group["lr"]} for group in groups if group["params"]]
        return torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0, foreach=False)

    def _trained(self) -> dict[str, tuple[Tensor, bool]]:
        """Return what is trained by name, and whether it belongs to a gate."""
        found = {
            f"{name}.{part}": (getattr(each, part), False) for name, each in self._factors.items() for part in "ab"
        }
        if self.config.train_gates:
            for layer, gate in self.gates.items():
                found |= {f"gates.{layer}.{name}": (each, True) for name, each in gate.named_parameters()}
        return found

    # -- resuming ------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write all that a later run needs to go on, as safetensors, atomically."""
        tensors = {}
        for name, (each, _) in self._trained().items():
            tensors[f"{name}.value"] = each
            state = self._optimizer.state.get(each, {})
            tensors |= {f"{name}.{part}": state[key] for part, key in MOMENTS.items() if key in state}
        copies = {name: each.detach().clone().contiguous() for name, each in tensors.items()}
        with atomic_path(path) as temporary:
            save_file(copies, temporary, metadata={**self._settings(), "index": str(self.index)})

    def load(self, path: Path) -> None:
        """Take up what `save` wrote.

        Raises:
            ModelFileError: the file is missing, cut off, or of a run with another model or other settings.
        """
        read_safetensors_header(path)
        try:
            with safe_open(path, "pt") as opened:
                metadata = opened.metadata() or {}
                differing = [key for key, text in self._settings().items() if metadata.get(key) != text]
                if differing:
                    raise ModelFileError(
                        f"{path} is not from a run with these settings (the {differing[0]} differs); name another file "
                        "to begin anew"
                    )
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            self._take(tensors)
            self.index = int(metadata["index"])
        except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelFileError(f"{path} is no sound state of a run: {error}; begin anew") from error

    @torch.no_grad()
    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        for name, (each, _) in self._trained().items():
            each.copy_(tensors[f"{name}.value"])
            state = {key: tensors[f"{name}.{part}"] for part, key in MOMENTS.items() if f"{name}.{part}" in tensors}
            self._optimizer.state[each] = state

    def _settings(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "config": json.dumps(asdict(self.config)),
            "plan": json.dumps(self.plan.to_dict()),
            "model": fingerprint(self.model, self._factors),
            "gates": self._given,
        }


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Have a model in evaluation mode without gradients for its own weights."""
    wanted, was_training = [each for each in model.parameters() if each.requires_grad], model.training
    for each in wanted:
        each.requires_grad_(False)
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        for each in wanted:
            each.requires_grad_()


def _digest(gates: Mapping[int, Gate]) -> str:
    """Return the sha256 of gates' weights."""
    digest = hashlib.sha256()
    for layer, gate in sorted(gates.items()):
        for name, each in gate.named_parameters():
            digest.update(f"{layer}.{name} {list(each.shape)}".encode())
            digest.update(each.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
