import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tuili.attention import gate as module
from tuili.attention.gate import Gate, GateFile, GateShape, load_gates, save_gates
from tuili.attention.select import Budget, select
from tuili.errors import InputError, ModelFileError, UsageError

BASE = "0123456789abcdef" * 4


def shape(**changes: Any) -> GateShape:
    return GateShape(**{"heads": 6, "groups": 2, "head_dim": 8, "queries": 3, "width": 4, "sub": 2} | changes)


@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (6, 2), (8, 1)])
def test_the_training_free_gate_scores_the_mean_keys(heads: int, groups: int) -> None:
    q, k = torch.randn(2, heads, 32, 8), torch.randn(2, groups, 32, 8)
    z = Gate.training_free(heads, groups, 8, sub=4)(q, k, block=16)
    means = k.unflatten(2, (8, 4)).mean(3).repeat_interleave(heads // groups, dim=1)
    scores = (q @ means.transpose(-1, -2)) / math.sqrt(8)
    expected = scores.unflatten(1, (groups, -1)).amax(2).unflatten(3, (2, 4)).amax(4).transpose(1, 2)
    torch.testing.assert_close(z, expected)


def test_a_gate_as_wide_as_a_head_starts_as_the_training_free_one() -> None:
    q, k = torch.randn(2, 6, 40, 8), torch.randn(2, 2, 40, 8)
    for width in (8, 12):
        rotated = Gate.low_rank(shape(width=width), scale=0.3)(q, k, block=4)
        torch.testing.assert_close(rotated, Gate.training_free(6, 2, 8, sub=2, scale=0.3)(q, k, block=4))


def test_a_narrow_gate_starts_near_the_training_free_one() -> None:
    q, k = torch.randn(1, 6, 60, 64), torch.randn(1, 2, 60, 64)
    exact = Gate.training_free(6, 2, 64, sub=2)(q, k, block=2)
    narrow = Gate.low_rank(shape(head_dim=64, width=32))(q, k, block=2)
    assert torch.corrcoef(torch.stack([exact.flatten(), narrow.flatten()]))[0, 1] > 0.4
    assert 0.5 < narrow.std() / exact.std() < 1


def test_heads_that_share_a_gate_query_are_averaged() -> None:
    q = torch.randn(1, 6, 5, 8)
    shared = Gate.low_rank(shape(queries=1, width=8))
    shared._set(torch.eye(8), 1.0)
    torch.testing.assert_close(shared.queries(q)[:, :, :, 0], q.unflatten(1, (2, 3)).mean(2).transpose(1, 2))


def test_the_balanced_start_holds_the_directions_that_products_need() -> None:
    """The first four directions of the keys vary; of these only the first two meet queries that are not tiny."""
    generator = torch.Generator().manual_seed(0)
    k, q = torch.zeros(2, 64, 16), torch.randn(1, 4, 64, 16, generator=generator)
    k[..., :4] = torch.randn(2, 64, 4, generator=generator)
    exact = Gate.training_free(4, 2, 16, 4)
    for width, within in ((4, 1e-4), (2, 0.05)):
        q[..., width:] *= 1e-3
        shaped = GateShape(heads=4, groups=2, head_dim=16, queries=2, width=width, sub=4)
        found, expected = Gate.balanced(shaped, q[0], k)(q, k[None], 16), exact(q, k[None], 16)
        assert (found - expected).abs().max() < within * expected.abs().max()
    with pytest.raises(UsageError, match="16 directions at most"):
        Gate.balanced(GateShape(heads=4, groups=2, head_dim=16, queries=2, width=17, sub=4), q[0], k)


def test_the_scores_are_those_that_selection_uses() -> None:
    gate, q, k = Gate.low_rank(shape()), torch.randn(1, 6, 64, 8), torch.randn(1, 2, 64, 8)
    torch.nn.init.normal_(gate.bias)
    budget = Budget(block=4, keep=6, sink=1, local=2)
    blocks = select(gate.queries(q), gate.keys(k), budget, num_keys=64, bias=gate.bias)
    best = gate(q, k, block=4)[0, -1, :, 1:14].topk(3).indices + 1
    for group in range(2):
        assert blocks[0, -1, group].tolist() == sorted([0, *best[group].tolist(), 14, 15])


def test_half_precision_in_gives_half_precision_gate_keys() -> None:
    gate = Gate.training_free(6, 2, 8, sub=2)
    q, k = torch.randn(1, 6, 20, 8), torch.randn(1, 2, 20, 8)
    assert gate.queries(q.bfloat16()).dtype == gate.keys(k.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(gate(q.bfloat16(), k.bfloat16(), 4), gate(q, k, 4), atol=0.05, rtol=0.05)


def test_every_weight_gets_a_gradient() -> None:
    gate = Gate.low_rank(shape())
    gate(torch.randn(1, 6, 30, 8), torch.randn(1, 2, 30, 8), block=4).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in gate.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "2 groups do not divide 5 heads"),
        ({"groups": 0}, "groups must be a whole number in 1 .. 4096, not 0"),
        ({"width": 5000}, "width must be a whole number in 1 .. 4096, not 5000"),
        ({"sub": 2.0}, "sub must be a whole number in 1 .. 4096, not 2.0"),
        ({"queries": 4}, "queries must be at most heads / groups = 3, not 4"),
    ],
)
def test_sizes_out_of_bounds_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shape(**changes)


def test_what_does_not_fit_the_gate_is_refused() -> None:
    gate = Gate.low_rank(shape())
    with pytest.raises(UsageError, match="one key for 2 keys can't score blocks of 3"):
        gate(torch.zeros(1, 6, 4, 8), torch.zeros(1, 2, 4, 8), block=3)
    with pytest.raises(InputError, match="the gate is for 6 heads of 8"):
        gate.queries(torch.zeros(1, 4, 4, 8))
    with pytest.raises(InputError, match="does not fit keys"):
        gate.keys(torch.zeros(1, 3, 4, 8))


def saved(path: Path, dtype: torch.dtype = torch.float32) -> dict[int, Gate]:
    gates = {layer: Gate.low_rank(shape(width=4 + layer)) for layer in (2, 0)}
    save_gates(path, GateFile(gates=gates, plan={"layers": ["gate", "dense", "gate"]}, base_sha256=BASE), dtype)
    return gates


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_saved_is_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    gates = saved(tmp_path / "g.safetensors", dtype)
    state = torch.get_rng_state()
    loaded = load_gates(tmp_path / "g.safetensors", BASE)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.plan == {"layers": ["gate", "dense", "gate"]} and loaded.base_sha256 == BASE
    assert sorted(loaded.gates) == [0, 2]
    for layer, gate in loaded.gates.items():
        assert gate.shape == gates[layer].shape
        for name, parameter in gate.named_parameters():
            assert torch.equal(parameter, gates[layer].state_dict()[name].to(dtype).float())
    assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]


def test_gates_for_another_model_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "g.safetensors")
    with pytest.raises(ModelFileError, match="made for another model"):
        load_gates(tmp_path / "g.safetensors", "f" * 64)
    assert load_gates(tmp_path / "g.safetensors").base_sha256 == BASE


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "g.safetensors")
    data = (tmp_path / "g.safetensors").read_bytes()
    for size in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:size])
        with pytest.raises(ModelFileError):
            load_gates(tmp_path / "cut.safetensors")
    with pytest.raises(ModelFileError, match="No such file"):
        load_gates(tmp_path / "none.safetensors")


def rewrite(path: Path, tensors: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None) -> None:
    """Write the file again with some tensors and metadata replaced, those that are None left out."""
    with safe_open(path, "pt") as opened:
        old = opened.metadata()
    new_tensors = {name: tensor for name, tensor in (load_file(path) | (tensors or {})).items() if tensor is not None}
    new_metadata = {name: text for name, text in (old | (metadata or {})).items() if text is not None}
    save_file(new_tensors, path, metadata=new_metadata)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"layers.0.bias": None}, {}, "'layers.0.bias' is missing or has no place"),
        ({"layers.7.bias": torch.zeros(2)}, {}, "'layers.7.bias' is missing or has no place"),
        ({"layers.0.bias": torch.zeros(3)}, {}, r"F32 \[3\], not F32 or F16 or BF16 \[2\]"),
        ({"layers.0.bias": torch.zeros(2, dtype=torch.int64)}, {}, r"I64 \[2\]"),
        ({"layers.0.bias": torch.tensor([0.0, math.nan])}, {}, "no finite numbers, in layers.0.bias"),
        ({}, {"format": "tuili-gates-9"}, "is no file of gates: its format is 'tuili-gates-9'"),
        ({}, {"format": None}, "its format is None"),
        ({}, {"plan": None}, "'plan'"),
        ({}, {"plan": "[]"}, "no JSON object"),
        ({}, {"plan": "{"}, "no sound file of gates"),
        ({}, {"plan": "[" * 100_000}, "no sound file of gates"),
        ({}, {"shapes": "{}"}, r"gates for the layers \[\]"),
        ({}, {"shapes": '{"0": 3}'}, "no sound file of gates"),
        ({}, {"shapes": '{"0": {"heads": 6}}'}, "missing 5 required"),
        ({}, {"shapes": json.dumps({"0": dict.fromkeys(shape().__slots__, -1)})}, "in 1 .. 4096, not -1"),
    ],
)
def test_a_file_that_is_not_sound_is_refused(
    tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, Any], message: str
) -> None:
    saved(tmp_path / "g.safetensors")
    rewrite(tmp_path / "g.safetensors", tensors, metadata)
    with pytest.raises(ModelFileError, match=message):
        load_gates(tmp_path / "g.safetensors", BASE)


def test_gates_that_can_not_be_loaded_again_are_not_saved(tmp_path: Path) -> None:
    path, gate = tmp_path / "g.safetensors", Gate.low_rank(shape())
    with pytest.raises(UsageError, match="at least one gate"):
        save_gates(path, GateFile(gates={}, plan={}, base_sha256=BASE))
    with pytest.raises(UsageError, match="lower-case hex"):
        save_gates(path, GateFile(gates={0: gate}, plan={}, base_sha256="?"))
    with torch.no_grad():
        gate.bias[0] = 1e30
    with pytest.raises(UsageError, match=r"not finite in torch.float16 \(layers.0.bias\)"):
        save_gates(path, GateFile(gates={0: gate}, plan={}, base_sha256=BASE), torch.float16)
    assert not path.exists()


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_gate_queries_in_bfloat16_are_the_rounded_ones_of_float32(
    monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    monkeypatch.setattr(module, "get_cpu_capability", lambda: capability)
    gate, q = Gate.low_rank(shape(head_dim=64, width=32)), torch.randn(2, 6, 33, 64).bfloat16()
    gate.q_proj.data = gate.q_proj.data.bfloat16().float()
    found, expected = gate.queries(q), gate.queries(q.float())
    assert found.dtype == torch.bfloat16 and found.requires_grad
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=2**-8)
