import functools
from dataclasses import replace

import pytest
import torch
from ranks import run_ranks
from runs import SIZES
from small import PLAN, TRAINING, assert_same, batches, share, whole_weights
from small import Run as Steps
from torch import nn
from torch.distributed.tensor import DTensor

from tuili.errors import StoreError, TuiliError, UsageError
from tuili.train import initial, parallelize
from tuili.train.control import Control
from tuili.train.documents import find_files
from tuili.train.engine import build_engine
from tuili.train.mesh import check_layout
from tuili.train.models import describe
from tuili.train.recipe import ModelConfig
from tuili.train.spec import ParallelSpec
from tuili.train.tokens import own_tokenizer

CPU = torch.device("cpu")
SETTINGS = {**SIZES, "num_hidden_layers": 4, "attention_dropout": 0.0, "tie_word_embeddings": True}
FAMILIES = {
    "llama": SETTINGS,
    "gpt_neox": {name: value for name, value in SETTINGS.items() if name != "head_dim"},
    "gemma3_text": {**SETTINGS, "num_key_value_heads": 1, "sliding_window": 8},
    "sandwich": {**SETTINGS, "layer_plan": PLAN.to_dict()},
}


def fits(config):
    """Let every layout pass."""


@pytest.fixture
def source_of(texts, tmp_path):
    """Return the source of a new model of a family."""
    tokenizer = own_tokenizer(tmp_path / "cache", find_files([texts]), "text", 300)
    return lambda family: describe(ModelConfig(family=family, settings=FAMILIES[family]), tokenizer, 16, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_skeleton_that_is_filled_is_the_model(source_of, tmp_path, family):
    source = source_of(family)
    model, skeleton = source.make().eval(), source.skeleton().eval()
    assert all(tensor.is_meta for tensor in (*skeleton.parameters(), *skeleton.buffers()))
    initial._write(model, tmp_path / "weights")
    fill = initial.filler(tmp_path / "weights", CPU)
    layers = parallelize.decoder_layers(skeleton)
    names = {module: name for name, module in skeleton.named_modules()}
    for module in (*layers, skeleton):
        fill(module, names[module])
    assert skeleton.get_output_embeddings().weight is skeleton.get_input_embeddings().weight
    expected = dict(model.named_parameters()) | dict(model.named_buffers())
    found = dict(skeleton.named_parameters()) | dict(skeleton.named_buffers())
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, skeleton(ids).logits)


def steps(source, spec, out):
    """Make some steps with what a run would begin with; tell which layers were whole at once."""
    most = 0
    with initial.begin(source, fits, out, Control(), CPU) as (make, fill):
        if fill is not None:
            assert (out / initial.FOLDER / initial.FILE).is_file()
            given = fill

            def fill(module, name):
                nonlocal most
                given(module, name)
                whole = [p for p in part.parameters() if not p.is_meta and not isinstance(p, DTensor)]
                most = max(most, sum(p.numel() for p in whole))

        def made():
            nonlocal part
            part = make()
            return part

        part = nn.Module()
        engine = build_engine(made, spec, replace(TRAINING, learning_rate=1e-3), fill=fill)
    assert Control().rank or not (out / initial.FOLDER).exists()
    reports = [engine.step(share(batch, engine)) for batch in batches(2)]
    last = next(iter(batches(1)))
    return Steps(reports=reports, evaluated=engine.evaluate(share(last, engine)), weights=whole_weights(engine)), most


LAYOUTS = [
    ParallelSpec(dp_shard=2, micro_batch=4),
    ParallelSpec(dp_replicate=2, micro_batch=4),
    ParallelSpec(tp=2, micro_batch=4),
    ParallelSpec(pp=2, micro_batch=4),
]


@pytest.mark.parametrize("spec", LAYOUTS, ids=["shard", "replicate", "tensor", "pipeline"])
@pytest.mark.parametrize("family", ["llama", "sandwich"])
def test_processes_that_read_their_parts_train_as_one(source_of, tmp_path, family, spec):
    source = source_of(family)
    expected, _ = steps(source, ParallelSpec(micro_batch=16), tmp_path / "one")
    found = run_ranks(2, functools.partial(steps, source, spec, tmp_path / "many"))
    assert_same([run for run, _ in found], expected)
    num_parameters = sum(p.numel() for p in source.skeleton().parameters())
    if spec.dp_shard > 1:
        assert all(0 < most < 0.7 * num_parameters for _, most in found), "never whole on a process"


def test_only_the_first_process_makes_the_model(source_of, tmp_path):
    source = source_of("llama")

    def begin():
        rank = Control().rank

        def make():
            assert rank == 0
            return source.make()

        with initial.begin(replace(source, make=make), fits, tmp_path, Control(), CPU) as (skeleton, _):
            return type(skeleton()).__name__

    assert run_ranks(2, begin) == ["LlamaForCausalLM"] * 2


def test_all_processes_hear_why_a_model_can_not_be_made(source_of, tmp_path):
    source = source_of("llama")

    def make():
        raise UsageError("no such thing")

    def begin():
        with (
            pytest.raises(TuiliError, match="no such thing"),
            initial.begin(replace(source, make=make), fits, tmp_path, Control(), CPU),
        ):
            pass
        return True

    assert run_ranks(2, begin) == [True, True]


def test_an_impossible_layout_is_refused_before_anything_is_made_or_written(source_of, tmp_path):
    source = replace(source_of("llama"), make=None)
    check = functools.partial(check_layout, ParallelSpec(tp=3), TRAINING)

    def begin():
        with (
            pytest.raises(UsageError, match=r"tp=3 does not divide the model's num_attention_heads=2"),
            initial.begin(source, check, tmp_path, Control(), CPU),
        ):
            pass
        return (tmp_path / initial.FOLDER).exists()

    assert run_ranks(2, begin) == [False, False]


def test_a_host_that_does_not_see_the_folder_says_so(source_of, tmp_path):
    fill = initial.filler(tmp_path / "nowhere", CPU)
    with pytest.raises(StoreError, match="every host must see the folder of the run"):
        fill(source_of("llama").skeleton(), "")


def test_one_process_writes_nothing(source_of, tmp_path):
    source = source_of("llama")
    with initial.begin(source, fits, tmp_path / "out", Control(), CPU) as (make, fill):
        assert make is source.make and fill is None
    assert not (tmp_path / "out").exists()
