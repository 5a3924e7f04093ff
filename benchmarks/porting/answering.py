"""Questions put to a model after a long context: log-likelihoods of the options, and the rows made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from porting.questions import Context, Question
from runner import Result, half_width, share, watched

NUM_QUARTERS = 4
Answers = list[np.ndarray]
"""The log-likelihoods of each question's options, in nats; the first option is right."""


def answer(model: Any, tokenizer: Any, context: Context, stage: str) -> Answers:
    """Return what a model thinks of the options; the context is read once and kept in a cache.

    Raises:
        ValueError: an option is more than one token.
    """
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    ids = _ids(tokenizer, context.text)
    known: dict[str, Any] = {}
    with torch.no_grad():
        model.model(ids, past_key_values=cache, use_cache=True)
        for question in watched(context.questions, stage):
            if question.text not in known:
                asked = _ids(tokenizer, question.text)
                logits = model(asked, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
                known[question.text] = logits.float().log_softmax(-1)
                cache.crop(-asked.shape[1])
    return [known[each.text][_option_ids(tokenizer, each)].double().numpy() for each in context.questions]


def _option_ids(tokenizer: Any, question: Question) -> list[int]:
    found = [tokenizer(f" {option}").input_ids for option in question.options]
    if long := [option for option, ids in zip(question.options, found, strict=True) if len(ids) != 1]:
        raise ValueError(f"{long[0]!r} is not one token; take another word")
    return [ids[0] for ids in found]


def _ids(tokenizer: Any, text: str) -> Any:
    return tokenizer(text, return_tensors="pt", verbose=False).input_ids


def rows(prefix: str, questions: Sequence[Question], answers: Mapping[str, Answers]) -> Iterator[Result]:
    """Yield accuracy and the loss of log-likelihood of the right answer, by depth too where answers have a place.

    Args:
        prefix: of the names.
        questions: in the order of the answers.
        answers: by way to run; "dense" is one.
    """
    dense = answers["dense"]
    for way, found in answers.items():
        if way == "dense":
            continue
        start = prefix if way == "tuili" else f"peer.{way}.{prefix}"
        yield _accuracy(f"{start}.accuracy", found, dense)
        baseline = {"name": "dense", "value": float(np.mean([wins(each) for each in dense]))}
        yield share(f"{start}.wins", [wins(each) for each in found], baseline=baseline)
        gaps = [float(before[0] - after[0]) for before, after in zip(dense, found, strict=True)]
        yield Result(f"{start}.loss_increase", float(np.mean(gaps)), "nats", half_width(gaps), len(gaps))
        for quarter in range(NUM_QUARTERS if way == "tuili" else 0):
            at = [place for place, each in enumerate(questions) if _quarter(each) == quarter]
            if at:
                name = f"{start}.depth.q{quarter + 1}.accuracy"
                yield _accuracy(name, [found[place] for place in at], [dense[place] for place in at])


def _accuracy(name: str, found: Answers, dense: Answers) -> Result:
    baseline = {"name": "dense", "value": float(np.mean([is_right(each) for each in dense]))}
    return share(name, [float(is_right(each)) for each in found], baseline=baseline)


def is_right(options: np.ndarray) -> bool:
    """Tell whether the first option is likelier than every other one."""
    return bool(options[0] > options[1:].max())


def wins(options: np.ndarray) -> float:
    """Return the share of the other options than which the first one is likelier; 1/2 by chance."""
    return float((options[0] > options[1:]).mean())


def _quarter(question: Question) -> int | None:
    return None if question.depth is None else min(NUM_QUARTERS - 1, int(question.depth * NUM_QUARTERS))
