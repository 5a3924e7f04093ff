"""Kinds and relations of knowledge bases about Python packages, with the words that ask for them."""

from __future__ import annotations

from collections.abc import Iterator

from tuili.knowledge.records import Kind, Node, Record, Relation
from tuili.knowledge.sources.python_model import (
    KEYWORD_ONLY,
    POSITIONAL,
    POSITIONAL_ONLY,
    VARIADIC,
    VARIADIC_KEYWORD,
)

KINDS = (
    Kind("module", "A module or package.", ("module", "package", "library", "submodule", "namespace")),
    Kind("class", "A class.", ("class", "type", "object type")),
    Kind("exception", "A class below BaseException.", ("exception", "error", "warning"), parent="class"),
    Kind(
        "function", "Something that is called by its name.", ("function", "callable", "routine", "procedure")
    ),
    Kind("method", "A function of a class.", ("method", "member function"), parent="function"),
    Kind("property", "An attribute of the objects of a class.", ("property", "attribute", "field")),
    Kind("constant", "A name with a fixed value.", ("constant", "variable", "value", "flag")),
    Kind(
        "parameter",
        "What a function or the constructor of a class takes.",
        (
            "parameter",
            "argument",
            "arg",
            "param",
            "keyword",
            "kwarg",
            "keyword argument",
            "option",
            "input",
        ),
        by_name=True,
    ),
    Kind("literal", "The value a parameter has when it is not given.", ("literal", "value", "default value")),
    Kind("type", "What values an annotation allows.", ("type", "annotation", "data type", "type hint")),
    Kind(
        "parameter kind",
        "How a parameter can be passed.",
        ("parameter kind", "kind of parameter", "kind of argument", "way of passing"),
    ),
)

RELATIONS = (
    Relation(
        "contains",
        "defined in",
        "A module or class holds a definition.",
        domain=("module", "class", "exception"),
        range=("module", "class", "exception", "function", "method", "property", "constant"),
        words=("contain", "define", "have", "provide", "offer", "include", "export", "hold", "come with"),
        inverse_words=(
            "defined in",
            "in",
            "of",
            "from",
            "belong to",
            "part of",
            "member of",
            "live in",
            "found in",
            "provided by",
            "come from",
            "located in",
            "declared in",
            "inside",
        ),
    ),
    Relation(
        "has parameter",
        "parameter of",
        "A callable takes a parameter.",
        domain=("function", "method", "class", "exception"),
        range=("parameter",),
        words=(
            "take",
            "accept",
            "have",
            "has parameter",
            "expect",
            "support",
            "receive",
            "allow",
            "need",
            "require",
            "expose",
            "be called with",
            "be passed",
            "be given",
            "understand",
        ),
        inverse_words=(
            "parameter of",
            "argument of",
            "option of",
            "keyword of",
            "parameter to",
            "argument to",
            "passed to",
            "accepted by",
            "taken by",
            "supported by",
            "given to",
            "of",
            "for",
        ),
    ),
    Relation(
        "default",
        "default of",
        "A parameter has this value when it is not given.",
        domain=("parameter",),
        range=("literal",),
        words=(
            "default",
            "default to",
            "default value",
            "have default",
            "be by default",
            "fall back to",
            "be set to by default",
            "initial value",
            "when omitted",
            "if not given",
        ),
        inverse_words=("default of", "default value of", "default for", "the default in"),
    ),
    Relation(
        "accepts type",
        "type of",
        "A parameter's annotation allows a type.",
        domain=("parameter",),
        range=("type",),
        words=(
            "accept type",
            "type",
            "accept",
            "be of type",
            "have type",
            "be annotated as",
            "be typed as",
            "allow",
            "take type",
            "expect type",
            "data type",
        ),
        inverse_words=("type of", "accepted by", "annotation of", "type accepted by", "allowed for"),
    ),
    Relation(
        "returns",
        "returned by",
        "A callable gives back a type.",
        domain=("function", "method", "property"),
        range=("type",),
        words=(
            "return",
            "return type",
            "give back",
            "give",
            "produce",
            "yield",
            "result in",
            "evaluate to",
            "output",
        ),
        inverse_words=("returned by", "result of", "return type of", "produced by", "output of", "given by"),
    ),
    Relation(
        "base class",
        "subclass",
        "A class inherits from another.",
        domain=("class", "exception"),
        range=("class", "exception"),
        words=(
            "inherit from",
            "derive from",
            "extend",
            "subclass of",
            "be a subclass of",
            "be a kind of",
            "descend from",
            "be derived from",
            "child of",
            "specialise",
            "built upon",
            "build on",
            "built on",
            "is a",
        ),
        inverse_words=("inherited by", "extended by", "subclassed by", "specialised by"),
        nouns=(
            "base",
            "superclass",
            "parent class",
            "parent",
            "ancestor",
            "super class",
            "base type",
            "base exception",
            "parent exception",
            "class above",
        ),
        inverse_nouns=(
            "derived class",
            "child class",
            "child",
            "children",
            "descendant",
            "sub class",
            "derived exception",
        ),
        transitive=True,
    ),
    Relation(
        "parameter kind",
        "kind of parameter",
        "How a parameter can be passed.",
        domain=("parameter",),
        range=("parameter kind",),
        words=("parameter kind", "be", "be passed as", "kind", "have kind", "be passed by"),
        inverse_words=("kind of", "how is passed", "kind of parameter"),
    ),
    Relation(
        "value",
        "value of",
        "A constant has a value.",
        domain=("constant",),
        range=("literal",),
        words=("value", "have value", "equal", "be", "be set to", "stand for", "hold"),
        inverse_words=("value of", "held by"),
    ),
)

PARAMETER_KINDS = {
    POSITIONAL_ONLY: (
        "Can be passed by its place only.",
        ("positional only", "position-only", "by position only", "not by keyword"),
    ),
    POSITIONAL: (
        "Can be passed by its place or by its name.",
        ("positional", "positional-or-keyword", "ordinary", "by position or keyword"),
    ),
    KEYWORD_ONLY: (
        "Can be passed by its name only.",
        ("keyword only", "kwonly", "kw-only", "named only", "by keyword only", "by name only"),
    ),
    VARIADIC: (
        "Takes any number of arguments by their place.",
        ("var positional", "*args", "star args", "variable positional", "varargs"),
    ),
    VARIADIC_KEYWORD: (
        "Takes any number of arguments by their names.",
        ("var keyword", "**kwargs", "double star", "variable keyword", "varkw"),
    ),
}


def schema() -> Iterator[Record]:
    """Yield all kinds and relations, and the five nodes of kind "parameter kind"."""
    yield from KINDS
    yield from RELATIONS
    for name, (text, aliases) in PARAMETER_KINDS.items():
        yield Node(parameter_kind_key(name), "parameter kind", name, text, aliases)


def parameter_kind_key(name: str) -> str:
    """Return the key of a parameter kind's node."""
    return f"parameter kind:{name}"
