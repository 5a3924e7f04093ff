"""What a question says about the next hop: attention over its words, hop by hop, and likeness to relations.

At each hop a query made of the walk's state attends to the question's words; words that earlier hops attended to are
discounted. What is attended scores every action by its phrases' vectors, by a vector learned for relations known from
training, and by likenesses that mean the same on every base. Inference is NumPy; `conditioning_fit.py` trains.

Sources: attention over the question at every hop, Shi et al. 2021, "TransferNet", eq. 1-3; coverage, Tu et al. 2016,
"Modeling Coverage for Neural Machine Translation", section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tuili.errors import ModelFileError
from tuili.knowledge.records import Relation
from tuili.knowledge.text import FUNCTION_WORDS, stem
from tuili.reason.reading import MAX_DISTANCE, Floats, Reader, Words, phrases, unit
from tuili.reason.worlds.hops import Action

LIKENESSES = (
    "attended likeness",  # of the attended words to the action's phrases
    "open likeness",  # the best of any word, discounted by how much it was attended to before
    "open overlap",  # the same for equal stems
    "taken before",
    "turns back",  # the last action's other direction
    "is stop",
    "left over",  # for STOP: the best open likeness of any action
)
NUM_LIKENESSES = len(LIKENESSES)


def shapes(width: int, size: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight for word vectors of `width` and a model of `size`, learned relations aside."""
    square = (size, size)
    return {
        "w_word": (width, size),
        "place": (2 * MAX_DISTANCE + 1, size),
        "near_1": (3 * size, size),
        "bias_1": (size,),
        "near_2": (3 * size, size),
        "bias_2": (size,),
        "state_0": (size,),
        "w_query": square,
        "w_context": square,
        "w_state": square,
        "w_phrase": (width, size),
        "direction": (2, size),
        "stop": (size,),
        "keep_state": square,
        "take_context": square,
        "take_action": square,
        "w_likeness": (NUM_LIKENESSES,),
        "coverage": (1,),
    }


@dataclass(frozen=True)
class Menu:
    """The actions of a graph as a question can speak of them; STOP comes last and has no phrase.

    `phrase_AD`: unit mean vector of an action's phrases. `word_vectors` and `stems`: of its content words.
    """

    actions: tuple[Action, ...]
    phrase_AD: Floats
    word_vectors: tuple[Floats, ...]
    stems: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, actions: Sequence[Action], relations: Mapping[str, Relation], reader: Reader) -> Menu:
        """Read the phrases of the actions."""
        texts = [phrases(action, relations.get(action.relation)) for action in actions]
        flat = iter(reader.read([text for each in texts for text in each]))
        read = [[next(flat) for _ in each] for each in texts]
        mean_AD = np.array([np.mean([words.vectors_TD.mean(axis=0) for words in each], axis=0) for each in read])
        return cls(
            tuple(actions),
            unit(mean_AD.astype(np.float32)),
            tuple(np.concatenate([_content(words) for words in each]) for each in read),
            tuple(frozenset(stem(word) for words in each for word in _spoken(words)) for each in read),
        )

    @cached_property
    def turned(self) -> list[int]:
        """The place of each action's other direction, -1 where there is none."""
        places = {action: place for place, action in enumerate(self.actions)}
        return [places.get(Action(one.relation, not one.inverse), -1) for one in self.actions]

    def likeness(self, words: Words) -> tuple[Floats, Floats]:
        """Return cosine and overlap of each content word with each action: two arrays [T, A + 1], STOP's column 0."""
        num = len(self.actions)
        cosine_TA = np.zeros((len(words.words), num + 1), dtype=np.float32)
        overlap_TA = np.zeros_like(cosine_TA)
        stems = [stem(word) for word in words.words]
        for place in range(num):
            cosine_TA[:, place] = (words.vectors_TD @ self.word_vectors[place].T).max(axis=1, initial=-1.0)
            overlap_TA[:, place] = [each in self.stems[place] for each in stems]
        content_T1 = words.is_content[:, None]
        return cosine_TA * content_T1, overlap_TA * content_T1


def _spoken(words: Words) -> list[str]:
    """Return a phrase's content words, or all where it has none."""
    return [word for word in words.words if word.casefold() not in FUNCTION_WORDS] or list(words.words)


def _content(words: Words) -> Floats:
    kept = words.is_content > 0
    return words.vectors_TD[kept] if kept.any() else words.vectors_TD


@dataclass(frozen=True, slots=True)
class Heard:
    """A question after `d` numbers per word [T, d] and its likeness to the menu's actions [T, A + 1]."""

    words: Words
    hidden_TD: Floats
    cosine_TA: Floats
    overlap_TA: Floats


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a walk stands in its question: state [d], attention spent per word [T], actions taken."""

    state_D: Floats
    spent_T: Floats
    path: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Opinion:
    """Scores of all actions, STOP last [A + 1], their likenesses [A + 1, F], and the attention behind them [T]."""

    logits_A: Floats
    likeness_AF: Floats
    attention_T: Floats
    context_D: Floats


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Frozen weights (see `shapes`), and a vector per known action ("relation" or "relation⁻¹").

    Raises:
        ModelFileError: a weight is missing, of a wrong shape or not finite.
    """

    weights: Mapping[str, Floats]
    known: Mapping[str, Floats] = field(default_factory=dict)
    reader_name: str = ""
    max_hops: int = 3

    def __post_init__(self) -> None:
        width, size = self.weights["w_word"].shape if "w_word" in self.weights else (0, 0)
        for name, shape in shapes(width, size).items():
            weight = self.weights.get(name)
            if weight is None or weight.shape != shape or not np.isfinite(weight).all():
                seen = "missing" if weight is None else f"of shape {weight.shape} or not finite"
                raise ModelFileError(f"the walk's weight {name!r} is {seen}; wanted {shape}; learn anew")
        if any(vector.shape != (size,) or not np.isfinite(vector).all() for vector in self.known.values()):
            raise ModelFileError(f"a relation's vector has not {size} finite numbers; learn anew")

    def action_vectors(self, menu: Menu) -> Floats:
        """Return a vector for each action of the menu and STOP: [A + 1, d]; unknown relations have their phrases."""
        w = self.weights
        direction = np.array([int(action.inverse) for action in menu.actions], dtype=np.int64)
        vectors_AD = menu.phrase_AD @ w["w_phrase"] + w["direction"][direction]
        for place, action in enumerate(menu.actions):
            if str(action) in self.known:
                vectors_AD[place] += self.known[str(action)]
        return np.concatenate([vectors_AD, w["stop"][None]])

    def hear(self, words: Words, menu: Menu) -> Heard:
        """Read a question once for all hops; O(T * (width + A))."""
        w = self.weights
        hidden_TD = words.vectors_TD @ w["w_word"] + w["place"][words.distance + MAX_DISTANCE]
        for layer in ("1", "2"):
            hidden_TD = hidden_TD + np.maximum(_windows(hidden_TD) @ w[f"near_{layer}"] + w[f"bias_{layer}"], 0)
        return Heard(words, hidden_TD, *menu.likeness(words))

    def begin(self, heard: Heard) -> Moment:
        """Return the moment before the first hop."""
        return Moment(self.weights["state_0"], np.zeros(len(heard.words.words), dtype=np.float32))

    def judge(self, heard: Heard, moment: Moment, menu: Menu, vectors_AD: Floats) -> Opinion:
        """Score every action of the menu, and STOP."""
        w = self.weights
        root = math.sqrt(len(moment.state_D))
        looked_T = heard.hidden_TD @ (moment.state_D @ w["w_query"]) / root - w["coverage"] * moment.spent_T
        attention_T = _softmax(looked_T)
        context_D = attention_T @ heard.hidden_TD
        aim_D = context_D @ w["w_context"] + moment.state_D @ w["w_state"]
        likeness_AF = likenesses(heard, moment, attention_T, menu)
        logits_A = vectors_AD @ aim_D / root + likeness_AF @ w["w_likeness"]
        return Opinion(logits_A.astype(np.float32), likeness_AF, attention_T, context_D)

    def advance(self, moment: Moment, opinion: Opinion, action: int, vectors_AD: Floats) -> Moment:
        """Return the moment after an action."""
        w = self.weights
        state_D = np.tanh(
            moment.state_D @ w["keep_state"]
            + opinion.context_D @ w["take_context"]
            + vectors_AD[action] @ w["take_action"]
        )
        return Moment(state_D, moment.spent_T + opinion.attention_T, (*moment.path, action))


def likenesses(heard: Heard, moment: Moment, attention_T: Floats, menu: Menu) -> Floats:
    """Return the features that mean the same on every base, for every action and STOP: [A + 1, F]."""
    open_T1 = np.maximum(1 - moment.spent_T, 0)[:, None]
    found_AF = np.zeros((len(menu.actions) + 1, NUM_LIKENESSES), dtype=np.float32)
    found_AF[:, 0] = attention_T @ heard.cosine_TA
    found_AF[:, 1] = (open_T1 * heard.cosine_TA).max(axis=0, initial=0)
    found_AF[:, 2] = (open_T1 * heard.overlap_TA).max(axis=0, initial=0)
    for action in moment.path:
        found_AF[action, 3] = 1
    if moment.path and menu.turned[moment.path[-1]] >= 0:
        found_AF[menu.turned[moment.path[-1]], 4] = 1
    found_AF[-1] = 0
    found_AF[-1, 5] = 1
    found_AF[-1, 6] = found_AF[:-1, 1].max(initial=0)
    return found_AF


def _windows(hidden_TD: Floats) -> Floats:
    """Return each word's vector beside those of its neighbours: [T, 3 d]."""
    padded = np.pad(hidden_TD, ((1, 1), (0, 0)))
    return np.concatenate([padded[:-2], hidden_TD, padded[2:]], axis=1)


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(initial=-math.inf)) if len(scores) else scores
    return powers / max(float(powers.sum()), 1e-9)
