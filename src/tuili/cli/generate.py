"""`tuili generate`: have a decoder read a document and answer."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuili.cli.decoders import FILE, as_json_option
from tuili.cli.output import UTF8, print_json, progress, say
from tuili.errors import UsageError

if TYPE_CHECKING:
    from tuili.cli.output import OnProgress
    from tuili.porting.generate import Generator, Reply

MAX_NEW_TOKENS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line gives."""

    model: str
    document: Path | None
    prompt: str | None
    max_new_tokens: int
    dense: bool
    compare: bool
    seed: int | None
    no_chat: bool
    as_json: bool


@click.command(name="generate")
@click.argument("model", type=UTF8, metavar="MODEL_OR_DIR")
@click.option("--file", "document", type=FILE, metavar="DOC", help='The document to read; *.json by its field "text".')
@click.option("--prompt", type=UTF8, metavar="TEXT", help="The question, put after the document.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=MAX_NEW_TOKENS,
    show_default=True,
    metavar="N",
    help="Tokens of the answer at most.",
)
@click.option("--dense", is_flag=True, help="Run the model as it is, without sparse attention.")
@click.option("--compare", is_flag=True, help="Run both, and say how they differ in time and text.")
@click.option("--seed", type=int, metavar="N", help="Sample with this seed; without it the likeliest tokens.")
@click.option("--no-chat", is_flag=True, help="Have the model continue the plain text; no chat template.")
@as_json_option
def command(**given: Any) -> None:
    """Have a decoder read a document and answer, each token reading only the keys it needs.

    MODEL_OR_DIR is a folder that `tuili port` wrote, or any model, which is then ported as `tuili port` would by
    default. The answer goes to stdout as it is made; tokens, times and keys read go to stderr.

    \b
      tuili generate smollm2-135m --file README.md --prompt "What is this about?"
      tuili generate ported --file book.txt --prompt "Who is the narrator?" --compare
    """
    options = Options(**given)
    if options.dense and options.compare:
        raise UsageError("--compare runs both and --dense one of them; leave one out")
    if options.document is None and options.prompt is None:
        raise UsageError('give --file DOC, --prompt TEXT or both: tuili generate MODEL --file DOC --prompt "..."')
    with progress() as on_progress:
        generator, ids, port = _prepare(options, on_progress)
    result = _compare(generator, ids, port, options) if options.compare else _reply(generator, ids, port, options)
    if options.as_json:
        print_json(result)


def _prepare(options: Options, on_progress: OnProgress) -> tuple[Generator, Any, Any]:
    """Return what generates, the prompt's token ids, and a function that ports the model.

    Raises:
        LimitError: prompt and answer don't fit into the model's window.
    """
    from tuili.porting import folder
    from tuili.porting.generate import Generator, check_room, prompt_ids
    from tuili.porting.hf import port
    from tuili.porting.texts import read_text

    document = None if options.document is None else read_text(options.document)
    loaded, ported = folder.load(options.model, on_progress)
    ids = prompt_ids(loaded.tokenizer, document, options.prompt, chat=not options.no_chat)
    check_room(ids.shape[1], options.max_new_tokens, loaded.window)
    if not options.no_chat and loaded.tokenizer.chat_template is None:
        say("this model has no chat template; it continues the plain text")

    def put() -> None:
        if ported is None:
            port(loaded.model)
        else:
            folder.port_as_recorded(loaded.model, ported, folder.read_record(ported))

    generator = Generator(loaded.model, loaded.tokenizer, max_new_tokens=options.max_new_tokens, seed=options.seed)
    return generator, ids, put


def _reply(generator: Generator, ids: Any, port: Any, options: Options) -> dict[str, Any]:
    if not options.dense:
        port()
    mode = "dense" if options.dense else "sparse"
    return {"mode": mode, **_shown(_run(generator, ids, mode, is_shown=not options.as_json))}


def _compare(generator: Generator, ids: Any, port: Any, options: Options) -> dict[str, Any]:
    from tuili.porting.generate import difference

    dense = _run(generator, ids, "dense", is_shown=False)
    port()
    sparse = _run(generator, ids, "sparse", is_shown=not options.as_json)
    found = difference(dense, sparse, generator.agreement(ids, dense.ids))
    speedup = f"{found.prefill_speedup:.2f} times the prefill speed"
    if found.decode_speedup is not None:
        speedup += f", {found.decode_speedup:.2f} times in decoding"
    if found.is_identical:
        say(f"{speedup}; both texts are the same")
    else:
        say(
            f"{speedup}; the texts differ from token {found.first_differing} on, "
            f"the sparse model's choice is the dense one's for {found.agreement:.1%} of its tokens"
        )
        say(f"the dense text: {dense.text.strip()}")
    return {"dense": _shown(dense), "sparse": _shown(sparse), "difference": asdict(found)}


def _run(generator: Generator, ids: Any, mode: str, *, is_shown: bool) -> Reply:
    """Reply, and show the text on stdout as it is made; the progress bar goes before the first word comes."""
    with contextlib.ExitStack() as stack:
        generator.on_progress = stack.enter_context(progress())

        def on_text(text: str) -> None:
            stack.close()
            if is_shown:
                click.echo(text, nl=False)
                sys.stdout.flush()

        reply = generator.reply(ids, on_text, ported=mode == "sparse")
    if is_shown:
        click.echo()
    _tell(mode, reply)
    return reply


def _tell(mode: str, reply: Reply) -> None:
    say(
        f"{mode}: {reply.num_prompt_tokens:,} tokens read in {reply.prefill_s:.2f} s, {len(reply.ids):,} made in "
        f"{reply.decode_s:.2f} s, {reply.keys_per_token:,.0f} keys a token and layer"
    )


def _shown(reply: Reply) -> dict[str, Any]:
    """Return a reply as JSON holds it; its token ids are left out."""
    return {key: value for key, value in asdict(reply).items() if key != "ids"} | {"num_new_tokens": len(reply.ids)}
