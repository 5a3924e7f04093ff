import itertools
import math

import pytest
import torch

from tuili import InputError, UsageError, port, unport
from tuili.attention.plan import Dense, LayerPlan, wide
from tuili.porting.calibrate import CalibrateConfig, Way, calibrate, choose_ways, split
from tuili.porting.passes import losses

CONFIG = CalibrateConfig(max_loss=0.5, keeps=(6, 12), crossover=32)


def way(keys, increase):
    return Way(entry=Dense(), keys_per_token=keys, increase=increase)


def loss(model, ids):
    hidden = model.base_model(ids[None], use_cache=False).last_hidden_state[0]
    return float(losses(model, hidden[len(ids) // 2 - 1 :], ids).mean())


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_a_layers_increase_is_that_of_a_whole_forward(make_decoder, tokens, family):
    model = make_decoder(family)
    ids = tokens(1, 240)[0]
    found = calibrate(model, [ids], [tokens(2, 240)[1]], CONFIG)
    dense = loss(model, ids)
    assert found.ways and all(ways[0].entry == wide() and ways[0].increase == 0 for ways in found.ways.values())
    for layer, ways in found.ways.items():
        for each in ways[1:]:
            port(model, LayerPlan(default=Dense(), layers={layer: each.entry}, crossover=32))
            assert each.increase == pytest.approx(loss(model, ids) - dense, abs=1e-6)
            unport(model)
    assert all(any(each.increase != 0 for each in ways[1:]) for ways in found.ways.values())


def test_the_plan_as_a_whole_is_measured_on_the_other_text(make_decoder, tokens):
    model = make_decoder("llama")
    choose, check = tokens(2, 240)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = calibrate(model, [choose], [check], CONFIG)
    dense = loss(model, check)
    port(model, found.plan)
    assert found.measured == pytest.approx(math.expm1(loss(model, check) - dense), abs=1e-6)
    unport(model)
    assert found.length == 240 and found.keys_per_token < found.keys_dense == pytest.approx(241 / 2)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_progress_counts_every_measurement(make_decoder, tokens):
    seen = []
    texts = tokens(2, 240)
    calibrate(make_decoder("llama"), [texts[0]], [texts[1]], CONFIG, on_progress=lambda *each: seen.append(each))
    assert [done for stage, done, total in seen if "alone" in stage] == list(range(12))
    assert {total for stage, _, total in seen if "alone" in stage} == {12}


def test_the_greedy_choice_keeps_within_the_budget_and_is_the_best_of_small_cases():
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        draw = torch.rand(3, 3, 2, generator=generator).tolist()
        ways = {
            layer: [way(100, 0.0), *(way(90 * keys, 0.01 * cost) for keys, cost in each)]
            for layer, each in enumerate(draw)
        }
        chosen = choose_ways(ways, 0.012)
        spent = sum(each.increase for each in chosen.values())
        assert spent <= 0.012
        fitting = [
            combination
            for combination in itertools.product(*ways.values())
            if sum(each.increase for each in combination) <= 0.012
        ]
        best = min(sum(each.keys_per_token for each in combination) for combination in fitting)
        found = sum(each.keys_per_token for each in chosen.values())
        assert best <= found <= best + 90  # within what one layer can save
    assert choose_ways(ways, 1.0) == {
        layer: min(each, key=lambda way: way.keys_per_token) for layer, each in ways.items()
    }


def test_increases_below_zero_do_not_pay_for_others():
    ways = {0: [way(100, 0.0), way(10, -0.5)], 1: [way(100, 0.0), way(10, 0.02)]}
    chosen = choose_ways(ways, 0.01)
    assert chosen[0].keys_per_token == 10 and chosen[1].keys_per_token == 100


def test_pieces_come_from_all_corpora_and_do_not_overlap():
    corpora = {"a": torch.arange(0, 50), "b": torch.arange(100, 125)}
    choose, check = split(corpora, 10, 3)
    assert [int(piece[0]) for piece in choose] == [0, 100, 10]
    assert [int(piece[0]) for piece in check] == [110, 20, 30]
    assert [len(part) for part in split(corpora, 25, 5)] == [1, 1]
    with pytest.raises(InputError, match="1 pieces of 30 tokens"):
        split(corpora, 30, 1)


def test_what_can_not_be_calibrated_is_refused(make_decoder, tokens):
    model = make_decoder("llama")
    with pytest.raises(InputError, match="nothing to choose"):
        calibrate(model, [tokens(1, 96)[0]], [tokens(1, 96)[0]], CONFIG)
    with pytest.raises(InputError, match="one length"):
        calibrate(model, [tokens(1, 200)[0]], [tokens(1, 240)[0]], CONFIG)
    with pytest.raises(InputError, match="one length"):
        calibrate(model, [], [], CONFIG)
    for change in ({"max_loss": -0.1}, {"max_loss": 1.0}, {"keeps": ()}):
        with pytest.raises(UsageError):
            CalibrateConfig(**change)
