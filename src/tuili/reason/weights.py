"""Edge weights: how well a candidate fits the question's words, each part kept for the explanation.

weight = mix of
  prior      words shared with the entity's name and description, rare ones counting more
  bertscore  greedy matching F1 over contextual token vectors, with idf (Zhang et al. 2020)
  attention  share of the question tokens' attention that falls on the candidate's tokens, in the encoder
  decoder    the same in a ported decoder that reads all candidates at once; left out of the shipped mix
The mix is fitted on data (`recipes/fit_weights.py`); the ablation is in `benchmarks/ask.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from tuili.errors import UsageError
from tuili.knowledge.graph import Entity, Graph
from tuili.knowledge.text import content_stems, telling_stems

if TYPE_CHECKING:
    from tuili.model.encoder import Encoder
    from tuili.reason.decoder import FactReader

PARTS = ("prior", "bertscore", "attention")
DECODER = "decoder"
MAX_NEURAL = 16
"""Candidates of a description that the encoder weighs: the best by words and, where it reads, by the decoder."""
MAX_READ = 128
"""Candidates that the decoder reads, the best by words, in one list: up to a few thousand tokens, seconds on a CPU."""
MAX_WORDS = 40
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[._]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """How much each part counts; `Mix.fitted()` is what is shipped.

    The decoder runs only if its part counts, and reads `max_read` candidates at most. Words alone decide where the best
    candidate's `prior` reaches `decisive` and leads by `margin`.
    """

    prior: float = 0.4
    bertscore: float = 0.4
    attention: float = 0.2
    decoder: float = 0.0
    max_read: int = MAX_READ
    decisive: float = 0.75
    margin: float = 0.3

    @classmethod
    @cache
    def fitted(cls) -> Mix:
        """Return the mix that `recipes/fit_weights.py` fitted on the development questions."""
        text = files("tuili.reason").joinpath("data/weights.json").read_text(encoding="utf-8")
        return cls(**json.loads(text)["mix"])

    def __post_init__(self) -> None:
        if self.max_read < 1:
            raise UsageError(f"max_read is {self.max_read}, it must be 1 or more; the default is {MAX_READ}")

    def at_least(self, parts: Mapping[str, float]) -> float:
        """Return the weighted mean of all parts that count; one that is not there is 0."""
        weights = {name: getattr(self, name) for name in (*PARTS, DECODER)}
        total = sum(weights.values())
        return sum(weight * parts.get(name, 0.0) for name, weight in weights.items()) / total if total else 0.0

    def weight(self, parts: Mapping[str, float]) -> float:
        """Return the weighted mean of the parts that are there."""
        used = {name: weight for name in (*PARTS, DECODER) if name in parts and (weight := getattr(self, name))}
        total = sum(used.values())
        return sum(weight * parts[name] for name, weight in used.items()) / total if total else 0.0


class Weigher:
    """Weighs candidates of one base; `encoder` is loaded on first need, None means words only.

    `reader`, the decoder, is loaded where the encoder is if the mix counts its part.

    `parts` holds the parts of each weight by description and candidate, `ranked` the weights by description, `num_cut`
    how many of its candidates the decoder did not read because there were more than the mix lets it.

    Raises:
        UsageError: the mix counts the decoder's part, and there is an encoder but no reader.
    """

    def __init__(
        self,
        graph: Graph,
        encoder: Callable[[], Encoder] | None = None,
        mix: Mix | None = None,
        reader: Callable[[], FactReader] | None = None,
    ) -> None:
        self.graph = graph
        self.encoder = encoder
        self.mix = mix or Mix.fitted()
        self.reader = reader if self.mix.decoder else None
        if self.mix.decoder and encoder is not None and reader is None:
            raise UsageError(f"the mix gives the decoder {self.mix.decoder}, but there is no reader; give one")
        self.parts: dict[tuple[str, int], dict[str, float]] = {}
        self.ranked: dict[str, dict[int, float]] = {}
        self.num_cut: dict[str, int] = {}
        self.used_neural = False

    def lexical(self, text: str, ids: Sequence[int]) -> Mapping[int, float]:
        """Weigh by words alone; fast, used to choose between readings."""
        return self._priors(text, ids)

    def match(self, text: str, ids: Sequence[int]) -> Mapping[int, float]:
        """Weigh by all parts; the encoder runs only where words alone don't decide."""
        priors = self._priors(text, ids)
        ranked = sorted(priors, key=lambda number: -priors[number])
        compared = ranked[:MAX_NEURAL]
        if self.encoder is not None and len(ranked) > 0 and not self._is_decisive(priors, ranked):
            self._add_decoder(text, ranked)
            compared = sorted(ranked, key=lambda number: -self._without_encoder(text, number))[:MAX_NEURAL]
            self._add_neural(text, compared)
        self.ranked[text] = {
            number: (self.mix.weight if number in compared else self.mix.at_least)(self.parts[text, number])
            for number in ranked
        }
        return self.ranked[text]

    def _without_encoder(self, text: str, number: int) -> float:
        parts = self.parts[text, number]
        return self.mix.at_least({name: parts[name] for name in ("prior", DECODER) if name in parts})

    def _is_decisive(self, priors: Mapping[int, float], ranked: Sequence[int]) -> bool:
        second = priors[ranked[1]] if len(ranked) > 1 else 0.0
        return priors[ranked[0]] >= self.mix.decisive and priors[ranked[0]] - second >= self.mix.margin

    def _priors(self, text: str, ids: Sequence[int]) -> dict[int, float]:
        entities = self.graph.entities(ids)
        bags = [_bag(entity) for entity in entities]
        words = telling_stems(text)
        idf = {
            word: math.log((len(bags) + 2) / (sum(_share(word, bag) > 0 for bag in bags) + 1)) + 0.1 for word in words
        }
        total = sum(idf.values()) or 1.0
        priors = {}
        for entity, bag in zip(entities, bags, strict=True):
            prior = sum(idf[word] * _share(word, bag) for word in words) / total
            priors[entity.id] = prior
            self.parts.setdefault((text, entity.id), {})["prior"] = prior
        return priors

    def _add_neural(self, text: str, ids: Sequence[int]) -> None:
        from tuili.reason.neural import neural_parts

        assert self.encoder is not None
        missing = [number for number in ids if "bertscore" not in self.parts[text, number]]
        texts = [entity_text(entity) for entity in self.graph.entities(missing)]
        for number, parts in zip(missing, neural_parts(self.encoder(), text, texts), strict=True):
            finite = {name: part for name, part in parts.items() if math.isfinite(part)}
            self.parts[text, number].update(finite)
        self.used_neural = True

    def _add_decoder(self, text: str, ranked: Sequence[int]) -> None:
        """Have the decoder read the best candidates by words, at most `max_read`; how many it leaves out is noted."""
        ids = ranked[: self.mix.max_read]
        if self.reader is None:
            return
        if len(ranked) > len(ids):
            self.num_cut[text] = len(ranked) - len(ids)
        if all(DECODER in self.parts[text, number] for number in ids):
            return
        from tuili.reason.decoder import decoder_part

        texts = [entity_text(entity) for entity in self.graph.entities(ids)]
        for number, part in zip(ids, decoder_part(self.reader(), text, texts), strict=True):
            self.parts[text, number][DECODER] = part


def entity_text(entity: Entity) -> str:
    """Return the text an entity is compared by: its name's words and the start of its description."""
    name = " ".join(part for part in _CAMEL.split(entity.name.rsplit(".", 1)[-1]) if part)
    description = " ".join(entity.description.split()[:MAX_WORDS])
    return f"{name}: {description}" if description else name


def _bag(entity: Entity) -> dict[str, float]:
    """Return the entity's stems with how much each counts: 1 in its own name, less in the description."""
    own = " ".join(part for part in _CAMEL.split(entity.name.rsplit(".", 1)[-1]) if part)
    bag = dict.fromkeys(content_stems(" ".join(entity.description.split()[:120])), 0.6)
    bag.update(dict.fromkeys(content_stems(" ".join(entity.aliases[:20])), 0.8))
    bag.update(dict.fromkeys(content_stems(own), 1.0))
    return bag


def _share(word: str, bag: Mapping[str, float]) -> float:
    """Return how much a word is in a bag; a common beginning of five letters counts in part."""
    if word in bag:
        return bag[word]
    if len(word) < 4:
        return 0.0
    return max((0.7 * weight for other, weight in bag.items() if _akin(word, other)), default=0.0)


def _akin(left: str, right: str) -> bool:
    short, long = sorted((left, right), key=len)
    return len(short) >= 4 and (long.startswith(short) or (len(short) >= 6 and long.startswith(short[:5])))
