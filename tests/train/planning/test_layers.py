"""Times of parts of a layer, against hand counts."""

from dataclasses import replace

import pytest

from tuili.train.planning.devices import Node, device
from tuili.train.planning.layers import Parts, ends_pass, every_other, layer_pass, product_time
from tuili.train.planning.layout import Layout, Practice
from tuili.train.planning.models import DENSE, Reading, gpt, preset

A100 = device("a100-80")
NODE = Node(A100, 8)
GPT = gpt("a", num_layers=4, hidden=1024, num_heads=16, vocab=5000, positions=512)


def test_a_product_is_operations_and_bytes():
    plain = replace(A100, matmul=0.5, warm_up=0.0, memory=1.0, memory_bw=1e12, peak=2e12)
    assert product_time(plain, 100, 200, 300) == pytest.approx(2 * 100 * 200 * 300 / 1e12 + 2 * 110_000 / 1e12)
    assert product_time(plain, 100, 200, 300, count=3) == pytest.approx(3 * product_time(plain, 100, 200, 300))


def test_narrow_slices_are_less_efficient_and_wide_products_near_the_reached_share():
    def share(inner):
        return 2 * 8192 * inner * 8192 / product_time(A100, 8192, inner, 8192) / A100.peak

    assert share(256) < share(1024) < share(8192) < A100.matmul
    assert share(100_000) > 0.9 * A100.matmul


def test_without_recomputation_the_matrices_of_the_backward_pass_cost_twice():
    one = layer_pass(preset("llama3-70b"), DENSE, NODE, Layout(micro_batch=8), Practice(), 8192)
    assert one.backward.matmul == pytest.approx(2 * one.forward.matmul, rel=0.05)
    assert one.backward.attention == pytest.approx(2.5 * one.forward.attention)


def test_full_recomputation_adds_the_forward_pass():
    given = (GPT, DENSE, NODE, Layout(tp=2, sequence_parallel=False), Practice(flash=False), 512)
    none, full = (layer_pass(*given[:3], replace(given[3], recompute=way), *given[4:]) for way in ("none", "full"))
    assert full.backward.total == pytest.approx(none.backward.total + none.forward.total)
    assert full.forward == none.forward


def test_selective_recomputation_adds_stored_attention_only():
    given = (GPT, DENSE, NODE, Layout(), Practice(flash=False), 512)
    none, some = (layer_pass(*given[:3], replace(given[3], recompute=way), *given[4:]) for way in ("none", "selective"))
    assert some.backward.total - none.backward.total == pytest.approx(none.forward.attention)


def test_what_every_other_matrix_is():
    llama = preset("llama3-8b")
    assert every_other(llama) == pytest.approx((8 / 48, 1.0, 0.5, 0.0))
    assert every_other(GPT) == pytest.approx((1 / 3, 1.0, 0.0, 1.0))


def test_tensor_slices_wait_for_two_all_reduces_each_way():
    one = layer_pass(GPT, DENSE, NODE, Layout(tp=4, sequence_parallel=False), Practice(flash=False), 512)
    sent = 2 * 512 * 1024
    each = 2 * (3 / 4 * sent / (300e9 * A100.fast) + 2 * 2 * A100.fast_latency_s)
    assert one.forward.tensor == one.backward.tensor == pytest.approx(2 * each)
    assert layer_pass(GPT, DENSE, NODE, Layout(), Practice(), 512).forward.tensor == 0


@pytest.mark.parametrize("overlap", ["backward", "all"])
def test_overlap_hides_tensor_communication(overlap):
    def waited(way):
        one = layer_pass(preset("llama3-70b"), DENSE, NODE, Layout(tp=8), Practice(overlap_tensor=way), 8192)
        return one.forward.tensor, one.backward.tensor

    plain, hidden = waited("none"), waited(overlap)
    assert hidden[1] < plain[1]
    assert (hidden[0] < plain[0]) == (overlap == "all")


def test_sparse_layers_cost_less_at_length_and_as_much_when_short():
    sparse = Reading(kind="sparse", keys=1024, block=16, gate_width=16)
    at = {
        seq: [layer_pass(preset("llama3-8b"), one, NODE, Layout(), Practice(), seq).total for one in (DENSE, sparse)]
        for seq in (512, 65_536)
    }
    assert at[65_536][1] < 0.5 * at[65_536][0]
    assert at[512][1] == pytest.approx(at[512][0], rel=0.01)


def test_sequence_parallel_slices_share_the_element_wise_work():
    def elementwise(shared):
        layout = Layout(tp=8, sequence_parallel=shared)
        return layer_pass(GPT, DENSE, NODE, layout, Practice(flash=False), 512).forward.elementwise

    assert elementwise(True) < 0.5 * elementwise(False)


def test_the_output_layer_costs_as_its_vocabulary():
    first, last = ends_pass(GPT, NODE, Layout(), Practice(), 512)
    product = product_time(A100, 512, 1024, 5000)
    assert (last.forward.matmul, last.backward.matmul) == (product, 2 * product)
    assert first.total < last.total


def test_parts_add_and_multiply():
    one, two = Parts(1, 2, 3, 4), Parts(4, 3, 2, 1)
    assert (one + two) == Parts(5, 5, 5, 5) and one.times(2).total == 20
