"""The reader of a ported layer: not part of the model's weights, and what is needed to take it out again."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tuili.attention.gate import Gate
from tuili.attention.plan import Entry
from tuili.attention.reader import Reader
from tuili.model.reading import NAME


@dataclass(frozen=True, slots=True)
class Origin:
    """The model's own attention implementation and the hook to remove, for `unport`; what `report` says of gates."""

    implementation: str
    hook: RemovableHandle
    adapter: str


class PortedLayer(Reader):
    """The reader of one layer of a ported model.

    The model's state dict stays what it was, and so does what `save_pretrained` writes: the gate is left out.

    Args:
        entry: the plan of this layer.
        crossover: tokens of a sparse layer before this one read every key.
        own_window: the window that the model itself gives to this layer; then the entry has no say.
        origin: what `unport` restores, and where the gate came from.
        gate: the gate of a sparse layer; None: the attention's own score of the mean keys, training-free.
        positions: of the model, past which it is warned once; None: no warning.
    """

    def __init__(
        self,
        entry: Entry,
        crossover: int,
        own_window: int | None,
        origin: Origin,
        gate: Gate | None = None,
        positions: int | None = None,
    ) -> None:
        super().__init__(entry, crossover, own_window, gate)
        self.origin, self.positions = origin, positions
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_do_not_miss)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, scale: float) -> Tensor:
        """Return what the reader returns; the first time that a text is longer than the model knows, warn."""
        if self.positions is not None and k.shape[2] > self.positions:
            warnings.warn(
                f"the text has {k.shape[2]} tokens, this model knows {self.positions} positions "
                "(max_position_embeddings); what it makes of later ones is not what it learned",
                stacklevel=2,
            )
            self.positions = None
        return super().forward(q, k, v, valid, scale)


def _leave_out(layer: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Take the gate out of a state dict."""
    for name, _ in layer.named_parameters():
        del state[prefix + name]


def _do_not_miss(layer: nn.Module, incompatible: Any) -> None:
    """Have a state dict without the gate be a whole one."""
    missing: list[str] = incompatible.missing_keys
    missing[:] = [name for name in missing if f"{NAME}.gate." not in name]
