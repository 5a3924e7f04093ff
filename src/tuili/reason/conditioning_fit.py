"""Trains what a question says about the next hop, from paths found by search and how well they answered.

The loss of a question is -log of the reward that its paths earn under the model, so that the path consistent over
many questions wins over those that fit one by chance. Needs torch; what it trains doesn't.

Source: maximum marginal likelihood over latent programs, Guu et al. 2017, "From Language to Programs", eq. 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tuili.errors import InputError
from tuili.reason.conditioning import NUM_LIKENESSES, Conditioning, Menu, shapes
from tuili.reason.reading import MAX_DISTANCE, Floats, Ints, Words
from tuili.reason.supervision import Lead

Progress = Callable[[int, int, float], None]
IMPOSSIBLE = -1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """How the conditioning is trained.

    `forget`: the share of steps without the learned relation vectors, so that phrases alone must do too.
    `drop_word`: the share of words left out of a question. `max_hops`: after so many hops a walk must stop.
    `least_steps`: few questions are gone over more often than `epochs` times, to make so many steps.
    """

    size: int = 64
    max_hops: int = 3
    epochs: int = 8
    least_steps: int = 400
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    forget: float = 0.3
    drop_word: float = 0.1
    drop_number: float = 0.2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """A masked question and the paths that lead to its answers."""

    text: str
    leads: tuple[Lead, ...]


@dataclass(frozen=True, slots=True)
class _Texts:
    """Distinct texts, padded: vectors [U, T, D], places [U, T], likeness [U, T, A + 1] twice, is a word [U, T]."""

    vectors: Tensor
    place: Tensor
    cosine: Tensor
    overlap: Tensor
    is_word: Tensor

    def take(self, rows: Tensor) -> _Texts:
        return _Texts(self.vectors[rows], self.place[rows], self.cosine[rows], self.overlap[rows], self.is_word[rows])


@dataclass(frozen=True, slots=True)
class _Heard:
    """Texts after reading: hidden [U, T, d], likeness [U, T, A + 1] twice, is a word [U, T]."""

    hidden: Tensor
    cosine: Tensor
    overlap: Tensor
    is_word: Tensor

    def take(self, rows: Tensor) -> _Heard:
        return _Heard(self.hidden[rows], self.cosine[rows], self.overlap[rows], self.is_word[rows])


@dataclass(frozen=True, slots=True)
class _Paths:
    """Leads of all examples: text, owner and reward [P], actions [P, K] (STOP, then -1), available [P, K, A + 1]."""

    text: Tensor
    owner: Tensor
    log_reward: Tensor
    actions: Tensor
    available: Tensor


class Network(nn.Module):
    """The weights as parameters, and the probability of whole paths."""

    def __init__(self, menu: Menu, width: int, config: FitConfig) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(config.seed)
        self.w = nn.ParameterDict()
        for name, shape in shapes(width, config.size).items():
            scale = 1 / math.sqrt(shape[0]) if len(shape) > 1 else 0.0
            self.w[name] = nn.Parameter(torch.randn(shape, generator=chance) * scale)
        with torch.no_grad():
            self.w["state_0"].copy_(torch.randn(config.size, generator=chance))
            self.w["stop"].copy_(torch.randn(config.size, generator=chance) * 0.3)
            self.w["coverage"].fill_(1.0)
            self.w["w_likeness"].copy_(torch.tensor([2.0, 2.0, 1.0, 0.0, -1.0, 0.0, -1.0]))
        self.known = nn.Parameter(torch.zeros(len(menu.actions), config.size))
        self.register_buffer("phrase", torch.from_numpy(menu.phrase_AD))
        self.register_buffer("inverse", torch.tensor([int(one.inverse) for one in menu.actions]))
        self.register_buffer("turned", torch.tensor(menu.turned))
        self.drop = nn.Dropout(config.drop_number)

    def begin_with(self, start: Conditioning, menu: Menu) -> None:
        """Take over weights; the vectors of relations that this base has too are kept, others dropped.

        Raises:
            InputError: they are of another size, or read other word vectors.
        """
        with torch.no_grad():
            for name, weight in start.weights.items():
                own = self.w[name]
                if own.shape != weight.shape:
                    raise InputError(f"the walk to start from has {name} of {weight.shape}, here it is {own.shape}")
                own.copy_(torch.from_numpy(weight))
            for place, action in enumerate(menu.actions):
                if str(action) in start.known:
                    self.known[place] = torch.from_numpy(start.known[str(action)])

    def vectors(self, forget: bool) -> Tensor:
        """Return the vectors of the actions and STOP: [A + 1, d]."""
        found = self.get_buffer("phrase") @ self.w["w_phrase"] + self.w["direction"][self.get_buffer("inverse")]
        return torch.cat([found if forget else found + self.known, self.w["stop"][None]])

    def hear(self, texts: _Texts) -> _Heard:
        """Read texts; the hidden numbers of padding stay 0."""
        mask = texts.is_word[..., None]
        hidden = (self.drop(texts.vectors) @ self.w["w_word"] + self.w["place"][texts.place]) * mask
        for layer in ("1", "2"):
            padded = nn.functional.pad(hidden, (0, 0, 1, 1))
            windows = torch.cat([padded[:, :-2], hidden, padded[:, 2:]], dim=2)
            near = windows @ self.w[f"near_{layer}"] + self.w[f"bias_{layer}"]
            hidden = (hidden + near.relu()) * mask
        return _Heard(hidden, texts.cosine, texts.overlap, texts.is_word)

    def forward(self, heard: _Heard, actions: Tensor, available: Tensor, vectors: Tensor) -> Tensor:
        """Return the log-probability of each path [P]; `heard` has one row for each."""
        state = self.w["state_0"].expand(len(actions), -1)
        spent = torch.zeros_like(heard.is_word)
        taken = torch.zeros(len(actions), len(vectors))
        total = torch.zeros(len(actions))
        for step in range(actions.shape[1]):
            picked = actions[:, step]
            last = actions[:, step - 1] if step else None
            attention, context = self._attend(heard, state, spent)
            aim = self.drop(context @ self.w["w_context"] + state @ self.w["w_state"])
            likeness = self._likenesses(heard, spent, attention, taken, last)
            logits = aim @ vectors.T / math.sqrt(vectors.shape[1]) + likeness @ self.w["w_likeness"]
            log_probs = logits.masked_fill(~_thinkable(available[:, step]), IMPOSSIBLE).log_softmax(dim=1)
            goes_on = picked >= 0
            at = picked.clamp(min=0)
            total = total + torch.where(goes_on, log_probs.gather(1, at[:, None])[:, 0], 0.0)
            state = torch.tanh(
                state @ self.w["keep_state"] + context @ self.w["take_context"] + vectors[at] @ self.w["take_action"]
            )
            spent = spent + attention
            taken = taken.scatter(1, at[:, None], 1.0)
        return total

    def _attend(self, heard: _Heard, state: Tensor, spent: Tensor) -> tuple[Tensor, Tensor]:
        query = state @ self.w["w_query"]
        looked = (
            torch.einsum("ptd,pd->pt", heard.hidden, query) / math.sqrt(query.shape[1]) - self.w["coverage"] * spent
        )
        attention = looked.masked_fill(heard.is_word == 0, IMPOSSIBLE).softmax(dim=1)
        return attention, torch.einsum("pt,ptd->pd", attention, heard.hidden)

    def _likenesses(
        self, heard: _Heard, spent: Tensor, attention: Tensor, taken: Tensor, last: Tensor | None
    ) -> Tensor:
        """Return [P, A + 1, F]; the twin of `conditioning.likenesses`."""
        still = (1 - spent).clamp(min=0)[..., None]
        attended = torch.einsum("pt,pta->pa", attention, heard.cosine)
        free = (still * heard.cosine).amax(dim=1).clamp(min=0)
        overlap = (still * heard.overlap).amax(dim=1)
        back = torch.zeros_like(taken)
        if last is not None:
            turned = torch.cat([self.get_buffer("turned"), torch.tensor([-1])])[last]
            back = back.scatter(1, turned.clamp(min=0)[:, None], (turned >= 0).float()[:, None])
        not_stop = torch.ones(taken.shape[1])
        not_stop[-1] = 0
        stops = (1 - not_stop).expand_as(taken)
        left = stops * free[:, :-1].amax(dim=1, keepdim=True)
        columns = [attended * not_stop, free * not_stop, overlap * not_stop, taken * not_stop, back * not_stop]
        found = torch.stack([*columns, stops, left], dim=2)
        assert found.shape[2] == NUM_LIKENESSES
        return found


def fit(
    examples: Sequence[Example],
    read: dict[str, Words],
    menu: Menu,
    config: FitConfig,
    *,
    reader_name: str,
    start: Conditioning | None = None,
    on_progress: Progress = lambda epoch, total, loss: None,
) -> Conditioning:
    """Train on examples; `read` holds the words of every text.

    Deterministic under `config.seed` on one machine. O(epochs * paths * hops * words * size^2).

    Raises:
        InputError: no example has a path.
    """
    usable = [example for example in examples if example.leads and example.text in read]
    if not usable:
        raise InputError(f"none of {len(examples)} questions has a path to its answers; check their names and hops")
    texts, paths = _texts(usable, read, menu), _paths(usable, menu, config.max_hops)
    width = texts.vectors.shape[2]
    torch.manual_seed(config.seed)
    network = Network(menu, width, config)
    if start is not None:
        network.begin_with(start, menu)
    _train(network, texts, paths, len(usable), config, on_progress)
    return _export(network, menu, config, width, reader_name, start)


def _train(network: Network, texts: _Texts, paths: _Paths, num: int, config: FitConfig, on_progress: Progress) -> None:
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    steps = math.ceil(num / config.batch)
    epochs = max(config.epochs, math.ceil(config.least_steps / steps))
    num_steps = epochs * steps
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=num_steps)
    chance = torch.Generator().manual_seed(config.seed)
    first = torch.searchsorted(paths.owner, torch.arange(num + 1))
    for epoch in range(epochs):
        losses = []
        for owners in torch.randperm(num, generator=chance).split(config.batch):
            sizes = first[owners + 1] - first[owners]
            rows = torch.cat([torch.arange(int(first[one]), int(first[one + 1])) for one in owners])
            group = torch.repeat_interleave(torch.arange(len(owners)), sizes)
            loss = _loss(network, texts, paths, rows, group, config, chance)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rate.step()
            losses.append(loss.item())
        on_progress(epoch + 1, epochs, float(np.mean(losses)))


def _loss(
    network: Network,
    texts: _Texts,
    paths: _Paths,
    rows: Tensor,
    group: Tensor,
    config: FitConfig,
    chance: torch.Generator,
) -> Tensor:
    """Return the mean of -log of the reward earned; `group` says which question each path is of."""
    distinct, place = torch.unique(paths.text[rows], return_inverse=True)
    some = texts.take(distinct)
    kept = (torch.rand(some.is_word.shape, generator=chance) >= config.drop_word).float()[..., None]
    some = _Texts(some.vectors * kept, some.place, some.cosine * kept, some.overlap * kept, some.is_word)
    vectors = network.vectors(forget=bool(torch.rand((), generator=chance) < config.forget))
    heard = network.hear(some).take(place)
    log_probs = network(heard, paths.actions[rows], paths.available[rows], vectors)
    earned = log_probs + paths.log_reward[rows]
    num = int(group[-1]) + 1
    top = torch.full((num,), IMPOSSIBLE).scatter_reduce(0, group, earned.detach(), "amax")
    total = torch.zeros(num).index_add(0, group, (earned - top[group]).exp())
    return -(total.log() + top).mean()


def _texts(examples: Sequence[Example], read: dict[str, Words], menu: Menu) -> _Texts:
    words = [read[text] for text in dict.fromkeys(example.text for example in examples)]
    num_words = max(len(each.words) for each in words)

    def padded(rows: list[Floats] | list[Ints]) -> Tensor:
        return nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)

    likeness = [menu.likeness(each) for each in words]
    lengths = torch.tensor([len(each.words) for each in words])
    return _Texts(
        padded([each.vectors_TD for each in words]),
        padded([each.distance + MAX_DISTANCE for each in words]),
        padded([cosine for cosine, _ in likeness]),
        padded([overlap for _, overlap in likeness]),
        (torch.arange(num_words) < lengths[:, None]).float(),
    )


def _paths(examples: Sequence[Example], menu: Menu, max_hops: int) -> _Paths:
    rows = {text: row for row, text in enumerate(dict.fromkeys(example.text for example in examples))}
    flat = [(owner, example.text, lead) for owner, example in enumerate(examples) for lead in example.leads]
    num = len(menu.actions)
    actions = np.full((len(flat), max_hops + 1), -1, dtype=np.int64)
    available = np.zeros((len(flat), max_hops + 1, num + 1), dtype=bool)
    available[:, 1:, num] = True
    for row, (_, _, lead) in enumerate(flat):
        length = len(lead.path)
        actions[row, : length + 1] = [*lead.path, num]
        hops = min(length + 1, max_hops)
        available[row, :hops, :num] = lead.available_KA[:hops]
    return _Paths(
        torch.tensor([rows[text] for _, text, _ in flat]),
        torch.tensor([owner for owner, _, _ in flat]),
        torch.tensor([math.log(lead.reward) for _, _, lead in flat], dtype=torch.float32),
        torch.from_numpy(actions),
        torch.from_numpy(available),
    )


def _export(
    network: Network, menu: Menu, config: FitConfig, width: int, reader_name: str, start: Conditioning | None
) -> Conditioning:
    weights = {name: network.w[name].detach().numpy().copy() for name in shapes(width, config.size)}
    vectors = network.known.detach().numpy()
    known = {str(action): vectors[place].copy() for place, action in enumerate(menu.actions)}
    return Conditioning(weights, {**(start.known if start else {}), **known}, reader_name, config.max_hops)


def _thinkable(available_PA: Tensor) -> Tensor:
    """Return the actions that a path's share is taken of: all where it can go on, and STOP (the last) where it can end.

    What a base lacks at one place it may have at another: its share tells how far a dead end is from what is asked.
    """
    goes_on = available_PA[:, :-1].any(dim=1, keepdim=True)
    return torch.cat([goes_on.expand(-1, available_PA.shape[1] - 1), available_PA[:, -1:]], dim=1)
