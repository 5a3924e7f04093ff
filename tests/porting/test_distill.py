import copy
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tuili import UsageError, port, unport
from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget
from tuili.errors import InputError, ModelFileError
from tuili.porting.adapter import Adapter, fingerprint, load, save
from tuili.porting.distill import DistillConfig, Distiller, watched_attention, windows

BUDGET = Budget(block=4, keep=8, sink=1, local=2)
CONFIG = DistillConfig(budget=BUDGET, width=8, sub=2, queries=2, samples=64, rows=32, inner_steps=4, lr=5e-3)


def decoder(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def texts(length=192):
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(64, (4_000,), generator=generator)
    return windows({"a": ids, "b": ids.flip(0)}, length)


def weights(gates):
    return {(layer, name): value for layer, gate in gates.items() for name, value in gate.state_dict().items()}


def test_gates_learn_and_the_model_stays_as_it_is():
    model = decoder()
    before = copy.deepcopy(model.state_dict()), model.config._attn_implementation
    steps = []
    gates = Distiller(model, [1, 2], CONFIG).run(texts(), 12, steps.append)
    assert sorted(gates) == [1, 2] and [step.index for step in steps] == list(range(1, 13))
    assert sum(step.loss for step in steps[-3:]) < sum(step.loss for step in steps[:3])
    assert all(0 < step.recall.kept < step.recall.oracle <= 1 for step in steps)
    assert model.config._attn_implementation == before[1]
    assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2"])
def test_layers_read_what_they_read_in_the_model_while_gates_learn(make_decoder, tokens, family):
    """Some layers have a window of 24 keys of their own; a gate above them must learn from what they hand up."""
    model, ids = make_decoder(family), tokens(1, 100)
    expected, seen = model(ids).logits, []
    with watched_attention(model, "watching", lambda module, *_: seen.append(module.layer_idx)):
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert seen == [0, 1, 2]


def test_the_programs_own_random_numbers_stay_as_they_were():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = decoder()
    torch.set_rng_state(before)
    Distiller(model, [1], CONFIG).run(texts(), 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_run_ends_with_the_same_gates(tmp_path):
    whole = Distiller(decoder(), [1], CONFIG).run(texts(), 4)
    state = tmp_path / "half.safetensors"

    def stop(step):
        if step.index == 2:
            first.save(state)
            raise KeyboardInterrupt

    first = Distiller(decoder(), [1], CONFIG)
    with pytest.raises(KeyboardInterrupt):
        first.run(texts(), 4, stop)
    second = Distiller(decoder(), [1], CONFIG)
    second.load(state)
    resumed = second.run(texts(), 4)
    assert all(torch.equal(value, weights(resumed)[key]) for key, value in weights(whole).items())


def test_a_state_of_other_settings_or_cut_off_is_refused(tmp_path):
    first = Distiller(decoder(), [1], CONFIG)
    first.run(texts(), 1)
    state = tmp_path / "state.safetensors"
    first.save(state)
    with pytest.raises(ModelFileError, match="settings"):
        Distiller(decoder(), [1, 2], CONFIG).load(state)
    state.write_bytes(state.read_bytes()[:-40])
    with pytest.raises(ModelFileError):
        Distiller(decoder(), [1], CONFIG).load(state)


def test_distilled_gates_are_kept_for_their_model_alone(tmp_path):
    model = decoder()
    gates = Distiller(model, [1, 2], CONFIG).run(texts(), 1)
    path = tmp_path / "gates.safetensors"
    plan = LayerPlan(default=Sparse(budget=BUDGET, sub=2), layers={0: Dense()}, crossover=0)
    save(path, Adapter(gates=gates, plan=plan, base_sha256=fingerprint(model)))
    found = load(path, model)
    ids = texts()(0)
    port(model, adapter=found)
    with torch.no_grad():
        assert torch.isfinite(model(ids).logits).all()
    unport(model)
    with pytest.raises(ModelFileError, match="another model"):
        load(path, decoder(seed=1))


def test_the_fingerprint_is_the_same_in_half_precision():
    model = decoder()
    assert fingerprint(model) == fingerprint(copy.deepcopy(model).to(torch.bfloat16)) != fingerprint(decoder(seed=1))


def test_texts_depend_on_step_and_seed_alone():
    ids = torch.arange(1_000)
    first, again, other = windows({"a": ids}, 100), windows({"a": ids}, 100), windows({"a": ids}, 100, seed=1)
    found = [first(step) for step in range(6)]
    assert all(torch.equal(text, again(step)) for step, text in enumerate(found))
    assert any(not torch.equal(left, right) for left, right in pairwise(found))
    assert any(not torch.equal(text, other(step)) for step, text in enumerate(found))
    with pytest.raises(InputError, match="a has 1000 tokens, at least 2000"):
        windows({"a": ids}, 2_000)


@pytest.mark.parametrize(("change", "message"), [
    ({"width": 0}, "width must be at least 1, not 0"),
    ({"lr": 2.0}, "lr must lie between 0 and 1, not 2.0"),
    ({"sub": 3}, "a sub that divides the block of 16 keys, not 3"),
    ({"shapes": {2: (8, 5)}}, "a sub that divides the block of 16 keys, not 5"),
    ({"shapes": {2: (0, 4)}}, "a width of at least 1, not 0"),
])  # fmt: skip
def test_bad_settings_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        DistillConfig(**change)


@pytest.mark.parametrize("layers", [[], [3], [-1]])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(UsageError, match=r"0 \.\. 2"):
        Distiller(decoder(), layers, CONFIG)


def test_a_text_shorter_than_the_budget_is_refused():
    with pytest.raises(InputError, match="too few to learn from"):
        Distiller(decoder(), [1], CONFIG).run(texts(length=20), 1)
