"""The language model that words an answer: a Hugging Face decoder behind three methods.

Its words are never trusted with an answer: who calls it checks that no entity or number was lost.
Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuili.errors import DependencyError, InputError, LimitError, ModelFileError
from tuili.model import packaged
from tuili.model.fetch import Progress
from tuili.runtime import choose_device, choose_dtype, import_torch

if TYPE_CHECKING:
    from types import ModuleType

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant")
MAX_NEW_TOKENS = 4096
Message = Mapping[str, str]


class LanguageModel:
    """A decoder with its tokenizer and chat template."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls, name: str = "smollm2-135m", *, device: str = "auto", on_progress: Progress | None = None
    ) -> LanguageModel:
        """Load a decoder by name, path or hub id; a packaged one is brought if it is missing.

        Raises:
            ModelFileError: the model is missing, damaged, unsafe or no decoder.
            DependencyError: torch or transformers is not installed.
        """
        import_torch()
        transformers = _import_transformers()
        folder = packaged.resolve(name, on_progress)
        place = choose_device(device)
        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            with _without_progress_bars(transformers):
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **safe)
                model, report = transformers.AutoModelForCausalLM.from_pretrained(
                    folder, use_safetensors=True, dtype=choose_dtype(place), output_loading_info=True, **safe
                )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelFileError(f"{folder} holds no decoder that transformers can load: {error}") from error
        if missing := sorted(report["missing_keys"]):
            raise ModelFileError(f"{folder} lacks {len(missing)} of its weights, such as {missing[0]}")
        return cls(model.to(place).eval(), tokenizer)

    @property
    def decoder(self) -> PreTrainedModel:
        """The model itself, in evaluation mode."""
        return self._model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def window(self) -> int:
        """The most tokens a prompt and its answer may have together."""
        return int(self._model.config.max_position_embeddings)

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt the chat template makes of messages with `role` and `content`.

        Raises:
            InputError: there are no messages, or one has an unknown role or no text.
        """
        if not messages:
            raise InputError("there are no messages; give at least one with role 'user'")
        for message in messages:
            if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
                raise InputError(f"a message needs a role of {ROLES} and a text, not {dict(message)!r}")
        plain = [dict(message) for message in messages]
        return str(self._tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True))

    def generate(self, messages: Sequence[Message], max_new_tokens: int, seed: int | None = None) -> str:
        """Return the model's reply: the likeliest tokens without a seed, sampled ones with a seed.

        Sampling leaves the program's own random numbers as they were.

        Raises:
            InputError: a message is not sound.
            LimitError: prompt and reply don't fit into the window, or `max_new_tokens` is out of bounds.
        """
        torch = import_torch()
        prompt = self._tokenizer(self.render(messages), add_special_tokens=False, return_tensors="pt")
        self._check_room(prompt["input_ids"].shape[1], max_new_tokens)
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            if seed is not None:
                torch.manual_seed(seed)
            ids_BT = self._model.generate(
                **prompt.to(self._model.device),
                max_new_tokens=max_new_tokens,
                do_sample=seed is not None,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        reply = ids_BT[0, prompt["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(reply, skip_special_tokens=True)).strip()

    def _check_room(self, num_prompt_tokens: int, max_new_tokens: int) -> None:
        if not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
            raise LimitError(f"max_new_tokens is {max_new_tokens}, choose from 1 to {MAX_NEW_TOKENS}")
        if num_prompt_tokens + max_new_tokens > self.window:
            raise LimitError(
                f"the prompt has {num_prompt_tokens} tokens and {max_new_tokens} are to follow, "
                f"the model's window is {self.window}; shorten one of them"
            )


def _import_transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise DependencyError("transformers", "models", "running a language model") from error
    return transformers


@contextlib.contextmanager
def _without_progress_bars(transformers: ModuleType) -> Iterator[None]:
    """Keep transformers' bars off the terminal for the block, and restore the program's choice."""
    logging = transformers.utils.logging
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
