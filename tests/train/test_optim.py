import math

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from small import make_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from tuili.train.optim import local_square_sum, make_optimizer, scale_gradients
from tuili.train.spec import TrainingConfig

CPU = torch.device("cpu")


def test_vectors_have_no_weight_decay_and_frozen_parameters_are_left_out():
    model = make_model("llama")
    model.model.embed_tokens.weight.requires_grad_(False)
    config = TrainingConfig(learning_rate=0.5, weight_decay=0.25, beta1=0.5, beta2=0.75, epsilon=1e-3)
    groups = make_optimizer(model, config).param_groups
    decays = {id(each): group["weight_decay"] for group in groups for each in group["params"]}
    expected = {id(each): 0.25 if each.ndim > 1 else 0.0 for each in model.parameters() if each.requires_grad}
    assert decays == expected
    assert all((group["lr"], group["betas"], group["eps"]) == (0.5, (0.5, 0.75), 1e-3) for group in groups)


def mixed_parameters():
    """Return parameters held in every way among 4 processes of a stage, 2 x 2, and their whole gradients."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_shard", "tp"))
    torch.manual_seed(0)
    wholes = [torch.randn(5, 3), torch.randn(4, 4), torch.randn(7), torch.randn(3), torch.randn(1, 2)]
    held = [
        distribute_tensor(wholes[0], mesh, [Shard(0), Replicate()]),
        distribute_tensor(wholes[1], mesh, [Shard(0), Shard(1)]),
        distribute_tensor(wholes[2], mesh["dp_shard"], [Shard(0)]),
        wholes[3].clone(),
        distribute_tensor(wholes[4], mesh, [Shard(0), Replicate()]),  # of which some processes hold nothing
    ]
    parameters = [nn.Parameter(torch.zeros_like(each)) for each in held]
    for parameter, grad in zip(parameters, held, strict=True):
        parameter.grad = grad
    return parameters, wholes


def norm_of_mixed():
    parameters, wholes = mixed_parameters()
    parameters.append(nn.Parameter(torch.ones(2)))  # without a gradient
    total = local_square_sum(parameters, 4, CPU)
    dist.all_reduce(total)
    scale_gradients(parameters, 3.0)
    scaled = local_square_sum(parameters, 4, CPU)
    dist.all_reduce(scaled)
    expected = sum(float(each.double().square().sum()) for each in wholes)
    return total.item() / expected, scaled.item() / total.item()


def test_the_norm_counts_each_value_once_however_it_is_held():
    for ratio, scaled in run_ranks(4, norm_of_mixed):
        assert ratio == pytest.approx(1, rel=1e-6)
        assert scaled == pytest.approx(9, rel=1e-6)


def test_no_gradient_has_no_norm_and_can_be_scaled():
    parameters = [nn.Parameter(torch.ones(2))]
    scale_gradients(parameters, 2.0)
    assert local_square_sum(parameters, 1, CPU).item() == 0.0


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_is_seen(value):
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([0.0, value, 1.0])
    assert not math.isfinite(local_square_sum([parameter], 1, CPU).item())
