import re
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from ranks import run_ranks

from tuili.errors import UsageError
from tuili.train.mesh import build_mesh, check_layout, data_mesh, dp_rank
from tuili.train.spec import ParallelSpec, TrainingConfig

CONFIG = SimpleNamespace(
    num_attention_heads=12, num_key_value_heads=4, intermediate_size=48, vocab_size=640, num_hidden_layers=6
)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"tp": 8}, "tp=8 does not divide the model's num_attention_heads=12"),
        ({"tp": 3}, "tp=3 does not divide the model's num_key_value_heads=4"),
        ({"pp": 8}, "8 stages (pp=8 x virtual=1) can't share 6 layers; lower pp or virtual"),
        ({"pp": 2, "layers_per_stage": (4, 3)}, "layers_per_stage [4, 3] has 7 layers in all, the model 6"),
    ],
)
def test_layouts_that_the_model_does_not_allow_are_refused(spec, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        check_layout(ParallelSpec(**spec), TrainingConfig(), CONFIG)


@pytest.mark.parametrize(("name", "size"), [("intermediate_size", 50), ("vocab_size", 641)])
def test_sizes_that_tensor_parallelism_cuts_must_divide(name, size):
    config = SimpleNamespace(**{**vars(CONFIG), name: size})
    with pytest.raises(UsageError, match=f"tp=4 does not divide the model's {name}={size}; choose a tp that does"):
        check_layout(ParallelSpec(tp=4), TrainingConfig(), config)


def test_a_size_that_a_family_does_not_have_is_not_asked_for():
    sizes = {name: value for name, value in vars(CONFIG).items() if name != "num_key_value_heads"}
    check_layout(ParallelSpec(tp=2), TrainingConfig(), SimpleNamespace(**sizes))


@pytest.mark.parametrize("schedule", ["InterleavedZeroBubble", "ZBVZeroBubble"])
def test_zero_bubble_schedules_can_not_compute_layers_again(schedule):
    spec = ParallelSpec(pp=2, virtual=2, schedule=schedule)
    check_layout(spec, TrainingConfig(), CONFIG)
    with pytest.raises(UsageError, match=f"{schedule} goes back through a layer in two parts"):
        check_layout(spec, TrainingConfig(activation_checkpointing=True), CONFIG)


def test_a_layout_needs_its_number_of_processes():
    assert build_mesh(ParallelSpec(), "cpu") is None
    with pytest.raises(UsageError, match="pp=2 x dp_replicate=1 x dp_shard=1 x tp=3 needs 6 processes, there are 1"):
        build_mesh(ParallelSpec(pp=2, tp=3), "cpu")


def places():
    spec = ParallelSpec(dp_replicate=2, dp_shard=2, tp=2)
    mesh = build_mesh(spec, "cpu")
    with pytest.raises(UsageError, match="needs 2 processes, there are 8; start as many"):
        build_mesh(ParallelSpec(tp=2), "cpu")
    both, one = data_mesh(mesh, spec), data_mesh(mesh, ParallelSpec(dp_shard=2, tp=4))
    assert (both.mesh_dim_names, one.mesh_dim_names) == (("dp_replicate", "dp_shard"), ("dp_shard",))
    assert data_mesh(mesh, ParallelSpec(tp=8)) is None
    return dp_rank(mesh), dist.get_process_group_ranks(mesh.get_group("tp"))


def test_matrices_are_shared_by_neighbouring_ranks():
    assert run_ranks(8, places) == [(rank // 2, [rank // 2 * 2, rank // 2 * 2 + 1]) for rank in range(8)]
