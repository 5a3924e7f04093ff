import re

import pytest
import torch
from small import make_model
from torch import nn

from tuili.errors import UsageError
from tuili.train.spec import ParallelSpec
from tuili.train.split import cut, decoder_layers, holder_of, is_tied, stage_layers, stages_of

ZBV = ParallelSpec(pp=3, virtual=2, schedule="ZBVZeroBubble")


def test_layers_are_spread_evenly_or_as_they_are_given():
    assert stage_layers(ParallelSpec(pp=4), 10) == [range(0, 3), range(3, 6), range(6, 8), range(8, 10)]
    assert stage_layers(ParallelSpec(pp=2, layers_per_stage=(7, 3)), 10) == [range(0, 7), range(7, 10)]


def test_stages_go_round_the_processes_or_there_and_back():
    looped = ParallelSpec(pp=3, virtual=2, schedule="Interleaved1F1B")
    assert [stages_of(looped, rank) for rank in range(3)] == [[0, 3], [1, 4], [2, 5]]
    assert [stages_of(ZBV, rank) for rank in range(3)] == [[0, 5], [1, 4], [2, 3]]
    assert [holder_of(ZBV, stage) for stage in range(6)] == [0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen3"])
@pytest.mark.parametrize("counts", [(1, 3), (2, 1, 1)])
def test_stages_one_after_the_other_are_the_model(kind, counts):
    ids_BT = torch.randint(64, (2, 9))
    whole = make_model(kind)
    expected = whole(input_ids=ids_BT).logits
    wanted = torch.autograd.grad(expected.square().mean(), list(whole.parameters()))
    spec = ParallelSpec(pp=len(counts), layers_per_stage=counts)
    stages = [cut(whole, layers) for layers in stage_layers(spec, 4)]
    x = ids_BT
    for stage in stages:
        x = stage(x)
    torch.testing.assert_close(x, expected)
    x.square().mean().backward()
    found = {}
    for stage in stages:
        for name, parameter in stage.named_parameters():
            found[name] = found.get(name, 0) + parameter.grad
    for (name, _), grad in zip(whole.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(found.pop(name), grad, msg=name)
    assert not found


def test_a_stage_holds_its_layers_under_the_names_of_the_whole_and_shares_them():
    whole = make_model("llama")
    middle = cut(whole, range(1, 3))
    names = [name for name, _ in middle.named_parameters()]
    assert names == [name for name, _ in whole.named_parameters() if re.search(r"layers\.[12]\.", name)]
    assert decoder_layers(middle) == list(whole.model.layers[1:3])
    assert len(middle.model.layers) == 4
    assert [name for name, _ in cut(whole, range(3, 4)).named_parameters()][-2:] == [
        "model.norm.weight",
        "lm_head.weight",
    ]


def test_the_last_stage_has_its_own_copy_of_tied_embeddings_under_their_name():
    whole = make_model("tied")
    first, last = cut(whole, range(0, 2)), cut(whole, range(2, 4))
    name = "model.embed_tokens.weight"
    assert is_tied(last)
    assert torch.equal(first.get_parameter(name), last.get_parameter(name))
    assert first.get_parameter(name) is not last.get_parameter(name)
    assert "lm_head.weight" not in dict(last.named_parameters())


def test_a_stage_hands_on_no_view_since_zero_bubble_schedules_detach_it():
    hidden = cut(make_model("llama"), range(0, 2))(torch.zeros(1, 3, dtype=torch.long))
    assert not hidden._is_view()


def test_a_model_that_does_not_say_how_it_is_split_is_refused():
    with pytest.raises(UsageError, match=r"Linear does not say how it is split .* names nothing\); train it with pp=1"):
        cut(nn.Linear(2, 2), range(1))
