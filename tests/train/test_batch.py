from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from small import alone, train
from transformers import GPTNeoXConfig, LlamaConfig, LlamaForCausalLM, MixtralConfig

from tuili.errors import LimitError, UsageError
from tuili.train import batch
from tuili.train.batch import agree, can_hold, dry_run, estimate, largest_micro_batch
from tuili.train.spec import ParallelSpec, TrainingConfig

CPU = torch.device("cpu")
GIB = 2**30
SMALL = {"hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 8, "num_key_value_heads": 2}
FLOAT32, BFLOAT16 = TrainingConfig(), TrainingConfig(precision="bfloat16")
AGAIN = TrainingConfig(activation_checkpointing=True)


LARGE = {
    "hidden_size": 1280, "intermediate_size": 3456, "num_hidden_layers": 16, "vocab_size": 32000,
    "num_key_value_heads": 4,
}  # fmt: skip
"""Weights outweigh activations, and embeddings a layer."""


def config(**sizes):
    return LlamaConfig(**{**SMALL, "vocab_size": 512, "num_hidden_layers": 2, **sizes})


def test_a_7b_model_over_64_devices_holds_what_is_known_of_it():
    """Sharded parameters of Llama 7B over tp=8 x dp_shard=8 are 0.392 GiB each."""
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000}
    llama = LlamaConfig(**sizes, num_attention_heads=32, num_key_value_heads=32)
    memory = estimate(llama, ParallelSpec(dp_shard=8, tp=8), FLOAT32, length=2048)
    assert memory.parameters / GIB == pytest.approx(0.392, abs=5e-4)
    assert (memory.gradients, memory.optimizer) == (memory.parameters, 2 * memory.parameters)
    fields = (memory.gathered, memory.activations, memory.working)
    assert memory.total == 4 * memory.parameters + sum(fields)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (GPTNeoXConfig(), "has no num_key_value_heads"),
        (MixtralConfig(), r"decoders with experts \(num_local_experts\)"),
    ],
)
def test_memory_of_other_decoders_is_not_guessed(other, message):
    with pytest.raises(UsageError, match=message):
        estimate(other, ParallelSpec(), FLOAT32, length=16)


@pytest.mark.parametrize(
    ("spec", "training", "sizes"),
    [
        (ParallelSpec(micro_batch=4), FLOAT32, {}),
        (ParallelSpec(micro_batch=4), AGAIN, {"vocab_size": 4096}),
        (ParallelSpec(dp_shard=8, micro_batch=2), BFLOAT16, {"vocab_size": 4096}),
        (ParallelSpec(dp_shard=4, tp=2, micro_batch=4), FLOAT32, {}),
        (ParallelSpec(pp=2, dp_shard=4, micro_batch=2), FLOAT32, {"num_hidden_layers": 4}),
        (ParallelSpec(pp=2, schedule="GPipe", micro_batches=2, micro_batch=2), FLOAT32, {"vocab_size": 4096}),
        (ParallelSpec(tp=4), AGAIN, LARGE),
        (ParallelSpec(tp=4), BFLOAT16, LARGE),
        (ParallelSpec(pp=4, tp=4), FLOAT32, LARGE),
        (ParallelSpec(pp=4, virtual=2, schedule="Interleaved1F1B", micro_batches=8), BFLOAT16, LARGE),
        (ParallelSpec(dp_shard=16), FLOAT32, LARGE),
        (ParallelSpec(dp_replicate=2, dp_shard=2, tp=2), AGAIN, LARGE),
    ],
)
def test_the_estimate_is_near_what_torch_would_allocate(spec, training, sizes):
    of_model = config(**sizes)
    ends = {0, spec.world_size - 1} if spec.pp > 1 else {0}
    found = max(dry_run(lambda: LlamaForCausalLM(of_model), spec, training, length=128, rank=rank) for rank in ends)
    assert 0.9 * found < estimate(of_model, spec, training, length=128).total < 1.2 * found


def test_a_model_of_a_hundred_billion_is_tried_over_512_processes_that_are_not_there():
    """What torch would allocate for one of them, sharded, sliced and in a pipeline, beside the estimate."""
    sizes = {"hidden_size": 10240, "intermediate_size": 27648, "num_hidden_layers": 96, "vocab_size": 32000}
    large = LlamaConfig(**sizes, num_attention_heads=80, num_key_value_heads=8)
    spec = ParallelSpec(pp=8, dp_shard=8, tp=8)
    memory = estimate(large, spec, AGAIN, length=512)
    found = dry_run(lambda: LlamaForCausalLM(large), spec, AGAIN, length=512)
    assert memory.parameters / 4 * spec.world_size == pytest.approx(104e9, rel=0.05)
    assert 0.9 * found < memory.total < 1.3 * found


def refuse_in_a_group():
    with pytest.raises(UsageError, match="a dry run needs a process that is in no group"):
        dry_run(lambda: LlamaForCausalLM(config()), ParallelSpec(), FLOAT32, length=8)


def test_a_dry_run_takes_a_process_without_a_group_and_leaves_it_so():
    with pytest.raises(UsageError, match="tp=3 does not divide the model's num_attention_heads=8"):
        dry_run(lambda: LlamaForCausalLM(config()), ParallelSpec(tp=3), FLOAT32, length=8)
    assert not dist.is_initialized()
    run_ranks(1, refuse_in_a_group)


@pytest.mark.parametrize(
    ("change", "is_more"),
    [
        ({"micro_batch": 8}, True),
        ({"pp": 2}, False),
        ({"tp": 2}, False),
        ({"dp_shard": 2}, False),
        ({"dp_replicate": 2}, None),
    ],
)
def test_devices_that_share_hold_less_and_more_rows_more(change, is_more):
    spec, of_model = ParallelSpec(micro_batch=4), config(num_hidden_layers=8)
    before = estimate(of_model, spec, FLOAT32, length=128).total
    after = estimate(of_model, replace(spec, **change), FLOAT32, length=128).total
    assert after == before if is_more is None else (after > before) == is_more


def test_stages_hold_the_passes_that_are_under_way():
    of_model = config(num_hidden_layers=8)

    def activations(**values):
        return estimate(of_model, ParallelSpec(pp=4, **values), FLOAT32, length=128).activations

    one = activations(schedule="GPipe", micro_batches=4)
    assert activations(schedule="GPipe", micro_batches=8) == 2 * one
    assert activations(micro_batches=4) == activations(micro_batches=16) < one


def test_the_largest_micro_batch_that_fits_and_divides_is_taken(monkeypatch):
    monkeypatch.setattr(batch, "free_bytes", lambda: 10_000)
    for rows, expected in [(16, 8), (15, 5), (7, 7), (11, 1)]:
        found = largest_micro_batch(rows, ParallelSpec(), lambda spec: 1000 * spec.micro_batch, CPU)
        assert found == ParallelSpec(micro_batch=expected)
    piped = ParallelSpec(pp=2, micro_batches=4)
    assert largest_micro_batch(24, piped, lambda spec: 1000 * spec.micro_batch, CPU) == replace(piped, micro_batch=6)
    with pytest.raises(UsageError, match="6 rows a process don't divide into 4 micro-batches; give a multiple"):
        largest_micro_batch(6, piped, lambda spec: 1, CPU)
    with pytest.raises(LimitError, match=r"a micro-batch of 1 rows needs 0.93 GiB, more than a device has free; raise"):
        largest_micro_batch(16, ParallelSpec(), lambda spec: 1_000_000_000 * spec.micro_batch, CPU)


def choose_with_little_on_one():
    """Choose a micro-batch where rank 1 has room for two rows only, then train with it."""
    batch.free_bytes = lambda: 2300 if dist.get_rank() == 1 else 1_000_000
    spec = ParallelSpec(dp_shard=2)
    chosen = largest_micro_batch(8, spec, lambda each: 1000 * each.micro_batch, CPU)
    return chosen.micro_batch, train(chosen).reports, agree(dist.get_rank() + 5, CPU)


def test_processes_agree_on_the_smallest_and_the_global_batch_stays():
    for micro_batch, reports, agreed in run_ranks(2, choose_with_little_on_one):
        assert (micro_batch, agreed) == (2, 5)
        for found, wanted in zip(reports, alone().reports, strict=True):
            assert (found.loss, found.num_tokens) == (pytest.approx(wanted.loss, abs=1e-5), wanted.num_tokens)


def test_a_host_s_free_memory_is_shared_by_its_processes(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    whole = batch.free_bytes()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert batch.free_bytes() == pytest.approx(whole / 4, rel=0.2)
    assert can_hold(1, CPU)
    assert not can_hold(whole * 100, CPU)


def test_a_gpu_is_asked_for_the_memory_itself(monkeypatch):
    asked = []

    def allocate(size, **options):
        asked.append((size, options["device"].type))
        if size > 1000:
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch, "empty", allocate)
    gpu = torch.device("cuda")
    assert can_hold(900, gpu)
    assert not can_hold(901, gpu)
    assert asked == [(1000, "cuda"), (1001, "cuda")]
