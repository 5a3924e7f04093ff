"""Python source by its tokens: what is a definition, a call, a comment or blank, identifiers, lines to complete.

Works on the text alone; places are character offsets.
"""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Sequence

import numpy as np

Span = tuple[int, int]
CLASSES = ("other", "definitions", "calls", "comments", "blanks")
OTHER, DEFINITIONS, CALLS, COMMENTS, BLANKS = range(len(CLASSES))
SILENT = {tokenize.NL, tokenize.COMMENT}
LAYOUT = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Source:
    """A Python text and its lexical tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        lines = io.StringIO(text).readlines()
        self._starts = np.concatenate([[0], np.cumsum([len(line) for line in lines])])
        self.tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        self._code = [token for token in self.tokens if token.type not in SILENT]

    def span(self, token: tokenize.TokenInfo) -> Span:
        """Return where a token lies."""
        (row, column), (end_row, end_column) = token.start, token.end
        return int(self._starts[row - 1]) + column, int(self._starts[end_row - 1]) + end_column

    def classes(self) -> np.ndarray:
        """Return the class of each character [C].

        Definitions are the names after `def` and `class`, calls the names before a bracket, comments also the strings
        that stand alone (docstrings), blanks all white space.
        """
        found = np.full(len(self.text), OTHER, dtype=np.int8)
        for token in self.tokens:
            if token.type == tokenize.COMMENT:
                found[slice(*self.span(token))] = COMMENTS
        for before, token, after in zip([None, *self._code], self._code, [*self._code[1:], None], strict=False):
            if (kind := _kind(before, token, after)) != OTHER:
                found[slice(*self.span(token))] = kind
        found[np.array([character.isspace() for character in self.text], dtype=bool)] = BLANKS
        return found

    def identifiers(self) -> list[Span]:
        """Return where names that are no keywords lie."""
        return [self.span(token) for token in self.tokens if _is_identifier(token)]

    def remainders(self) -> list[Span]:
        """Return what follows the first identifier of each line of code, to the line's last lexical token.

        Comments are left out, and lines into or out of which a token runs on from another.
        """
        rows: dict[int, list[tokenize.TokenInfo]] = {}
        for token in self._code:
            if token.type not in LAYOUT:
                for row in range(token.start[0], token.end[0] + 1):
                    rows.setdefault(row, []).append(token)
        found = []
        for tokens in rows.values():
            first = next((token for token in tokens if _is_identifier(token)), None)
            is_whole = all(token.start[0] == token.end[0] for token in tokens)
            if first is not None and is_whole and tokens[-1] is not first:
                found.append((self.span(first)[1], self.span(tokens[-1])[1]))
        return found


def _kind(before: tokenize.TokenInfo | None, token: tokenize.TokenInfo, after: tokenize.TokenInfo | None) -> int:
    if token.type == tokenize.STRING:
        stands_alone = (before is None or before.type in LAYOUT) and (after is None or after.type in LAYOUT)
        return COMMENTS if stands_alone else OTHER
    if not _is_identifier(token):
        return OTHER
    if before is not None and before.string in ("def", "class"):
        return DEFINITIONS
    return CALLS if after is not None and after.string == "(" else OTHER


def _is_identifier(token: tokenize.TokenInfo) -> bool:
    return token.type == tokenize.NAME and not keyword.iskeyword(token.string)


# -- from characters to a model's tokens ---------------------------------------------------------


def class_of_tokens(classes: np.ndarray, offsets: Sequence[Span]) -> np.ndarray:
    """Return the class of each of a model's tokens: that of its first character that is not blank, else blank."""
    found = np.full(len(offsets), BLANKS, dtype=np.int8)
    for place, (begin, end) in enumerate(offsets):
        visible = classes[begin:end][classes[begin:end] != BLANKS]
        if len(visible):
            found[place] = visible[0]
    return found


def tokens_of(spans: Sequence[Span], offsets: Sequence[Span]) -> list[range]:
    """Return for each span the model's tokens that hold some of it; spans that the tokens do not reach are left out."""
    begins, ends = (np.array(each) for each in zip(*offsets, strict=True))
    found = []
    for begin, end in spans:
        first, last = int(np.searchsorted(ends, begin, side="right")), int(np.searchsorted(begins, end, side="left"))
        if end <= ends[-1] and first < last:
            found.append(range(first, last))
    return found


def lifts(kept_J: np.ndarray, offered_J: np.ndarray, counts_Jc: np.ndarray) -> np.ndarray:
    """Return for each class its share of the kept keys over its share of the keys that could be kept, NaN for 0 / 0.

    Args:
        kept_J: how often each block was kept.
        offered_J: how often each block could have been.
        counts_Jc: keys of each class in each block.
    """
    kept_c, offered_c = kept_J @ counts_Jc, offered_J @ counts_Jc
    with np.errstate(invalid="ignore", divide="ignore"):
        return (kept_c / kept_c.sum()) / (offered_c / offered_c.sum())
