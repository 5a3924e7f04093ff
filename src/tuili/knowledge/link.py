"""Linking: which words of a question name entities, kinds, relations and operations of a base.

Exact names and aliases first, then dotted code names, then close spellings (rapidfuzz), then
full text; embeddings come in last, as a callable, for words that nothing else explains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property

from tuili.knowledge.graph import Entity, Graph
from tuili.knowledge.lexicon import Lexicon, Mention, Role, build_lexicon, is_plural, singular
from tuili.knowledge.records import normalise
from tuili.knowledge.text import OPENING_WORDS, QUESTION_WORDS, Token, content_stems, is_light, stems, tokenise

MAX_SPAN = 12
MAX_IDS = 400
MAX_NEAR = 4_000
FUZZY_CUTOFF = 86.0
FAR_PENALTY = 0.8
NEAR_BONUS = 0.1
SCHEMA_PENALTY = 0.5
CLAUSE_WORD = 0.5
PHRASE_WORD = 0.5
INFLECTED_PENALTY = 0.2
CASE_BONUS = 0.4
MAX_VARIANTS = 3
ARTICLE_PENALTY = 0.7
MAX_RUNS = 3
MAX_RUN_WORDS = 6
MAX_FULL_TEXT = 12
WORDS_SCORE = 0.6
MEANING_SCORE = 0.4
MEANING_CUTOFF = 0.8
FIRM_SCORE = 1.2

# How similar each text is to a query, 0 to 1 (an encoder; see `tuili.reason.weights`).
Similarity = Callable[[str, Sequence[str]], Sequence[float]]


_NEVER_NAMES = frozenset("which what who where when how the a an is are does do can of in if it its".split())
_INNER_MARKS = frozenset(",()/-'’")
UNDECLARED_KIND = "entity"
_NUMBER_SIGN = "number of"
_DETERMINERS = frozenset("which what many all".split())
_OPENERS = frozenset("that which who to for".split())
_ASKING = QUESTION_WORDS - {"how", "when"}
_CLOSERS = frozenset("of in from for by the a an that which when if".split())


class Linker:
    """Finds the mentions of a question in one base."""

    def __init__(self, graph: Graph, similarity: Similarity | None = None) -> None:
        self.graph = graph
        self.similarity = similarity

    @cached_property
    def lexicon(self) -> Lexicon:
        """The words of the base's schema and the operations."""
        return build_lexicon(self.graph)

    def mentions(self, question: str, tokens: list[Token] | None = None) -> list[Mention]:
        """Return every reading of every span, overlapping ones included."""
        tokens = tokens or tokenise(question)
        read = [*self._schema_mentions(tokens), *self._entity_mentions(question, tokens)]
        found = [mention for mention in read if not _splits_compound(tokens, mention)]
        known = {at for mention in found if mention.role == Role.ENTITY for at in range(mention.start, mention.end)}
        for at, token in enumerate(tokens):
            if at not in known and (token.is_code or self._is_unexplained(at, token, found)):
                found.extend(self._fuzzy(at, token))
        found.extend(self._by_words(tokens, found))
        grounded = _without_covered_kinds(self._ground(tokens, found))
        grounded.extend(self._appositions(tokens, grounded))
        grounded.extend(_clauses(tokens, grounded))
        grounded.extend(self._undeclared_kinds(tokens, grounded))
        return grounded

    def _undeclared_kinds(self, tokens: Sequence[Token], found: Sequence[Mention]) -> Iterable[Mention]:
        """Yield nouns after "which" or "how many", and plurals after "the", as kind words.

        Only in a base that does not tell kinds apart.
        """
        if set(self.graph.kinds) != {UNDECLARED_KIND}:
            return
        covered = {at for one in found if one.role != Role.TEXT for at in range(one.start, one.end)}
        for at in range(1, len(tokens)):
            before = tokens[at - 1].text.casefold()
            opens = before in _DETERMINERS or (before == "the" and is_plural(tokens[at]))
            if at not in covered and not is_light(tokens[at]) and opens:
                yield Mention(at, at + 1, Role.KIND, UNDECLARED_KIND, 0.4, "guess")

    def _appositions(self, tokens: Sequence[Token], found: Sequence[Mention]) -> Iterable[Mention]:
        """Yield a name and the kind word beside it as one mention ("the maxsize parameter")."""
        kinds = [mention for mention in found if mention.role == Role.KIND]
        for named in [mention for mention in found if mention.role == Role.ENTITY]:
            for kind in kinds:
                left, right = (named, kind) if named.start < kind.start else (kind, named)
                gap = tokens[left.end : right.start]
                if right is kind and is_plural(tokens[kind.end - 1]):
                    continue
                if left.end > right.start or len(gap) > 3 or not all(_apposes(token) for token in gap):
                    continue
                wanted = self.graph.subkinds(kind.value)
                ids = tuple(entity.id for entity in self.graph.entities(named.ids) if entity.kind in wanted)
                if ids:
                    far = FAR_PENALTY if named.how == "elsewhere" else 0.0
                    yield Mention(
                        left.start,
                        right.end,
                        Role.ENTITY,
                        named.value,
                        named.score + far + kind.score + 0.6,
                        named.how,
                        ids,
                        tuple(sorted({entity.kind for entity in self.graph.entities(ids)})),
                        noun=True,
                    )

    def _ground(self, tokens: Sequence[Token], found: Sequence[Mention]) -> list[Mention]:
        """Keep short names only near the entities that the question names in full.

        "timeout" is the name of a hundred parameters: the one of subprocess.run is meant if
        subprocess.run is named too; if none is near, the reading is kept but counts little.
        """
        firm = {
            mention: [number for number in mention.ids if not self._is_short(number, mention.value)]
            for mention in found
            if mention.role == Role.ENTITY
        }
        coded = [ids for mention, ids in firm.items() if ids and _is_code(tokens, mention)]
        anchors = {number for ids in (coded or [ids for ids in firm.values() if ids]) for number in ids[:5]}
        shorts = [number for mention in firm for number in mention.ids if number not in firm[mention]]
        if not anchors or not shorts:
            return list(found)
        near = self.graph.near(anchors, 2, MAX_NEAR)
        beside = {entity.kind for entity in self.graph.entities(anchors)}
        placed = [
            self._place(mention, near, beside, firm[mention] if not coded or _is_code(tokens, mention) else ())
            if mention in firm
            else mention
            for mention in found
        ]
        return _best_variants(placed)

    def _is_short(self, number: int, norm: str) -> bool:
        entity = self.graph.entity(number)
        kind = self.graph.kinds.get(entity.kind)
        return bool(kind and kind.by_name) or normalise(entity.name).endswith(f".{norm}")

    def _place(self, mention: Mention, near: set[int], beside: set[str], firm: Sequence[int]) -> Mention:
        """Keep the entities near the anchors, whose kinds are `beside`; if none is, those that could be theirs."""
        kept = tuple(number for number in mention.ids if number in near or number in firm)
        if not kept:
            fits = any((kind, own) in self.graph.signatures for own in mention.kinds for kind in beside)
            return replace(mention, score=mention.score - (FAR_PENALTY if fits else 1.5 * FAR_PENALTY), how="elsewhere")
        bonus = NEAR_BONUS if any(number in near for number in kept) else 0.0
        kinds = tuple(sorted({entity.kind for entity in self.graph.entities(kept)}))
        return replace(mention, ids=kept, kinds=kinds, score=mention.score + bonus)

    def _is_unexplained(self, at: int, token: Token, found: Sequence[Mention]) -> bool:
        plain = is_light(token) or len(token.text) < 5 or not token.text[0].isalpha()
        return not plain and not any(mention.start <= at < mention.end for mention in found)

    def _schema_mentions(self, tokens: Sequence[Token]) -> Iterable[Mention]:
        phrases = self.lexicon.phrases
        for start, end, words in _spans(tokens, self.lexicon.longest):
            is_opening = start == 0 and end == 1 and tokens[0].is_function_word and words in OPENING_WORDS
            exact = words.split()
            single = [singular(word) for word in exact]
            for key in dict.fromkeys((stems(words), ("=", *exact), ("=", *single))):
                for mention in phrases.get(key, ()):
                    is_operation = mention.role == Role.OPERATION
                    if (is_opening and not is_operation) or (is_operation and key != ("=", *exact)):
                        continue
                    score = mention.score + PHRASE_WORD * (len(words.split()) - 1)
                    yield replace(mention, start=start, end=end, score=score, how="schema")

    def _entity_mentions(self, question: str, tokens: Sequence[Token]) -> Iterable[Mention]:
        spans: dict[str, list[tuple[int, int, str]]] = {}
        for start, end in _name_spans(tokens):
            exact = normalise(question[tokens[start].start : tokens[end - 1].end])
            is_code = any(token.is_code for token in tokens[start:end])
            for norm in [exact] if is_code else _variants(exact):
                spans.setdefault(norm, []).append((start, end, exact))
        labels = self.graph.by_label(spans)
        for norm, ids in labels.items():
            for start, end, exact in spans[norm]:
                if norm == exact or exact not in labels:
                    inflected = INFLECTED_PENALTY * (norm != exact and end - start == 1)
                    for mention in self._entity(tokens, start, end, norm, ids):
                        yield replace(mention, score=mention.score - inflected)

    def _entity(
        self, tokens: Sequence[Token], start: int, end: int, norm: str, ids: Sequence[int]
    ) -> Iterable[Mention]:
        """Yield one mention per kind that has an entity of this name."""
        by_kind: dict[str, list[int]] = {}
        entities = {entity.id: entity for entity in self.graph.entities(ids[:MAX_IDS])}
        for entity in entities.values():
            by_kind.setdefault(entity.kind, []).append(entity.id)
        is_code = any(token.is_code for token in tokens[start:end])
        words = sum(not token.is_mark for token in tokens[start:end])
        is_schema = (
            words == 1
            and not is_code
            and bool({stems(tokens[start].text), ("=", norm), ("=", singular(norm))} & self.lexicon.phrases.keys())
        )
        variants = []
        for kind, members in by_kind.items():
            named = [number for number in members if normalise(entities[number].name) == norm]
            exact, members = bool(named), named or members
            written = " ".join(token.text for token in tokens[start:end])
            spelt = is_code or (start > 0 and written[:1].isupper() and tokens[start - 1].text not in ".?!")
            case = CASE_BONUS * (
                spelt
                and any(
                    written == label
                    for number in members
                    for label in (entities[number].name, *entities[number].aliases)
                )
            )
            score = (
                case
                + (1.0 if exact else 0.8)
                + 0.7 * (words - 1)
                + 0.5 * is_code
                - SCHEMA_PENALTY * (is_schema and not case)
            )
            if words == 1 and not is_code:
                score -= 0.1 * min(len(members), 32).bit_length() - 0.1
                score -= ARTICLE_PENALTY * self._is_common_noun(tokens, start, entities[members[0]])
            variants.append(
                Mention(
                    start,
                    end,
                    Role.ENTITY,
                    norm,
                    score,
                    "name" if exact else "alias",
                    tuple(members),
                    (kind,),
                )
            )
        yield from variants

    def _by_words(self, tokens: Sequence[Token], found: Sequence[Mention]) -> list[Mention]:
        """Link runs of unexplained words by full text: the same words in another order or form, else by meaning."""
        covered = {at for one in found if one.role != Role.OPERATION for at in range(one.start, one.end)}
        linked: list[Mention] = []
        for start, end in _runs(tokens, covered)[:MAX_RUNS]:
            text = " ".join(token.text for token in tokens[start:end])
            rows = [
                (entity, label)
                for number, _ in self.graph.search(text, limit=MAX_FULL_TEXT)
                for entity in self.graph.entities([number])
                for label in (entity.name, *entity.aliases)
                if " " in label
            ]
            wanted = set(content_stems(text))
            same = [entity for entity, label in rows if set(content_stems(label)) == wanted]
            how, score = "words", WORDS_SCORE
            if not same and rows and self.similarity is not None:
                how, score, same = "meaning", MEANING_SCORE, self._nearest(text, rows)
            if same:
                score += 0.7 * (len(wanted) - 1)
                linked.append(
                    Mention(start, end, Role.ENTITY, normalise(text), score, how, (same[0].id,), (same[0].kind,))
                )
        return linked

    def _nearest(self, text: str, rows: Sequence[tuple[Entity, str]]) -> list[Entity]:
        assert self.similarity is not None
        scores = self.similarity(text, [label for _, label in rows])
        best = max(range(len(rows)), key=lambda at: scores[at])
        return [rows[best][0]] if scores[best] >= MEANING_CUTOFF else []

    def _is_common_noun(self, tokens: Sequence[Token], start: int, entity: Entity) -> bool:
        """Tell whether a word after "a" is a thing of that sort, not the one that bears the name ("a list")."""
        kind = self.graph.kinds.get(entity.kind)
        article = start > 0 and tokens[start - 1].text.casefold() in ("a", "an")
        return article and entity.name.islower() and not (kind and kind.by_name)

    def _fuzzy(self, at: int, token: Token) -> list[Mention]:
        from rapidfuzz import fuzz, process

        norm = normalise(token.text)
        if len(norm) < 4:
            return []
        rows = self.graph.labels_like(norm)
        last = norm.rsplit(".", 1)[-1]
        near = process.extract(
            norm, [label for label, _ in rows], scorer=fuzz.ratio, limit=5, score_cutoff=FUZZY_CUTOFF
        )
        best = [row for row in near if fuzz.ratio(row[0].rsplit(".", 1)[-1], last) >= FUZZY_CUTOFF]
        if not best:
            return []
        ids = tuple(dict.fromkeys(rows[place][1] for label, score, place in best if label == best[0][0]))
        kinds = tuple(sorted({entity.kind for entity in self.graph.entities(ids)}))
        return [Mention(at, at + 1, Role.ENTITY, best[0][0], 0.6 * best[0][1] / 100, "spelling", ids, kinds)]


def _name_spans(tokens: Sequence[Token]) -> Iterable[tuple[int, int]]:
    """Yield the spans that may be a name: no grammar word alone, no mark at an end but a closed bracket."""
    for start, first in enumerate(tokens):
        if first.text.casefold() in QUESTION_WORDS and not first.is_code:
            continue
        shortest = 2 if first.is_function_word and not _capital(first, start) else 1
        for end in range(start + 1, min(len(tokens), start + MAX_SPAN) + 1):
            last = tokens[end - 1]
            if first.is_mark or (last.is_mark and last.text not in _INNER_MARKS):
                break
            is_bracketed = last.text == ")" and any(token.text == "(" for token in tokens[start:end])
            words = sum(not token.is_mark for token in tokens[start:end])
            if words >= shortest and (not last.is_mark or is_bracketed):
                yield start, end


def _runs(tokens: Sequence[Token], covered: set[int]) -> list[tuple[int, int]]:
    """Return runs of at least two content words that no entity explains."""
    runs = []
    start = 0
    while start < len(tokens):
        end = start
        while end < len(tokens) and end not in covered and not is_light(tokens[end]):
            end += 1
        if 2 <= end - start <= MAX_RUN_WORDS:
            runs.append((start, end))
        start = end + 1
    return runs


def _splits_compound(tokens: Sequence[Token], mention: Mention) -> bool:
    """Tell whether a mention is only a part of a hyphenated word ("keyword" in "keyword-only")."""
    for mark, inner, outer in (
        (mention.start - 1, mention.start, mention.start - 2),
        (mention.end, mention.end - 1, mention.end + 1),
    ):
        if 0 <= mark < len(tokens) and tokens[mark].text == "-" and 0 <= outer < len(tokens):
            left, right = sorted((inner, outer))
            if tokens[left].end == tokens[mark].start and tokens[mark].end == tokens[right].start:
                return True
    return False


def _spans(tokens: Sequence[Token], longest: int) -> Iterable[tuple[int, int, str]]:
    """Yield (start, end, normalised words) of every run of at most `longest` words."""
    for start in range(len(tokens)):
        words = ""
        for end in range(start, len(tokens)):
            if tokens[end].is_mark:
                if end == start or tokens[end].text not in "-'’/":
                    break
                continue
            words = f"{words} {_NUMBER_SIGN if tokens[end].text == '#' else normalise(tokens[end].text)}".strip()
            if len(words.split()) > longest:
                break
            yield start, end + 1, words


def _without_covered_kinds(mentions: Sequence[Mention]) -> list[Mention]:
    """Drop a kind word that is a part of a longer name ("disease" in "Gaucher disease")."""
    longer = [(one.start, one.end) for one in mentions if one.role == Role.ENTITY and one.how in ("name", "alias")]
    return [
        one
        for one in mentions
        if one.role != Role.KIND
        or not any(start <= one.start and one.end <= end and end - start > one.end - one.start for start, end in longer)
    ]


def _best_variants(mentions: Sequence[Mention]) -> list[Mention]:
    """Keep, of a plain word's readings as entities of several kinds, the best few."""
    kept: list[Mention] = []
    count: dict[tuple[int, int], int] = {}
    for mention in sorted(mentions, key=lambda one: -one.score):
        span = (mention.start, mention.end)
        if mention.role == Role.ENTITY:
            count[span] = count.get(span, 0) + 1
        if mention.role != Role.ENTITY or count[span] <= MAX_VARIANTS:
            kept.append(mention)
    return kept


def _apposes(token: Token) -> bool:
    return token.text.casefold() in ("the", "a", "an", "called", "named", ":", "(", "s", "'", "’")


def _clauses(tokens: Sequence[Token], found: Sequence[Mention]) -> Iterable[Mention]:
    """Yield whole clauses as descriptions ("controls indentation"), up to a name that is surely meant."""
    firm = {
        at
        for mention in found
        if mention.role == Role.ENTITY
        and mention.how in ("name", "alias")
        and (mention.score >= FIRM_SCORE or _is_code(tokens, mention))
        for at in range(mention.start, mention.end)
    }
    heads = {mention.end for mention in found if mention.role in (Role.KIND, Role.ENTITY)}
    for start in range(1, len(tokens)):
        opens = start in heads or tokens[start - 1].text.casefold() in _OPENERS
        if not opens or tokens[start].is_function_word or start in firm:
            continue
        for end in range(start + 2, len(tokens) + 1):
            if end - 1 in firm or tokens[end - 1].text in ",.;:?!()" or tokens[end - 1].text.casefold() in _ASKING:
                break
            stops = end == len(tokens) or end in firm or tokens[end].text.casefold() in _CLOSERS or tokens[end].is_mark
            if (
                stops
                and not tokens[end - 1].is_function_word
                and any(not is_light(token) for token in tokens[start:end])
            ):
                content = sum(not is_light(token) for token in tokens[start:end])
                yield Mention(start, end, Role.TEXT, "", CLAUSE_WORD * content + 0.2, "clause")


def _is_code(tokens: Sequence[Token], mention: Mention) -> bool:
    return any(token.is_code for token in tokens[mention.start : mention.end])


def _capital(token: Token, at: int) -> bool:
    return at > 0 and token.text[:1].isupper() and len(token.text) > 1 and token.text.casefold() not in _NEVER_NAMES


def _variants(norm: str) -> Iterable[str]:
    """Yield a name as written and, for a plain last word, in the other number."""
    yield norm
    if norm.endswith("s") and len(norm) > 3:
        yield norm[:-1]
        if norm.endswith("es"):
            yield norm[:-2]
        if norm.endswith("ies"):
            yield norm[:-3] + "y"
    if "." in norm and norm.endswith((".", "()")):
        yield norm.rstrip(".()")
