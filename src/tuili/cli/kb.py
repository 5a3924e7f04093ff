"""`tuili kb`: build, list, inspect, check, export and change knowledge bases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click

from tuili.cli.output import UTF8, OnProgress, print_json, progress, say

EVERY = 10_000
MAX_BAD_SHOWN = 20

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="kb")
def command() -> None:
    """Build, list, inspect, check and export knowledge bases.

    \b
      tuili kb add python
      tuili kb add requests python:requests
      tuili kb show python json.dumps
    """


@command.command()
@click.argument("name")
@click.argument("source", default="")
@click.option("--skip-bad", is_flag=True, help="Leave wrong rows out instead of refusing the source.")
@click.option("--force", is_flag=True, help="Replace a base of this name.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@as_json_option
def add(name: str, source: str, skip_bad: bool, force: bool, quiet: bool, as_json: bool) -> None:
    """Build the base NAME from SOURCE; without SOURCE the built-in python, formulas or hpo.

    SOURCE is python:PACKAGE, formulas:FOLDER, hpo:FOLDER, or a file of triples (.tsv, .jsonl, also .gz).

    \b
      tuili kb add hpo
      tuili kb add films films.tsv --skip-bad
    """
    from tuili.errors import UsageError
    from tuili.knowledge.bases import add_base, is_current
    from tuili.knowledge.sources import BUILT_IN

    if not source and name not in BUILT_IN:
        raise UsageError(
            f"{name!r} is not built in ({', '.join(BUILT_IN)} are); give its SOURCE: tuili kb add {name} FILE.tsv"
        )
    if not source and not force and is_current(name):
        _say_current(name, as_json)
        return
    with progress(quiet=quiet) as on_progress:
        report = add_base(name, source or name, skip_bad=skip_bad, replace=force, on_progress=on_progress)
    bad = [{"line": row.line, "reason": row.reason, "text": row.text} for row in report.bad_rows]
    if as_json:
        print_json(
            {
                "name": name,
                "num_entities": report.num_nodes,
                "num_facts": report.num_edges,
                "is_new": True,
                "seconds": round(report.seconds, 3),
                "num_bad_rows": len(bad),
                "bad_rows": bad,
            }
        )
        return
    click.echo(f"{name}: {report.num_nodes} entities, {report.num_edges} facts in {report.seconds:.1f} s")
    for row in bad[:MAX_BAD_SHOWN]:
        say(f"left out line {row['line']}: {row['reason']}: {row['text']!r}")
    if len(bad) > MAX_BAD_SHOWN:
        say(f"and {len(bad) - MAX_BAD_SHOWN} more wrong rows; --json lists them all")


def _say_current(name: str, as_json: bool) -> None:
    from tuili.knowledge.inspect import about

    if as_json:
        print_json({**about(name), "is_new": False})
    else:
        click.echo(f"{name} is built already, as a new build would be; --force builds it anew")


@command.command()
@as_json_option
def ls(as_json: bool) -> None:
    """List the bases that are built and those that are built in.

    \b
      tuili kb ls
      tuili kb ls --json
    """
    from tuili.knowledge.inspect import overview

    bases = overview()
    if as_json:
        print_json(bases)
        return
    for base in bases:
        size = f"{base['num_entities']:>9} entities {base['num_facts']:>9} facts" if base["state"] == "ready" else ""
        click.echo(f"{base['name']:16} {base['state']:8} {size:35} {base['description']}".rstrip())


@command.command()
@click.argument("name")
@click.argument("entity", default="", type=UTF8)
@as_json_option
def show(name: str, entity: str, as_json: bool) -> None:
    """Show what the base NAME is made of, or what it says about one ENTITY.

    \b
      tuili kb show hpo
      tuili kb show hpo "Marfan syndrome"
    """
    from tuili.cli.kb_text import print_entity, print_summary
    from tuili.knowledge.bases import ensure_base
    from tuili.knowledge.inspect import entities_named, summary
    from tuili.knowledge.store import Store

    with progress() as on_progress:
        path = ensure_base(name, on_progress)
    with Store.open(path) as store:
        shown = entities_named(store, entity) if entity else summary(store)
    if as_json:
        print_json(shown)
    elif isinstance(shown, list):
        for one in shown:
            print_entity(one)
    else:
        print_summary(shown)


@command.command()
@click.argument("name")
@as_json_option
def rm(name: str, as_json: bool) -> None:
    """Delete the base NAME.

    \b
      tuili kb rm films
      tuili kb rm films --json
    """
    from tuili.knowledge.bases import remove_base

    remove_base(name)
    print_json({"removed": name}) if as_json else click.echo(f"removed {name}")


@command.command()
@click.argument("name")
@click.option("--fix", is_flag=True, help="Upgrade the schema, rebuild the full-text index, give back free space.")
@as_json_option
def check(name: str, fix: bool, as_json: bool) -> None:
    """Check the base NAME; exit code 1 if something is wrong.

    \b
      tuili kb check python
      tuili kb check python --fix
    """
    from tuili.knowledge.inspect import repair
    from tuili.knowledge.store import Store, base_path

    path = base_path(name)
    if fix:
        with Store.open(path, writable=True) as store:
            repair(store)
    with Store.open(path) as store:
        problems = store.check()
    if as_json:
        print_json({"name": name, "problems": problems})
    else:
        click.echo("\n".join(problems) or f"{name} is sound")
    if problems:
        raise click.exceptions.Exit(1)


@command.command()
@click.argument("name")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["tsv", "jsonl"]),
    default="jsonl",
    show_default=True,
    help="jsonl gives the same base again; tsv holds the plain facts.",
)
@click.option("-o", "--output", default="-", help="A file; default: stdout.")
@click.option("--json", "as_json", is_flag=True, help="With -o: print the number of lines as JSON.")
def export(name: str, format_: str, output: str, as_json: bool) -> None:
    """Write the base NAME out as triples.

    \b
      tuili kb export films -o films.jsonl
      tuili kb export films --format tsv | head
    """
    from tuili.errors import UsageError
    from tuili.knowledge.bases import ensure_base
    from tuili.knowledge.export import jsonl_lines, tsv_lines
    from tuili.knowledge.store import Store

    if as_json and output == "-":
        raise UsageError("--json would mix with the export on stdout; give a file with -o")
    with progress() as on_progress, Store.open(ensure_base(name, on_progress)) as store:
        lines = tsv_lines(store) if format_ == "tsv" else jsonl_lines(store)
        num_lines = _write(lines, output, on_progress)
    if as_json:
        print_json({"name": name, "format": format_, "num_lines": num_lines})


@command.group()
def fact() -> None:
    """Add or take back single facts."""


@fact.command(name="add")
@click.argument("name")
@click.argument("subject", type=UTF8)
@click.argument("relation", type=UTF8)
@click.argument("object_", metavar="OBJECT", type=UTF8)
@click.option("--weight", type=float, default=1.0, show_default=True, help="How sure the fact is, from 0.")
@click.option("--source", default="", type=UTF8, help="Where the fact is stated.")
@as_json_option
def add_fact(name: str, subject: str, relation: str, object_: str, weight: float, source: str, as_json: bool) -> None:
    """Add a fact to the base NAME; new entities and relations are made.

    \b
      tuili kb fact add films "Alien" "directed by" "Ridley Scott" --source https://example.org/alien
      tuili kb fact add films "Alien" "year" "1979" --json
    """
    from tuili.knowledge.inspect import key_of
    from tuili.knowledge.records import Edge
    from tuili.knowledge.store import Store, base_path

    with Store.open(base_path(name), writable=True) as store:
        edge = Edge(key_of(store, subject), relation, key_of(store, object_), weight, source)
        store.add_facts([edge])
    _print_fact("added", edge.subject, relation, edge.object, as_json)


@fact.command(name="retract")
@click.argument("name")
@click.argument("subject", type=UTF8)
@click.argument("relation", type=UTF8)
@click.argument("object_", metavar="OBJECT", type=UTF8)
@as_json_option
def retract_fact(name: str, subject: str, relation: str, object_: str, as_json: bool) -> None:
    """Take a fact of the base NAME back.

    \b
      tuili kb fact retract films "Alien" "year" "1980"
      tuili kb fact retract films "Alien" "year" "1980" --json
    """
    from tuili.knowledge.inspect import key_of
    from tuili.knowledge.store import Store, base_path

    with Store.open(base_path(name), writable=True) as store:
        ends = key_of(store, subject), key_of(store, object_)
        store.retract(ends[0], relation, ends[1])
    _print_fact("retracted", ends[0], relation, ends[1], as_json)


def _print_fact(done: str, subject: str, relation: str, object_: str, as_json: bool) -> None:
    if as_json:
        print_json({done: {"subject": subject, "relation": relation, "object": object_}})
    else:
        click.echo(f"{done}: {subject} | {relation} | {object_}")


def _write(lines: Iterable[str], output: str, on_progress: OnProgress) -> int:
    """Write lines to stdout, or atomically to a file; return their number."""
    if output == "-":
        return _write_to(lambda line: click.echo(line, nl=False), lines, lambda stage, done, total: None)
    from tuili.files import atomic_path

    with atomic_path(Path(output)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        return _write_to(file.write, lines, on_progress)


def _write_to(write: Callable[[str], object], lines: Iterable[str], on_progress: OnProgress) -> int:
    num_lines = 0
    for line in lines:
        write(f"{line}\n")
        num_lines += 1
        if num_lines % EVERY == 0:
            on_progress("writing lines", num_lines, 0)
    return num_lines
