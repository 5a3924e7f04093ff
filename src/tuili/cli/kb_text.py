"""How `tuili kb` prints a base and its entities for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

MAX_FACTS_SHOWN = 40
MAX_DESCRIPTION = 600


def print_summary(base: Mapping[str, Any]) -> None:
    """Print a base's counts, kinds and relations."""
    counts, meta = base["counts"], base["meta"]
    click.echo(f"{base['name']}: {counts['node']} entities, {counts['edge']} facts")
    click.echo(f"from {meta.get('origin', 'an unknown source')}, built {meta.get('built_at', 'at an unknown time')}")
    click.echo("\nkinds")
    for kind, count in base["kinds"].items():
        click.echo(f"  {count:>9}  {kind}")
    click.echo("\nrelations")
    for relation in base["relations"]:
        about = f": {relation['description']}" if relation["description"] else ""
        click.echo(f"  {relation['num_facts']:>9}  {relation['name']}{about}")
        for example in relation["examples"]:
            click.echo(f"             {example}")


def print_entity(entity: Mapping[str, Any]) -> None:
    """Print one entity with its facts and their sources."""
    click.echo(f"{entity['name']} ({entity['kind']}, key {entity['key']})")
    if entity["aliases"]:
        click.echo(f"also called: {', '.join(entity['aliases'])}")
    if entity["description"]:
        text = entity["description"]
        click.echo(text if len(text) <= MAX_DESCRIPTION else f"{text[:MAX_DESCRIPTION]}… (--json has it all)")
    for fact in entity["facts"][:MAX_FACTS_SHOWN]:
        source = f"  [{fact['source']}]" if fact["source"] else ""
        click.echo(f"  {fact['subject']} | {fact['relation']} | {fact['object']}{source}")
    left = entity["num_facts"] - min(len(entity["facts"]), MAX_FACTS_SHOWN)
    if left:
        click.echo(f"  and {left} more facts")
    click.echo()
