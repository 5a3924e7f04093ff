import copy
import json
import math
from types import MappingProxyType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tuili import port, unport
from tuili.attention.gate import Gate, GateShape
from tuili.attention.plan import Dense, LayerPlan, Sparse
from tuili.attention.select import Budget
from tuili.errors import ModelFileError, UsageError
from tuili.porting import adapter as module
from tuili.porting.adapter import Adapter, fingerprint, load, save, shipped
from tuili.porting.hf import report
from tuili.porting.lowrank import LowRank

PLAN = LayerPlan(default=Sparse(budget=Budget(keep=64)), layers={0: Dense()}, crossover=0)
FEW = LayerPlan(default=Sparse(budget=Budget(keep=5, local=2)), layers={0: Dense()}, crossover=40)
QUERIES = "model.layers.1.self_attn.q_proj"
OUTPUT = "model.layers.2.self_attn.o_proj"
MAX_SHIPPED_BYTES = 8_000_000


def low_rank(name=QUERIES, *, rank=3, size=0.1):
    generator = torch.Generator().manual_seed(5)
    width_in, width_out = (48, 96) if name == QUERIES else (96, 48)
    a, b = (torch.randn(shape, generator=generator) * size for shape in ((rank, width_in), (width_out, rank)))
    return LowRank(a=a, b=b, scale=0.5)


def gate(decoder, index):
    own = decoder.model.layers[index].self_attn
    return Gate.training_free(heads=6, groups=2, head_dim=16, sub=1, scale=own.scaling)


def make(decoder, *, plan=FEW, names=(QUERIES, OUTPUT)):
    return Adapter(
        gates={index: gate(decoder, index) for index in (1, 2)},
        low_rank={name: low_rank(name) for name in names},
        plan=plan,
        base_sha256=fingerprint(decoder, names),
        info={"steps": 3, "loss": 0.25},
    )


@pytest.fixture
def llama(make_decoder):
    return make_decoder("llama")


@pytest.fixture
def path(llama, tmp_path):
    save(tmp_path / "a.safetensors", make(llama))
    return tmp_path / "a.safetensors"


def test_what_is_saved_is_loaded(llama, path):
    wanted, found = make(llama), load(path, llama)
    assert found.plan == FEW and found.base_sha256 == wanted.base_sha256 and found.info == wanted.info
    assert sorted(found.gates) == [1, 2] and sorted(found.low_rank) == sorted(wanted.low_rank)
    for index, each in found.gates.items():
        assert each.shape == wanted.gates[index].shape
        for name, parameter in each.named_parameters():
            assert torch.equal(parameter, wanted.gates[index].state_dict()[name].half().float())
    for name, each in found.low_rank.items():
        assert each.scale == 0.5 and each.rank == 3
        assert torch.equal(each.a, wanted.low_rank[name].a.half().float())
        assert torch.equal(each.b, wanted.low_rank[name].b.half().float())
    assert [each.name for each in path.parent.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("adapted", [(), (QUERIES, OUTPUT)])
def test_the_fingerprint_is_that_of_the_base_ported_or_not(llama, adapted):
    before = fingerprint(llama, adapted)
    assert fingerprint(port(llama, adapter=make(llama)), adapted) == before
    assert fingerprint(copy.deepcopy(unport(llama)).bfloat16(), adapted) == before
    assert fingerprint(llama.model, adapted) == before


def test_queries_and_keys_are_in_the_fingerprint_anyway(llama):
    assert fingerprint(llama, [QUERIES, "lm_head", "no.such.v_proj"]) == fingerprint(llama)
    assert len({fingerprint(llama, names) for names in ([], [OUTPUT], [OUTPUT.replace("o_proj", "v_proj")])}) == 3


def test_another_models_adapter_is_refused(llama, path, make_decoder):
    other = make_decoder("qwen3", initializer_range=0.1)
    with pytest.raises(ModelFileError, match=r"made for another model .* distil one for this model"):
        port(other, adapter=path)
    with pytest.raises(UsageError, match="made for another model"):
        port(other, adapter=make(llama))
    with torch.no_grad():
        llama.model.layers[0].self_attn.k_proj.weight[0, 0] += 1
    with pytest.raises(ModelFileError, match="made for another model"):
        load(path, llama)


def change(decoder, name):
    with torch.no_grad():
        decoder.get_submodule(name).weight[0, 0] += 1


@pytest.mark.parametrize("projection", ["q_proj", "k_proj", "v_proj", "o_proj"])
def test_a_base_that_differs_where_weights_are_added_is_refused(llama, tmp_path, projection):
    name = OUTPUT.replace("o_proj", projection)
    rows, columns = llama.get_submodule(name).weight.shape
    each = LowRank(a=torch.ones(2, columns), b=torch.ones(rows, 2))
    whole = Adapter(gates={}, low_rank={name: each}, plan=FEW, base_sha256=fingerprint(llama, [name]))
    save(tmp_path / "a", whole)
    assert name in load(tmp_path / "a", llama).low_rank
    change(llama, name)
    with pytest.raises(ModelFileError, match="made for another model"):
        port(llama, adapter=tmp_path / "a")
    with pytest.raises(UsageError, match="made for another model"):
        port(llama, adapter=whole)


def test_gates_alone_ask_for_nothing_of_values_and_outputs(llama, tmp_path):
    save(tmp_path / "a", make(llama, names=()))
    change(llama, OUTPUT)
    assert sorted(load(tmp_path / "a", llama).gates) == [1, 2]


def test_low_rank_weights_of_an_earlier_version_say_why_they_are_refused(llama, path):
    rewrite(path, {}, {"base_sha256": fingerprint(llama)})
    with pytest.raises(ModelFileError, match=r"an earlier tuili wrote it; distil it anew"):
        load(path, llama)


def test_a_file_cut_off_anywhere_is_refused(llama, path):
    data = path.read_bytes()
    for size in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ModelFileError):
            load(path, llama)
    path.unlink()
    with pytest.raises(ModelFileError, match="No such file"):
        port(llama, adapter=path)


def rewrite(path, tensors, metadata):
    """Write the file again with some tensors and metadata replaced, those that are None left out."""
    with safe_open(path, "pt") as opened:
        old = opened.metadata()
    kept = {name: tensor for name, tensor in (load_file(path) | tensors).items() if tensor is not None}
    save_file(kept, path, metadata={name: text for name, text in (old | metadata).items() if text is not None})


A, B = f"low_rank.{QUERIES}.a", f"low_rank.{QUERIES}.b"


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({A: None}, {}, f"'{A}' is missing or has no place"),
        ({"low_rank.lm_head.a": torch.zeros(1, 2)}, {}, "'low_rank.lm_head.a' is missing or has no place"),
        ({"other": torch.zeros(1)}, {}, "'other' is missing or has no place"),
        ({"gates.1.k_proj": None}, {}, "'gates.1.k_proj' is missing"),
        ({"gates.1.k_proj": torch.zeros(1)}, {}, r"'gates.1.k_proj' is F32 \[1\]"),
        ({A: torch.zeros(3, 48, dtype=torch.int64)}, {}, "is I64"),
        ({A: torch.zeros(4, 48)}, {}, r"\[4, 48\] and \[96, 3\]"),
        ({A: torch.zeros(48)}, {}, r"must have the shapes \[rank, in\]"),
        ({A: torch.zeros(0, 48), B: torch.zeros(96, 0)}, {}, "rank must be at least 1"),
        ({A: torch.zeros(60, 48), B: torch.zeros(96, 60)}, {}, "at most the smaller width"),
        ({A: torch.zeros(3, 47)}, {}, r"for a weight of shape \[96, 47\], not \[96, 48\]"),
        ({A: torch.full((3, 48), math.nan)}, {}, "no finite numbers, in low_rank"),
        ({"gates.2.q_proj": torch.full((2, 48, 48), math.inf)}, {}, "no finite numbers, in gates.2.q_proj"),
        ({}, {"format": "tuili-gates-1"}, "is no adapter: its format is 'tuili-gates-1'"),
        ({}, {"format": None}, "its format is None"),
        ({}, {"base_sha256": None}, "made for another model"),
        ({}, {"plan": None}, "'plan'"),
        ({}, {"plan": "{}"}, "exactly the keys"),
        ({}, {"plan": "[" * 100_000}, "is no sound adapter"),
        ({}, {"info": "[]"}, "no JSON object"),
        ({}, {"shapes": '{"1": 3}'}, "is no sound adapter"),
        ({}, {"shapes": '{"-1": {}}'}, "is no sound adapter"),
        ({}, {"scales": "{"}, "is no sound adapter"),
        ({}, {"scales": json.dumps({QUERIES: -1, OUTPUT: 1})}, "finite number above 0, not -1.0"),
        ({}, {"scales": json.dumps({QUERIES: None, OUTPUT: 1})}, "is no sound adapter"),
    ],
)
def test_a_file_that_is_not_sound_is_refused(llama, path, tensors, metadata, message):
    rewrite(path, tensors, metadata)
    with pytest.raises(ModelFileError, match=message):
        load(path, llama)


def test_names_and_sizes_that_the_model_has_not_are_refused(llama, tmp_path):
    shape = GateShape(heads=4, groups=2, head_dim=16, queries=2, width=4, sub=1)
    for changed, message in [
        ({"low_rank": {"model.layers.9.self_attn.q_proj": low_rank()}}, "the model has no such q_proj"),
        ({"low_rank": {"model.layers.1.mlp.up_proj": low_rank()}}, "the model has no such q_proj"),
        ({"gates": {1: Gate(shape)}}, "gate of layer 1 is for GateShape"),
        ({"gates": {3: gate(llama, 1)}}, "gate of layer 3 is for"),
    ]:
        base = fingerprint(llama, changed.get("low_rank", {}))
        save(tmp_path / "a", Adapter(**{**vars(make(llama, names=())), "base_sha256": base, **changed}))
        with pytest.raises(ModelFileError, match=message):
            load(tmp_path / "a", llama)


def test_adapters_that_can_not_be_loaded_again_are_not_saved(llama, tmp_path):
    with pytest.raises(UsageError, match="at least one gate or low-rank weight"):
        Adapter(gates={}, plan=FEW, base_sha256=fingerprint(llama))
    with pytest.raises(UsageError, match="fingerprint of a model, not '\\?'"):
        Adapter(gates={1: gate(llama, 1)}, plan=FEW, base_sha256="?")
    with pytest.raises(UsageError, match="not finite in float16"):
        save(tmp_path / "a", Adapter(**{**vars(make(llama)), "low_rank": {QUERIES: low_rank(size=1e9)}}))
    with pytest.raises(UsageError, match="info must be what JSON can hold"):
        save(tmp_path / "a", Adapter(**{**vars(make(llama)), "info": {"loss": math.nan}}))
    assert not list(tmp_path.iterdir())


class TestPort:
    def test_gates_alone_at_full_budget_equal_the_dense_model(self, decoder, tokens):
        ids = tokens(2, 200)
        expected = decoder(ids).logits
        whole = [index for index, each in enumerate(report(port(decoder)).layers) if each.kind != "sliding"]
        unport(decoder)
        scale = decoder.model.layers[0].self_attn.scaling
        gates = {index: Gate.training_free(6, 2, 16, 1, scale) for index in whole}
        plan = LayerPlan(default=Sparse(budget=Budget(keep=64)), crossover=0)
        port(decoder, adapter=Adapter(gates=gates, plan=plan, base_sha256=fingerprint(decoder)))
        torch.testing.assert_close(decoder(ids).logits, expected, atol=1e-4, rtol=1e-4)

    def test_an_adapter_by_path_or_itself_gives_the_same(self, llama, path, tokens):
        ids = tokens(2, 120)
        expected = port(llama, adapter=load(path, llama))(ids).logits
        assert report(llama).adapter == "gates of 2 layers, low-rank weights in 2 projections"
        assert [each.kind for each in report(llama).layers] == ["dense", "sparse", "sparse"]
        for given in (path, str(path)):
            assert torch.equal(port(unport(llama), adapter=given)(ids).logits, expected)
            assert str(path) in str(report(llama))

    def test_layers_overrule_the_plan(self, llama, path):
        port(llama, PLAN, adapter=path)
        assert [each.entry for each in report(llama).layers] == [PLAN.at(index) for index in range(3)]
        unport(llama)
        with pytest.raises(UsageError, match="gate for layer 2, which is no sparse layer of the plan"):
            port(llama, LayerPlan(layers={2: Dense()}), adapter=path)
        with pytest.raises(UsageError, match="is not ported"):
            unport(llama)

    def test_gates_beside_an_adapter_are_refused(self, llama, path):
        with pytest.raises(UsageError, match="either gates or an adapter"):
            port(llama, gates={}, adapter=path)

    def test_nothing_trained_is_said_to_be_so(self, llama):
        assert "adapter: none (training-free gates)" in str(report(port(llama)))
        port(unport(llama), FEW, gates={1: gate(llama, 1)})
        assert report(llama).adapter == "none (gates of 1 layers were given)"


class TestShipped:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "SHIPPED", tmp_path)
        return tmp_path

    def test_the_adapter_of_a_model_is_found_and_used(self, llama, folder, make_decoder):
        other = make_decoder("qwen3", initializer_range=0.1)
        save(folder / "a.safetensors", make(other))
        save(folder / "b.safetensors", make(llama))
        assert shipped(llama) == folder / "b.safetensors"
        assert shipped(other) == folder / "a.safetensors"
        assert report(port(llama)).adapter.startswith("b.safetensors, which comes with tuili (gates of 2 layers")
        assert report(llama).layers[1].entry == FEW.default
        for given in ({"layers": FEW}, {"gates": {}}):
            assert report(port(unport(llama), **given)).adapter == "none (training-free gates)"

    def test_a_model_without_one_is_not_even_hashed_if_sizes_tell(self, llama, folder, make_decoder, monkeypatch):
        save(folder / "a.safetensors", make(llama))
        other = make_decoder("llama", num_attention_heads=4)
        monkeypatch.setattr(module, "fingerprint", lambda model: pytest.fail("hashed"))
        assert shipped(other) is None
        assert report(port(other)).adapter == "none (training-free gates)"

    def test_a_damaged_one_says_what_to_do(self, llama, folder):
        (folder / "a.safetensors").write_bytes(b"x")
        with pytest.raises(ModelFileError, match="install tuili again"):
            port(llama)

    def test_what_ships_is_small_and_sound(self):
        for each in module.SHIPPED.glob("*.safetensors"):
            assert each.stat().st_size <= MAX_SHIPPED_BYTES
            with safe_open(each, "pt") as opened:
                assert opened.metadata()["format"] == module.FORMAT


def test_info_may_be_any_mapping(llama, tmp_path):
    adapter = Adapter(**{**vars(make(llama)), "info": MappingProxyType({"steps": 1})})
    save(tmp_path / "a", adapter)
    assert load(tmp_path / "a", llama).info == {"steps": 1}
