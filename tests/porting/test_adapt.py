import copy
import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tuili import port
from tuili.attention.gate import Gate, GateShape
from tuili.attention.plan import Dense, LayerPlan, Pooled, Sparse
from tuili.attention.select import Budget
from tuili.errors import InputError, ModelFileError, UsageError
from tuili.porting.adapt import AdaptConfig, Adapting
from tuili.porting.adapter import load, save

BUDGET = Budget(block=4, keep=4, sink=1, local=2)
PLAN = LayerPlan(default=Sparse(budget=BUDGET, sub=2), layers={0: Dense()}, crossover=0)
CONFIG = AdaptConfig(rank=4, samples=64, lr=1e-2)
VOCABULARY = 64
SHAPE = GateShape(heads=4, groups=2, head_dim=16, queries=2, width=8, sub=2)


def decoder(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        **changes,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes)).eval()


def texts(index, length=96, kinds=VOCABULARY):
    return torch.randint(kinds, (1, length), generator=torch.Generator().manual_seed(index))


def mean_drift(adapting):
    """Return the mean drift on unseen texts of few kinds of tokens: what is left out is much like what is read."""
    return sum(adapting.measure(texts(10_000 + index, kinds=4)).loss for index in range(3)) / 3


def random_gates(seed=1):
    torch.manual_seed(seed)
    return {layer: Gate.low_rank(SHAPE) for layer in (1, 2)}


def weights(adapter):
    found = {f"{name}.{part}": getattr(each, part) for name, each in adapter.low_rank.items() for part in "ab"}
    for layer, gate in adapter.gates.items():
        found |= {f"{layer}.{name}": each for name, each in gate.state_dict().items()}
    return found


def same(left, right):
    left, right = weights(left), weights(right)
    return left.keys() == right.keys() and all(torch.equal(each, right[name]) for name, each in left.items())


def test_the_model_drifts_less_on_unseen_text_and_stays_as_it_is():
    model = decoder(initializer_range=0.15)
    before = (
        copy.deepcopy(model.state_dict()),
        model.config._attn_implementation,
        [type(each) for each in model.modules()],
    )
    adapting, steps = Adapting(model, PLAN, AdaptConfig(rank=4, samples=64, lr=5e-3)), []
    first = mean_drift(adapting)
    adapter = adapting.run(lambda index: texts(index, kinds=4), 40, steps.append)
    assert first > 0.02 and mean_drift(adapting) < 0.7 * first
    assert [step.index for step in steps] == list(range(1, 41)) and steps[0].total == 40
    assert len(adapter.low_rank) == 8 and adapter.plan == PLAN and adapter.info["adapt"]["steps"] == 40
    assert model.config._attn_implementation == before[1] and [type(each) for each in model.modules()] == before[2]
    assert all(torch.equal(each, before[0][name]) for name, each in model.state_dict().items())
    assert all(each.requires_grad and each.grad is None for each in model.parameters())
    assert all("forward" not in vars(each) for each in model.modules())


def test_the_drift_is_that_of_the_ported_model(tmp_path):
    model = decoder()
    adapting, ids = Adapting(model, PLAN, CONFIG), texts(3)
    save(tmp_path / "a", adapting.run(texts, 3))
    drift = Adapting(model, PLAN, AdaptConfig(rank=4, samples=1_000, lr=1e-2)).measure(ids)
    adapted = adapting.measure(ids)
    with torch.no_grad():
        dense = model(ids).logits[0, 48:].log_softmax(-1)
        port(model, adapter=load(tmp_path / "a", model))
        sparse = model(ids).logits[0, 48:].log_softmax(-1)
    loss = (dense.exp() * (dense - sparse)).sum(-1).mean()
    assert adapted.loss == pytest.approx(float(loss), rel=0.02)
    assert adapted.agreement == (dense.argmax(-1) == sparse.argmax(-1)).float().mean()
    assert drift.loss != pytest.approx(adapted.loss, rel=0.02), "low-rank weights begin at zero"


def test_pieces_of_logits_change_nothing(monkeypatch):
    whole = Adapting(decoder(), PLAN, CONFIG).run(texts, 2)
    monkeypatch.setattr("tuili.porting.adapt.PIECE_ELEMENTS", 5 * VOCABULARY)
    pieces = Adapting(decoder(), PLAN, CONFIG).run(texts, 2)
    for name, each in weights(whole).items():
        torch.testing.assert_close(weights(pieces)[name], each, atol=1e-3, rtol=1e-3)


def test_every_low_rank_weight_has_the_gradient_of_plain_autograd():
    """Checkpoints, pieces and the compiled path aside: the loss of the ported model, differentiated at once."""
    model = decoder()
    adapting = Adapting(model, PLAN, CONFIG)
    for each in adapting._factors.values():
        each.b.data.normal_(std=0.1)
    adapting._compare(texts(0), learns=True)
    found = {name: each.grad.clone() for name, (each, _) in adapting._trained().items()}
    positions = adapting._positions(texts(0))
    with torch.no_grad():
        dense = model(texts(0)).logits[0, positions].log_softmax(-1)
    adapter = adapting.adapter()
    port(model, adapter=adapter)
    leaves = {}
    for name in adapter.low_rank:
        inner = model.get_submodule(name).tuili_low_rank
        leaves |= {f"{name}.a": inner.a.requires_grad_(), f"{name}.b": inner.b.requires_grad_()}
    with torch.enable_grad():
        sparse = model(texts(0)).logits[0, positions].log_softmax(-1)
        (dense.exp() * (dense - sparse)).sum(-1).mean().backward()
    for name, each in leaves.items():
        assert found[name].any()
        torch.testing.assert_close(found[name], each.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("train_gates", [False, True])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, train_gates):
    config = AdaptConfig(rank=2, samples=32, lr=1e-2, train_gates=train_gates)
    whole = Adapting(decoder(), PLAN, config, gates=random_gates()).run(texts, 4)
    state = tmp_path / "half.safetensors"

    def stop(step):
        if step.index == 2:
            first.save(state)
            raise KeyboardInterrupt

    first = Adapting(decoder(), PLAN, config, gates=random_gates())
    with pytest.raises(KeyboardInterrupt):
        first.run(texts, 4, stop)
    second = Adapting(decoder(), PLAN, config, gates=random_gates())
    second.load(state)
    assert same(second.run(texts, 4), whole)


def test_a_state_of_other_settings_or_cut_off_is_refused(tmp_path):
    state = tmp_path / "state.safetensors"
    first = Adapting(decoder(), PLAN, CONFIG, gates=random_gates())
    first.save(state)
    for model, plan, config, gates, what in [
        (decoder(), PLAN, AdaptConfig(rank=2), random_gates(), "config"),
        (decoder(), LayerPlan(default=PLAN.default), CONFIG, random_gates(), "plan"),
        (decoder(seed=1), PLAN, CONFIG, random_gates(), "model"),
        (decoder(), PLAN, CONFIG, random_gates(seed=2), "gates"),
    ]:
        with pytest.raises(ModelFileError, match=f"the {what} differs"):
            Adapting(model, plan, config, gates=gates).load(state)
    state.write_bytes(state.read_bytes()[:-40])
    with pytest.raises(ModelFileError):
        first.load(state)


def test_a_pooled_top_is_adapted_to_as_well():
    plan = LayerPlan(default=Dense(), layers={2: Pooled(block=8, window=8, sink=2)})
    adapting = Adapting(decoder(initializer_range=0.15), plan, AdaptConfig(rank=4, samples=64, lr=5e-3))
    first = mean_drift(adapting)
    adapter = adapting.run(lambda index: texts(index, kinds=4), 10)
    assert {name.split(".")[2] for name in adapter.low_rank} == {"2"}
    assert mean_drift(adapting) < first
    with pytest.raises(InputError, match="more than 17 tokens"):
        adapting.measure(texts(0, length=17))


class TestGates:
    def test_frozen_gates_stay_and_trained_ones_move(self):
        before = weights(Adapting(decoder(), PLAN, CONFIG, gates=random_gates()).adapter())
        frozen = Adapting(decoder(), PLAN, CONFIG, gates=random_gates()).run(texts, 2)
        config = AdaptConfig(rank=4, samples=64, lr=1e-2, train_gates=True)
        trained = Adapting(decoder(), PLAN, config, gates=random_gates()).run(texts, 2)
        names = [name for name in before if name[0] in "12"]
        assert names and all(torch.equal(weights(frozen)[name], before[name]) for name in names)
        assert all(not torch.equal(weights(trained)[name], before[name]) for name in names)

    def test_gates_alone_reach_the_model_only_by_what_they_select(self):
        """The output with a gradient for the gate is the one without."""
        gates, ids = random_gates(), texts(0)
        given, config = {"gates": gates}, {"rank": 4, "samples": 64, "lr": 1e-2}
        plain = Adapting(decoder(), PLAN, AdaptConfig(**config), **given)._compare(ids, learns=True)
        teaching = Adapting(decoder(), PLAN, AdaptConfig(**config, train_gates=True), **given)._compare(
            ids, learns=True
        )
        assert teaching.loss == pytest.approx(plain.loss, rel=1e-4)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rank": 0}, "rank must be at least 1, not 0"),
            ({"samples": 0}, "samples must be at least 1, not 0"),
            ({"lr": 1.0}, "lr must lie between 0 and 1, not 1.0"),
            ({"gate_lr": 0.0}, "gate_lr must lie between 0 and 1, not 0.0"),
            ({"scale": 0.0}, "scale must be a finite number above 0, not 0.0"),
        ],
    )
    def test_bad_settings(self, change, message):
        with pytest.raises(UsageError, match=message):
            AdaptConfig(**change)

    def test_plans_and_models(self):
        with pytest.raises(UsageError, match="every layer of the plan is dense"):
            Adapting(decoder(), LayerPlan(default=Dense()), CONFIG)
        with pytest.raises(UsageError, match="no gates to train"):
            Adapting(decoder(), PLAN, AdaptConfig(train_gates=True))
        with pytest.raises(UsageError, match="is ported already"):
            Adapting(port(decoder()), PLAN, CONFIG)
        with pytest.raises(UsageError, match=r"a LlamaModel in torch.float32 can't be adapted"):
            Adapting(decoder().model, PLAN, CONFIG)
        with pytest.raises(UsageError, match=r"in torch.bfloat16 can't be adapted"):
            Adapting(decoder().bfloat16(), PLAN, CONFIG)
        with pytest.raises(UsageError, match="rank must be at least 1 and at most the smaller width"):
            Adapting(decoder(), PLAN, AdaptConfig(rank=40))

    @pytest.mark.parametrize("shape", [(1, 16), (1, 0), (2, 96), (96,)])
    def test_texts(self, shape):
        adapting = Adapting(decoder(), PLAN, CONFIG)
        with pytest.raises(InputError, match="one row of more than 16 tokens"):
            adapting.run(lambda index: torch.zeros(shape, dtype=torch.long), 1)
        assert adapting.index == 0


def test_facts_are_kept_with_the_adapter():
    adapter = Adapting(decoder(), PLAN, CONFIG).adapter({"texts": ["a"]})
    assert json.loads(json.dumps(adapter.info)) == {
        "adapt": {"rank": 4, "scale": 2.0, "samples": 64, "lr": 0.01, "train_gates": False, "gate_lr": 0.001, "seed": 0,
                  "steps": 0},
        "texts": ["a"],
    }  # fmt: skip
