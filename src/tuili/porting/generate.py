"""Reading a document and answering: prompt, timed generation, and a comparison with the dense model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from tuili.errors import InputError, LimitError
from tuili.porting.hf import report
from tuili.porting.passes import watched

OnProgress = Callable[[str, int, int], None]
OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a model said.

    Attributes:
        text: without special tokens.
        ids: its tokens, the one that ends it included.
        num_prompt_tokens: of the prompt.
        prefill_s: from the call to the first token, in seconds.
        decode_s: from the first token to the last.
        keys_per_token: keys that a token of prompt and reply read on average, over the layers.
    """

    text: str
    ids: tuple[int, ...]
    num_prompt_tokens: int
    prefill_s: float
    decode_s: float
    keys_per_token: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the sparse model's reply compares with the dense one's to the same prompt.

    Attributes:
        is_identical: whether all tokens are the same.
        first_differing: index of the first token that isn't; None if all are.
        agreement: share of the dense reply's tokens that the sparse model finds likeliest after the same words.
        prefill_speedup: dense over sparse prefill time.
        decode_speedup: dense over sparse time a token.
    """

    is_identical: bool
    first_differing: int | None
    agreement: float
    prefill_speedup: float
    decode_speedup: float | None


def prompt_ids(tokenizer: PreTrainedTokenizerBase, document: str | None, question: str | None, *, chat: bool) -> Tensor:
    """Return the token ids [1, T] of a document and a question after it.

    Args:
        tokenizer: whose chat template is used.
        document: comes first.
        question: comes last.
        chat: put them into the chat template as the user's words, if there is one; else they are plain text.

    Raises:
        InputError: there is neither, or they have no token.
    """
    text = "\n\n".join(part.strip() for part in (document, question) if part and part.strip())
    if not text:
        raise InputError("there is nothing to read; give a document, a question or both")
    has_template = chat and tokenizer.chat_template is not None
    if has_template:
        messages = [{"role": "user", "content": text}]
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    ids_1T: Tensor = tokenizer(text, return_tensors="pt", add_special_tokens=not has_template, verbose=False).input_ids
    if not ids_1T.shape[1]:
        raise InputError("the prompt has no token; give a longer one")
    return ids_1T


def check_room(num_prompt_tokens: int, max_new_tokens: int, window: int) -> None:
    """Check that prompt and reply fit into the model's window.

    Raises:
        LimitError: they don't.
    """
    if num_prompt_tokens + max_new_tokens > window:
        raise LimitError(
            f"the prompt has {num_prompt_tokens:,} tokens and {max_new_tokens:,} are to follow, the model's window is "
            f"{window:,}: {num_prompt_tokens + max_new_tokens - window:,} too many; shorten the document, or ask for "
            "fewer new tokens"
        )


class Generator:
    """Has a model reply to prompts, ported or not.

    Args:
        model: a decoder with a language model head.
        tokenizer: its tokenizer.
        max_new_tokens: tokens of a reply at most.
        seed: of sampling; None takes the likeliest tokens.

    Attributes:
        on_progress: called with stage, layers done and in all while a prompt is read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        seed: int | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.on_progress: OnProgress = lambda stage, done, total: None
        self._cache: Any = None

    def reply(self, ids: Tensor, on_text: OnText | None = None, *, ported: bool) -> Reply:
        """Reply to a prompt [1, T], and hand on each piece of text as soon as its words are whole.

        The program's own random numbers stay as they were.
        """
        before = _keys_read(self.model) if ported else (0, 0.0)
        streamer = _Timed(self.tokenizer, on_text or (lambda text: None))
        ids = ids.to(self.model.device)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        stage = f"reading {ids.shape[1]:,} tokens {'sparsely' if ported else 'densely'}"

        def on_layer(done: int, total: int) -> None:
            if not streamer.times:
                self.on_progress(stage, done, total)

        with torch.inference_mode(), torch.random.fork_rng(devices), watched(self.model, on_layer):
            if self.seed is not None:
                torch.manual_seed(self.seed)
            begin = time.perf_counter()
            output: Any = self.model.generate(  # type: ignore[operator]
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.max_new_tokens,
                do_sample=self.seed is not None,
                pad_token_id=_pad_token(self.tokenizer),
                streamer=streamer,
                return_dict_in_generate=True,
                use_cache=True,
            )
        self._cache = output.past_key_values
        found = tuple(output.sequences[0, ids.shape[1] :].tolist())
        return Reply(
            text=str(self.tokenizer.decode(list(found), skip_special_tokens=True)),
            ids=found,
            num_prompt_tokens=ids.shape[1],
            prefill_s=streamer.times[0] - begin,
            decode_s=streamer.times[-1] - streamer.times[0],
            keys_per_token=_mean_keys(self.model, before) if ported else (ids.shape[1] + len(found)) / 2,
        )

    def agreement(self, ids: Tensor, reply: tuple[int, ...]) -> float:
        """Return the share of a reply's tokens that the model finds likeliest, each after the ones before.

        Reads on in the cache of the last `reply` to the same prompt, so that it costs the reply's tokens only; reads
        the prompt again if a layer has a window, whose cache has dropped what the reply's first tokens would read.
        """
        ids, num_read = ids.to(self.model.device), ids.shape[1] - 1
        with torch.inference_mode():
            if any(layer.is_sliding for layer in self._cache.layers):
                whole = torch.cat([ids, torch.tensor([reply[:-1]], dtype=ids.dtype, device=ids.device)], dim=1)
                logits_TV = self.model(whole, use_cache=False, logits_to_keep=len(reply)).logits[0]
                return float((logits_TV.argmax(-1).cpu() == torch.tensor(reply)).float().mean())
            self._cache.crop(num_read - self._cache.get_seq_length())
            tail = torch.tensor([[int(ids[0, -1]), *reply[:-1]]], device=ids.device)
            mask = torch.ones(1, num_read + tail.shape[1], dtype=torch.int64, device=ids.device)
            logits_TV = self.model(tail, attention_mask=mask, past_key_values=self._cache).logits[0]
        return float((logits_TV.argmax(-1).cpu() == torch.tensor(reply)).float().mean())


def difference(dense: Reply, sparse: Reply, agreement: float) -> Difference:
    """Compare two replies to one prompt."""
    pairs = zip(dense.ids, sparse.ids, strict=False)
    first = next((index for index, (left, right) in enumerate(pairs) if left != right), None)
    if first is None and len(dense.ids) != len(sparse.ids):
        first = min(len(dense.ids), len(sparse.ids))
    each = [reply.decode_s / (len(reply.ids) - 1) if len(reply.ids) > 1 else 0.0 for reply in (dense, sparse)]
    return Difference(
        is_identical=first is None,
        first_differing=first,
        agreement=agreement,
        prefill_speedup=dense.prefill_s / sparse.prefill_s,
        decode_speedup=each[0] / each[1] if all(each) else None,
    )


class _Timed(TextStreamer):
    """Hands on text, and notes when each token after the prompt came."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: OnText) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        if not self.next_tokens_are_prompt:
            self.times.append(time.perf_counter())
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.on_text(text)


def _pad_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _keys_read(model: PreTrainedModel) -> tuple[int, float]:
    """Return tokens and keys that the layers read since the port, summed."""
    layers = report(model).layers
    return sum(layer.num_tokens for layer in layers), sum(layer.num_keys for layer in layers)


def _mean_keys(model: PreTrainedModel, before: tuple[int, float]) -> float:
    tokens, keys = _keys_read(model)
    return (keys - before[1]) / max(1, tokens - before[0])
