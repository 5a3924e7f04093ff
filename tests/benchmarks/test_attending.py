"""The parts of the attention benchmark: turns, slopes, what is asked for, the peer's mask."""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask
from transformers import AutoModelForCausalLM, LlamaConfig

import runner
from attending.flex import TILE, causal, flex_attention
from attending.footprint import footprint
from attending.inputs import LAYERS, some_layers
from attending.timing import MIB, Side, alternate, begin_peak, memory, process_memory, slope, speedup
from attending.whole import DEFAULT, FULL, Models, _chosen, _fill_flex, _plans


def test_sides_run_in_turn_after_a_warm_up() -> None:
    ran: list[str] = []
    found = alternate({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 2, warm_up=True)
    assert "".join(ran) == "ababab"
    assert [len(side.seconds) for side in found.values()] == [2, 2]


def _touch(size: int) -> None:
    """Take memory of the system's own and hand it back: an allocator may keep what is freed."""
    with mmap.mmap(-1, size) as taken:
        for page in range(0, size, mmap.PAGESIZE):
            taken[page] = 1


def test_a_peak_is_what_was_taken_since_it_was_reset() -> None:
    before = begin_peak()
    if before is None:
        pytest.skip("this system does not tell")
    _touch(64 << 20)
    assert process_memory("VmHWM") - before == pytest.approx(64, abs=8)
    assert process_memory("VmRSS") - before == pytest.approx(0, abs=8)


@pytest.mark.parametrize("side", ["dense", "tuili"])
def test_a_prefill_takes_the_memory_of_its_cache_at_least(side: str) -> None:
    taken = footprint(side, "fp32", 512)
    if taken is None:
        pytest.skip("this system does not tell")
    cache = 2 * 30 * 3 * 64 * 512 * 4 / MIB  # keys and values of 30 layers with 3 groups of 64
    assert cache < taken < 100 * cache


def test_a_speedup_is_the_median_of_the_ratios_of_a_round() -> None:
    found = {"dense": Side((2.0, 9.0, 4.0)), "tuili": Side((1.0, 1.0, 4.0))}
    first, second = speedup("x", found, target=3.0)
    assert (first.name, first.value, first.n, first.target) == ("x.speedup", 2.0, 3, 3.0)
    assert (second.name, second.value) == ("x.dense.time", 4.0)


def test_memory_is_left_out_where_it_is_not_known() -> None:
    assert list(memory("x", None, 1.0)) == []
    (result,) = memory("x", 2.0, 1.0)
    assert result.name == "x.memory" and result.baseline == {"name": "SDPA", "value": 1.0}


def test_the_slope_of_a_power_is_its_exponent() -> None:
    assert slope({n: 3 * n**1.5 for n in (8, 16, 32, 64)}) == pytest.approx(1.5)
    assert math.isclose(slope({1: 1.0, 2: 1.0}), 0.0, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("only", "prefill", "decode", "flex"),
    [
        ("", DEFAULT["fp32"].prefill, (8, 32), (4,)),
        ("prefill.", {4: 1, 8: 1, 16: 1, 32: 1, 64: 0}, (), (4,)),
        ("prefill.16k.fp32.speedup", {16: 1}, (), ()),
        ("prefill.4k.fp32.speedup", {4: 1}, (), ()),
        ("prefill.4k.fp32.flex", {4: 1}, (), (4,)),
        ("prefill.64k", {64: 0}, (), ()),
        ("decode.8k", {}, (8,), ()),
        ("prefill.slope", {8: 0, 16: 0, 32: 0, 64: 0}, (), ()),
        ("prefill.8k.bf16", {}, (), ()),
    ],
)
def test_what_is_asked_for(
    tmp_path: Path, only: str, prefill: dict[int, int], decode: tuple[int, ...], flex: tuple[int, ...]
) -> None:
    options = runner.parse("a benchmark", ["--out", str(tmp_path / "out.json"), "--only", only])
    chosen = _chosen(_plans(options)["fp32"], "fp32", options, "prefill.slope")
    assert (chosen.prefill, chosen.decode, chosen.flex) == (prefill, decode, flex)


def test_a_default_run_has_64k_of_tuili_alone_and_says_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = runner.parse("a benchmark", ["--out", str(tmp_path / "out.json")])
    assert _plans(options)["fp32"].prefill[64] == 0
    said = capsys.readouterr().err
    assert "FlexAttention above 4k" in said and "64k" in said


def test_a_full_run_has_all_sides_at_every_length_in_both_dtypes() -> None:
    for plan in FULL.values():
        assert set(plan.prefill) == set(plan.flex) == {4, 8, 16, 32, 64} and min(plan.prefill.values()) > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_prefill_with_flex_attention_says_what_sdpa_says() -> None:
    flex = flex_attention()
    if flex is None:
        pytest.skip("it does not compile here, which was said")
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, **heads, initializer_range=0.3)).eval()
    ids = torch.randint(0, 64, (1, 2 * TILE + 5))
    with torch.no_grad():
        dense = model(ids).logits[:, -1:]
    torch.testing.assert_close(_fill_flex(Models(model, None, flex), ids).logits, dense, rtol=1e-4, atol=1e-4)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("num_keys", [TILE, 3 * TILE, 3 * TILE + 5])
def test_the_peer_s_mask_is_causal(num_keys: int) -> None:
    mask = causal(num_keys)
    num_tiles = -(-num_keys // TILE)
    seen = torch.zeros(num_tiles, num_tiles, dtype=torch.int64)
    for counts, lists, kind in (
        (mask.kv_num_blocks, mask.kv_indices, 1),
        (mask.full_kv_num_blocks, mask.full_kv_indices, 2),
    ):
        for row in range(num_tiles):
            seen[row, lists[0, 0, row, : counts[0, 0, row]].long()] += kind
    assert torch.equal(seen, torch.eye(num_tiles).long() + 2 * torch.ones(num_tiles, num_tiles).tril(-1).long())
    inner = create_mask(mask.mask_mod, 1, 1, num_keys, num_keys, device="cpu")[0, 0]
    assert torch.equal(inner, torch.ones(num_keys, num_keys, dtype=torch.bool).tril())


def test_the_captured_inputs_of_some_layers_go_through_their_readers() -> None:
    layers = some_layers(48)
    assert len(layers) == len(LAYERS)
    for module, (q, k, v) in layers:
        assert q.shape == (1, 9, 48, 64) and k.shape == v.shape == (1, 3, 48, 64)
        with torch.no_grad():
            ours = module.tuili(q, k, v, None, module.scaling)
            dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        torch.testing.assert_close(ours, dense.transpose(1, 2), rtol=1e-4, atol=1e-4)
