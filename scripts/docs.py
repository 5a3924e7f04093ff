"""Write the reference of the command line from its help texts; `--check` says whether it is up to date."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tuili.cli.main import command

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference" / "cli.md"
HEAD = """# Command line

Written by `make docs` from the help texts. Results go to stdout, progress and messages to stderr.
Exit codes: [errors](errors.md). What `--json` prints: [JSON](json.md).
"""


def pages(group: click.Group, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the name and the help text of every command below `group`."""
    for name in group.list_commands(context):
        verb = group.get_command(context, name)
        if verb is None or verb.hidden:
            continue
        inner = click.Context(verb, info_name=name, parent=context, terminal_width=100, max_content_width=100)
        yield inner.command_path, verb.get_help(inner)
        if isinstance(verb, click.Group):
            yield from pages(verb, inner)


def reference() -> str:
    """Return the whole page."""
    root = click.Context(command, info_name="tuili", terminal_width=100, max_content_width=100)
    texts = [("tuili", command.get_help(root)), *pages(command, root)]
    parts = [f"## `{name}`\n\n```text\n{clean(text)}\n```\n" for name, text in texts]
    return "\n".join((HEAD, *parts))


def clean(text: str) -> str:
    """Return a text without blanks at the ends of its lines."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def main(arguments: list[str]) -> int:
    """Write the page, or compare it with what it should be."""
    wanted = reference()
    if "--check" not in arguments:
        REFERENCE.write_text(wanted, encoding="utf-8")
        return 0
    if REFERENCE.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"{REFERENCE.relative_to(ROOT)} is not what the help texts say; run: make docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
