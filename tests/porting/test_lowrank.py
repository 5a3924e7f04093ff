import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tuili import port, unport
from tuili.attention.gate import Gate
from tuili.attention.plan import Dense, LayerPlan
from tuili.errors import UsageError
from tuili.porting.adapter import Adapter, fingerprint
from tuili.porting.lowrank import PROJECTIONS, LowRank, LowRankLinear, factors, put, take_out

DENSE = LayerPlan(default=Dense())
NAMES = [f"model.layers.{layer}.self_attn.{name}" for layer in (1, 2) for name in PROJECTIONS]


def random(decoder, names=NAMES, rank=4):
    generator = torch.Generator().manual_seed(3)
    found = {}
    for name in names:
        width_out, width_in = decoder.get_submodule(name).weight.shape
        a, b = (torch.randn(shape, generator=generator) * 0.1 for shape in ((rank, width_in), (width_out, rank)))
        found[name] = LowRank(a=a, b=b, scale=0.7)
    return found


def adapter(decoder, low_rank):
    return Adapter(gates={}, low_rank=low_rank, plan=DENSE, base_sha256=fingerprint(decoder, low_rank))


def by_hand(decoder, low_rank):
    """Return a copy whose weights are the sums."""
    copied = copy.deepcopy(decoder)
    for name, each in low_rank.items():
        copied.get_submodule(name).weight += each.scale * each.b @ each.a
    return copied


def test_the_product_is_added_in_every_family(decoder, tokens):
    ids, low_rank = tokens(2, 60), random(decoder)
    plain, expected = decoder(ids).logits, by_hand(decoder, low_rank)(ids).logits
    put(decoder, low_rank)
    torch.testing.assert_close(decoder(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert (expected - plain).abs().max() > 0.1
    take_out(decoder)
    assert torch.equal(decoder(ids).logits, plain)


def test_unport_restores_bit_for_bit(decoder, tokens):
    ids = tokens(2, 60)
    plain = decoder(ids).logits
    before = {name: (id(weight), weight.clone()) for name, weight in decoder.state_dict(keep_vars=True).items()}
    modules = {name: (id(each), type(each), list(each._modules)) for name, each in decoder.named_modules()}
    port(decoder, adapter=adapter(decoder, random(decoder)))
    assert not torch.equal(decoder(ids).logits, plain)
    unport(decoder)
    assert torch.equal(decoder(ids).logits, plain)
    after = decoder.state_dict(keep_vars=True)
    assert {name: id(weight) for name, weight in after.items()} == {name: each[0] for name, each in before.items()}
    assert all(torch.equal(after[name], weight) for name, (_, weight) in before.items())
    assert {name: (id(each), type(each), list(each._modules)) for name, each in decoder.named_modules()} == modules


def test_with_gradients_the_result_is_the_same_and_all_get_one(make_decoder, tokens):
    decoder, ids = make_decoder("qwen2"), tokens(2, 40)
    put(decoder, random(decoder))
    merged = decoder(ids).logits
    inner = factors(decoder, NAMES[0])
    inner.a.requires_grad_()
    inner.b.requires_grad_()
    with torch.enable_grad():
        logits = decoder(ids).logits
        logits.square().mean().backward()
    torch.testing.assert_close(logits.detach(), merged, atol=1e-4, rtol=1e-4)
    for each in (inner.a, inner.b, decoder.get_submodule(NAMES[0]).weight):
        assert each.grad is not None and each.grad.isfinite().all() and each.grad.any()


def test_frozen_weights_run_merged(make_decoder, tokens):
    decoder, ids = make_decoder("llama").requires_grad_(False), tokens(1, 9)
    put(decoder, random(decoder))
    with torch.enable_grad():
        decoder(ids)
    assert factors(decoder, NAMES[0])._merged is not None


@pytest.mark.parametrize("change", ["weight", "a", "b", "load", "data"])
def test_a_merged_copy_is_never_stale(make_decoder, tokens, change):
    decoder, ids = make_decoder("llama"), tokens(1, 20)
    put(decoder, random(decoder))
    first, again = decoder(ids).logits, decoder(ids).logits
    assert torch.equal(first, again)
    module, inner = decoder.get_submodule(NAMES[0]), factors(decoder, NAMES[0])
    if change == "load":
        decoder.load_state_dict({name: weight * 1.1 for name, weight in decoder.state_dict().items()})
    elif change == "data":
        module.weight.data = module.weight.data * 1.5
    else:
        getattr(module if change == "weight" else inner, change).mul_(1.5)
    changed = decoder(ids).logits
    assert not torch.equal(changed, first)
    inner._merged = None
    assert torch.equal(decoder(ids).logits, changed)


def test_a_copy_goes_its_own_way(make_decoder, tokens):
    decoder, ids = make_decoder("llama"), tokens(1, 20)
    plain = decoder(ids).logits
    port(decoder, adapter=adapter(decoder, random(decoder)))
    adapted = decoder(ids).logits
    other = copy.deepcopy(decoder)
    factors(other, NAMES[0]).b.mul_(3)
    assert not torch.equal(other(ids).logits, adapted)
    assert torch.equal(unport(other)(ids).logits, plain)
    assert torch.equal(decoder(ids).logits, adapted)


def test_bfloat16_is_as_near_as_rounding(decoder, tokens):
    ids, low_rank = tokens(2, 60), random(decoder)
    exact, wanted = by_hand(decoder, low_rank)(ids).logits, by_hand(decoder, low_rank).bfloat16()(ids).logits
    put(decoder, low_rank)
    decoder(ids)
    found = decoder.bfloat16()(ids).logits
    error, rounding = (each.float().sub(exact).square().mean().sqrt() for each in (found, wanted))
    assert found.dtype == torch.bfloat16 and error < 1.5 * rounding
    with torch.enable_grad():
        torch.testing.assert_close(decoder(ids).logits.float(), found.float(), atol=0.3, rtol=0.1)


def test_unport_in_half_precision_is_the_model_in_half_precision(make_decoder, tokens):
    decoder, ids = make_decoder("llama"), tokens(1, 20)
    expected = copy.deepcopy(decoder).bfloat16()(ids).logits
    port(decoder, adapter=adapter(decoder, random(decoder)))
    decoder(ids)
    assert torch.equal(unport(decoder.bfloat16())(ids).logits, expected)


def test_saved_weights_are_those_of_the_base(make_decoder, tokens, tmp_path):
    decoder, ids = make_decoder("llama"), tokens(1, 50)
    plain, names = decoder(ids).logits, list(decoder.state_dict())
    gates = {2: Gate.training_free(6, 2, 16, 1)}
    whole = Adapter(gates=gates, low_rank=random(decoder), plan=LayerPlan(), base_sha256=fingerprint(decoder, NAMES))
    port(decoder, adapter=whole)
    assert list(decoder.state_dict()) == names
    decoder.load_state_dict(decoder.state_dict())
    decoder.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits, plain)


def test_the_body_of_a_decoder_takes_the_same_names(make_decoder, tokens):
    decoder, ids = make_decoder("llama"), tokens(1, 20)
    plain = decoder(ids).logits
    put(decoder.model, random(decoder))
    assert isinstance(decoder.get_submodule(NAMES[0]), LowRankLinear)
    assert not torch.equal(decoder(ids).logits, plain)


class TestRefusals:
    def test_nothing_is_put_in_if_one_does_not_fit(self, make_decoder):
        decoder = make_decoder("llama")
        low_rank = random(decoder) | {"model.layers.0.self_attn.k_proj": random(decoder)[NAMES[0]]}
        with pytest.raises(UsageError, match=r"k_proj are for a weight of shape \[96, 48\], not \[32, 48\]"):
            put(decoder, low_rank)
        assert not any(isinstance(each, LowRankLinear) for each in decoder.modules())

    def test_twice(self, make_decoder):
        decoder = make_decoder("llama")
        put(decoder, random(decoder))
        with pytest.raises(UsageError, match="is a LowRankLinear or has a forward of its own"):
            put(decoder, random(decoder))

    @pytest.mark.parametrize("replaced", ["class", "forward"])
    def test_what_is_no_plain_projection(self, make_decoder, replaced):
        decoder = make_decoder("llama")
        module = decoder.get_submodule(NAMES[0])
        if replaced == "class":
            module.__class__ = type("Quantized", (nn.Linear,), {})
        else:
            module.forward = module.forward
        with pytest.raises(UsageError, match=r"low-rank weights can only be put into a plain nn.Linear"):
            put(decoder, random(decoder))

    @pytest.mark.parametrize(
        ("a", "b", "scale", "message"),
        [
            (torch.zeros(2, 8), torch.zeros(8, 3), 1.0, r"not \[2, 8\] and \[8, 3\]"),
            (torch.zeros(8), torch.zeros(8, 1), 1.0, "must have the shapes"),
            (torch.zeros(9, 8), torch.zeros(10, 9), 1.0, "rank must be at least 1 and at most"),
            (torch.zeros(2, 8).long(), torch.zeros(8, 2), 1.0, "must be floats"),
            (torch.zeros(2, 8), torch.zeros(8, 2), 0.0, "finite number above 0, not 0.0"),
            (torch.zeros(2, 8), torch.zeros(8, 2), float("nan"), "finite number above 0, not nan"),
        ],
    )
    def test_bad_weights(self, a, b, scale, message):
        with pytest.raises(UsageError, match=message):
            LowRank(a=a, b=b, scale=scale)
