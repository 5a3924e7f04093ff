"""`tuili plan`: layouts of training on a cluster, ranked by predicted step time."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuili.cli.output import UTF8, print_json
from tuili.errors import UsageError

if TYPE_CHECKING:
    from tuili.train.planning.cost import Job
    from tuili.train.planning.devices import Cluster
    from tuili.train.planning.models import Model
    from tuili.train.planning.search import Choices

SIZES = {
    "layers": "num_layers",
    "hidden": "hidden",
    "heads": "num_heads",
    "kv_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "mlp": "mlp",
    "vocab": "vocab",
}
FIXED = ("pp", "dp_replicate", "dp_shard", "tp", "micro_batch", "virtual")
SCHEDULES = ("auto", "gpipe", "1f1b", "interleaved", "zero-bubble")
RECOMPUTES = ("auto", "none", "selective", "full")
CLUSTER = re.compile(r"(?P<kind>[\w.-]+):(?P<count>\d{1,9})")
USED: dict[str, tuple[str, ...]] = {
    "speeds": ("model", "sizes", "layer_plan", "seq"),
    "fits_batch": ("clusters", "seq", "chunked_loss"),
    "claim": (),
    "tables": (),
}
"""Questions besides the plan, and the options that each has a use for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line gives."""

    model: str | None
    sizes: str | None
    layer_plan: str | None
    clusters: tuple[str, ...]
    per_node: int | None
    fast_link: float | None
    slow_link: float | None
    batch: int | None
    seq: int
    dtype: str
    recompute: str
    schedule: str
    fixed: str | None
    whole_tokens: bool
    one_rail: bool
    chunked_loss: bool
    top: int
    picture: Path | None
    speeds: str | None
    fits_batch: int | None
    claim: bool
    tables: bool
    as_json: bool


@click.command(name="plan")
@click.argument("model", type=UTF8, required=False)
@click.option(
    "--sizes",
    metavar="NAME=N,...",
    help=f"Sizes of a model of your own: {', '.join(SIZES)}; with MODEL, what differs from it.",
)
@click.option(
    "--layer-plan",
    metavar="PLAN",
    help='What layers read, e.g. "dense:2 sparse:24:keep=1024 pooled:4"; compared with the dense model.',
)
@click.option(
    "--cluster",
    "clusters",
    multiple=True,
    metavar="KIND:N",
    help="Devices: a100-40, a100-80, h100-80, h100-96, cpu-32; repeat it for a pipeline over several kinds.",
)
@click.option("--per-node", type=click.IntRange(min=1), metavar="N", help="Devices behind fast links; else as usual.")
@click.option("--fast-link", type=click.FloatRange(min=0, min_open=True), metavar="GB/S", help="Link inside a node.")
@click.option("--slow-link", type=click.FloatRange(min=0, min_open=True), metavar="GB/S", help="Link between nodes.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Sequences a step, of all devices together.")
@click.option("--seq", type=click.IntRange(min=1), default=2048, show_default=True, metavar="N", help="Tokens each.")
@click.option("--dtype", type=click.Choice(["bf16", "fp8"]), default="bf16", show_default=True, help="Of products.")
@click.option(
    "--recompute", type=click.Choice(RECOMPUTES), default="auto", show_default=True, help="In the backward pass."
)
@click.option("--schedule", type=click.Choice(SCHEDULES), default="auto", show_default=True, help="Of a pipeline.")
@click.option("--fix", "fixed", metavar="NAME=N,...", help=f"Look only at layouts with these: {', '.join(FIXED)}.")
@click.option("--whole-tokens", is_flag=True, help="Tensor slices keep whole activations (no sequence parallelism).")
@click.option("--one-rail", is_flag=True, help="Groups over nodes use one slow link, not those of all their members.")
@click.option("--chunked-loss", is_flag=True, help="Logits are computed a few at a time, and take no memory.")
@click.option("--top", type=click.IntRange(min=1), default=8, show_default=True, metavar="N", help="Layouts to show.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the best layouts (.svg, .png): parts of the time, memory.",
)
@click.option("--speeds", metavar="S,S,...", help="Instead: split MODEL's layers over stages of these relative speeds.")
@click.option(
    "--fits-batch", type=click.IntRange(min=1), metavar="N", help="Instead: for which models N sequences fit."
)
@click.option("--claim", is_flag=True, help='Instead: two readings of "100B, 72 h become 18 h", as predictions.')
@click.option("--tables", is_flag=True, help="Instead: the published tables, and how far predictions are from them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, /, **given: Any) -> None:
    """Rank the ways to lay out the training of MODEL on a cluster, by predicted step time.

    MODEL is a name (gpt3-1.3b, gpt3-175b, llama2-7b, llama2-13b, llama2-70b, llama3-8b, llama3-70b, llama3-405b, 100b,
    smollm2-135m, smollm2-1.7b) or a Hugging Face config.json. Nothing is run: every time is a prediction of a model
    that was checked against published tables (`tuili plan --tables`).

    \b
      tuili plan llama3-70b --cluster h100-80:64 --batch 256 --seq 8192
      tuili plan ./config.json --cluster a100-80:16 --batch 64 --fix tp=4 --picture layouts.png
      tuili plan llama3-8b --cluster a100-80:16 --batch 16 --seq 32768 --layer-plan "dense:2 sparse:30:beam=16"
      tuili plan 100b --cluster a100-80:64 --cluster h100-80:64 --batch 512
      tuili plan llama3-8b --speeds 1,1,0.5,1
      tuili plan --fits-batch 64
    """
    options = Options(**given)
    asked = [name for name in USED if getattr(options, name)]
    if len(asked) > 1:
        raise UsageError(
            f"--{asked[0].replace('_', '-')} and --{asked[1].replace('_', '-')} are two questions; give one"
        )
    if asked:
        _refuse_what_has_no_effect(context, asked[0])
    answer = {"speeds": _split, "fits_batch": _fits, "claim": _claim, "tables": _tables}.get("".join(asked), _plan)
    value, lines = answer(options)
    if options.as_json:
        print_json(value)
    else:
        click.echo("\n".join(lines))


def _refuse_what_has_no_effect(context: click.Context, asked: str) -> None:
    given = [
        name for name in context.params if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    without = [name for name in given if name not in {asked, "as_json", *USED[asked]}]
    if without:
        (shown,) = [one for one in context.command.params if one.name == without[0]]
        name = "MODEL" if without[0] == "model" else shown.opts[0]
        raise UsageError(f"{name} has no effect with --{asked.replace('_', '-')}; leave it out")


# -- the plan ------------------------------------------------------------------------------------


def _plan(options: Options) -> tuple[Any, list[str]]:
    from tuili.cli.plan_text import plan_json, plan_lines
    from tuili.train.planning.search import search

    job, choices = _job(options), _choices(options)
    plan = search(job, choices)
    dense = None
    if job.model.layer_plan:
        dense = search(replace(job, model=job.model.with_plan(())), choices)
    if options.picture is not None:
        from tuili.train.planning.picture import draw

        draw(plan, options.picture)
    return plan_json(plan, dense, options.top), plan_lines(plan, dense, options.top)


def _job(options: Options) -> Job:
    from tuili.train.planning.cost import Job
    from tuili.train.planning.layout import Practice

    model = _model(options)
    if not options.clusters:
        raise UsageError("no cluster is given; give for example --cluster a100-80:8")
    if options.batch is None:
        raise UsageError("no batch is given; give the sequences of a step of all devices, for example --batch 256")
    practice = Practice(fp8=options.dtype == "fp8", rails=not options.one_rail, chunked_loss=options.chunked_loss)
    return Job(model=model, cluster=_cluster(options), batch=options.batch, seq=options.seq, practice=practice)


def _model(options: Options) -> Model:
    from tuili.train.planning.layer_plans import parse_layer_plan

    model = _sized(options)
    if options.layer_plan is None:
        return model
    return model.with_plan(parse_layer_plan(options.layer_plan))


def _sized(options: Options) -> Model:
    """Return the named or described model, with the sizes that are given."""
    from tuili.train.planning.configs import read_config
    from tuili.train.planning.models import Model, preset, presets

    numbers = _numbers("--sizes", options.sizes, tuple(SIZES))
    sizes: dict[str, Any] = {SIZES[name]: value for name, value in numbers.items()}
    if options.model is not None:
        path = Path(options.model)
        known = options.model in presets() or not path.exists()
        model = preset(options.model) if known else read_config(path)
        return replace(model, **sizes, name=f"{model.name} resized") if sizes else model
    missing = [name for name in ("layers", "hidden", "heads", "mlp", "vocab") if SIZES[name] not in sizes]
    if missing:
        raise UsageError(f"no MODEL, and no {missing[0]} in --sizes; give a model, or {', '.join(missing)}")
    heads = max(sizes["num_heads"], 1)
    defaults: dict[str, Any] = {"num_kv_heads": sizes["num_heads"], "head_dim": max(sizes["hidden"] // heads, 1)}
    return Model(name="your model", **{**defaults, **sizes})


def _cluster(options: Options) -> Cluster:
    from tuili.train.planning.devices import Cluster, Group, Node, device

    groups = []
    for text in options.clusters:
        found = CLUSTER.fullmatch(text)
        if found is None:
            raise UsageError(f"--cluster {text!r}; give a kind and a number, for example a100-80:64")
        kind, count = device(found["kind"]), int(found["count"])
        changed: dict[str, Any] = {
            name: value * 1e9
            for name, value in (("fast_link", options.fast_link), ("slow_link", options.slow_link))
            if value is not None
        }
        per_node = min(options.per_node or kind.per_node, max(count, 1))
        groups.append(Group(Node(replace(kind, **changed), per_node), count))
    return Cluster(tuple(groups))


def _choices(options: Options) -> Choices:
    from tuili.train.planning.search import Choices

    fixed = _numbers("--fix", options.fixed, FIXED)
    choices = Choices(fixed=fixed, sequence_parallel=not options.whole_tokens)
    if options.recompute != "auto":
        choices = replace(choices, recomputes=(options.recompute,))
    if options.schedule != "auto":
        choices = replace(choices, schedules=(options.schedule,))
    return choices


def _numbers(option: str, text: str | None, known: tuple[str, ...]) -> dict[str, int]:
    """Return what "a=1,b=2" says.

    Raises:
        UsageError: a name is not known or comes twice, or a value is no positive number.
    """
    numbers: dict[str, int] = {}
    for part in (text or "").replace(",", " ").split():
        name, _, value = part.partition("=")
        if name not in known or name in numbers or not value.isdecimal() or not 0 < int(value) < 10**9:
            raise UsageError(f"{option} has {part!r}; give NAME=NUMBER once each, with a name of: {', '.join(known)}")
        numbers[name] = int(value)
    if text is not None and not numbers:
        raise UsageError(f"{option} is empty; give NAME=NUMBER with a name of: {', '.join(known)}")
    return numbers


# -- the other questions -------------------------------------------------------------------------


def _split(options: Options) -> tuple[Any, list[str]]:
    from tuili.cli.plan_text import split_json, split_lines
    from tuili.train.planning.uneven import propose

    proposed = propose(_model(options), _speeds(options.speeds or ""), options.seq)
    return split_json(proposed), split_lines(proposed)


def _speeds(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--speeds {text!r}; give numbers with commas between, for example 1,1,0.5,1") from error


def _fits(options: Options) -> tuple[Any, list[str]]:
    from tuili.cli.plan_text import fits_json, fits_lines
    from tuili.train.planning.batches import fits_batch
    from tuili.train.planning.devices import device
    from tuili.train.planning.layout import Practice

    if len(options.clusters) > 1:
        raise UsageError("--fits-batch looks at one kind of device; give one --cluster")
    name, colon, count = (options.clusters[0] if options.clusters else "a100-80").partition(":")
    if colon and count != "1":
        raise UsageError(
            "--fits-batch looks at one device, and says over how many the rest must be sharded; give "
            f"--cluster {name}:1"
        )
    kind, batch = device(name), options.fits_batch or 1
    found = fits_batch(batch, kind, options.seq, Practice(chunked_loss=options.chunked_loss))
    return fits_json(found, batch, kind, options.seq), fits_lines(found, batch, kind, options.seq)


def _claim(options: Options) -> tuple[Any, list[str]]:
    from tuili.cli.plan_text import claim_json, claim_lines
    from tuili.train.planning.claim import readings

    return claim_json(readings()), claim_lines(readings())


def _tables(options: Options) -> tuple[Any, list[str]]:
    from tuili.cli.plan_text import tables_json, tables_lines
    from tuili.train.planning.tables import tables

    return tables_json(tables()), tables_lines(tables())
