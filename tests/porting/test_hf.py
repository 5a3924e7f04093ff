import copy
import gc
import importlib
import subprocess
import sys
import weakref
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GptOssConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

import tuili
from tuili.attention.cache import GatePool
from tuili.attention.gate import Gate
from tuili.attention.offset import kept_log_mass
from tuili.attention.plan import Dense, LayerPlan, Pooled, Sparse
from tuili.attention.pooled import MeanPool
from tuili.attention.select import Budget, select
from tuili.errors import InputError, UsageError
from tuili.porting.hf import NAME, port, report, unport
from tuili.porting.ported import PortedLayer

FULL = LayerPlan(default=Sparse(budget=Budget(keep=64)), crossover=0)
MIXED = LayerPlan(default=Sparse(budget=Budget(keep=64)), crossover=40)
TOP = LayerPlan(default=Sparse(budget=Budget(keep=64)), layers={2: Pooled(block=8, window=20, sink=4)}, crossover=40)
SMALL = LayerPlan(default=Sparse(budget=Budget(keep=5, local=2)), crossover=40)
LENGTHS = (1, 15, 16, 17, 31, 64, 65, 200)


def logits(model, ids, **inputs):
    return model(ids, **inputs).logits


def in_chunks(model, ids, sizes, mask=None):
    """Return the logits of a prefill in chunks through the library's cache; the last size repeats to the end."""
    cache, parts, begin = DynamicCache(config=model.config), [], 0
    while begin < ids.shape[1]:
        size = sizes[min(len(parts), len(sizes) - 1)]
        inputs = {} if mask is None else {"attention_mask": mask[:, : begin + size]}
        parts.append(logits(model, ids[:, begin : begin + size], past_key_values=cache, **inputs))
        begin += size
    return torch.cat(parts, dim=1)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


class TestFullBudget:
    @pytest.mark.parametrize("plan", [FULL, MIXED], ids=["sparse", "crossed"])
    def test_prefill_equals_the_dense_model_at_every_length(self, decoder, tokens, plan):
        texts = [tokens(2, length) for length in LENGTHS]
        expected = [logits(decoder, ids) for ids in texts]
        port(decoder, plan)
        for ids, each in zip(texts, expected, strict=True):
            close(logits(decoder, ids), each)

    @pytest.mark.parametrize("sizes", [(1,), (31, 1), (17, 64), (150, 1, 49)])
    def test_chunks_and_steps_equal_the_dense_model(self, decoder, tokens, sizes):
        ids = tokens(2, 200)
        expected = logits(decoder, ids)
        close(in_chunks(port(decoder, MIXED), ids, sizes), expected)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padded_batches_equal_the_dense_model(self, decoder, tokens, side):
        lengths = (200, 1, 77, 16, 131)
        mask = torch.zeros(len(lengths), 200, dtype=torch.long)
        for row, length in enumerate(lengths):
            mask[row, slice(200 - length, None) if side == "left" else slice(length)] = 1
        ids = tokens(len(lengths), 200) * mask
        expected = logits(decoder, ids, attention_mask=mask)[mask.bool()]
        port(decoder, MIXED)
        close(logits(decoder, ids, attention_mask=mask)[mask.bool()], expected)
        close(in_chunks(decoder, ids, (90, 1, 60, 49), mask)[mask.bool()], expected)

    @pytest.mark.parametrize("beams", [1, 2])
    def test_generated_tokens_equal_those_of_the_dense_model(self, decoder, tokens, beams):
        ids = tokens(3, 70)
        mask = torch.ones_like(ids)
        mask[1, :33] = mask[2, :5] = 0
        settings = {"max_new_tokens": 12, "do_sample": False, "num_beams": beams}
        expected = decoder.generate(ids * mask, attention_mask=mask, **settings)
        port(decoder, MIXED)
        assert decoder.generate(ids * mask, attention_mask=mask, **settings).tolist() == expected.tolist()
        assert expected.shape == (3, 82)

    def test_the_default_plan_reads_short_texts_densely_bit_for_bit(self, make_decoder, tokens):
        decoder, ids = make_decoder("llama"), tokens(2, 65)
        mask = torch.ones_like(ids)
        mask[1, :9] = 0
        expected = logits(decoder, ids), logits(decoder, ids, attention_mask=mask)
        tuili.port(decoder)
        assert torch.equal(logits(decoder, ids), expected[0])
        assert torch.equal(logits(decoder, ids, attention_mask=mask), expected[1])
        assert all(each.num_dense_tokens == each.num_tokens > 0 for each in report(decoder).layers)

    def test_the_default_plan_fits_every_decoder(self, decoder, tokens):
        ids = tokens(2, 65)
        expected = logits(decoder, ids)
        close(logits(port(decoder), ids), expected)
        kinds = [each.kind for each in report(decoder).layers if each.kind != "sliding"]
        num_dense = min(2, len(kinds) - 1)
        assert kinds == ["dense"] * num_dense + ["sparse"] * (len(kinds) - num_dense)

    def test_bfloat16_is_as_near_as_rounding(self, decoder, tokens):
        ids = tokens(2, 200)
        exact = logits(decoder, ids)
        decoder.bfloat16()
        dense = logits(decoder, ids)
        ported = logits(port(decoder, MIXED), ids)
        assert ported.dtype == torch.bfloat16
        error, rounding = (each.float().sub(exact).square().mean().sqrt() for each in (ported, dense))
        assert error < 1.5 * rounding


class TestSparse:
    def test_a_small_budget_changes_late_tokens_only(self, decoder, tokens):
        ids = tokens(2, 200)
        expected = logits(decoder, ids)
        actual = logits(port(decoder, SMALL), ids)
        close(actual[:, :80], expected[:, :80])
        assert (actual[:, 81:] - expected[:, 81:]).abs().amax(-1).min() > 1e-3

    @pytest.mark.parametrize("cut", [1, 39, 96, 133, 199])
    def test_the_future_changes_nothing(self, decoder, tokens, cut):
        ids = tokens(2, 200)
        other = ids.clone()
        other[:, cut:] = ids[:, cut:].flip(1) % 90 + 4
        port(decoder, SMALL)
        torch.testing.assert_close(logits(decoder, other)[:, :cut], logits(decoder, ids)[:, :cut])

    @pytest.mark.parametrize("sizes", [(1,), (41, 1), (33, 40), (100, 7)])
    def test_prefill_chunks_and_steps_are_the_same(self, decoder, tokens, sizes):
        ids = tokens(2, 200)
        port(decoder, SMALL)
        close(in_chunks(decoder, ids, sizes), logits(decoder, ids))

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_row_of_a_batch_is_as_it_is_alone(self, decoder, tokens, side):
        lengths = (200, 1, 150, 90)
        mask = torch.zeros(len(lengths), 200, dtype=torch.long)
        for row, length in enumerate(lengths):
            mask[row, slice(200 - length, None) if side == "left" else slice(length)] = 1
        self.check_rows(port(decoder, SMALL), tokens(len(lengths), 200) * mask, mask)

    def test_a_row_with_gaps_is_as_it_is_without_them(self, make_decoder, tokens):
        mask = (torch.rand(3, 200, generator=torch.Generator().manual_seed(0)) < 0.7).long()
        self.check_rows(port(make_decoder("llama"), SMALL), tokens(3, 200) * mask, mask)

    def check_rows(self, decoder, ids, mask):
        places = (mask.cumsum(1) - 1).clamp_min(0)
        batch = logits(decoder, ids, attention_mask=mask, position_ids=places)
        for row, each in enumerate(mask.bool()):
            close(batch[row, each], logits(decoder, ids[row, each][None])[0])

    def test_steps_after_right_padding_are_as_without_it(self, make_decoder, tokens):
        decoder, ids = port(make_decoder("llama"), SMALL), tokens(1, 120)
        alone = logits(decoder, ids)
        padded = torch.cat([ids[:, :100], torch.zeros(1, 30, dtype=torch.long), ids[:, 100:]], dim=1)
        mask = (padded != 0).long()
        places = (mask.cumsum(1) - 1).clamp_min(0)
        cache, parts = DynamicCache(config=decoder.config), []
        for begin, end in ((0, 130), *((at, at + 1) for at in range(130, 150))):
            inputs = {"attention_mask": mask[:, :end], "position_ids": places[:, begin:end], "past_key_values": cache}
            parts.append(logits(decoder, padded[:, begin:end], **inputs))
        close(torch.cat(parts, dim=1)[mask.bool()], alone[0])

    def test_all_padding_rows_and_unmasked_ones_are_finite(self, decoder, tokens):
        mask = torch.ones(3, 150, dtype=torch.long)
        mask[1] = 0
        ids = tokens(3, 150)
        port(decoder, SMALL)
        actual = logits(decoder, ids, attention_mask=mask)
        assert actual.isfinite().all()
        close(actual[0], logits(decoder, ids[:1])[0])

    def test_a_window_past_a_length_reads_the_first_keys_and_the_last(self, make_decoder, tokens):
        decoder, ids = make_decoder("llama", num_hidden_layers=1), tokens(1, 150)
        expected = logits(decoder, ids)
        port(decoder, LayerPlan(default=Dense(window=20, past=60, sink=4)))
        actual = logits(decoder, ids)
        close(actual[:, :60], expected[:, :60])
        assert (actual[:, 60:] - expected[:, 60:]).abs().amax(-1).min() > 1e-3
        close(in_chunks(decoder, ids, (50, 1, 33)), actual)
        kept = torch.cat([torch.arange(4), torch.arange(130, 150)])
        alone = unport(decoder)(ids[:, kept], position_ids=kept[None], attention_mask=torch.ones(1, 24)).logits
        close(actual[0, -1], alone[0, -1])

    def test_gradients_flow_through_what_is_read(self, make_decoder, tokens):
        decoder, ids = port(make_decoder("llama"), SMALL), tokens(1, 120)
        with torch.enable_grad():
            decoder(ids, labels=ids).loss.backward()
        for name, weight in decoder.named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name


def with_prior(prior, penalty=1.0):
    return LayerPlan(default=Sparse(budget=Budget(keep=5, local=2), penalty=penalty, prior=prior), crossover=40)


class TestPrior:
    def kept(self, model, run):
        """Return the blocks of the late tokens by layer, [B, T, G, K] each, calls one after the other."""
        found = [[] for _ in model.model.layers]
        for shown, layer in zip(found, model.model.layers, strict=True):
            layer.self_attn.tuili.on_blocks = lambda blocks, first, num_keys, shown=shown: shown.append(blocks)
        run(model)
        return [torch.cat(each, dim=1) if each else None for each in found]

    def test_a_high_penalty_keeps_what_the_layer_below_kept(self, make_decoder, tokens):
        ids = tokens(2, 200)
        plain = self.kept(port(make_decoder("llama"), SMALL), lambda model: model(ids))
        found = self.kept(port(make_decoder("llama"), with_prior("layer", 100.0)), lambda model: model(ids))
        assert torch.equal(found[0], plain[0])  # nothing lies below
        assert not torch.equal(found[1], plain[1])
        for below, above in pairwise(found):
            in_both = (above[..., None] == below.flatten(2)[:, :, None, None]).any(-1)
            assert in_both.all()  # five places, and the groups below kept at least five blocks together

    def test_what_a_token_reads_hangs_on_its_place_alone(self, decoder, tokens):
        ids = tokens(3, 200)
        port(decoder, with_prior("layer"))
        expected = logits(decoder, ids)
        close(in_chunks(decoder, ids, (31, 90, 1)), expected)
        close(logits(decoder, ids[1:2]), expected[1:2])
        mask = torch.ones_like(ids)
        mask[0, :70] = 0
        close(logits(decoder, ids, attention_mask=mask)[1:], expected[1:])
        if [each.kind for each in report(decoder).layers].count("sparse") > 1:
            assert not torch.equal(expected, logits(port(unport(decoder), SMALL), ids))

    def test_the_future_changes_nothing(self, make_decoder, tokens):
        ids = tokens(2, 200)
        for prior in ("layer", "before", "both"):
            model = port(make_decoder("llama"), with_prior(prior))
            close(in_chunks(model, ids[:, :120], (60, 1, 59)), in_chunks(model, ids, (60, 1, 59, 80))[:, :120])

    def test_a_step_and_a_chunk_keep_what_was_kept_before(self, make_decoder, tokens):
        ids = tokens(1, 220)
        sizes = (199, 1, 1, 1, 18)
        plain = self.kept(port(make_decoder("llama"), SMALL), lambda model: in_chunks(model, ids, sizes))[2]
        found = self.kept(
            port(make_decoder("llama"), with_prior("before", 100.0)), lambda model: in_chunks(model, ids, sizes)
        )[2]
        late = found[:, -21:]
        assert not torch.equal(late, plain[:, -21:])
        for step in range(3):
            now, before = found[0, -21 + step], found[0, -22 + step]
            sink_and_local = torch.tensor([0, (199 + step) // 16, (199 + step) // 16 - 1])
            allowed = torch.cat([before, sink_and_local.expand(before.shape[0], -1)], dim=1)
            assert (now[..., None] == allowed[:, None]).any(-1).all()

    def test_a_cropped_cache_forgets_it(self, make_decoder, tokens):
        ids, model = tokens(1, 150), port(make_decoder("llama"), with_prior("both"))
        cache = DynamicCache(config=model.config)
        logits(model, ids[:, :120], past_key_values=cache)
        logits(model, ids[:, :20], past_key_values=cache)
        cache.crop(-20)
        again = logits(model, ids[:, 120:], past_key_values=cache)
        close(again, in_chunks(port(unport(model), with_prior("layer")), ids, (120, 30))[:, 120:])

    def test_layers_that_are_computed_again_are_refused(self, make_decoder, tokens):
        """Activation checkpointing goes from the top down, where the layer below has not read yet."""
        model = port(make_decoder("llama"), with_prior("layer")).train()
        model.activation_checkpointing_enable()
        with torch.enable_grad(), pytest.raises(UsageError, match=r"left no prior .* activation checkpointing"):
            model(tokens(1, 100), use_cache=False).logits.sum().backward()

    def test_a_gate_is_not_taught_under_one(self, make_decoder, tokens):
        model = make_decoder("llama")
        gate = Gate.training_free(6, 2, 16, 1)
        port(model, with_prior("layer"), gates={1: gate})
        model.model.layers[1].self_attn.tuili.teaches = True
        with torch.enable_grad(), pytest.raises(UsageError, match=r"penalty 1\.0"):
            model(tokens(1, 100))


class TestPooled:
    @pytest.fixture(params=["llama", "qwen3", "gemma3"])
    def pooled(self, request, make_decoder):
        return port(make_decoder(request.param), TOP)

    def test_early_tokens_are_exact_and_later_ones_nearly(self, pooled, tokens):
        ids = tokens(2, 200)
        actual = logits(pooled, ids)
        expected = logits(unport(pooled), ids)
        close(actual[:, :31], expected[:, :31])
        assert (actual[:, 32:] - expected[:, 32:]).abs().amax(-1).min() > 1e-4

    def test_where_every_key_weighs_the_same_means_are_exact(self, make_decoder, tokens):
        decoder, ids = make_decoder("llama"), tokens(1, 150)
        for layer in decoder.model.layers:
            layer.self_attn.q_proj.weight.zero_()
        expected = logits(decoder, ids)
        close(logits(port(decoder, TOP), ids), expected)

    @pytest.mark.parametrize("sizes", [(1,), (33, 1), (100, 7)])
    def test_prefill_chunks_and_steps_are_the_same(self, pooled, tokens, sizes):
        ids = tokens(2, 150)
        close(in_chunks(pooled, ids, sizes), logits(pooled, ids))

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_row_of_a_batch_is_as_it_is_alone(self, pooled, tokens, side):
        lengths = (150, 1, 90, 0)
        mask = torch.zeros(len(lengths), 150, dtype=torch.long)
        for row, length in enumerate(lengths):
            mask[row, slice(150 - length, None) if side == "left" else slice(length)] = 1
        ids = tokens(len(lengths), 150) * mask
        places = (mask.cumsum(1) - 1).clamp_min(0)
        batch = logits(pooled, ids, attention_mask=mask, position_ids=places)
        assert batch.isfinite().all()
        close(in_chunks(pooled, ids[:1], (70, 1), mask[:1]), batch[:1])
        for row, each in enumerate(mask.bool()[:3]):
            close(batch[row, each], logits(pooled, ids[row, each][None])[0])

    def test_the_future_changes_nothing(self, pooled, tokens):
        ids = tokens(2, 150)
        other = torch.cat([ids[:, :77], ids[:, 77:].flip(1)], dim=1)
        torch.testing.assert_close(logits(pooled, other)[:, :77], logits(pooled, ids)[:, :77])

    def test_steps_pool_only_what_is_new(self, pooled, tokens, monkeypatch):
        seen = []
        original = MeanPool.means
        monkeypatch.setattr(
            MeanPool, "means", lambda pool, *args: (seen.append(pool.num_blocks), original(pool, *args))[1]
        )
        in_chunks(pooled, tokens(1, 121), (120, 1))
        assert seen == [0, 116 // 8]

    def test_gradients_flow_through_means(self, make_decoder, tokens):
        decoder, ids = port(make_decoder("llama"), TOP), tokens(1, 120)
        with torch.enable_grad():
            decoder(ids, labels=ids).loss.backward()
        assert all(weight.grad is not None and weight.grad.any() for weight in decoder.parameters())

    def test_the_report_counts_means_as_keys(self, make_decoder, tokens):
        decoder = port(make_decoder("llama"), TOP)
        logits(decoder, tokens(2, 100))
        top = report(decoder).layers[2]
        late = sum(24 + (at - 23) % 8 + (at - 23) // 8 for at in range(23, 100))
        assert (top.kind, top.num_dense_tokens, top.num_tokens) == ("pooled", 2 * 31, 200)
        assert top.num_keys == 2 * (23 * 24 // 2 + late)


class TestBlocks:
    """What the hook `on_blocks` is given."""

    def watched(self, decoder, ids, layer=1, **inputs):
        seen, attention = [], decoder.model.layers[layer].self_attn
        ported = next(each for each in attention.modules() if isinstance(each, PortedLayer))
        ported.on_blocks = lambda *what: seen.append(what)
        result = logits(decoder, ids, **inputs)
        ported.on_blocks = None
        return result, seen

    def test_watching_changes_nothing_and_shows_the_late_tokens(self, decoder, tokens):
        ids = tokens(2, 200)
        expected = logits(port(decoder, SMALL), ids)
        if report(decoder).layers[1].kind != "sparse":
            assert not self.watched(decoder, ids)[1]
            return
        result, [(blocks, first, num_keys)] = self.watched(decoder, ids)
        close(result, expected)
        assert blocks.shape[:2] == (2, 160) and blocks.shape[3] == 5 and (first, num_keys) == (40, 200)
        own = torch.arange(40, 200) // 16
        assert (blocks[..., 0] == 0).all() and (blocks.amax(-1) == own[:, None]).all()
        assert not self.watched(decoder, ids[:, :40])[1], "the first tokens read every key"

    def test_the_blocks_are_chosen_by_int8_scores_less_what_is_spent_on_the_kept_keys(self, make_decoder, tokens):
        decoder, ids, given = port(make_decoder("llama"), SMALL), tokens(1, 200), []
        attention = decoder.model.layers[1].self_attn
        ported = next(each for each in attention.modules() if isinstance(each, PortedLayer))
        hook = ported.register_forward_pre_hook(lambda _, args: given.append(args))
        _, [(blocks, _, _)] = self.watched(decoder, ids)
        hook.remove()
        q, k, _, _, scale = given[0]
        late, budget = q[:, :, 40:], SMALL.default.budget
        positions = torch.arange(40, 200)
        offset = kept_log_mass(late, k, positions, budget, scale=scale, num_gate_queries=3)
        gate_q = (late * scale).unflatten(1, (2, 3)).permute(0, 3, 1, 2, 4)
        gate_k = GatePool(budget.block, SMALL.default.sub).grow(k)
        expected, plain = (select(gate_q, gate_k, budget, num_keys=200, offset=each) for each in (offset, None))
        assert (blocks != expected).any(-1).float().mean() <= 0.01
        assert (blocks != plain).any(-1).float().mean() > 0.05

    def test_steps_show_the_blocks_of_a_prefill(self, make_decoder, tokens):
        decoder, ids = port(make_decoder("llama"), SMALL), tokens(1, 150)
        _, [(whole, _, _)] = self.watched(decoder, ids)
        cache = DynamicCache(config=decoder.config)
        logits(decoder, ids[:, :130], past_key_values=cache)
        for at in range(130, 150):
            _, [(blocks, first, num_keys)] = self.watched(decoder, ids[:, at : at + 1], past_key_values=cache)
            assert (first, num_keys) == (at, at + 1) and torch.equal(blocks[:, 0], whole[:, at - 40])


class TestCache:
    @pytest.mark.parametrize("beams", [1, 3])
    def test_generation_is_the_same_with_and_without_a_cache(self, decoder, tokens, beams):
        ids = tokens(2, 120)
        mask = torch.ones_like(ids)
        mask[1, :17] = 0
        port(decoder, SMALL)
        settings = {"max_new_tokens": 24, "do_sample": False, "num_beams": beams, "attention_mask": mask}
        cached = decoder.generate(ids * mask, **settings)
        assert cached.tolist() == decoder.generate(ids * mask, use_cache=False, **settings).tolist()

    def test_a_cropped_cache_is_pooled_anew(self, make_decoder, tokens):
        decoder, ids = port(make_decoder("llama"), SMALL), tokens(1, 160)
        cache = DynamicCache(config=decoder.config)
        logits(decoder, tokens(1, 300)[:, 140:], past_key_values=cache)
        cache.crop(-160)
        logits(decoder, ids[:, :150], past_key_values=cache)
        cache.crop(-50)
        close(logits(decoder, ids[:, 100:], past_key_values=cache), logits(decoder, ids)[:, 100:])

    def test_two_caches_in_turn_do_not_mix(self, make_decoder, tokens):
        decoder, ids = port(make_decoder("llama"), SMALL), tokens(2, 130)
        caches = [DynamicCache(config=decoder.config) for _ in range(2)]
        steps = [[], []]
        for begin, end in ((0, 100), *((at, at + 1) for at in range(100, 130))):
            for row, cache in enumerate(caches):
                steps[row].append(logits(decoder, ids[row : row + 1, begin:end], past_key_values=cache))
        close(torch.cat([torch.cat(each, dim=1) for each in steps]), logits(decoder, ids))

    def test_a_static_cache_is_refused(self, make_decoder, tokens):
        decoder = port(make_decoder("llama"), SMALL)
        with pytest.raises(InputError, match="has no static ones"):
            decoder.generate(tokens(1, 60), max_new_tokens=4, cache_implementation="static")

    def test_steps_outside_inference_mode_follow_a_prefill_inside(self, make_decoder, tokens):
        decoder, ids = port(make_decoder("llama"), SMALL), tokens(1, 120)
        cache = DynamicCache(config=decoder.config)
        with torch.inference_mode():
            logits(decoder, ids[:, :100], past_key_values=cache)
            logits(decoder, ids[:, 100:110], past_key_values=cache)
        close(logits(decoder, ids[:, 110:], past_key_values=cache), logits(decoder, ids)[:, 110:])

    def test_steps_pool_only_what_is_new(self, make_decoder, tokens, monkeypatch):
        decoder, ids = port(make_decoder("llama"), SMALL), tokens(2, 130)
        mask = torch.ones_like(ids)
        mask[1, :30] = 0
        pooled = []
        original = GatePool.grow
        monkeypatch.setattr(
            GatePool, "grow", lambda pool, *args: (pooled.append(pool.num_blocks), original(pool, *args))[1]
        )
        for padding in (None, mask):
            in_chunks(decoder, ids, (120, 1), padding)
        assert pooled[:6] == [0, 0, 0, 7, 7, 7]
        assert pooled[-6:] == [8, 6] * 3 and pooled.count(0) == 3 + 2 * 3

    def test_nothing_is_kept_once_a_cache_is_gone(self, make_decoder, tokens):
        decoder, cache = port(make_decoder("llama"), SMALL), DynamicCache()
        logits(decoder, tokens(1, 100), past_key_values=cache)
        keys = weakref.ref(cache.layers[2].keys)
        del cache
        gc.collect()
        assert keys() is None


class TestGates:
    def gates(self, decoder, **changes):
        sizes = {"heads": 6, "groups": 2, "head_dim": 16, "sub": 1, **changes}
        return {index: Gate.training_free(**sizes, scale=decoder.model.layers[0].self_attn.scaling) for index in (1, 2)}

    def test_no_gate_is_the_training_free_gate(self, make_decoder, tokens):
        decoder, ids = make_decoder("llama"), tokens(2, 200)
        expected = logits(port(decoder, SMALL), ids)
        port(unport(decoder), SMALL, gates=self.gates(decoder))
        close(logits(decoder, ids), expected)
        close(in_chunks(decoder, ids, (120, 1)), expected)

    def test_a_gate_decides_what_is_read_and_goes_with_unport(self, make_decoder, tokens):
        decoder, ids = make_decoder("llama"), tokens(2, 200)
        before, expected = list(decoder.state_dict()), logits(port(decoder, SMALL), ids)
        gates = self.gates(decoder)
        with torch.no_grad():
            gates[1].q_proj.neg_()
        port(unport(decoder), SMALL, gates=gates)
        assert (logits(decoder, ids) - expected).abs().max() > 1e-3
        assert list(unport(decoder).state_dict()) == before

    @pytest.mark.parametrize(
        ("plan", "changes", "message"),
        [
            (SMALL, {"sub": 8}, r"layer 1 is for .* \(6, 2, 16, 8\), model and plan have \(6, 2, 16, 1\)"),
            (SMALL, {"heads": 4}, "layer 1 is for"),
            (LayerPlan(layers={1: Dense()}), {}, "gate for layer 1, which is no sparse layer"),
        ],
    )
    def test_gates_that_do_not_fit_are_refused(self, make_decoder, plan, changes, message):
        decoder = make_decoder("llama")
        with pytest.raises(UsageError, match=message):
            port(decoder, plan, gates=self.gates(decoder, **changes))
        with pytest.raises(UsageError, match="gate for layer 3, which is no sparse layer"):
            port(decoder, gates={3: self.gates(decoder)[1]})
        with pytest.raises(UsageError, match="is not ported"):
            unport(decoder)

    def test_a_gate_for_a_layer_with_a_window_of_its_own_is_refused(self, make_decoder):
        decoder = make_decoder("qwen2")
        with pytest.raises(UsageError, match="gate for layer 2, which is no sparse layer"):
            port(decoder, SMALL, gates=self.gates(decoder))


class TestReport:
    def test_it_counts_what_each_kind_of_layer_reads(self, make_decoder, tokens):
        decoder = make_decoder("qwen2", num_hidden_layers=4, max_window_layers=3)
        port(decoder, LayerPlan(default=SMALL.default, layers={0: Dense(window=30, past=50, sink=2)}, crossover=90))
        in_chunks(decoder, tokens(2, 200), (70, 100, 1))
        dense, sparse, other, sliding = report(decoder).layers
        assert [each.kind for each in report(decoder).layers] == ["dense", "sparse", "sparse", "sliding"]
        assert {each.num_tokens for each in report(decoder).layers} == {400}
        assert sliding.num_keys == 2 * sum(min(at + 1, 24) for at in range(200))
        assert dense.num_keys == 2 * sum(at + 1 if at < 50 else 32 for at in range(200))
        kept = [at + 1 if at < 90 else min(at + 1, 4 * 16 + at % 16 + 1) for at in range(200)]
        assert sparse.num_keys == other.num_keys == 2 * sum(kept)
        assert (dense.num_dense_tokens, sparse.num_dense_tokens, sliding.num_dense_tokens) == (100, 180, 0)
        assert sliding.entry is None and sparse.entry == SMALL.default
        assert "sliding" in str(report(decoder)) and report(decoder).crossover == 90

    def test_padding_is_not_counted(self, make_decoder, tokens):
        decoder, ids = port(make_decoder("llama"), SMALL), tokens(2, 150)
        mask = torch.ones_like(ids)
        mask[0, :30] = mask[1, 20:] = 0
        logits(decoder, ids, attention_mask=mask)
        once = report(decoder).layers[0]
        assert once.num_tokens == 140
        assert once.num_keys == sum(
            at + 1 if at < 40 else min(at + 1, 4 * 16 + at % 16 + 1) for rows in (120, 20) for at in range(rows)
        )
        short = mask[:, :25], report(decoder).layers[0].num_tokens
        logits(decoder, ids[:, :25], attention_mask=short[0])
        assert report(decoder).layers[0].num_tokens == short[1] + 20

    def test_coverage_reads_fewer_keys_and_says_so(self, make_decoder, tokens):
        ids = tokens(1, 200)
        budget = Budget(keep=9, local=2, coverage=0.5)
        decoder = port(make_decoder("llama"), LayerPlan(default=Sparse(budget=budget), crossover=0))
        logits(decoder, ids)
        (layer, *_) = report(decoder).layers
        assert 48 < layer.keys_per_token < sum(min(at + 1, 8 * 16 + at % 16 + 1) for at in range(200)) / 200

    def test_a_fresh_one_says_nothing_was_read(self, make_decoder):
        assert report(port(make_decoder("llama"))).layers[2].keys_per_token == 0


def state(model):
    """Everything of a model that porting could touch."""
    return {
        "config": model.config.to_dict(),
        "attention": model.config._attn_implementation,
        "modules": {
            name: (
                {key: id(value) for key, value in vars(module).items() if not key.startswith("_")},
                {key: list(value) for key, value in vars(module).items() if key.endswith(("hooks", "_kwargs"))},
                list(module._modules),
                list(module._parameters),
            )
            for name, module in model.named_modules()
        },
        "weights": {name: (id(weight), weight.clone()) for name, weight in model.state_dict(keep_vars=True).items()},
    }


class TestUnport:
    def test_everything_is_restored(self, decoder, tokens):
        ids = tokens(2, 100)
        expected, before = logits(decoder, ids), state(decoder)
        assert port(decoder, SMALL) is decoder
        assert not torch.equal(logits(decoder, ids), expected)
        assert list(decoder.state_dict()) == list(before["weights"])
        assert unport(decoder) is decoder
        assert torch.equal(logits(decoder, ids), expected)
        after = state(decoder)
        for name, (identity, weight) in before.pop("weights").items():
            assert after["weights"][name][0] == identity
            assert torch.equal(after["weights"][name][1], weight)
        del after["weights"]
        assert after == before

    def test_a_copy_is_ported_and_unported_by_itself(self, make_decoder, tokens):
        decoder, ids = make_decoder("llama"), tokens(1, 100)
        dense = logits(decoder, ids)
        sparse = logits(port(decoder, SMALL), ids)
        other = copy.deepcopy(decoder)
        assert torch.equal(logits(unport(other), ids), dense)
        assert torch.equal(logits(decoder, ids), sparse)

    def test_it_can_be_ported_again(self, make_decoder, tokens):
        decoder, ids = make_decoder("llama"), tokens(1, 100)
        sparse = logits(port(decoder, SMALL), ids)
        port(unport(decoder), FULL)
        assert not torch.equal(logits(decoder, ids), sparse)
        assert torch.equal(logits(port(unport(decoder), SMALL), ids), sparse)

    def test_the_body_of_a_decoder_will_do(self, make_decoder, tokens):
        decoder, ids = make_decoder("llama"), tokens(1, 100)
        dense = logits(decoder, ids)
        port(decoder.model, SMALL)
        assert not torch.equal(logits(decoder, ids), dense)
        unport(decoder)
        assert torch.equal(logits(decoder, ids), dense)


class TestRefusals:
    def test_port_twice(self, make_decoder):
        decoder = port(make_decoder("llama"))
        with pytest.raises(UsageError, match=r"is ported already; call tuili.unport"):
            port(decoder)

    @pytest.mark.parametrize("call", [unport, report])
    def test_not_ported(self, make_decoder, call):
        with pytest.raises(UsageError, match=r"is not ported; call tuili.port"):
            call(make_decoder("llama"))

    @pytest.mark.parametrize("call", [port, unport, report])
    @pytest.mark.parametrize("model", [nn.Linear(2, 2), None, "smollm2-135m"])
    def test_no_model_of_the_library(self, call, model):
        with pytest.raises(UsageError, match="a transformers model is needed"):
            call(model)

    @pytest.mark.parametrize(
        ("family", "plan", "message"),
        [
            ("llama", LayerPlan(layers={3: Dense()}), "names layer 3, the model's last one is 2"),
            ("qwen2", LayerPlan(layers={2: Sparse()}), "layer 2, which reads a window of 24 keys"),
            ("llama", {0: Dense()}, "must be a LayerPlan, not"),
        ],
    )
    def test_a_plan_that_does_not_fit(self, make_decoder, family, plan, message):
        decoder = make_decoder(family)
        before = state(decoder)
        with pytest.raises(UsageError, match=message):
            port(decoder, plan)
        assert str(state(decoder)) == str(before), "nothing was changed"

    @pytest.mark.parametrize(
        ("family", "changes", "message"),
        [
            ("gemma2", {"attn_logit_softcapping": 50.0}, "caps the attention's logits"),
            ("gemma3", {"use_bidirectional_attention": True}, "attention is not causal"),
            ("mistral", {"sliding_window": 24}, "every layer .* window of 24 keys: there is nothing to port"),
            ("gemma2", {"output_attentions": True}, "set to return attention weights"),
            ("qwen3", {"layer_types": ["chunked_attention"] * 3}, "layers of the type chunked_attention"),
        ],
    )
    def test_a_decoder_with_what_is_not_supported(self, make_decoder, family, changes, message):
        with pytest.raises(UsageError, match=message):
            port(make_decoder(family, **changes))

    def test_other_models(self):
        sizes = {"vocab_size": 9, "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4}
        small = {**sizes, "intermediate_size": 8, "num_key_value_heads": 1}
        oss = AutoModelForCausalLM.from_config(GptOssConfig(**small, num_local_experts=2, num_experts_per_tok=1))
        with pytest.raises(UsageError, match=r"gpt_oss .* has attention sinks"):
            port(oss)
        t5 = T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
        with pytest.raises(UsageError, match=r"t5 .* has an encoder"):
            port(t5)
        vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        seeing = Gemma3ForConditionalGeneration(
            Gemma3Config(text_config=small, vision_config={**vision, "image_size": 28, "patch_size": 14})
        )
        with pytest.raises(UsageError, match=r"gemma3 .* port its text decoder"):
            port(seeing)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"output_attentions": True}, "attention weights are asked for"),
            ({"attention_mask": torch.ones(1, 1, 50, 50, dtype=torch.bool)}, r"mask of shape \[1, 1, 50, 50\]"),
            ({"attention_mask": torch.ones(1, 40)}, "ends with token 50, .* with 40"),
            ({"position_ids": torch.arange(50)[None] % 25}, "packed sequences"),
            ({"softcap": 3.0}, "caps the attention's logits"),
        ],
    )
    def test_a_call_that_can_not_be_served(self, make_decoder, tokens, inputs, message):
        decoder = port(make_decoder("llama"), SMALL)
        with pytest.raises(InputError, match=message):
            decoder(tokens(1, 50), use_cache=False, **inputs)

    def test_attention_dropout_in_training(self, make_decoder, tokens):
        decoder = port(make_decoder("llama", attention_dropout=0.1), SMALL)
        assert logits(decoder, tokens(1, 50)).isfinite().all()
        with pytest.raises(InputError, match=r"no attention dropout, 0.1 is asked for"):
            decoder.train()(tokens(1, 50))

    def test_a_configuration_that_two_models_share(self, make_decoder, tokens):
        first = make_decoder("llama")
        second = AutoModelForCausalLM.from_config(port(first).config)
        second.config = first.config
        for module in second.modules():
            if hasattr(module, "layer_idx") and hasattr(module, "config"):
                module.config = first.config
        with pytest.raises(UsageError, match="two models share one configuration object"):
            second(tokens(1, 8))


def test_the_mask_function_is_registered_with_the_attention(make_decoder):
    port(make_decoder("llama"))
    assert NAME in ALL_MASK_ATTENTION_FUNCTIONS


def test_the_functions_are_not_hidden_by_their_package():
    script = "import tuili.porting.hf, tuili.attention.plan, tuili; print(tuili.port.__name__, tuili.unport.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["port", "unport"]
    assert tuili.port is port and tuili.unport is unport
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("tuili.port")


def test_a_text_past_the_models_positions_is_warned_of_once(make_decoder, tokens):
    model = port(make_decoder("llama", max_position_embeddings=100), SMALL)
    model(tokens(1, 100))
    with pytest.warns(UserWarning, match="has 101 tokens, this model knows 100 positions"):
        model(tokens(1, 101))
    model(tokens(1, 101))


def test_half_precision_takes_the_twin_and_says_so(make_decoder, tokens):
    ids = tokens(1, 200)
    model = port(make_decoder("llama"), SMALL)
    expected = logits(model, ids)
    found = logits(model.half(), ids)
    assert found.dtype == torch.float16 and found.isfinite().all()
    assert (found.float() - expected).square().mean() < 0.05 * expected.square().mean()
    assert "no float16" in report(model).kernel
