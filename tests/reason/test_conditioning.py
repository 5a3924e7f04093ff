"""What a question says about hops: NumPy and torch agree, weights are checked, bases may differ."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tuili.errors import InputError, ModelFileError
from tuili.reason.conditioning import LIKENESSES, Conditioning, Menu, likenesses
from tuili.reason.conditioning_fit import Example, FitConfig, Network, _export, _paths, _texts, fit
from tuili.reason.reading import MASK, WordReader, masked
from tuili.reason.supervision import Budget, leads
from tuili.reason.worlds.hops import Action

if TYPE_CHECKING:
    from conftest import Family

READER = WordReader()
CONFIG = FitConfig(size=12, epochs=2, least_steps=0, batch=32, drop_number=0.0)


def examples(family: Family, keep: int = 3) -> list[Example]:
    return [
        Example(one.text, tuple(leads(family.hops, one.start, one.answers, Budget(), keep))) for one in family.asked
    ]


def menu_of(family: Family) -> Menu:
    return Menu.of(family.hops.actions, family.hops.schema, READER)


def random_network(menu: Menu) -> Network:
    network = Network(menu, READER.width, CONFIG)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=chance) * 0.3)
    return network.eval()


def test_numpy_gives_the_log_probabilities_of_torch(family: Family) -> None:
    menu, some = menu_of(family), examples(family)[::7]
    network = random_network(menu)
    conditioning = _export(network, menu, CONFIG, READER.width, READER.name, None)
    read = {one.text: READER.read([one.text])[0] for one in some}
    texts, paths = _texts(some, read, menu), _paths(some, menu, CONFIG.max_hops)
    with torch.no_grad():
        heard = network.hear(texts).take(paths.text)
        expected = network(heard, paths.actions, paths.available, network.vectors(forget=False)).numpy()
    flat = [(one.text, lead) for one in some for lead in one.leads]
    found = [log_probability(conditioning, menu, text, lead.path, lead.available_KA) for text, lead in flat]
    assert len(flat) > 20
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def log_probability(
    conditioning: Conditioning, menu: Menu, text: str, path: tuple[int, ...], available_KA: np.ndarray
) -> float:
    vectors_AD = conditioning.action_vectors(menu)
    heard = conditioning.hear(READER.read([text])[0], menu)
    moment, total = conditioning.begin(heard), 0.0
    for step, action in enumerate([*path, len(menu.actions)]):
        opinion = conditioning.judge(heard, moment, menu, vectors_AD)
        goes_on = available_KA[step].any()  # what lacks edges here keeps its share, for it has some elsewhere
        possible = np.append(np.full(len(menu.actions), goes_on), step > 0)
        logits = opinion.logits_A[possible].astype(np.float64)
        total += float(opinion.logits_A[action]) - float(np.log(np.exp(logits).sum()))
        moment = conditioning.advance(moment, opinion, action, vectors_AD)
    return total


def test_likenesses_are_discounted_by_attention_spent(family: Family) -> None:
    menu = menu_of(family)
    conditioning = _export(random_network(menu), menu, CONFIG, READER.width, READER.name, None)
    heard = conditioning.hear(READER.read(["children of xyz"])[0], menu)
    moment = conditioning.begin(heard)
    child = menu.actions.index(Action("parent", inverse=True))
    fresh = likenesses(heard, moment, np.array([1, 0, 0], np.float32), menu)
    assert fresh[child, LIKENESSES.index("open overlap")] == 1
    assert fresh[child, LIKENESSES.index("attended likeness")] == pytest.approx(1, abs=1e-5)
    assert fresh[-1].tolist() == pytest.approx([0, 0, 0, 0, 0, 1, fresh[:-1, 1].max()])
    spent = replace(moment, spent_T=np.array([1, 0, 0], np.float32), path=(child,))
    later = likenesses(heard, spent, np.array([1, 0, 0], np.float32), menu)
    assert later[child, 1:4].tolist() == [0, 0, 1]
    assert later[child - 1, LIKENESSES.index("turns back")] == 1 and later[:, 4].sum() == 1


def test_training_is_deterministic_and_lowers_the_loss(family: Family) -> None:
    menu, some = menu_of(family), examples(family)
    read = {one.text: READER.read([one.text])[0] for one in some}
    losses: list[float] = []
    config = replace(CONFIG, epochs=4)

    def train() -> Conditioning:
        return fit(
            some, read, menu, config, reader_name=READER.name, on_progress=lambda done, total, loss: losses.append(loss)
        )

    first, second = train(), train()
    assert losses[3] < losses[0] and losses[:4] == losses[4:]
    assert all((first.weights[name] == second.weights[name]).all() for name in first.weights)


def test_a_start_keeps_what_it_knows_and_another_size_is_refused(family: Family) -> None:
    menu, some = menu_of(family), examples(family)[:20]
    read = {one.text: READER.read([one.text])[0] for one in some}
    start = fit(some, read, menu, CONFIG, reader_name=READER.name)
    other = Conditioning(start.weights, {"foreign": np.ones(12, np.float32)}, READER.name)
    learned = fit(some, read, menu, CONFIG, reader_name=READER.name, start=other)
    assert set(learned.known) == {"foreign", *map(str, menu.actions)}
    with pytest.raises(InputError, match="the walk to start from has"):
        fit(some, read, menu, replace(CONFIG, size=8), reader_name=READER.name, start=start)


def test_weights_that_are_missing_or_not_finite_are_refused(family: Family) -> None:
    menu = menu_of(family)
    good = _export(random_network(menu), menu, CONFIG, READER.width, READER.name, None)
    bad = {**good.weights, "stop": np.full(12, np.nan, np.float32)}
    for weights in (bad, {name: good.weights[name] for name in good.weights if name != "stop"}):
        with pytest.raises(ModelFileError, match="'stop'"):
            Conditioning(weights)
    with pytest.raises(ModelFileError, match="12 finite numbers"):
        Conditioning(good.weights, {"parent": np.zeros(3, np.float32)})


def test_without_paths_nothing_is_learned(family: Family) -> None:
    with pytest.raises(InputError, match="none of 1 questions"):
        fit([Example("who", ())], {}, menu_of(family), CONFIG, reader_name=READER.name)


def test_masking_takes_the_place_of_names_and_tells_distances() -> None:
    text = masked("Who directed Alien 3?", [(13, 20)])
    assert text == f"who directed {MASK} ?"
    words = READER.read([text])[0]
    assert words.distance.tolist() == [-2, -1, 0] and words.is_content.tolist() == [0, 1, 0]
    assert READER.read(["no name"])[0].distance.tolist() == [8, 8]
    np.testing.assert_allclose(np.linalg.norm(words.vectors_TD, axis=1), 1, rtol=1e-5)


def test_words_that_look_alike_are_closer() -> None:
    direct, director, banana = READER.read(["directed director banana"])[0].vectors_TD
    assert direct @ director > 0.3 > abs(direct @ banana)
