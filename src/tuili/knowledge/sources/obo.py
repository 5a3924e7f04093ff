"""Reader of ontologies in the OBO format: the [Term] stanzas with what tuili uses of them.

Covered: id, name, def, alt_id, synonym with its scope, is_a, is_obsolete, replaced_by. Other tags and
stanzas are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tuili.errors import SourceError
from tuili.knowledge.records import BadRow

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(EXACT|BROAD|NARROW|RELATED)?')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "W": " "}


@dataclass(slots=True)
class Term:
    """One [Term] stanza; `synonyms` by scope, `parents` with the line that names them."""

    line: int
    key: str = ""
    name: str = ""
    definition: str = ""
    alt_ids: list[str] = field(default_factory=list)
    synonyms: dict[str, list[str]] = field(default_factory=dict)
    parents: list[tuple[int, str]] = field(default_factory=list)
    obsolete: bool = False
    replaced_by: str = ""

    def all_synonyms(self) -> list[str]:
        """Return the synonyms of every scope."""
        return [text for scope in self.synonyms.values() for text in scope]


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 text file with their numbers, from 1.

    Raises:
        SourceError: the file is missing, can't be read or isn't UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"can't read {path} ({error}); give a readable UTF-8 file") from error


def read_terms(path: Path) -> Iterator[Term | BadRow]:
    """Yield the terms of an OBO file, obsolete ones too, and the lines that can't be read.

    Raises:
        SourceError: the file can't be read.
    """
    term: Term | None = None
    for number, line in read_lines(path):
        if line.startswith("["):
            if term:
                yield _checked(term)
            term = Term(number) if line.strip() == "[Term]" else None
        elif term and line.strip():
            problem = _read_tag(term, number, line)
            if problem:
                yield BadRow(number, f"{path.name}: {problem}", line[:200])
    if term:
        yield _checked(term)


def _checked(term: Term) -> Term | BadRow:
    if term.key and term.name:
        return term
    return BadRow(term.line, "the term has no id or no name", f"{term.key} {term.name}"[:200])


def _read_tag(term: Term, number: int, line: str) -> str:
    """Put one line into the term; return what is wrong with it, empty if nothing is."""
    tag, separator, value = line.partition(":")
    value = value.strip()
    if not separator:
        return "the line is no 'tag: value'"
    if tag in ("def", "synonym"):
        return _read_quoted(term, tag, value)
    if tag == "id":
        term.key = value
    elif tag == "name":
        term.name = _unescape(value)
    elif tag == "alt_id":
        term.alt_ids.append(value)
    elif tag == "is_a":
        term.parents.append((number, value.split(" ", 1)[0]))
    elif tag == "is_obsolete":
        term.obsolete = value == "true"
    elif tag == "replaced_by":
        term.replaced_by = term.replaced_by or value
    return ""


def _read_quoted(term: Term, tag: str, value: str) -> str:
    match = _QUOTED.match(value)
    if not match:
        return f"the line has no quoted text after '{tag}:'"
    text = _unescape(match[1]).strip()
    if tag == "def":
        term.definition = text
    else:
        term.synonyms.setdefault(match[2] or "RELATED", []).append(text)
    return ""


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text) if "\\" in text else text
