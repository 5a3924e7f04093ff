"""Kinds and relations of the base made from the Human Phenotype Ontology, with their words.

"lack" and "exclude" alone are left to negation (no such fact is known); "lacks finding" is for facts
that say so.
"""

from __future__ import annotations

from tuili.knowledge.records import Kind, Relation

TERM_KINDS = ("finding", "inheritance", "onset", "course", "modifier", "frequency")

KINDS = (
    Kind("finding", "A sign, symptom or other abnormality", (
        "finding", "symptom", "sign", "feature", "phenotype", "abnormality", "manifestation", "term")),
    Kind("disease", "A disease or syndrome", (
        "disease", "disorder", "syndrome", "condition", "illness", "diagnosis")),
    Kind("inheritance", "A mode of inheritance", (
        "inheritance", "mode of inheritance", "inheritance pattern")),
    Kind("onset", "The age at which a disease begins", ("onset", "age of onset", "age at onset")),
    Kind("course", "How a disease runs over time", ("course", "clinical course", "progression", "pace")),
    Kind("modifier", "A quality of a finding or disease", ("modifier", "clinical modifier", "severity")),
    Kind("frequency", "A class of how often a finding occurs", ("frequency", "frequency class")),
)

RELATIONS = (
    Relation(
        "is a", "subtype", "A term is a special case of another", TERM_KINDS, TERM_KINDS,
        ("is a", "is an", "kind of", "type of", "form of", "subclass of", "subtype of", "sort of", "case of",
         "fall under", "belong to", "count as", "classified as", "classified under", "be subsumed by", "example of",
         "variety of", "variant of", "come under", "below", "directly below", "beneath", "under", "directly under", "fall within", "be classed under", "special case of", "specialisation of"),
        ("above", "directly above", "right above", "include", "comprise", "cover", "subsume", "be broken down into", "divide into", "divide", "divided", "split into"),
        ("parent", "parent term", "broader term", "more general term", "superclass", "ancestor", "superterm",
         "supertype", "hypernym", "parent concept", "broader concept", "term above", "category"),
        ("child", "children", "child term", "narrower term", "more specific term", "subclass", "subterm", "descendant",
         "kinds", "types", "forms", "varieties", "subcategory", "specialisation", "hyponym", "term below", "subkind"),
        transitive=True,
    ),
    Relation(
        "has finding", "finding of", "Patients with a disease show a finding", ("disease",), ("finding",),
        ("has finding", "show", "have", "present with", "cause", "feature", "exhibit", "display", "manifest",
         "manifest with", "manifest as", "involve", "come with", "go with", "lead to", "result in",
         "produce", "be associated with", "be characterised by", "be characterized by", "be accompanied by",
         "suffer from", "develop", "give rise to", "with"),
        ("finding of", "symptom of", "sign of", "feature of", "manifestation of", "seen in", "found in",
         "occur in", "present in", "observed in", "appear in", "reported in", "common in", "caused by",
         "due to", "associated with", "typical of", "characteristic of", "point to", "belong to", "part of", "seen with", "listed for"),
        qualifiers={"frequency": (
            "how often", "how frequent", "how frequently", "how common", "how commonly", "how rare",
            "how likely", "how many patients", "prevalence", "percentage", "proportion", "what fraction",
            "what share", "what part of", "what part", "how many out of", "out of all patients", "fraction", "share of patients",
            "frequency class", "how regularly", "how usual", "what percentage", "percent", "in how many", "how many people",
            "how many of the patients", "rate")},
        object_through="is a",
        ranked=True,
    ),
    Relation(
        "lacks finding", "absent in", "A finding was looked for in a disease and not seen",
        ("disease",), ("finding",),
        ("lacks finding", "never show", "rule out", "explicitly lack", "explicitly exclude", "known to lack"),
        ("ruled out in", "never seen in", "explicitly absent in", "explicitly excluded in"),
    ),
    Relation(
        "inherited by", "inheritance of", "A disease is passed on in this way",
        ("disease",), ("inheritance",),
        ("inherited by", "inherited as", "inherited", "passed on", "transmitted", "mode of inheritance",
         "inheritance pattern", "follow"),
        ("inheritance of", "inheritance pattern of"),
        object_through="is a",
    ),
    Relation(
        "onset", "onset of", "A disease begins at this age", ("disease",), ("onset",),
        ("onset", "begin", "start", "set in", "age of onset", "age at onset", "first appear"),
        ("onset of", "age of onset of"),
        object_through="is a",
    ),
    Relation(
        "has course", "course of", "A disease runs like this over time", ("disease",), ("course",),
        ("has course", "course", "run", "progress", "clinical course"), ("course of",),
        object_through="is a",
    ),
    Relation(
        "has modifier", "modifier of", "A quality of a disease", ("disease",), ("modifier",),
        ("has modifier", "be modified by"), ("modifier of",),
        object_through="is a",
    ),
)
