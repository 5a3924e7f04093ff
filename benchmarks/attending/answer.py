"""Answers to a question about real documents of 6,000 tokens, ported against dense: the time, and what is said."""

from __future__ import annotations

from collections.abc import Iterator

from attending.inputs import MODEL, decoder
from porting.texts import texts
from runner import Options, Result, say

NUM_TOKENS = 6000
MAX_NEW_TOKENS = 40
QUESTION = "What is this text about?"


def answer(options: Options) -> Iterator[Result]:
    """Yield for each document how much sooner the whole answer is there, and how far it is the dense model's."""
    from transformers import AutoTokenizer

    import tuili
    from tuili.model.packaged import ensure
    from tuili.porting.generate import Generator, difference, prompt_ids

    documents = {name: text for name, text in texts(options).items() if options.wants(f"answer.{name}")}
    if not documents or options.smoke:
        return
    if not options.full and not options.only:
        name, *others = documents
        if others:
            say(f"  left out without --full: answers about {', '.join(others)}")
        documents = {name: documents[name]}
    tokenizer = AutoTokenizer.from_pretrained(ensure(MODEL), model_max_length=1 << 30)
    dense, ported = (Generator(decoder("fp32"), tokenizer, max_new_tokens=MAX_NEW_TOKENS) for _ in range(2))
    tuili.port(ported.model)
    short = prompt_ids(tokenizer, None, QUESTION, chat=True)  # the first reply takes longer
    dense.reply(short, ported=False), ported.reply(short, ported=True)
    for name, text in documents.items():
        ids = tokenizer(text, verbose=False).input_ids
        if len(ids) < NUM_TOKENS:
            say(f"  {name} has {len(ids)} tokens and not {NUM_TOKENS}: no answer")
            continue
        say(f"  a question about {NUM_TOKENS} tokens of {name}")
        prompt = prompt_ids(tokenizer, tokenizer.decode(ids[:NUM_TOKENS]), QUESTION, chat=True)
        theirs, ours = dense.reply(prompt, ported=False), ported.reply(prompt, ported=True)
        found = difference(theirs, ours, ported.agreement(prompt, theirs.ids))
        took = [reply.prefill_s + reply.decode_s for reply in (theirs, ours)]
        sdpa = {"name": "SDPA", "value": 1.0}
        yield Result(f"answer.{name}.speedup", took[0] / took[1], "x", None, 1, sdpa)
        yield Result(f"answer.{name}.tuili.time", took[1], "s", None, 1)
        same = len(theirs.ids) if found.first_differing is None else found.first_differing
        yield Result(f"answer.{name}.same_beginning", same / len(theirs.ids), "fraction", None, len(theirs.ids))
        yield Result(f"answer.{name}.agreement", found.agreement, "fraction", None, len(theirs.ids))
