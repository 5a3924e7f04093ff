"""The public face: ask a question, get an answer with a path that can be checked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tuili.errors import DependencyError, InputError, ModelFileError, SourceError, StoreError
from tuili.files import rules_path, walk_path
from tuili.knowledge.bases import available, ensure_base
from tuili.knowledge.graph import Graph
from tuili.knowledge.link import Linker
from tuili.knowledge.query import Value
from tuili.knowledge.records import Edge
from tuili.knowledge.sources import OnProgress
from tuili.knowledge.store import Store, check_text
from tuili.knowledge.text import MAX_QUESTION
from tuili.reason.answer import Answer
from tuili.reason.candidates import Candidates, candidates
from tuili.reason.conclude import CERTAIN, conclude
from tuili.reason.route import route
from tuili.reason.search import MAX_NODES, Search
from tuili.reason.solve import conclude_derivation
from tuili.reason.weights import Mix, Weigher
from tuili.reason.worlds.derivations import derive

if TYPE_CHECKING:
    from tuili.model.encoder import Encoder
    from tuili.reason.decoder import FactReader
    from tuili.reason.rulebook import Rulebook
    from tuili.reason.walk_answer import LearnedWalk

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReasonerConfig:
    """How much a question may cost, and what it may use.

    `max_nodes`: entities a search may touch, from 1. `time_limit_s`: after so long the best so far is the answer, with
    a note; loading bases and models does not count. `neural`: whether the encoder may run. `learned`: whether what
    `tuili learn` left for the base is used: a walk answers where it is surer, rules infer where nothing is stated.
    `mix`: how much each part of an edge weight counts; the decoder runs where its part does, which the shipped mix
    leaves out, and reads at most `mix.max_read` candidates of a description, with a note where there are more.
    """

    max_nodes: int = MAX_NODES
    time_limit_s: float = math.inf
    neural: bool = True
    learned: bool = True
    mix: Mix = field(default_factory=Mix.fitted)

    def __post_init__(self) -> None:
        if self.max_nodes < 1:
            raise InputError(f"max_nodes is {self.max_nodes}, it must be 1 or more; the default is {MAX_NODES}")
        if not self.time_limit_s >= 0:
            raise InputError(f"time_limit_s is {self.time_limit_s}, it must be 0 or more; the default is no limit")


class Base:
    """An open knowledge base: its graph and what links words to it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.linker = Linker(graph)

    def check(self) -> None:
        """Read the schema.

        Raises:
            StoreError: it is damaged.
        """
        _ = self.linker.lexicon

    def overlay(self, edges: Iterable[Edge]) -> None:
        """Add facts that live as long as this object; words for new relations are known at once."""
        self.graph.overlay(edges)
        self.linker = Linker(self.graph)


class Reasoner:
    """Answers questions over one knowledge base, or over the one that fits each question.

    >>> Reasoner(kb="python").ask("default of maxsize in functools.lru_cache").text
    '128'
    """

    def __init__(
        self,
        kb: str | None = None,
        *,
        config: ReasonerConfig | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.config = config or ReasonerConfig()
        self.kb = kb
        self.on_progress = on_progress or (lambda stage, done, total: None)
        self.left_out: dict[str, str] = {}
        self._bases: dict[str, Base] = {}
        self._walks: dict[tuple[str, int], LearnedWalk] = {}
        self._rules: dict[tuple[str, int], Rulebook] = {}
        self._no_encoder = "" if self.config.neural else "the encoder is switched off"

    def ask(self, question: str, *, kb: str | None = None, memory: Mapping[str, Value] | None = None) -> Answer:
        """Answer a question.

        Without a base here and in the constructor, the one is taken that explains most of the question.
        `memory` holds values of quantities known from earlier turns, by quantity id.

        Raises:
            InputError: the question is empty, too long or not text.
            StoreError: the base is missing or damaged.
        """
        question = check_text("question", question.strip(), MAX_QUESTION)
        clock = Clock()
        base = self.base(kb or self.kb or self.choose(question))
        clock.lap("choose_base")
        notes = tuple(f"the base {name} is left out: {why}" for name, why in self.left_out.items())
        try:
            answer = self._answer(question, base, clock, memory or {})
        except (DependencyError, ModelFileError) as error:
            if self._no_encoder:
                raise
            self._no_encoder = str(error)
            answer = self._answer(question, base, clock, memory or {})
        if self.config.neural and self._no_encoder:
            notes += (f"weighed by words alone, without the encoder: {self._no_encoder}",)
        return clock.stamp(replace(answer, notes=(*answer.notes, *notes)))

    def choose(self, question: str) -> str:
        """Return the name of the base that explains most of the question."""
        return route(question, {name: base.linker for name, base in self.all_bases().items()})

    def base(self, name: str) -> Base:
        """Return an open base; a built-in one is built on first use."""
        if name not in self._bases:
            self._bases[name] = Base(Graph(Store.open(ensure_base(name, self.on_progress))))
        return self._bases[name]

    def all_bases(self) -> dict[str, Base]:
        """Open every base there is; one that is damaged or needs a missing package is left out, and noted.

        Raises:
            StoreError: no base can be opened.
        """
        for name in available():
            try:
                self.base(name).check()
            except (DependencyError, StoreError, SourceError) as error:
                self._bases.pop(name, None)
                self.left_out[name] = str(error)
        if not self._bases:
            raise StoreError(f"no knowledge base can be opened: {'; '.join(self.left_out.values())}")
        return dict(self._bases)

    def forget_overlays(self) -> None:
        """Open all bases anew, without the facts added to their overlays."""
        self._bases.clear()
        self._walks.clear()
        self._rules.clear()

    @cached_property
    def encoder(self) -> Encoder:
        """The sentence encoder, loaded on first use."""
        from tuili.model.encoder import Encoder

        return Encoder.load("minilm", on_progress=self.on_progress)

    @cached_property
    def reader(self) -> FactReader:
        """The decoder that weighs candidates, loaded on first use."""
        from tuili.reason.decoder import FactReader

        return FactReader.load("smollm2-135m", on_progress=self.on_progress)

    def _answer(self, question: str, base: Base, clock: Clock, memory: Mapping[str, Value]) -> Answer:
        deadline = time.monotonic() + self.config.time_limit_s
        if "quantity" in base.graph.kinds:
            derivation = derive(question, base.graph, memory=memory, deadline=deadline)
            clock.lap("derive")
            if derivation is not None:
                return conclude_derivation(derivation, base.graph)
        load: Callable[[], Encoder] | None = None if self._no_encoder else lambda: self.encoder
        weigher = Weigher(base.graph, load, self.config.mix, lambda: self.reader)
        base.linker.similarity = None if self._no_encoder else clock.timed("neural", self._similarity)
        found = candidates(question, base.graph, base.linker, weigher, self.config.max_nodes, deadline)
        clock.lap("link_and_search")
        found = self._settle(found, base.graph, weigher, deadline)
        clock.lap("weigh")
        if weigher.used_neural:
            clock.laps["neural"] = clock.laps.get("neural", 0.0) + clock.laps["weigh"]
        answer = conclude(question, base.graph, found, weigher)
        clock.lap("explain")
        if not self.config.learned:
            return answer
        answer = self._surer(answer, found, base, clock)
        return self._inferred(answer, base.graph, clock, deadline) if answer.abstained else answer

    def _surer(self, answer: Answer, found: Candidates, base: Base, clock: Clock) -> Answer:
        """Return the learned walk's answer where there is a walk and it is surer than `answer`, or `answer` guesses."""
        path = walk_path(base.graph.name)
        if not path.is_file():
            return answer
        try:
            walked = self._walk(base, path).answer(answer.question, found.tokens, found.mentions)
        except (DependencyError, ModelFileError) as error:
            return replace(answer, notes=(*answer.notes, f"the learned walk is left out: {error}"))
        clock.lap("walk")
        if walked is None or walked.confidence < CERTAIN:
            return answer
        is_guess = answer.abstained or answer.features.get("guessed_kind")
        return walked if is_guess or walked.confidence > answer.confidence else answer

    def _inferred(self, answer: Answer, graph: Graph, clock: Clock, deadline: float) -> Answer:
        """Return what rules mined from the base infer, where there are any; else `answer`, which states nothing."""
        path = rules_path(graph.name)
        if not path.is_file():
            return answer
        from tuili.reason.inferring import infer
        from tuili.reason.rulebook import load_rules
        from tuili.reason.walk_file import fingerprint

        key = (graph.name, path.stat().st_mtime_ns)
        try:
            if key not in self._rules:
                self._rules[key] = load_rules(path, fingerprint(graph))
        except ModelFileError as error:
            return replace(answer, notes=(*answer.notes, f"the rules are left out: {error}"))
        found = infer(answer, graph, self._rules[key], deadline)
        clock.lap("infer")
        return found or answer

    def _walk(self, base: Base, path: Path) -> LearnedWalk:
        """Open the walk learned for a base, once as long as its file is the same."""
        from tuili.reason.walk_answer import LearnedWalk

        key = (base.graph.name, path.stat().st_mtime_ns)
        if key not in self._walks:
            self._walks[key] = LearnedWalk.load(path, base.graph, None if self._no_encoder else lambda: self.encoder)
        return self._walks[key]

    def _similarity(self, text: str, labels: Sequence[str]) -> Sequence[float]:
        """Return the cosine of a text's vector with each label's."""
        vectors = self.encoder.encode([text, *labels], truncate=True)
        return [float(one) for one in vectors[1:] @ vectors[0]]

    def _settle(self, found: Candidates, graph: Graph, weigher: Weigher, deadline: float) -> Candidates:
        """Repeat the best reading's search with all edge weights where words alone are not enough."""
        if found.is_late or not found.tried or not any(var.text for var in found.tried[0].compiled.query.variables):
            return found
        best = found.tried[0]
        best.outcome = Search(graph, best.compiled.query, weigher.match, self.config.max_nodes, deadline=deadline).run()
        return found


class Clock:
    """Laps in milliseconds."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Record the time since the last lap."""
        now = time.perf_counter()
        self.laps[name] = (now - self.last) * 1e3
        self.last = now

    def timed(self, name: str, call: Callable[P, R]) -> Callable[P, R]:
        """Return `call` with the time it takes added to a lap of its own, which is part of other laps."""

        def timed_call(*args: P.args, **kwargs: P.kwargs) -> R:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.laps[name] = self.laps.get(name, 0.0) + (time.perf_counter() - start) * 1e3

        return timed_call

    def stamp(self, answer: Answer) -> Answer:
        """Return the answer with its timings."""
        self.laps["total"] = (time.perf_counter() - self.start) * 1e3
        return replace(answer, timings_ms=dict(self.laps))


__all__ = ["Answer", "Base", "Reasoner", "ReasonerConfig"]
