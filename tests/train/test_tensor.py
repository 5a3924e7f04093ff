import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from small import TRAINING, batches, make_model, share
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from tuili.errors import UsageError
from tuili.train.engine import build_engine
from tuili.train.optim import local
from tuili.train.spec import ParallelSpec
from tuili.train.tensor import shard_tensors


def test_a_product_in_four_blocks_is_the_whole():
    """Tensor parallelism in one picture: Y = X W, 1024 x 1024, on four devices with a 512 x 512 block of W each.

    W is cut into two halves of columns and each of those into two halves of rows:

        W = | W00 W01 |      Y[:, :512] = X[:, :512] W00 + X[:, 512:] W10
            | W10 W11 |      Y[:, 512:] = X[:, :512] W01 + X[:, 512:] W11

    Columns need no sum: each device has its own columns of Y ("colwise"). Rows do: devices that share columns each have
    a summand of them ("rowwise"), and one all-reduce adds those up.
    """
    x, w = torch.randn(64, 1024, dtype=torch.float64), torch.randn(1024, 1024, dtype=torch.float64)
    halves = slice(0, 512), slice(512, 1024)
    summands = {
        (row, column): x[:, halves[row]] @ w[halves[row], halves[column]] for row in (0, 1) for column in (0, 1)
    }
    assert all(w[halves[row], halves[column]].shape == (512, 512) for row, column in summands)
    y = torch.cat([summands[0, column] + summands[1, column] for column in (0, 1)], dim=1)
    torch.testing.assert_close(y, x @ w)


class Pair(nn.Module):
    """Two matrices, of which the first is cut by columns and the second by rows."""

    def __init__(self):
        super().__init__()
        self.tp_plan = {"model.layers.*.up": "colwise", "model.layers.*.down": "rowwise"}
        layer = nn.ModuleDict({"up": nn.Linear(1024, 1024, bias=False), "down": nn.Linear(1024, 1024, bias=False)})
        self.model = nn.ModuleDict({"layers": nn.ModuleList([layer])})

    def forward(self, x):
        layer = self.model["layers"][0]
        return layer["down"](torch.relu(layer["up"](x)))


def cut_pair():
    torch.manual_seed(0)
    pair, x = Pair().double(), torch.randn(8, 1024, dtype=torch.float64)
    expected = pair(x)
    shard_tensors(pair, init_device_mesh("cpu", (4,), mesh_dim_names=("tp",)))
    with CommDebugMode() as communication:
        torch.testing.assert_close(pair(x), expected)
    layer = pair.model["layers"][0]
    shapes = [tuple(layer[name].weight.to_local().shape) for name in ("up", "down")]
    return shapes, communication.get_total_counts()


def test_a_pair_of_matrices_over_four_processes_needs_one_sum():
    assert run_ranks(4, cut_pair) == [([(256, 1024), (1024, 256)], 1)] * 4


class Scorer(nn.Module):
    """A gate per key-value group, read by another module's forward; and a factor that all heads share."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Module()
        self.gate.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
        self.factor = nn.LayerNorm(3, dtype=torch.float64)

    def forward(self, x_GM):
        return self.factor(x_GM) * self.gate.weight


class Scored(nn.Module):
    """A decoder of such a layer, with its plan."""

    def __init__(self):
        super().__init__()
        self.tp_plan = {"model.layers.*.gate": "group_shard", "model.layers.*.factor": "replicated_with_grad_allreduce"}
        self.model = nn.ModuleDict({"layers": nn.ModuleList([Scorer()])})


def score_groups():
    torch.manual_seed(0)
    whole, x_GM = Scored(), torch.randn(4, 3, dtype=torch.float64)
    expected = whole.model["layers"][0](x_GM)
    expected.square().sum().backward()
    wanted = {name: each.grad for name, each in whole.named_parameters()}
    whole.zero_grad()
    shard_tensors(whole, init_device_mesh("cpu", (2,), mesh_dim_names=("tp",)))
    rank = dist.get_rank()
    for _ in range(2):  # micro-batches, whose gradients add up
        found = whole.model["layers"][0](x_GM[2 * rank : 2 * rank + 2])
        torch.testing.assert_close(found, expected[2 * rank : 2 * rank + 2])
        found.square().sum().backward()
    for name, each in whole.named_parameters():
        assert isinstance(each, DTensor)
        torch.testing.assert_close(each.grad.full_tensor(), 2 * wanted[name], msg=name)
    gate = whole.model["layers"][0].gate
    repr(whole)
    return tuple(gate.weight.shape), tuple(dict(gate.named_parameters())["weight"].shape)


def test_modules_that_compute_on_their_own_heads_have_shares_and_whole_names():
    assert run_ranks(2, score_groups) == [((2, 3), (4, 3))] * 2


def tied_shares():
    model = make_model("tied")
    shard_tensors(model, init_device_mesh("cpu", (2,), mesh_dim_names=("tp",)))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return tuple(local(model.lm_head.weight).shape)


def test_tied_embeddings_stay_tied_and_are_cut_by_vocabulary():
    assert run_ranks(2, tied_shares) == [(32, 32)] * 2


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"lm_head": "colwise"}, "Pair has no base_model_tp_plan for its layers; train it with tp=1"),
        ({"model.layers.*.up": "diagonal"}, r"the plan of model.layers.0.up is 'diagonal'; known are colwise, rowwise"),
    ],
)
def test_plans_that_are_missing_or_unknown_are_refused(plan, message):
    pair = Pair()
    pair.tp_plan = plan
    with pytest.raises(UsageError, match=message):
        shard_tensors(pair, None)


def make_forgetful():
    """Return a model whose plan does not say that norms of heads have a share of their gradient on each process."""
    model = make_model("qwen3")
    model.tp_plan = {name: style for name, style in model.tp_plan.items() if "norm" not in name}
    return model


def step_forgetful():
    engine = build_engine(make_forgetful, ParallelSpec(tp=2, micro_batch=4), TRAINING)
    with pytest.raises(
        UsageError, match=r"the gradient of model.layers.0.self_attn.q_norm.weight differs between the 2"
    ):
        engine.step(share(next(batches(1)), engine))
    return engine.parts[0].model.norm.weight.detach()


def test_a_plan_that_forgets_a_module_is_found_at_the_first_step():
    assert all(torch.equal(weight, torch.ones(32)) for weight in run_ranks(2, step_forgetful))
