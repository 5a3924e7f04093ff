import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import tuili
from tuili.attention.plan import Dense, LayerPlan, Pooled, Sparse
from tuili.attention.select import Budget
from tuili.errors import InputError, TuiliError, UsageError
from tuili.model.sandwich import SandwichConfig, SandwichForCausalLM, SandwichModel, default_plan

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
PLAN = LayerPlan(
    default=Sparse(budget=Budget(block=16, keep=4, sink=1, local=2), sub=4),
    layers={0: Dense(window=24, past=64, sink=4), 3: Pooled(block=16, window=20, sink=2)},
    crossover=32,
)
EVERYTHING = LayerPlan(
    default=Sparse(budget=Budget(block=16, keep=64), sub=4), layers={0: Dense(), 3: Pooled(window=4096)}, crossover=0
)


@pytest.fixture(autouse=True)
def _small_work():
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(plan=PLAN, **changes):
    return SandwichForCausalLM(SandwichConfig(layer_plan=plan.to_dict(), **{**SIZES, **changes})).eval()


def tokens(batch, length):
    return torch.randint(2, 97, (batch, length), generator=torch.Generator().manual_seed(length))


class TestConfig:
    def test_the_default_plan_is_dense_sparse_and_pooled(self):
        kinds = [type(default_plan(12).at(index)) for index in range(12)]
        assert kinds == [Dense] * 2 + [Sparse] * 9 + [Pooled]
        assert [type(default_plan(2).at(index)) for index in range(2)] == [Dense, Sparse]
        assert SandwichConfig(**SIZES).plan == default_plan(4)

    def test_one_layer_is_no_sandwich(self):
        with pytest.raises(TuiliError, match="not 1 layers"):
            SandwichConfig(**{**SIZES, "num_hidden_layers": 1})

    def test_a_layer_that_is_not_there_is_refused(self):
        with pytest.raises(UsageError, match="layer 9"):
            SandwichConfig(**SIZES, layer_plan=LayerPlan(layers={9: Dense()}).to_dict())

    def test_gates_that_do_not_fit_are_refused(self):
        with pytest.raises(UsageError, match="queries"):
            SandwichConfig(**SIZES, gate_queries=4)

    def test_a_plan_with_an_unknown_key_is_refused(self):
        with pytest.raises(InputError, match="crossing"):
            SandwichConfig(**SIZES, layer_plan={**PLAN.to_dict(), "crossing": 3})


class TestReading:
    def test_with_room_for_everything_it_is_the_dense_decoder(self):
        sandwich, ids = make(EVERYTHING), tokens(2, 150)
        dense = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
        dense.load_state_dict({n: w for n, w in sandwich.state_dict().items() if ".tuili." not in n})
        with torch.no_grad():
            torch.testing.assert_close(sandwich(ids).logits, dense(ids).logits, atol=1e-4, rtol=1e-4)

    def test_a_smaller_budget_reads_less(self):
        with torch.no_grad():
            narrow, wide = make(), make(EVERYTHING)
            wide.load_state_dict(narrow.state_dict())
            ids = tokens(1, 200)
            far, near = (narrow(ids).logits - wide(ids).logits).abs()[0, 150:], 1e-4
        assert far.max() > near

    def test_nothing_of_the_future_is_read(self):
        model, ids = make(), tokens(1, 200)
        other = ids.clone()
        other[:, 120:] = 5
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits[:, :120], model(other).logits[:, :120], atol=1e-5, rtol=1e-5)

    def test_padding_on_either_side_changes_nothing(self):
        model, ids = make(), tokens(1, 110)
        alone = model(ids).logits
        pad, ones = torch.zeros(1, 13, dtype=torch.long), torch.ones_like(ids)
        for left in (True, False):
            padded = torch.cat([pad, ids] if left else [ids, pad], dim=1)
            mask = torch.cat([pad, ones] if left else [ones, pad], dim=1)
            place = (mask.cumsum(1) - 1).clamp_min(0)
            found = model(padded, attention_mask=mask, position_ids=place).logits
            found = found[:, 13:] if left else found[:, :110]
            torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)

    def test_generating_from_a_cache_is_reading_the_whole_again(self):
        model, ids = make(), tokens(1, 90)
        for _ in range(3):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        found = model.generate(ids[:, :90], max_new_tokens=3, do_sample=False)
        assert found.tolist() == ids.tolist()

    def test_another_attention_is_refused(self):
        config = SandwichConfig(**SIZES, attn_implementation="eager")
        with pytest.raises(UsageError, match="reads by its plan"):
            SandwichForCausalLM(config)

    def test_it_is_not_ported_again(self):
        with pytest.raises(UsageError, match="sandwich"):
            tuili.port(make())


class TestWeights:
    def test_what_is_saved_is_loaded_bit_for_bit(self, tmp_path):
        model, ids = make(tie_word_embeddings=True), tokens(1, 120)
        model.save_pretrained(tmp_path)
        for loaded in (SandwichForCausalLM.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
            assert type(loaded) is SandwichForCausalLM and loaded.config.plan == PLAN
            for name, weight in model.state_dict().items():
                assert torch.equal(weight, loaded.state_dict()[name]), name
            assert torch.equal(model(ids).logits, loaded.eval()(ids).logits)
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        assert type(AutoConfig.from_pretrained(tmp_path)) is SandwichConfig
        assert type(AutoModel.from_pretrained(tmp_path)) is SandwichModel

    def test_a_llama_becomes_a_sandwich_with_fresh_gates(self, tmp_path):
        LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
        config = SandwichConfig(**SIZES, layer_plan=PLAN.to_dict())
        model, info = SandwichForCausalLM.from_pretrained(tmp_path, config=config, output_loading_info=True)
        assert {name.rsplit(".", 2)[1] for name in info["missing_keys"]} == {"gate"}
        gate = model.model.layers[1].self_attn.tuili.gate
        assert 0.01 < gate.q_proj.std() < 1 and torch.isfinite(gate.k_proj).all()

    def test_every_weight_learns(self):
        model, ids = make(), tokens(2, 150)
        model.train()
        model(ids, labels=ids).loss.backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name

    def test_checkpointed_activations_give_the_same_gradients(self):
        model, ids = make().train(), tokens(1, 150)
        model(ids, labels=ids, use_cache=False).loss.backward()
        expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        model.zero_grad()
        model.activation_checkpointing_enable()
        model(ids, labels=ids, use_cache=False).loss.backward()
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight.grad, expected[name], atol=1e-5, rtol=1e-4)


class TestEncoder:
    def test_one_vector_for_each_text_whatever_the_padding(self):
        model, ids = make().model, tokens(1, 60)
        alone = model.encode(ids)
        assert alone.shape == (1, 48)
        padded = torch.cat([ids, torch.zeros(1, 9, dtype=torch.long)], dim=1)
        found = model.encode(padded, torch.cat([torch.ones_like(ids), torch.zeros(1, 9, dtype=torch.long)], dim=1))
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)

    def test_later_tokens_weigh_more(self):
        model, ids = make().model, tokens(1, 3)
        hidden = model(ids).last_hidden_state[0]
        expected = (hidden[0] + 2 * hidden[1] + 3 * hidden[2]) / 6
        torch.testing.assert_close(model.encode(ids)[0], expected, atol=1e-5, rtol=1e-5)

    def test_an_empty_text_is_refused(self):
        with pytest.raises(InputError, match="row without a token"):
            make().model.encode(tokens(1, 4), torch.zeros(1, 4, dtype=torch.long))
