"""Finds in docstrings what a thing is, and what is said of each of its parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator

_MAX_CHARS = 1200
_MAX_PARAMETER_CHARS = 600
_MAX_SENTENCES = 3
_MIN_WORDS = 3
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+(?=[\"'`*(\[A-Z])")
_PARAGRAPH = re.compile(r"\n\s*\n")
_UNDERLINE = re.compile(r"^\s*[-=~]{3,}\s*$", re.MULTILINE)
_SIGNATURE_LINE = re.compile(r"^[\w.]+\(.*\)(\s*->\s*.*|\s*--.*|:?)$")
_ENTRY = re.compile(
    r"""^(?P<indent>\s*)(?:[-*•]\s+)?(?::param\s+(?:[^:]*\s)?)?[`*'"]{0,2}(?P<name>\w+)[`*'"]{0,2}"""
    r"(?:\s*\([^()]*\))?\s*(?P<mark>::?|--|\u2013|=)?(?:\s+(?P<text>.*)|$)"
)


def describe(doc: str, name: str = "") -> str:
    """Return a docstring as one line of at most 1,200 characters, without leading signatures."""
    return _cut(" ".join(without_signature(doc, name).split()), _MAX_CHARS)


def without_signature(doc: str, name: str) -> str:
    """Drop leading lines such as "range(stop) -> range object" of C docstrings."""
    lines = doc.strip().splitlines()
    while lines and _SIGNATURE_LINE.match(first := lines[0].strip()):
        call, _, rest = first.partition(" -- ")
        if name and call.partition("(")[0].rpartition(".")[2] != name:
            break
        lines[0] = rest
        if rest:
            break
        lines.pop(0)
        while lines and not lines[0].strip():
            lines.pop(0)
    return "\n".join(lines)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return text[: limit - 1].rsplit(" ", 1)[0] + "…"


def describe_parameter(docs: list[str], name: str) -> str:
    """Return what docstrings say of a parameter: its entry in a list, else sentences that name it."""
    for doc in docs:
        if name not in doc:
            continue
        if text := _entry(doc, name) or _sentences(doc, name):
            return _cut(text, _MAX_PARAMETER_CHARS)
    return ""


def _entry(doc: str, name: str) -> str:
    """Return a parameter's entry in Google, numpy, Sphinx, dashed or indented style."""
    lines = doc.splitlines()
    for index, line in enumerate(lines):
        match = _ENTRY.match(line)
        if not match or match["name"] != name:
            continue
        indent = len(match["indent"].expandtabs())
        more = list(_more_indented(lines[index + 1 :], indent))
        text = match["text"] or ""
        if match["mark"] in (":", "--", "\u2013") and (text or more):
            is_numpy = more and _UNDERLINE.search(doc) and not line.lstrip().startswith(":")
            return " ".join(" ".join(more if is_numpy else [text, *more]).split())
        if match["mark"] is None and not text and more:
            return " ".join(" ".join(more).split())
    return ""


def _more_indented(lines: list[str], indent: int) -> Iterator[str]:
    """Yield the lines of an entry: those indented deeper than its head."""
    for line in lines:
        if not line.strip() or len(line.expandtabs()) - len(line.expandtabs().lstrip()) <= indent:
            return
        yield line.strip()


def _sentences(doc: str, name: str) -> str:
    """Return up to three sentences that name the parameter; quoted mentions go before bare ones."""
    word = re.escape(name)
    quoted = re.compile(rf"[`*'\"]{word}[`*'\"(]|\b{word}\s?=")
    bare = re.compile(rf"(?<![\w.\-]){word}(?![\w\-])")
    sentences = list(_split(doc))
    picked = [one for one in sentences if quoted.search(one)] or [one for one in sentences if bare.search(one)]
    return " ".join(picked[:_MAX_SENTENCES])


def _split(doc: str) -> Iterator[str]:
    for paragraph in _PARAGRAPH.split(doc):
        if not paragraph.lstrip().startswith(">>>"):
            sentences = _SENTENCE_END.split(" ".join(paragraph.split()))
            yield from (one for one in sentences if len(one.split()) >= _MIN_WORDS)
