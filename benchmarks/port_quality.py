"""Quality of dynamic sparse attention on SmolLM2-135M: the model as `tuili.port` makes it against the dense one.

Texts are read once in each way to run, at the longest length; a token reads the same whatever follows it, so shorter
lengths are beginnings of that forward. Tasks have a context for each length. What each row means and what it does not
say is in `benchmarks/README.md`. `--test` reads *.txt, and *.json with a field "text".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porting import answering, perplexity, tradeoff
from porting.ablations import ABLATIONS, ablation
from porting.completion import Code, code, completion
from porting.copying import copies, copying
from porting.decoding import Reading, Way, adapted_dense, decoder, dense, ported, read, read_short
from porting.peers import SELECTIONS, peer, slug
from porting.perplexity import size
from porting.questions import Make, common_words, key_values, needles
from porting.texts import is_python, prose, texts
from porting.watching import Watch, lift_rows, recall_row, watching
from runner import Options, Result, run, say

LENGTHS, LENGTHS_SMOKE = (2048, 4096, 8192), (2176,)
PEERS, PEERS_SMOKE = ("sink+window", "pooled keys", "min-max bounds"), ("pooled keys",)
TEXTS_SMOKE = 1
ROOM = 64
"""Tokens left for questions, so that all stays within the model's window."""
QUESTIONS, QUESTIONS_SMOKE = 24, 4
CONTEXTS, CONTEXTS_FULL = 1, 4


def measure(options: Options) -> Iterator[Result]:
    """Yield every result that is asked for."""
    model, tokenizer = decoder()
    _say_what_is_left_out(options)
    yield from _texts(model, tokenizer, options)
    yield from _copies(model, tokenizer, options)
    for name, make in (("kv", key_values), ("needle", needles(prose())), ("aggregation", common_words)):
        yield from _questions(model, tokenizer, name, make, options)


def _say_what_is_left_out(options: Options) -> None:
    if options.smoke:
        say(f"a smoke run: {LENGTHS_SMOKE[0]} tokens, one text, one peer, few questions, no ablations")
    elif not options.full:
        say("left out without --full: the oracle, peers in the tasks, more than one context a task and length,")
        say("ablations on more than one text" + ("" if options.only else ", other budgets (or --only tradeoff.TEXT)"))


def _lengths(options: Options) -> tuple[int, ...]:
    return LENGTHS_SMOKE if options.smoke else LENGTHS


def _peers(options: Options) -> tuple[str, ...]:
    if options.smoke:
        return PEERS_SMOKE
    return tuple(SELECTIONS) if options.full else PEERS


# -- texts ---------------------------------------------------------------------------------------


@dataclass
class Text:
    """A text's tokens [1, N] and what models made of them, each way to run once, when it is first asked for."""

    name: str
    model: Any
    ids: Any
    code: Code | None
    watch: Watch | None = None
    _readings: dict[str, Reading] = field(default_factory=dict)
    _short: np.ndarray | None = None

    def read(self, way: str) -> Reading:
        """Return what the model makes of the text when it runs that way."""
        if way not in self._readings:
            say(f"  {self.name}, {self.ids.shape[1]} tokens: {way}")
            self._readings[way] = self._watched() if way == "tuili" else self._run(self._way(way))
        return self._readings[way]

    def _way(self, name: str) -> Way:
        if name in ABLATIONS:
            return ablation(name)
        if name in tradeoff.WAYS:
            return tradeoff.WAYS[name]
        return dense if name == "dense" else peer(name)

    def adapted(self) -> Reading:
        """Return what the dense model with the shipped adaptation makes of the text."""
        if "adapted" not in self._readings:
            adapted = adapted_dense(self.model)
            if adapted is self.model:
                say(f"  {self.name}: no weights are adapted, so ppl_increase_adapted is ppl_increase")
            self._readings["adapted"] = self.read("dense") if adapted is self.model else read(adapted, self.ids)
        return self._readings["adapted"]

    def short(self) -> np.ndarray:
        """Return the dense model's losses in a short context."""
        if self._short is None:
            say(f"  {self.name}: dense, short contexts")
            self._short = read_short(self.model, self.ids)
        return self._short

    def _run(self, way: Way) -> Reading:
        with way(self.model) as model:
            return read(model, self.ids)

    def _watched(self) -> Reading:
        with ported(self.model) as model, watching(model) as self.watch:
            return read(model, self.ids)


def _texts(model: Any, tokenizer: Any, options: Options) -> Iterator[Result]:
    """Yield the rows of all texts, then those of gates, which are over texts."""
    found = texts(options)
    if not found:
        say("no text to read: give --data or --test")
    sources = [name for name, text in found.items() if is_python(text)]
    if len(sources) > 1:
        say(f"of {len(sources)} Python texts {sources[0]} has the rows of code and of classes kept")
    watches = []
    for name, text in list(found.items())[: TEXTS_SMOKE if options.smoke else None]:
        is_code = name in sources[:1]
        encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True, verbose=False)
        lengths = _fitting(name, _lengths_of(name, options, is_code=is_code), encoded.input_ids.shape[1])
        if lengths:
            ids = encoded.input_ids[:, : lengths[-1]]
            offsets = encoded.offset_mapping[0, : lengths[-1]].tolist()
            one = Text(name, model, ids, code(text, offsets) if is_code else None)
            yield from _of_text(one, lengths, options)
            if options.full or (not options.smoke and one.name == next(iter(found))):
                yield from _ablations(one, lengths[-1], options)
            if options.full or options.only:
                yield from _tradeoff(one, lengths[-1], options)
            watches += [one.watch] if one.watch else []
    if options.wants("gate.recall"):
        yield from recall_row(watches)


def _fitting(name: str, lengths: Sequence[int], num_tokens: int) -> list[int]:
    """Return the lengths that a text has; say which it has not."""
    if too_long := [str(length) for length in lengths if length > num_tokens]:
        say(f"  {name} has {num_tokens} tokens, {', '.join(too_long)} are left out")
    return [length for length in lengths if length <= num_tokens]


def _lengths_of(name: str, options: Options, *, is_code: bool) -> list[int]:
    """Return the lengths at which some row of a text is asked for; recall and lifts are taken at the longest."""
    lengths = _lengths(options)

    def is_wanted(length: int) -> bool:
        place = f"{name}.{size(length)}"
        names = [f"quality.{place}", *(f"peer.{slug(each)}.{place}" for each in _peers(options))]
        names += [f"code.{size(length)}"] * is_code
        names += [f"ablation.{each}.{place}" for each in ABLATIONS] * (length == lengths[-1])
        names += [f"tradeoff.{place}"] * (length == lengths[-1])
        names += (["gate.recall"] + ["kept"] * is_code) * (length == lengths[-1])
        return any(options.wants(each) for each in names)

    return [length for length in lengths if is_wanted(length)]


def _of_text(one: Text, lengths: Sequence[int], options: Options) -> Iterator[Result]:
    for length in lengths:
        yield from _losses(one, length, options)
        if one.code is not None and options.wants(prefix := f"code.{size(length)}"):
            ids = one.ids[0, :length].numpy()
            yield from completion(prefix, one.code, ids, one.read("dense"), one.read("tuili"))
    if options.wants("gate.recall") or (one.code is not None and options.wants("kept")):
        one.read("tuili")
    if one.code is not None and one.watch is not None and options.wants("kept"):
        yield from lift_rows(one.watch, one.code.classes)


def _ablations(one: Text, length: int, options: Options) -> Iterator[Result]:
    """Yield what is lost with one part of what is shipped changed, at the longest length."""
    for name in ABLATIONS:
        if options.wants(row := f"ablation.{name}.{one.name}.{size(length)}.ppl_increase"):
            ours = perplexity.increase("", one.read("dense").losses, one.read("tuili").losses).value
            baseline = {"name": "as shipped", "value": ours}
            yield perplexity.increase(row, one.read("dense").losses, one.read(name).losses, baseline=baseline)


def _tradeoff(one: Text, length: int, options: Options) -> Iterator[Result]:
    """Yield what is lost with fewer and more keys than are shipped and with as many, at the longest length."""
    prefix = f"tradeoff.{one.name}.{size(length)}"
    if not options.wants(prefix):
        return
    shipped = tradeoff.shipped_keys(one.model)
    for method in tradeoff.METHODS:
        for keys in sorted({*tradeoff.KEYS, shipped}):
            if options.wants(row := f"{prefix}.{slug(method)}.keys_{keys}.ppl_increase"):
                after = one.read(method if keys == shipped else tradeoff.spelled(method, keys))
                is_ours = method == "tuili" and keys == shipped and length == perplexity.TARGET_LENGTH
                target = perplexity.TARGET if is_ours else None
                yield perplexity.increase(row, one.read("dense").losses, after.losses, target=target)


def _losses(one: Text, length: int, options: Options) -> Iterator[Result]:
    """Yield what is computed from the losses of a text's beginning."""
    place = f"{one.name}.{size(length)}"
    peers = [each for each in _peers(options) if options.wants(f"peer.{slug(each)}.{place}")]
    if not peers and not options.wants(f"quality.{place}"):
        return
    before, after = one.read("dense").losses[:length], one.read("tuili").losses[:length]
    theirs = {each: one.read(each).losses[:length] for each in peers}
    yield from perplexity.increases(place, before, after, theirs)
    if options.wants(name := f"quality.{place}.ppl_increase_adapted"):
        target = perplexity.TARGET if length == perplexity.TARGET_LENGTH else None
        yield perplexity.increase(name, one.adapted().losses[:length], after, target=target)
    if options.wants(f"quality.{place}.key_tokens") or any(
        options.wants(f"peer.{slug(each)}.{place}.key_tokens") for each in peers
    ):
        yield from perplexity.on_key_tokens(place, before, after, one.short()[:length], theirs)


# -- tasks ---------------------------------------------------------------------------------------


def _ways(options: Options) -> Mapping[str, Way]:
    """Return the ways to run tasks by name; peers only in full runs, for time."""
    peers: Mapping[str, Way] = {slug(each): peer(each) for each in SELECTIONS if options.full}
    return {"dense": dense, "tuili": ported, **peers}


def _wanted(name: str, length: int, options: Options) -> dict[str, Way]:
    """Return the ways that some wanted row of a task needs, none or the dense one and others."""
    place = f"{name}.{size(length)}"
    rows: Callable[[str], str] = lambda way: place if way == "tuili" else f"peer.{way}.{place}"  # noqa: E731
    found = {way: each for way, each in _ways(options).items() if way != "dense" and options.wants(rows(way))}
    return {"dense": dense, **found} if found else {}


def _copies(model: Any, tokenizer: Any, options: Options) -> Iterator[Result]:
    ids = tokenizer(prose(), verbose=False).input_ids
    for length in _lengths(options):
        if ways := _wanted("copy", length, options):
            import torch

            task = copies(ids, length)
            losses = {}
            for name, way in ways.items():
                say(f"  copy, {length} tokens: {name}")
                with way(model) as running:
                    losses[name] = read(running, torch.tensor([task.ids])).losses
            yield from copying(f"copy.{size(length)}", task, losses)


def _questions(model: Any, tokenizer: Any, name: str, make: Make, options: Options) -> Iterator[Result]:
    num_questions = QUESTIONS_SMOKE if options.smoke else QUESTIONS

    def count(text: str) -> int:
        return len(tokenizer(text, verbose=False).input_ids)

    for length in _lengths(options):
        ways = _wanted(name, length, options)
        answers: dict[str, answering.Answers] = {way: [] for way in ways}
        tasks = range(CONTEXTS_FULL if options.full else CONTEXTS) if ways else ()
        contexts = [make(seed, count, length - ROOM, num_questions) for seed in tasks]
        for way, each in ways.items():
            say(f"  {name}, {length} tokens: {way}")
            with each(model) as running:
                for context in contexts:
                    answers[way] += answering.answer(running, tokenizer, context, f"{name}, {way}")
        if contexts:
            questions = [question for context in contexts for question in context.questions]
            yield from answering.rows(f"{name}.{size(length)}", questions, answers)


if __name__ == "__main__":
    run("Quality of sparse attention", measure)
