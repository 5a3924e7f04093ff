"""What a knowledge base is made of: the records that importers yield and the store keeps."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_SEPARATORS = re.compile(r"[\s_\-‐-―/]+")
_APOSTROPHES = re.compile(r"['’`´]s?\b|['’`´\"“”]")
_EDGES = " .,;:!?()[]{}"


def normalise(text: str) -> str:
    """Return the form in which names are compared.

    Case folded, without accents, apostrophes and outer punctuation; hyphens, underscores and
    slashes are spaces; dots inside a name stay ("json.dumps").
    """
    text = unicodedata.normalize("NFKD", text.casefold())
    text = "".join(char for char in text if not unicodedata.combining(char))
    return _SEPARATORS.sub(" ", _APOSTROPHES.sub("", text)).strip(_EDGES)


@dataclass(frozen=True, slots=True)
class Kind:
    """A node type, with the words that name it in a question ("argument" for parameter).

    Entities of a `by_name` kind are the same in answers when their names are (two functions
    share the parameter "encoding").
    """

    name: str
    description: str = ""
    words: tuple[str, ...] = ()
    parent: str = ""
    by_name: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """An edge type from `domain` kinds to `range` kinds.

    `words` are verbs from subject to object ("takes"), `inverse_words` from object to subject
    ("accepted by"); `nouns` name the object ("base class", as `name` does), `inverse_nouns` the
    subject ("subclass", as `inverse` does). `transitive` relations are followed to any depth ("is a").
    `qualifiers` name what an edge's data tells about the fact, with words ("how often").
    `object_through`: a fact about an object holds for everything that reaches it by this transitive
    relation upwards (a disease with "Arachnodactyly" has "Abnormality of the hand").
    `subject_through`: a subject inherits the facts of what it reaches (a class has its bases' methods).
    `ranked`: subjects are ranked by how well they explain several objects.
    """

    name: str
    inverse: str = ""
    description: str = ""
    domain: tuple[str, ...] = ()
    range: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    inverse_words: tuple[str, ...] = ()
    nouns: tuple[str, ...] = ()
    inverse_nouns: tuple[str, ...] = ()
    transitive: bool = False
    qualifiers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    object_through: str = ""
    subject_through: str = ""
    ranked: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """An entity. `key` is unique in its base; `name` is its preferred label, shown in answers."""

    key: str
    kind: str
    name: str
    description: str = ""
    aliases: tuple[str, ...] = ()
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Edge:
    """A fact, with the place that states it (file and line, URL or PMID)."""

    subject: str
    relation: str
    object: str
    weight: float = 1.0
    source: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that an importer could not read; the caller refuses or skips it, and reports it."""

    line: int
    reason: str
    text: str


Record = Kind | Relation | Node | Edge | BadRow
Records = Iterator[Record]
