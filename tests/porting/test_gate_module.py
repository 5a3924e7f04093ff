import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from tuili import UsageError, port
from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget
from tuili.errors import InputError
from tuili.model.sandwich import SandwichConfig, SandwichForCausalLM
from tuili.porting import adapter
from tuili.porting.distill import DistillConfig
from tuili.porting.gate_module import GateModule

BUDGET = Budget(block=4, keep=8, sink=1, local=2)
CONFIG = DistillConfig(budget=BUDGET, width=8, sub=2, queries=2, samples=64)
PLAN = LayerPlan(default=Sparse(budget=BUDGET, sub=2), layers={0: Dense()}, crossover=16)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


@pytest.fixture(autouse=True)
def _learning():
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.enable_grad():
        yield
    torch.set_num_threads(before)


def decoder():
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def rows(number, length=192):
    generator = torch.Generator().manual_seed(7)
    return [{"input_ids": torch.randint(64, (length,), generator=generator)} for _ in range(number)]


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
        "learning_rate": 5e-3,
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
    }
    return TrainingArguments(**{**settings, **changes})


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


class TestGates:
    def test_they_learn_under_the_trainer_and_the_decoder_stays(self, tmp_path):
        model = decoder()
        before = copy.deepcopy(model.state_dict())
        gates = GateModule(model, [1, 2], CONFIG, rows(1)[0]["input_ids"][None])
        started = {name: weight.clone() for name, weight in gates.state_dict().items()}
        trainer = Trainer(model=gates, args=arguments(tmp_path, max_steps=12), train_dataset=rows(8))
        trainer.train()
        found = losses(trainer)
        assert sum(found[-3:]) < sum(found[:3])
        assert all(not torch.equal(weight, started[name]) for name, weight in gates.state_dict().items())
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
        assert not any("embed_tokens" in name for name in gates.state_dict())

    def test_what_was_learned_is_an_adapter(self, tmp_path):
        model = decoder()
        gates = GateModule(model, [1, 2], CONFIG, rows(1)[0]["input_ids"][None])
        adapter.save(tmp_path / "a.safetensors", gates.adapter(PLAN))
        ported = port(model, adapter=tmp_path / "a.safetensors")
        with torch.no_grad():
            assert ported(rows(1)[0]["input_ids"][None]).logits.isfinite().all()

    def test_accumulating_is_the_mean_of_the_parts(self):
        gates = GateModule(decoder(), [1], CONFIG, rows(1)[0]["input_ids"][None])
        texts = torch.stack([row["input_ids"] for row in rows(2)])
        parts = []
        for part in (texts[:1], texts[1:], texts):
            torch.manual_seed(3)
            gates.zero_grad()
            gates(part)["loss"].backward()
            parts.append(gates.gates["1"].k_proj.grad.clone())
        assert all(part.any() for part in parts)

    def test_a_text_that_is_too_short_is_refused(self):
        gates = GateModule(decoder(), [1], CONFIG, rows(1)[0]["input_ids"][None])
        with pytest.raises(InputError, match="too few"):
            gates(torch.zeros(1, 20, dtype=torch.long))

    def test_a_layer_that_is_not_there_is_refused(self):
        with pytest.raises(UsageError, match="layers must be"):
            GateModule(decoder(), [3], CONFIG, rows(1)[0]["input_ids"][None])


class TestSandwich:
    def sandwich(self):
        return SandwichForCausalLM(SandwichConfig(**SIZES, layer_plan=PLAN.to_dict()))

    def rows(self, number, length=64):
        return [{"input_ids": row["input_ids"][:length], "labels": row["input_ids"][:length]} for row in rows(number)]

    def test_it_learns_under_the_trainer_and_is_saved(self, tmp_path):
        model = self.sandwich()
        trainer = Trainer(model=model, args=arguments(tmp_path, max_steps=12), train_dataset=self.rows(8))
        trainer.train()
        found = losses(trainer)
        assert sum(found[-3:]) < sum(found[:3])
        trainer.save_model(str(tmp_path / "out"))
        again = SandwichForCausalLM.from_pretrained(tmp_path / "out")
        assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())

    def test_accumulation_makes_the_same_steps_as_a_whole_batch(self, tmp_path):
        weights = []
        for size, steps in ((4, 1), (2, 2), (1, 4)):
            torch.manual_seed(0)
            model = self.sandwich()
            changes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 2}
            args = arguments(tmp_path, **changes, optim="sgd", learning_rate=1e-2, max_grad_norm=0.0)
            Trainer(model=model, args=args, train_dataset=self.rows(8)).train()
            weights.append(model.state_dict())
        for other in weights[1:]:
            for name, weight in weights[0].items():
                torch.testing.assert_close(weight, other[name], atol=1e-5, rtol=1e-4)

    def test_the_batch_is_halved_until_it_fits(self, tmp_path):
        class Full(SandwichForCausalLM):
            largest = 2

            def forward(self, input_ids=None, labels=None, **given):
                if len(input_ids) > self.largest:
                    raise RuntimeError("CUDA out of memory.")
                return SandwichForCausalLM.forward(self, input_ids=input_ids, labels=labels, **given)

        model = Full(SandwichConfig(**SIZES, layer_plan=PLAN.to_dict()))
        changes = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "auto_find_batch_size": True}
        trainer = Trainer(model=model, args=arguments(tmp_path, **changes), train_dataset=self.rows(16))
        trainer.train()
        assert trainer._train_batch_size <= 2 and trainer.state.global_step == 4

    def test_it_trains_in_bfloat16(self, tmp_path):
        trainer = Trainer(model=self.sandwich(), args=arguments(tmp_path, bf16=True), train_dataset=self.rows(8))
        trainer.train()
        assert all(loss < 20 for loss in losses(trainer))

    def test_two_precisions_at_once_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="At most one of fp16 and bf16"):
            arguments(tmp_path, bf16=True, fp16=True)
